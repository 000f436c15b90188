"""Soft and hard masks from the two priors (paper, section 2.2). All maps are fp32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

REACH = 1 / 8  # of the longer side: how far from an object its shadow and light may be, for `surround_mask`
FAINT = 0.25  # soft mask of the faintest part that `surround_mask` takes for object


class Masks(NamedTuple):
    """The masks of one transformer block for N samples of K foregrounds, each in [0, 1].

    soft, hard: (N, K, M), from the rearmost foreground to the front one; the others (N, M), over all K. All may have a
    leading dimension of blocks on one token grid, and a last one of 1 for the channels. soft: what foreground k covers of
    all that is behind it, see `in_front`. hard: what it takes of the blended stream, so only where none in front hides it,
    hard_k prod_(j > k) (1 - soft_j): a hidden part stays whole in its own layer. grown: see `grow`; keep: what no foreground
    covers, prod_k (1 - soft_k); scene: the share of the background's that the blended stream takes where both show one
    scene, (1 - grown) / 2; back: the share of the blended stream's that the background takes then, so that it ends at the
    same mix, scene / (1 - scene).
    """

    soft: torch.Tensor
    hard: torch.Tensor
    grown: torch.Tensor
    keep: torch.Tensor
    scene: torch.Tensor
    back: torch.Tensor

    def over_channels(self) -> Masks:
        """The masks with a last dimension of 1, as `blend` takes them."""
        return Masks(*(mask.unsqueeze(-1) for mask in self))

    def to(self, like: torch.Tensor) -> Masks:
        """The masks on the device and in the type of `like`."""
        return Masks(*(mask.to(like) for mask in self))


def masks_of(soft: torch.Tensor, hard: torch.Tensor, grown: torch.Tensor) -> Masks:
    """`Masks` of what each foreground covers and of its hard mask (..., K, M), and of grown (..., M)."""
    keep = (1.0 - soft).prod(dim=-2)
    return Masks(soft, _unhidden(hard, soft), grown, keep, (1.0 - grown) / 2, (1.0 - grown) / (1.0 + grown))


def _unhidden(hard: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """hard (..., K, M) where no foreground further in front hides it; the front one's, and so a single one's, as it is."""
    if hard.shape[-2] == 1:
        return hard
    clear = (1.0 - soft[..., 1:, :]).flip(-2).cumprod(dim=-2).flip(-2)  # (..., K - 1, M)
    return torch.cat([hard[..., :-1, :] * clear, hard[..., -1:, :]], dim=-2)


def in_front(soft: torch.Tensor, silhouettes: torch.Tensor) -> torch.Tensor:
    """What each foreground covers of those behind it: soft_k + (1 - soft_k) p_k (1 - prod_(j < k) (1 - p_j)), all (..., K, M).

    Not in the paper. The soft mask says how much an attention is of the object, rarely more than half of it within the
    object; taken for an opacity it would show the rear one through the front one, and more of it where its own mask is
    higher. So where two silhouettes p lie over each other the front one is opaque; elsewhere each is as soft as it was.
    """
    behind = 1.0 - (1.0 - silhouettes[..., :-1, :]).cumprod(dim=-2)
    rear, others = soft[..., :1, :], soft[..., 1:, :]
    return torch.cat([rear, others + (1.0 - others) * (silhouettes[..., 1:, :] * behind)], dim=-2)


def norm(x: torch.Tensor, region: torch.Tensor | None = None) -> torch.Tensor:
    """Min-max over the tokens of each image: (..., M) -> (..., M) in [0, 1]; an image of one value becomes zeros.

    region: in [0, 1], to be broadcast to x: the min-max is over the tokens where it is above 0, and the result times it.
    """
    lowest, highest = x, x
    if region is not None:
        lowest, highest = (x.masked_fill(region <= 0, far) for far in (torch.inf, -torch.inf))
    low, high = lowest.amin(dim=-1, keepdim=True), highest.amax(dim=-1, keepdim=True)
    found = (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)
    return found if region is None else found.clamp(0.0, 1.0) * region


def structure_prior(scores: torch.Tensor) -> torch.Tensor:
    """s' = 1 - norm(s): near 1 where attention is concentrated (the object), near 0 on the flat canvas. (B, M) -> (B, M)."""
    return 1.0 - norm(scores)


def _windows(size: int, target: int, device: torch.device) -> torch.Tensor:
    """Which of `size` cells each of `target` cells covers, wholly or in part: (target, size) of 0 and 1 in fp32."""
    cell, at = torch.arange(size, device=device), torch.arange(target, device=device).unsqueeze(1)
    return ((cell >= at * size // target) & (cell < -(-(at + 1) * size // target))).float()


def area_average(x: torch.Tensor, target: Sequence[int]) -> torch.Tensor:
    """Mean over the cells of x (..., h, w) that each cell of `target` (h', w') covers: (..., h', w') in fp32.

    The windows of adaptive average pooling, which fails on Apple's GPUs for sizes that do not divide, as two small
    matrix products. Whole numbers are summed before they are divided, so that the mean of zeros or ones is exact.
    """
    rows, columns = (_windows(size, to, x.device) for size, to in zip(x.shape[-2:], target))
    return rows @ x.float() @ columns.T / torch.outer(rows.sum(1), columns.sum(1))


def resize_map(x: torch.Tensor, grid: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Area-average a token map (B, h*w) of `grid` (h, w) to `target` (h, w): (B, target_h * target_w)."""
    if grid == target:
        return x
    return area_average(x.unflatten(-1, grid), target).flatten(1)


def soft_region(region: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Where a foreground may be, on a token grid: (..., h, w) in [0, 1] -> (..., M), zero outside, a soft edge inside.

    Not in the paper. The edge is a token wide: a token takes the mean of itself and its neighbours where that is less.
    """
    covered = area_average(region, grid)
    flat = covered.reshape(-1, 1, *grid)
    around = F.avg_pool2d(flat, kernel_size=3, stride=1, padding=1, count_include_pad=False)
    return torch.minimum(flat, around).reshape(*covered.shape[:-2], -1)


def soft_mask(structure: torch.Tensor, content: torch.Tensor, region: torch.Tensor | None = None) -> torch.Tensor:
    """mask_soft = norm(s' * c), both (B, M) on the same token grid; region: (B, M), see `norm`."""
    return norm(structure * content, region)


def hard_mask(soft: torch.Tensor, hardness: float) -> torch.Tensor:
    """mask_hard = sigmoid(d (mask_soft - 0.5)), d = `hardness`; not renormalised."""
    return torch.sigmoid(hardness * (soft - 0.5))


def silhouette(
    structure: torch.Tensor, grid: tuple[int, int], hardness: float, region: torch.Tensor | None = None
) -> torch.Tensor:
    """The whole object, cut from s' (G, K, M) on `grid` (h, w), as against its parts in the soft mask; region: see `norm`.

    Not in the paper. On the border s' lights up without an object (Fig. 2).
    """
    return hard_mask(norm(_without_border(structure, grid), region), hardness)


def grow(masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The union of K masks (..., K, M), grown by one token of `grid` (h, w) to every side: (..., M)."""
    union = masks.amax(dim=-2)
    pictures = union.reshape(-1, 1, *grid)
    return F.max_pool2d(pictures, kernel_size=3, stride=1, padding=1).reshape(union.shape)


def surround_mask(
    structure: torch.Tensor, soft: torch.Tensor, grid: tuple[int, int], hardness: float, region: torch.Tensor | None = None
) -> torch.Tensor:
    """The object with the light and shadow that it throws: 1 up to `REACH` around it, then falling to 0. (G, K, M) -> (G, M).

    structure, soft: s' and mask_soft on `grid` (h, w); region: (G, K, M), see `norm`. Not in the paper. What this mask misses
    of an object, the background shares; so whatever one of the two shows counts, cut where it is more than canvas: s' is the
    whole silhouette, the soft mask also holds faint parts.
    """
    whole = silhouette(structure, grid, hardness, region)
    found = torch.maximum(whole, torch.sigmoid(hardness * (soft - FAINT))).amax(dim=-2)
    reach = max(1, round(REACH * max(grid)))
    slope = max(1, reach // 2)
    wide = F.max_pool2d(found.reshape(-1, 1, *grid), 2 * (reach + slope) + 1, stride=1, padding=reach + slope)
    return F.avg_pool2d(wide, 2 * slope + 1, stride=1, padding=slope, count_include_pad=False).reshape(found.shape)


def _without_border(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(G, K, M) with the outermost ring of tokens taking the values of the next one; a grid without such a one as it is."""
    if min(grid) < 3:
        return x
    return F.pad(x.unflatten(-1, grid)[..., 1:-1, 1:-1], (1, 1, 1, 1), mode="replicate").flatten(-2)
