"""One call of the UNet: which of its rows are what, and what the patches of one attention keep for the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...method.prior_maps import Block, ReadPriors
from .delta import ForegroundDelta
from .per_stream import StreamRows
from .run import Pass, TextColumns, pass_of
from .text_lengths import TEXT, TextLengths

PART = "layerfusion_part"  # in transformer_options: the `Part` of a lock-step forward


@dataclass(frozen=True)
class Part:
    """The streams of every sample that one UNet holds when two of them share an evaluation (lock step).

    meet(place, n, blend): hands this UNet's attention outputs n (rows, M, C) of a place (block, site) over and returns
    what is to go on in their stead; `blend` maps the outputs of all streams (G, S, M, C) to the blended ones.
    """

    streams: range
    meet: Callable[[tuple[Block, str], torch.Tensor, Callable], torch.Tensor]


class Forward:
    """One call of the UNet on x (rows, ...) with a text (rows, L, C): chunks of N samples of these streams each.

    delta: what the foreground rows get on top of the model, None where the model is their own.
    """

    def __init__(self, x: torch.Tensor, text: torch.Tensor, delta: ForegroundDelta | None, transformer_options: dict):
        self.of_pass: Pass = pass_of(transformer_options)
        self.part: Part | None = transformer_options.get(PART)
        self.delta = delta
        settings, run = self.of_pass.settings, self.of_pass.run
        layout = settings.layout
        streams = range(layout.foreground_count if self.of_pass.prior else layout.count)
        if self.part is not None:
            streams = self.part.streams
        self.stream_count = len(streams)
        self.foreground_count = len([i for i in streams if i < layout.foreground_count])
        self.rows, uuids = x.shape[0], transformer_options["uuids"]
        chunks = len(transformer_options["cond_or_uncond"])
        if self.rows % (chunks * self.stream_count):
            raise ValueError(
                f"the model got {self.rows} rows for {chunks} conditionings of {self.stream_count} streams each; another "
                "node changes the batch inside the model and cannot be combined with LayerFusion"
            )
        self.samples = self.rows // (chunks * self.stream_count)
        self.of_pass.called.update(uuids)
        self.reads: list[tuple[int, tuple[TextColumns, ...], ReadPriors]] = [
            (chunk, run.columns[uuid], priors)
            for chunk, uuid in enumerate(uuids)
            if self.foreground_count and (priors := self.of_pass.claim(uuid)) is not None
        ]
        lengths = [run.lengths.get(uuid, {}).get(TEXT) for uuid in uuids]
        self.text = TextLengths(lengths, streams, self.rows, text.shape[1], x.device)
        self.ends_early = self.of_pass.prior
        self.inputs: dict[str, torch.Tensor] = {}  # of the projections under way, for the delta
        self.by_stream = StreamRows(layout.names[streams.start : streams.stop], self.rows)

    def foreground_rows(self, x: torch.Tensor) -> torch.Tensor:
        """The foreground rows of x: (rows, ...) -> (G, K, ...), a view."""
        return x.unflatten(0, (-1, self.stream_count))[:, : self.foreground_count]

    def foreground_rows_of(self, chunk: int, x: torch.Tensor) -> torch.Tensor:
        """The foreground rows of one conditioning: (rows, ...) -> (N, K, ...), a view."""
        return self.foreground_rows(x)[chunk * self.samples : (chunk + 1) * self.samples]
