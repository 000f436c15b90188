"""Pictures of the priors, as in the paper's Fig. 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .prior_maps import Block, PriorRecord

FIGURE_ORDER = ("structure", "content", "soft", "hard")


def heat(x: torch.Tensor) -> torch.Tensor:
    """Colour a map in [0, 1], (...,) -> (..., 3), from blue over green and yellow to red (the figure's scale)."""
    x = x.unsqueeze(-1)
    peaks = torch.tensor([3.0, 2.0, 1.0], device=x.device)  # red, green, blue peak at 3/4, 2/4, 1/4 of the range
    return (1.5 - (4.0 * x - peaks).abs()).clamp(0.0, 1.0)


def enlarge(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Show tokens as flat squares: (B, h, w) -> (B, *size)."""
    return F.interpolate(x.unsqueeze(1), size=size, mode="nearest-exact").squeeze(1)


def prior_strip(record: PriorRecord, step: int, block: Block | None = None) -> torch.Tensor:
    """s' | c | soft | hard of one evaluation side by side: (R, H, 4 W, 3) in [0, 1]. See `PriorRecord.images` for errors."""
    maps = record.images(step, block)
    return heat(torch.cat([enlarge(maps[name], record.image_size) for name in FIGURE_ORDER], dim=-1))
