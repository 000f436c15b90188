"""Layers over large feature maps, a band of rows at a time, so that working memory stays small.

Nothing changes in the result: bands overlap by the rows that a 3x3 convolution sees, and a norm's statistics are those of
the whole map. A map need not exist as one tensor: several joined by channel, or one that is made where it is read. Small
maps, and all maps when gradients are wanted, are one band.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CPU_BAND, GPU_BAND = 2**20, 2**24
"""Numbers in a band, about: on a CPU few, to stay in its caches; elsewhere enough to keep the device busy."""


@dataclass(frozen=True)
class Rows:
    """A feature map that is read in rows: read(top, bottom) -> (B, channels, bottom - top, width).

    widest: channels of the widest map that reading goes through. band: numbers in a band of that.
    """

    read: Callable[[int, int], Tensor]
    channels: int
    height: int
    width: int
    widest: int
    band: int

    def spans(self) -> list[tuple[int, int]]:
        """(top, bottom) of every band."""
        if torch.is_grad_enabled() or self.widest * self.height * self.width <= 2 * self.band:
            return [(0, self.height)]
        rows = max(4, self.band // (self.widest * self.width))
        return [(top, min(self.height, top + rows)) for top in range(0, self.height, rows)]

    def whole(self, out: Tensor | None = None) -> Tensor:
        """The map as one tensor. out: what it may be written into; reading must not need its rows above the band."""
        cuts = self.spans()
        if len(cuts) == 1:
            return self.read(0, self.height)
        for top, bottom in cuts:
            band = self.read(top, bottom)
            if out is None:
                out = band.new_empty((*band.shape[:2], self.height, self.width))
            out[:, :, top:bottom] = band
        return out


def rows_of(x: Tensor) -> Rows:
    """A map that is there."""
    channels, height, width = x.shape[1:]
    band = CPU_BAND if x.device.type == "cpu" else GPU_BAND
    return Rows(lambda top, bottom: x[:, :, top:bottom], channels, height, width, channels, band)


def joined(x: Rows, y: Rows) -> Rows:
    """Two maps of one size, joined by channel."""
    channels = x.channels + y.channels

    def read(top: int, bottom: int) -> Tensor:
        return torch.cat([x.read(top, bottom), y.read(top, bottom)], dim=1)

    return replace(x, read=read, channels=channels, widest=max(channels, x.widest, y.widest))


def doubled(x: Tensor) -> Rows:
    """A map enlarged to twice its sides (nearest)."""

    def read(top: int, bottom: int) -> Tensor:
        rows = F.interpolate(x[:, :, top // 2 : (bottom + 1) // 2], scale_factor=2.0, mode="nearest")
        return rows[:, :, top % 2 : top % 2 + bottom - top]

    small = rows_of(x)
    return replace(small, read=read, height=2 * small.height, width=2 * small.width)


def convolved(conv: nn.Conv2d, x: Rows) -> Rows:
    """What a 3x3 convolution with stride 1 or 2 (even sides) makes of a map, whose rows are padded with zeros here.

    conv: with padding (0, 1), so that it adds columns and no rows.
    """
    stride = conv.stride[0]

    def read(top: int, bottom: int) -> Tensor:
        start, stop = top * stride - 1, (bottom - 1) * stride + 2
        rows = x.read(max(0, start), min(x.height, stop))
        missing = (max(0, -start), max(0, stop - x.height))
        return conv(F.pad(rows, (0, 0, *missing)) if any(missing) else rows)

    return replace(
        x,
        read=read,
        channels=conv.out_channels,
        height=x.height // stride,
        width=x.width // stride,
        widest=max(x.widest * stride**2, conv.out_channels),  # of what one row of the result needs
    )


def activated(norm: nn.GroupNorm, x: Rows) -> Rows:
    """SiLU of the group norm of a map; what is read in bands has the statistics of all of it, in fp32."""
    affine = cache(lambda: _affine(norm, x))

    def read(top: int, bottom: int) -> Tensor:
        rows = x.read(top, bottom)
        if bottom - top == x.height:
            return F.silu(norm(rows), inplace=not torch.is_grad_enabled())  # a norm's result is new
        scale, shift = affine()
        return F.silu(torch.addcmul(shift, rows.float(), scale), inplace=True).to(rows)

    return replace(x, read=read)


def _affine(norm: nn.GroupNorm, x: Rows) -> tuple[Tensor, Tensor]:
    """(scale, shift), (B, C, 1, 1) fp32: what the norm multiplies a map with and adds to it."""
    cuts, groups = x.spans(), norm.num_groups
    parts = []
    for cut in cuts:
        rows = x.read(*cut)
        parts.append(torch.var_mean(rows.float().reshape(len(rows), groups, -1), dim=2, correction=0))
    variances, means = (torch.stack(values) for values in zip(*parts))  # (bands, B, groups)
    share = means.new_tensor([bottom - top for top, bottom in cuts]).view(-1, 1, 1) / x.height
    mean = (share * means).sum(dim=0)
    variance = (share * (variances + (means - mean) ** 2)).sum(dim=0)
    mean, scale = (value.repeat_interleave(x.channels // groups, 1) for value in (mean, (variance + norm.eps).rsqrt()))
    scale = scale * norm.weight.to(scale)
    shift = norm.bias.to(scale) - mean * scale
    return scale[..., None, None], shift[..., None, None]
