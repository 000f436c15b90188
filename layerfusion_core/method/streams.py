"""How the latent streams lie in a batch.

Every sample carries K foreground streams, one blended and one background stream. They are rows of one batch,
interleaved: row r belongs to sample r // S and stream r % S, S = K + 2, because ComfyUI tiles a conditioning of
batch S over the latent batch in exactly this order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


def interleave(streams: list[torch.Tensor]) -> torch.Tensor:
    """n tensors (N, ...) into one (N * n, ...): row r is stream r % n of sample r // n."""
    return torch.stack(streams, dim=1).flatten(0, 1) if len(streams) > 1 else streams[0]


@dataclass(frozen=True)
class StreamLayout:
    """Order of the streams of one sample: foreground 0 .. K-1, blended, background."""

    foregrounds: int = 1

    def __post_init__(self) -> None:
        if self.foregrounds < 1:
            raise ValueError(f"a layout needs at least one foreground stream, got {self.foregrounds}")

    @property
    def count(self) -> int:
        """Streams per sample, S = K + 2."""
        return self.foregrounds + 2

    @property
    def blended(self) -> int:
        """Index of the blended stream."""
        return self.foregrounds

    @property
    def background(self) -> int:
        """Index of the background stream."""
        return self.foregrounds + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Stream names in order, for messages."""
        numbered = [f"foreground {k + 1}" for k in range(self.foregrounds)]
        return (*(numbered if self.foregrounds > 1 else ["foreground"]), "blended", "background")

    def stack(self, streams: list[torch.Tensor]) -> torch.Tensor:
        """Interleave S tensors (N, ...) into one (N*S, ...)."""
        if len(streams) != self.count:
            raise ValueError(f"expected {self.count} streams ({', '.join(self.names)}), got {len(streams)}")
        return interleave(streams)

    def split(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Undo `stack`: (N*S, ...) into S tensors (N, ...), views where possible."""
        return list(self.grouped(rows).unbind(1))

    def grouped(self, rows: torch.Tensor) -> torch.Tensor:
        """View rows (R, ...) as (R // S, S, ...): one group is one sample of one cond or uncond chunk."""
        if rows.shape[0] % self.count:
            raise ValueError(
                f"the batch holds {rows.shape[0]} rows, which is no multiple of the {self.count} streams "
                f"({', '.join(self.names)}); another node changed the batch inside the model"
            )
        return rows.unflatten(0, (-1, self.count))
