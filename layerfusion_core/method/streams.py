"""How the latent streams lie in a batch, and the foregrounds of a run wherever they lie together.

Every sample carries K foreground streams, one blended and one background stream. They are rows of one batch,
interleaved: row r belongs to sample r // S and stream r % S, S = K + 2, because ComfyUI tiles a conditioning of
batch S over the latent batch in exactly this order. The K foregrounds of N samples lie alike in latents, pictures, masks
and priors: row r is foreground r % K, from the rearmost to the front one, of sample r // K. `interleave` and `by_sample` are
the ones that know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


def interleave(streams: Sequence[torch.Tensor]) -> torch.Tensor:
    """n tensors (N, ...) into one (N * n, ...): row r is stream r % n of sample r // n."""
    return torch.stack(tuple(streams), dim=1).flatten(0, 1) if len(streams) > 1 else streams[0]


def by_sample(rows: torch.Tensor, count: int) -> torch.Tensor:
    """View what `interleave` made of n = `count` tensors, (N * n, ...), as (N, n, ...)."""
    return rows.unflatten(0, (-1, count))


class Layers(NamedTuple):
    """What comes once per layer of a run, whatever it is: for each of K foregrounds, the blended picture, the background.

    `streams` and `of` go to the order of the streams in a batch and back; nobody else need know that order.
    """

    foregrounds: tuple[Any, ...]
    blended: Any
    background: Any

    @classmethod
    def of(cls, streams: Iterable[Any]) -> Layers:
        """The layers of S = K + 2 things in the order of the streams."""
        *foregrounds, blended, background = streams
        return cls(tuple(foregrounds), blended, background)

    @property
    def streams(self) -> tuple[Any, ...]:
        """All of them in the order of the streams."""
        return (*self.foregrounds, self.blended, self.background)

    @property
    def layout(self) -> StreamLayout:
        """The layout of a run with these layers."""
        return StreamLayout(len(self.foregrounds))

    def map(self, function: Callable[..., Any], *others: Layers) -> Layers:
        """`function` of what each layer has here, and in the `others`."""
        return Layers.of(map(function, self.streams, *(other.streams for other in others)))


@dataclass(frozen=True)
class StreamLayout:
    """Order of the streams of one sample: foreground 0 .. K-1, blended, background."""

    foreground_count: int = 1

    def __post_init__(self) -> None:
        if self.foreground_count < 1:
            raise ValueError(f"a layout needs at least one foreground stream, got {self.foreground_count}")

    @property
    def count(self) -> int:
        """Streams per sample, S = K + 2."""
        return self.foreground_count + 2

    @property
    def blended(self) -> int:
        """Index of the blended stream."""
        return self.foreground_count

    @property
    def background(self) -> int:
        """Index of the background stream."""
        return self.foreground_count + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Stream names in order, for messages."""
        numbered = [f"foreground {k + 1}" for k in range(self.foreground_count)]
        return (*(numbered if self.foreground_count > 1 else ["foreground"]), "blended", "background")

    def stack(self, layers: Layers) -> torch.Tensor:
        """Interleave the layers' tensors (N, ...) into one (N*S, ...)."""
        streams = layers.streams
        if len(streams) != self.count:
            raise ValueError(f"expected {self.count} streams ({', '.join(self.names)}), got {len(streams)}")
        return interleave(streams)

    def split(self, rows: torch.Tensor) -> Layers:
        """Undo `stack`: (N*S, ...) into the layers' tensors (N, ...), views where possible."""
        return Layers.of(self.grouped(rows).unbind(1))

    def grouped(self, rows: torch.Tensor) -> torch.Tensor:
        """View rows (R, ...) as (R // S, S, ...): one group is one sample of one cond or uncond chunk."""
        if rows.shape[0] % self.count:
            raise ValueError(
                f"the batch holds {rows.shape[0]} rows, which is no multiple of the {self.count} streams "
                f"({', '.join(self.names)}); another node changed the batch inside the model"
            )
        return by_sample(rows, self.count)
