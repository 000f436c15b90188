"""Soft and hard masks from the two priors (paper, section 2.2). All maps are fp32."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def norm(x: torch.Tensor) -> torch.Tensor:
    """Min-max over the tokens of each image: (B, M) -> (B, M) in [0, 1]; an image of one value becomes zeros."""
    low, high = x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True)
    return (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)


def structure_prior(scores: torch.Tensor) -> torch.Tensor:
    """s' = 1 - norm(s): near 1 where attention is concentrated (the object), near 0 on the flat canvas. (B, M) -> (B, M)."""
    return 1.0 - norm(scores)


def resize_map(x: torch.Tensor, grid: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Area-average a token map (B, h*w) of `grid` (h, w) to `target` (h, w): (B, target_h * target_w)."""
    if grid == target:
        return x
    return F.adaptive_avg_pool2d(x.unflatten(-1, grid).unsqueeze(1), target).flatten(1)


def soft_mask(structure: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """mask_soft = norm(s' * c), both (B, M) on the same token grid."""
    return norm(structure * content)


def hard_mask(soft: torch.Tensor, hardness: float) -> torch.Tensor:
    """mask_hard = sigmoid(d (mask_soft - 0.5)), d = `hardness`; not renormalised."""
    return torch.sigmoid(hardness * (soft - 0.5))
