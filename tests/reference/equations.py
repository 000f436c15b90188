"""Every equation of the LayerFusion paper, once, on plain tensors.

Letters follow the paper: m a head-averaged attention matrix, s' the structure prior, c the content-confidence prior,
a an attention output. N images, H heads, M spatial tokens, K context tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BACKGROUND_MODES = ("adapt", "adapt_self", "literal", "from_background", "off", "share", "one_scene")
CHUNK = 77  # context tokens of one CLIP prompt chunk


def norm(x: Tensor) -> Tensor:
    """Min-max over the tokens of one image: (N, M) -> (N, M) in [0, 1]; a constant image becomes zeros."""
    low, high = x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True)
    return torch.where(high > low, (x - low) / (high - low), torch.zeros_like(x))


# 2.1 Priors from attention ------------------------------------------------------------------------------------------


def structure_prior(self_attention: Tensor) -> Tensor:
    """s' of the last self-attention's probabilities: (N, H, M, M) -> (N, M) in [0, 1]."""
    m = self_attention.mean(dim=1)  # (N, M, M)
    s = 1 / (m**2).sum(dim=-1)
    return 1 - norm(s)


def content_confidence(cross_attention: Tensor, eos: list[int] | None) -> Tensor:
    """c of one block: (N, H, M, K) probabilities -> (N, M), the mean over the given EOS columns, not rescaled.

    eos None is the fallback for conditioning without token positions: all columns but the first of every chunk.
    """
    if eos is None:
        eos = [column for column in range(cross_attention.shape[-1]) if column % CHUNK != 0]
    return cross_attention.mean(dim=1)[..., eos].mean(dim=-1)


# 2.2 Mask extraction ------------------------------------------------------------------------------------------------


def resize_structure(s: Tensor, grid: tuple[int, int], block_grid: tuple[int, int]) -> Tensor:
    """s' on another block's grid, by area average: (N, h * w) -> (N, h' * w')."""
    image = s.reshape(len(s), 1, *grid)
    return F.adaptive_avg_pool2d(image, block_grid).reshape(len(s), -1)


def soft_mask(s: Tensor, c: Tensor) -> Tensor:
    """mask_soft = norm(s' * c): (N, M) in [0, 1]."""
    return norm(s * c)


def hard_mask(soft: Tensor, hardness: float = 10.0) -> Tensor:
    """mask_hard = sigmoid(d (mask_soft - 0.5)): (N, M) in (0, 1)."""
    return torch.sigmoid(hardness * (soft - 0.5))


def grow(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Each token becomes the largest of itself and its eight neighbours: (N, h * w) -> (N, h * w)."""
    height, width = grid
    image = F.pad(mask.reshape(-1, height, width), (1, 1, 1, 1), value=0.0)
    shifted = [image[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(shifted).amax(dim=0).reshape(len(mask), -1)


# 2.3 Attention-level blending ---------------------------------------------------------------------------------------


class Streams(NamedTuple):
    """One value per stream, in the paper's order FG, BL, BG."""

    foreground: Tensor
    blended: Tensor
    background: Tensor


def blend(
    a: Streams, soft: Tensor, hard: Tensor, grown: Tensor, mode: str = "adapt", site: str = "attn1", g: float = 1.0
) -> Streams:
    """The three updates of one attention's outputs a: (N, M, D) each, with masks (N, M), at blending strength g.

    mode is what happens to the background (the paper's sentence can be read in several ways; `share` and `one_scene`
    are this project's), site is "attn1" for a self-attention and "attn2" for a cross-attention.
    """
    if mode not in BACKGROUND_MODES:
        raise ValueError(f"Unknown background mode {mode!r}: use one of {', '.join(BACKGROUND_MODES)}.")
    soft, hard, grown = soft[..., None], hard[..., None], grown[..., None]  # (N, M, 1)

    bl = a.foreground * soft + a.blended * (1 - soft)
    fg = bl * hard + a.foreground * (1 - hard)

    bg = a.background
    if mode == "adapt" or (mode == "adapt_self" and site == "attn1"):
        bg = bl * (1 - soft) + a.background * soft
    elif mode == "literal":
        bg = bl * soft + a.background * (1 - soft)
    elif mode == "from_background":
        bl = bl * soft + a.background * (1 - soft)
    elif mode in ("share", "one_scene"):
        scene = (bl + a.background) / 2
        bl, bg = bl * grown + scene * (1 - grown), a.background * grown + scene * (1 - grown)

    return Streams(*(torch.lerp(old, new, g) for old, new in zip(a, (fg, bl, bg), strict=True)))


def surround(structure: Tensor, soft: Tensor, grid: tuple[int, int], hardness: float) -> Tensor:
    """The object and an eighth of the canvas around it, with a soft edge: s' and mask_soft (N, h * w) -> (N, h * w).

    The object is where s' is above a half or mask_soft above a quarter; the border of s' is taken from beside it.
    """
    height, width = grid
    rows, columns = torch.arange(height).clamp(1, height - 2), torch.arange(width).clamp(1, width - 2)
    s = structure.reshape(-1, height, width)[:, rows][:, :, columns].reshape(len(structure), -1)
    found = torch.maximum(hard_mask(norm(s), hardness), torch.sigmoid(hardness * (soft - 0.25)))
    reach = max(1, round(max(grid) / 8))
    slope = max(1, reach // 2)

    def around(image: Tensor, i: int, j: int, r: int) -> Tensor:
        return image[:, max(0, i - r) : i + r + 1, max(0, j - r) : j + r + 1].flatten(1)

    def each(value: Callable[[int, int], Tensor]) -> Tensor:
        return torch.stack([value(i, j) for i in range(height) for j in range(width)], dim=1).reshape(-1, *grid)

    image = found.reshape(-1, *grid)
    wide = each(lambda i, j: around(image, i, j, reach + slope).amax(dim=1))
    return each(lambda i, j: around(wide, i, j, slope).mean(dim=1)).reshape(len(structure), -1)


def one_scene(predictions: Streams, around: Tensor, grid: tuple[int, int], g: float) -> Streams:
    """Outside the object's surround m, BL and BG both predict their mean: x0 (N, C, h, w) each, m (N, M) on `grid`."""
    m = F.interpolate(around.reshape(-1, 1, *grid), predictions.blended.shape[-2:], mode="bilinear")
    mean = (predictions.blended + predictions.background) / 2
    bl, bg = (x0 + g * (x0 * m + mean * (1 - m) - x0) for x0 in (predictions.blended, predictions.background))
    return Streams(predictions.foreground, bl, bg)
