"""Moving a cut-out: a picture with straight alpha at another place and size on a canvas."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

VISIBLE = 0.25  # alpha from which a pixel counts as object, so that faint traces do not move its centre


def place(
    rgb: Tensor, alpha: Tensor, size: tuple[int, int], x: int, y: int, scale: float, about: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Colour (B, h, w, 3) and alpha (B, h, w) of cut-outs (B, H, W, 3), (B, H, W) on a transparent canvas of size (h, w).

    At scale 1 the picture's centre lies on the canvas' centre; the object grows and shrinks about its own centre; then
    everything moves x pixels right and y down. Scale 1 copies pixels bit for bit. Beyond the picture the canvas is
    transparent black. about: the alpha (B, H, W) of the object whose centre counts, where the picture goes with another's;
    default: its own.
    """
    if scale <= 0:
        raise ValueError(f"scale: expected a number above 0, got {scale}")
    if min(size) < 1:
        raise ValueError(f"expected a canvas of at least one pixel, got {size[1]} x {size[0]}")
    color, cover = rgb.new_zeros(len(rgb), *size, 3), alpha.new_zeros(len(rgb), *size)
    for i in range(len(rgb)):
        one = torch.cat([rgb[i], alpha[i, ..., None]], dim=-1)  # (H, W, 4)
        centre = _centre((alpha if about is None else about)[i])
        corners = [
            round((canvas - side) / 2 + at * (1.0 - scale)) + move
            for canvas, side, at, move in zip(size, alpha.shape[1:], centre, (y, x))
        ]
        full = [max(1, round(side * scale)) for side in one.shape[:2]]
        target, seen = zip(*(_overlap(*sides) for sides in zip(corners, full, size)))
        if cover[i][target].numel():
            one = one[seen] if scale == 1.0 else _resized(one, full, seen)
            color[i][target], cover[i][target] = one[..., :3], one[..., 3]
    return color, cover


def _centre(alpha: Tensor) -> tuple[float, float]:
    """(y, x) of the middle of the object's bounding box in pixels; the picture's where nothing is visible."""
    middle = []
    for axis, side in enumerate(alpha.shape):
        found = torch.nonzero((alpha > VISIBLE).any(dim=1 - axis))
        middle.append((float(found.min()) + float(found.max()) + 1.0) / 2 if len(found) else side / 2)
    return middle[0], middle[1]


def _resized(rgba: Tensor, size: list[int], seen: tuple[slice, ...]) -> Tensor:
    """The part `seen` of (H, W, 4) straight alpha at `size`; an enlargement is made of that part only.

    Averaged premultiplied, so that hidden colour does not bleed into edges.
    """
    x = torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], dim=-1).float()
    for axis, (side, part) in enumerate(zip(size, seen)):
        if side > x.shape[axis]:
            x = _enlarged(x, axis, side, part)
        else:
            sides = [side if axis == other else x.shape[other] for other in (0, 1)]
            x = F.interpolate(x.movedim(-1, 0)[None], size=sides, mode="bilinear", antialias=True)[0].movedim(0, -1)
            x = x.narrow(axis, part.start, part.stop - part.start)
    color = x[..., :3] / x[..., 3:].clamp_min(1e-6)
    return torch.cat([color, x[..., 3:]], dim=-1).clamp(0.0, 1.0).to(rgba)


def _enlarged(x: Tensor, axis: int, size: int, seen: slice) -> Tensor:
    """The part `seen` of one axis brought to `size` by linear interpolation between pixel centres."""
    side = x.shape[axis]
    at = (torch.arange(seen.start, seen.stop, device=x.device, dtype=torch.float64) + 0.5) * (side / size) - 0.5
    at = at.clamp(0.0, side - 1.0)
    first = at.long()
    weight = (at - first).to(x).reshape([-1 if axis == other else 1 for other in range(x.ndim)])
    second = (first + 1).clamp_max(side - 1)
    return torch.lerp(x.index_select(axis, first), x.index_select(axis, second), weight)


def _overlap(corner: int, side: int, canvas: int) -> tuple[slice, slice]:
    """Where a side that starts at `corner` of the canvas lies on it, and which part of it that is; may be empty."""
    start, stop = min(max(corner, 0), canvas), max(min(corner + side, canvas), 0)
    stop = max(start, stop)
    return slice(start, stop), slice(start - corner, stop - corner)
