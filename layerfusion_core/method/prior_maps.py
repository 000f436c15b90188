"""The priors of one model evaluation: put together, turned into masks, and kept for previews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from .masks import (
    Masks,
    grow,
    hard_mask,
    in_front,
    masks_of,
    resize_map,
    silhouette,
    soft_mask,
    soft_region,
    structure_prior,
)

Block = tuple[str, int, int]  # ("input" | "middle" | "output", block number, transformer index), as the host names them
Grid = tuple[int, int]  # token rows, token columns


@dataclass(frozen=True)
class PriorMaps:
    """The priors of one evaluation for R foreground rows (samples x foregrounds).

    structure: s' (R, M) on `structure_grid`, the last self-attention's; grids: the token grid of every block, in the order
    in which they run; content: c^l of the blocks on each grid, in that order, (blocks, R, M_l).
    """

    structure: torch.Tensor
    structure_grid: Grid
    content: dict[Grid, torch.Tensor]
    grids: dict[Block, Grid]
    region: torch.Tensor | None = None

    @property
    def last(self) -> Block:
        """The block of the last self-attention."""
        return next(reversed(self.grids))

    def on(self, grid: Grid) -> list[Block]:
        """The blocks on a grid."""
        return [block for block, own in self.grids.items() if own == grid]

    def content_of(self, block: Block) -> torch.Tensor:
        """c^l of one block, (R, M_l)."""
        grid = self.grids[block]
        return self.content[grid][self.on(grid).index(block)]

    def soft(self, grid: Grid) -> torch.Tensor:
        """mask_soft of the blocks on a grid, (blocks, R, M_l) fp32."""
        structure = resize_map(self.structure.float(), self.structure_grid, grid)
        return soft_mask(structure, self.content[grid].float(), self.region_on(grid))

    def region_on(self, grid: Grid) -> torch.Tensor | None:
        """`soft_region` on a grid, (R, M_l)."""
        return None if self.region is None else soft_region(self.region, grid)

    def masks(self, grid: Grid, hardness: float, foreground_count: int) -> Masks:
        """The masks of the blocks on a grid, (blocks, N, ...), for samples of `foreground_count` rows each."""
        soft = self.soft(grid).unflatten(1, (-1, foreground_count))
        hard = hard_mask(soft, hardness)
        covered = soft if foreground_count == 1 else in_front(soft, self.silhouettes(grid, hardness, foreground_count))
        return masks_of(covered, hard, grow(hard, grid))

    def silhouettes(self, grid: Grid, hardness: float, foreground_count: int) -> torch.Tensor:
        """`silhouette` of each foreground in its region, (N, K, M_l) for samples of `foreground_count` rows each."""
        structure = self.structure.float().unflatten(0, (-1, foreground_count))
        region = self.region_on(self.structure_grid)
        region = None if region is None else region.unflatten(0, (-1, foreground_count))
        whole = silhouette(structure, self.structure_grid, hardness, region)
        whole = (whole if region is None else whole * region).flatten(0, 1)
        return resize_map(whole, self.structure_grid, grid).unflatten(0, (-1, foreground_count))

    def resized(self, block: Block, grid: Grid) -> PriorMaps:
        """The priors of one block alone, its content confidence brought to another token grid."""
        content = resize_map(self.content_of(block).float(), self.grids[block], grid)
        return replace(self, content={grid: content.unsqueeze(0)}, grids={block: grid})

    def stored(self) -> PriorMaps:
        """A half-precision copy in main memory, for the record."""
        return PriorMaps(
            self.structure.to("cpu", torch.float16),
            self.structure_grid,
            {grid: c.to("cpu", torch.float16) for grid, c in self.content.items()},
            self.grids,
            None if self.region is None else self.region.cpu(),
        )


@dataclass
class ReadPriors:
    """What one forward has read of one conditioning's foreground rows.

    structure: s (R, M) of the last self-attention, with its grid; content: c^l (R, M_l) of the blocks, with theirs.
    """

    structure: tuple[torch.Tensor, Grid] | None = None
    content: dict[Block, tuple[torch.Tensor, Grid]] = field(default_factory=dict)


def prior_maps(read: Sequence[ReadPriors], last: Block) -> PriorMaps | None:
    """The maps of an evaluation: the mean of what was read of each conditioning, or None when that is not complete.

    last: the block of the last self-attention. Conditionings may run on different devices; all maps come to that of the
    first.
    """
    structure = [priors.structure for priors in read if priors.structure is not None]
    if not structure or not any(last in priors.content for priors in read):
        return None
    device, structure_grid = structure[0][0].device, structure[0][1]
    grids = {block: grid for priors in read for block, (_, grid) in priors.content.items()}
    content: dict[Grid, list[torch.Tensor]] = {}
    for block, grid in grids.items():
        each = [priors.content[block][0] for priors in read if block in priors.content]
        content.setdefault(grid, []).append(_mean(each, device))
    return PriorMaps(
        structure_prior(_mean([scores for scores, _ in structure], device)),
        structure_grid,
        {grid: torch.stack(maps) for grid, maps in content.items()},
        grids,
    )


def _mean(maps: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    maps = [m.to(device) for m in maps]
    return torch.stack(maps).mean(dim=0) if len(maps) > 1 else maps[0]


@dataclass
class PriorRecord:
    """What a run's evaluations used: one `PriorMaps` per blended evaluation, with its sigma. The LAYERFUSION_PRIORS socket.

    hardness: d of the hard masks; foreground_count: K; image_size: (height, width) of the pictures in pixels.
    """

    hardness: float
    foreground_count: int
    image_size: tuple[int, int]
    last: Block
    sigmas: list[float] = field(default_factory=list)
    maps: list[PriorMaps] = field(default_factory=list)

    def add(self, sigma: float, maps: PriorMaps) -> None:
        """Keep the maps one evaluation blended with."""
        self.sigmas.append(sigma)
        self.maps.append(maps)

    def finish(self) -> PriorRecord:
        """Move what was recorded to main memory (once, after sampling) and return self."""
        self.maps = [maps.stored() for maps in self.maps]
        return self

    @property
    def blocks(self) -> list[Block]:
        """Blocks with a content map, in execution order."""
        return list(self.maps[0].grids) if self.maps else []

    def images(self, step: int, block: Block | None = None) -> dict[str, torch.Tensor]:
        """The four maps of the paper's Fig. 2 at one recorded evaluation, each (R, h, w) fp32 in [0, 1].

        step: index, negative counts from the end; block: None = the last self-attention's block. content is min-maxed
        for display. ValueError when nothing was recorded or the choice does not exist.
        """
        if not self.maps:
            raise ValueError("no priors were recorded: blending was off (strength 0, or an empty start/end range)")
        if not -len(self.maps) <= step < len(self.maps):
            raise ValueError(f"step {step} does not exist: {len(self.maps)} evaluations were recorded")
        maps, block = self.maps[step], block or self.last
        if block not in maps.grids:
            known = ", ".join("{}.{}.{}".format(*b) for b in maps.grids)
            raise ValueError(f"block {'{}.{}.{}'.format(*block)} does not exist; this model has: {known}")
        grid = maps.grids[block]
        soft = maps.soft(grid)[maps.on(grid).index(block)]
        content = maps.content_of(block).float()
        low, high = content.amin(-1, keepdim=True), content.amax(-1, keepdim=True)
        found = {
            "structure": resize_map(maps.structure.float(), maps.structure_grid, grid),
            "content": (content - low) / (high - low).clamp_min(1e-12),
            "soft": soft,
            "hard": hard_mask(soft, self.hardness),
        }
        return {name: x.unflatten(-1, grid) for name, x in found.items()}
