"""One sampling run: what the evaluations of the model hand on to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ...method.blending import blend_predictions
from ...method.masks import Masks, surround_mask
from ...method.options import BackgroundMode, LayerFusionOptions, PriorMode
from ...method.prior_maps import Block, Grid, PriorCollector, PriorMaps, PriorRecord
from ...method.streams import StreamLayout
from .calls import not_called
from .delta import ForegroundDelta
from .text_lengths import Lengths

PIXELS = 8  # per latent cell


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
            self._of[keys] = span if beside else torch.tensor(columns, device=self.device)
        return self._of[keys]


@dataclass
class BlendRun:
    """One sampling run: settings, the foreground's delta, and the masks of the evaluation under way."""

    layout: StreamLayout
    options: LayerFusionOptions
    blocks: list[Block]
    delta: ForegroundDelta | None = None
    deltas: dict[torch.device, ForegroundDelta] = field(default_factory=dict)  # copies on further GPUs
    text: dict[object, list[TextColumns]] = field(default_factory=dict)  # K each, by uuid of the conditioning entry
    guidance: set[int] = field(default_factory=set)  # identities of what functions that see all rows keep (`kept_by`)
    lengths: dict[object, dict[str, Lengths]] = field(default_factory=dict)  # of texts, by uuid of the entry and key
    callers: str = ""  # what on the model decides how its UNet is called, for messages
    called: set[object] = field(default_factory=set)  # uuids of the conditionings that this pass has shown the UNet
    cells: tuple[int, int] = (0, 0)  # latent rows and columns
    sigma_start: float = float("inf")
    sigma_end: float = 0.0
    maps: PriorMaps | None = None
    record: PriorRecord | None = None
    active: bool = False
    _masks: dict[tuple, Masks] = field(default_factory=dict)  # by block, device and type
    _patches: dict = field(default_factory=dict)
    _collector: PriorCollector | None = None
    _collected: set[object] = field(default_factory=set)

    @property
    def last(self) -> Block:
        """The block of the last self-attention, whose map is the structure prior."""
        return self.blocks[-1]

    def start(self, latent_shape: torch.Size) -> None:
        """Start a run on latents (rows, 4, h, w) with an empty record."""
        self.cells = tuple(latent_shape[-2:])
        size = (latent_shape[-2] * PIXELS, latent_shape[-1] * PIXELS)
        self.record = PriorRecord(self.options.hardness, self.layout.foregrounds, size, self.last)

    def begin_evaluation(self, sigma: float) -> bool:
        """Start one model evaluation; returns whether it needs a prior pass first."""
        self.active = self.options.blends and self.sigma_end < sigma <= self.sigma_start
        previous = self.options.prior_mode is PriorMode.PREVIOUS_STEP
        self._collected, self.called = set(), set()
        self._collector = PriorCollector(self.last) if self.active and previous else None
        return self.active and (self.maps is None or not previous)

    def begin_prior_pass(self) -> None:
        """Collect from the prior pass that follows; what the blended pass will collect starts afresh after it."""
        self._collector = PriorCollector(self.last)

    def end_prior_pass(self) -> None:
        """Take the maps of the prior pass as this evaluation's; where a cache of blocks spared them, the last ones stay.

        ValueError when there are none.
        """
        maps = self._collector.finish() or self.maps
        if maps is None:
            raise not_called(self.callers)
        self._collector = PriorCollector(self.last) if self.options.prior_mode is PriorMode.PREVIOUS_STEP else None
        self._collected, self.called = set(), set()
        self._use(maps)

    def begin_blended_pass(self, sigma: float) -> None:
        """Note in the record which maps this evaluation blends with."""
        if self.active and self.maps is not None:
            self.record.add(sigma, self.maps)

    def one_scene(self, x0: torch.Tensor) -> torch.Tensor:
        """What the background mode does to the evaluation's guided prediction (N * S, C, h, w), with its masks."""
        if self.options.background_mode is not BackgroundMode.ONE_SCENE or not self.active or self.maps is None:
            return x0
        surround = self.surround().to(x0.device).unflatten(-1, self.maps.grids[self.last]).unsqueeze(1)
        return blend_predictions(self.layout.grouped(x0), surround, self.layout, self.options.strength).flatten(0, 1)

    def surround(self) -> torch.Tensor:
        """`surround_mask` of the last block for N samples."""
        content = self.maps.content_of(self.last).float().unflatten(0, (-1, self.layout.foregrounds))
        return surround_mask(content, self.maps.grids[self.last], self.options.hardness)

    def end_evaluation(self) -> None:
        """Hand the maps collected in the blended pass on to the next evaluation (previous_step)."""
        if self._collector is not None:
            self._use(self._collector.finish() or self.maps)
            self._collector = None

    def release(self) -> None:
        """Drop every tensor and patch of the run; called when it ends, however it ends."""
        self.maps, self._collector, self._masks, self.text, self.lengths, self._patches = None, None, {}, {}, {}, {}

    def patch(self, key: object, make: Callable[[], object]) -> object:
        """What `make` makes for `key`, the same object for every step: compiled code is made anew for new ones."""
        if key not in self._patches:
            self._patches[key] = make()
        return self._patches[key]

    def _use(self, maps: PriorMaps | None) -> None:
        self.maps, self._masks = maps, {}

    def masks(self, block: Block, grid: Grid, like: torch.Tensor) -> Masks:
        """The masks of a block for N samples, (N, ..., M, 1), on the device and in the type of `like`, once per evaluation.

        grid: the block's tokens in this evaluation. Those of all blocks on one grid are made together; where another node
        has changed the grid since the evaluation before (Deep Shrink), its maps are brought to this one's size.
        """
        key = (block, grid, like.device, like.dtype)
        if key not in self._masks:
            maps = self.maps if self.maps.grids[block] == grid else self.maps.resized(block, grid)
            masks = maps.masks(grid, self.options.hardness, self.layout.foregrounds).to(like)
            each = zip(*(mask.unbind(0) for mask in masks.over_channels()))
            self._masks.update(((name, *key[1:]), Masks(*own)) for name, own in zip(maps.on(grid), each))
        return self._masks[key]

    def collect_from(self, uuid: object) -> PriorCollector | None:
        """The collector, if the positive chunk `uuid` is to be collected; a chunk run again by other nodes is not."""
        if self._collector is None or uuid in self._collected:
            return None
        self._collected.add(uuid)
        return self._collector
