"""Moving a cut-out: a picture with straight alpha at another place and size on a canvas."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

VISIBLE = 0.25  # alpha from which a pixel counts as object, so that faint traces do not move its centre


def place(rgb: Tensor, alpha: Tensor, size: tuple[int, int], x: int, y: int, scale: float) -> tuple[Tensor, Tensor]:
    """Colour (B, h, w, 3) and alpha (B, h, w) of cut-outs (B, H, W, 3), (B, H, W) on a transparent canvas of size (h, w).

    At scale 1 the picture's centre lies on the canvas' centre; the object grows and shrinks about its own centre; then
    everything moves x pixels right and y down. Scale 1 copies pixels bit for bit. Beyond the picture the canvas is
    transparent black.
    """
    if scale <= 0:
        raise ValueError(f"scale: expected a number above 0, got {scale}")
    if min(size) < 1:
        raise ValueError(f"expected a canvas of at least one pixel, got {size[1]} x {size[0]}")
    color, cover = rgb.new_zeros(len(rgb), *size, 3), alpha.new_zeros(len(rgb), *size)
    for i in range(len(rgb)):
        one = torch.cat([rgb[i], alpha[i, ..., None]], dim=-1)  # (H, W, 4)
        centre = _centre(alpha[i])
        corners = [
            round((canvas - side) / 2 + at * (1.0 - scale)) + move
            for canvas, side, at, move in zip(size, alpha.shape[1:], centre, (y, x))
        ]
        one = one if scale == 1.0 else _resized(one, scale)
        target, source = zip(*(_overlap(*sides) for sides in zip(corners, one.shape[:2], size)))
        color[i][target], cover[i][target] = one[source][..., :3], one[source][..., 3]
    return color, cover


def _centre(alpha: Tensor) -> tuple[float, float]:
    """(y, x) of the middle of the object's bounding box in pixels; the picture's where nothing is visible."""
    middle = []
    for axis, side in enumerate(alpha.shape):
        found = torch.nonzero((alpha > VISIBLE).any(dim=1 - axis))
        middle.append((float(found.min()) + float(found.max()) + 1.0) / 2 if len(found) else side / 2)
    return middle[0], middle[1]


def _resized(rgba: Tensor, scale: float) -> Tensor:
    """(H, W, 4) straight alpha at `scale`, averaged premultiplied, so that hidden colour does not bleed into edges."""
    size = [max(1, round(side * scale)) for side in rgba.shape[:2]]
    weighted = torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], dim=-1).movedim(-1, 0)[None]
    small = F.interpolate(weighted.float(), size=size, mode="bilinear", antialias=True)[0].movedim(0, -1)
    color = small[..., :3] / small[..., 3:].clamp_min(1e-6)
    return torch.cat([color, small[..., 3:]], dim=-1).clamp(0.0, 1.0).to(rgba)


def _overlap(corner: int, side: int, canvas: int) -> tuple[slice, slice]:
    """Where a side that starts at `corner` of the canvas lies on it, and which part of it that is; may be empty."""
    start, stop = min(max(corner, 0), canvas), max(min(corner + side, canvas), 0)
    stop = max(start, stop)
    return slice(start, stop), slice(start - corner, stop - corner)
