"""What a run's evaluations and the forwards in them know: the guider's settings, the run, and one pass through the UNet.

`Settings` never change. A `Run` lives as long as the sampler: what its evaluations hand on to each other. A `Pass` lives
for one pass of the conditionings through the UNet, travels in transformer_options and is what the forwards read; they
may run at once, in several threads, so that each writes only what is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from ...method.blending import Blending
from ...method.masks import Masks
from ...method.options import LayerFusionOptions
from ...method.prior_maps import Block, Grid, PriorMaps, PriorRecord, ReadPriors, prior_maps
from ...method.streams import StreamLayout
from ...vae.decoder import LATENT_SCALE
from .text_lengths import Lengths

PASS = "layerfusion_pass"  # in transformer_options: the `Pass` that a call of the UNet belongs to
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What holds for every run of a guider.

    blocks: the UNet's transformer blocks, in the order in which they run; sigma_end < sigma <= sigma_start: where it
    blends; guidance: identities of what functions that see all rows keep (`kept_by`); callers: what on the models decides
    how their UNet is called, in words.
    """

    blending: Blending
    blocks: tuple[Block, ...]
    sigma_start: float = math.inf
    sigma_end: float = 0.0
    guidance: frozenset[int] = frozenset()
    callers: str = ""

    @property
    def layout(self) -> StreamLayout:
        """The streams of each sample."""
        return self.blending.layout

    @property
    def options(self) -> LayerFusionOptions:
        """The run's options."""
        return self.blending.options

    @property
    def last(self) -> Block:
        """The block of the last self-attention, whose map is the structure prior."""
        return self.blocks[-1]

    def blends_at(self, sigma: float) -> bool:
        """Whether an evaluation at `sigma` blends."""
        return self.options.blends and self.sigma_end < sigma <= self.sigma_start


@dataclass
class TextColumns:
    """Which columns of one foreground's prompt make the content confidence.

    eos: that of <EOS>, or none; tokens: of the prompt; chunk: tokens of one chunk, the first of which is no word's.
    """

    eos: list[int]
    tokens: int
    chunk: int
    device: torch.device
    _of: dict[int, torch.Tensor | slice] = field(default_factory=dict)

    def of(self, keys: int) -> torch.Tensor | slice:
        """The columns among the `keys` that an attention has of this prompt, fewer than tokens with NegPip; (C,) or a slice."""
        if keys not in self._of:  # once in a run: a copy to the device in every block would make the device wait
            columns = [c for c in self.eos if c < keys] or [c for c in range(keys) if c % self.chunk] or [0]
            span = slice(min(columns), max(columns) + 1)  # columns side by side are read where they are
            beside = span.stop - span.start == len(columns)
            self._of.setdefault(keys, span if beside else torch.tensor(columns, device=self.device))
        return self._of[keys]


class Run:
    """One run of a sampler on latents of `shape` (rows, 4, h, w).

    rises: whether it looks for the noise of pictures instead of pictures. region: where the foregrounds may be, (N * K, h, w)
    in [0, 1], None for anywhere. maps: of the evaluation before, None at first; record: the maps of all; columns: of the
    foregrounds' prompts, by uuid of the stacked conditioning entry they are part of; lengths: of all streams' texts, by uuid
    of the entry and the text's key.
    """

    def __init__(
        self, settings: Settings, shape: torch.Size, rises: bool = False, region: torch.Tensor | None = None
    ):
        height, width = shape[-2:]
        self.settings, self.rises, self.region = settings, rises, region
        self.cells = height, width
        self.maps: PriorMaps | None = None
        self.record = PriorRecord(
            settings.options.hardness, settings.layout.foreground_count, (height * LATENT_SCALE, width * LATENT_SCALE),
            settings.last,
        )  # fmt: skip
        self.columns: dict[object, tuple[TextColumns, ...]] = {}
        self.lengths: dict[object, dict[str, Lengths]] = {}
        self._patches: dict[object, object] = {}

    def remember(self, sigma: float, used: PriorMaps, read: PriorMaps | None) -> None:
        """Record the maps that an evaluation blended with; the next one goes on with those that it read, or with the same."""
        self.record.add(sigma, used)
        self.maps = read or used

    def patch(self, key: object, make: Callable[[], T]) -> T:
        """What `make` makes for `key`, the same object for every step: compiled code is made anew for new ones."""
        if key not in self._patches:
            self._patches.setdefault(key, make())
        return self._patches[key]  # type: ignore[return-value]


class Pass:
    """One pass of the conditionings through the UNet, as its forwards see it.

    prior: whether it holds the foreground rows alone, to read priors from; reads: whether priors are read; maps: what the
    pass blends with, None for nothing. called: uuids of the conditionings that the UNet was called for.
    """

    def __init__(self, run: Run, prior: bool = False, reads: bool = False, maps: PriorMaps | None = None):
        self.run, self.settings = run, run.settings
        self.prior, self.maps = prior, maps
        self.called: set[object] = set()
        self._reads = reads
        self._read: dict[object, ReadPriors] = {}
        self._masks: dict[tuple, Masks] = {}

    def claim(self, uuid: object) -> ReadPriors | None:
        """Where to put the priors of a conditioning: for the first forward that asks, None for those that run it again.

        Other nodes run it again, with attention that is not the model's (perturbed attention guidance).
        """
        if not self._reads or uuid not in self.run.columns:
            return None
        own = ReadPriors()
        return own if self._read.setdefault(uuid, own) is own else None

    def maps_read(self) -> PriorMaps | None:
        """The maps of all that the forwards of this pass have read, or None when that is not complete."""
        read = [self._read[uuid] for uuid in self.run.columns if uuid in self._read]
        maps = prior_maps(read, self.settings.last)
        if maps is None:
            return None
        if self.run.region is not None:
            self.run.region = self.run.region.to(maps.structure.device)  # a copy in the first evaluation only
        return self.settings.blending.priors(replace(maps, region=self.run.region))

    def blends(self, site: str, grid: Grid) -> bool:
        """Whether the outputs of an attention of `grid` tokens are blended."""
        return self.maps is not None and self.settings.blending.blends(site, grid, self.maps)

    def masks(self, block: Block, grid: Grid, like: torch.Tensor) -> Masks:
        """The masks of a block for N samples, (N, ..., M, 1), on the device and in the type of `like`, made once.

        grid: the block's tokens in this evaluation. Those of all blocks on one grid are made together; where another node
        has changed the grid since the evaluation before (Deep Shrink), its maps are brought to this one's size.
        """
        key, maps = (block, grid, like.device, like.dtype), self.maps
        if maps is None:
            raise RuntimeError("this pass blends nothing and has no masks")
        if key not in self._masks:
            maps = maps if maps.grids[block] == grid else maps.resized(block, grid)
            masks = self.settings.blending.masks(maps, grid).to(like)
            each = zip(*(mask.unbind(0) for mask in masks.over_channels()))
            for name, own in zip(maps.on(grid), each):
                self._masks.setdefault((name, *key[1:]), Masks(*own))  # forwards that come at once make the same
        return self._masks[key]


def pass_of(transformer_options: dict) -> Pass:
    """The pass that a call of the UNet belongs to; ValueError when a node has called it with options of its own making."""
    found = transformer_options.get(PASS)
    if found is None:
        raise ValueError(
            "a node calls the model with options of its own instead of those that LayerFusion gave it, so that it cannot be "
            "told which layers the call holds: remove the node"
        )
    return found
