"""Signed distances of plane shapes and the surface that an outline is swollen to, on batches of canvases.

Coordinates and results are tensors (B, S, S), y down; parameters are numbers or tensors (B, 1, 1). A distance is negative
inside. Formulas: Inigo Quilez, 2D distance functions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def circle(u: Tensor, v: Tensor, cx=0.0, cy=0.0, r=1.0) -> Tensor:
    return torch.hypot(u - cx, v - cy) - r


def ellipse(u: Tensor, v: Tensor, cx, cy, rx, ry) -> Tensor:
    """Close to the distance near the edge, which is where it matters."""
    a, b = (u - cx) / rx, (v - cy) / ry
    k0 = torch.hypot(a, b)
    return k0 * (k0 - 1) / torch.hypot(a / rx, b / ry).clamp(min=1e-4)


def box(u: Tensor, v: Tensor, cx, cy, hx, hy, round_by: float = 0.0) -> Tensor:
    a, b = (u - cx).abs() - (hx - round_by), (v - cy).abs() - (hy - round_by)
    return torch.hypot(a.clamp(min=0), b.clamp(min=0)) + torch.maximum(a, b).clamp(max=0) - round_by


def capsule(u: Tensor, v: Tensor, ax, ay, bx, by, r) -> Tensor:
    """All that is nearer than `r` to the segment from a to b."""
    pu, pv, du, dv = u - ax, v - ay, bx - ax, by - ay
    t = ((pu * du + pv * dv) / (du * du + dv * dv)).clamp(0, 1)
    return torch.hypot(pu - du * t, pv - dv * t) - r


def polygon(u: Tensor, v: Tensor, corners: list[tuple[float, float]], round_by: float = 0.0) -> Tensor:
    nearest, sign = torch.full_like(u, 1e9), torch.ones_like(u)
    for (ax, ay), (bx, by) in zip(corners, [*corners[-1:], *corners[:-1]], strict=True):
        ex, ey, wu, wv = bx - ax, by - ay, u - ax, v - ay
        t = ((wu * ex + wv * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, (wu - ex * t) ** 2 + (wv - ey * t) ** 2)
        above, below, left = v >= ay, v < by, ex * wv > ey * wu
        crosses = (above & below & left) | (~above & ~below & ~left)
        sign = torch.where(crosses, -sign, sign)
    return sign * nearest.sqrt() - round_by


def star(u: Tensor, v: Tensor, points: int = 5, outer: float = 1.0, inner: float = 0.45, cy: float = 0.0) -> Tensor:
    corners = []
    for i in range(2 * points):
        angle, r = math.pi * i / points, inner if i % 2 else outer
        corners.append((r * math.sin(angle), cy - r * math.cos(angle)))
    return polygon(u, v, corners)


def heart(u: Tensor, v: Tensor, scale: float = 1.75, bottom: float = 1.0) -> Tensor:
    px, py = u.abs() / scale, (bottom - v) / scale
    upper = torch.hypot(px - 0.25, py - 0.75) - math.sqrt(2.0) / 4
    m = 0.5 * (px + py).clamp(min=0)
    lower = torch.minimum(px**2 + (py - 1) ** 2, (px - m) ** 2 + (py - m) ** 2).sqrt() * torch.sign(px - py)
    return torch.where(py + px > 1, upper, lower) * scale


def vesica(u: Tensor, v: Tensor, ax: float, ay: float, bx: float, by: float, width: float) -> Tensor:
    """A leaf from a to b, `width` at its widest: where two equal discs overlap."""
    half = math.hypot(bx - ax, by - ay) / 2
    w = width / 2
    r = (half * half + w * w) / (2 * w)
    cx, cy, dx, dy = (ax + bx) / 2, (ay + by) / 2, (bx - ax) / (2 * half), (by - ay) / (2 * half)
    along, across = (u - cx) * dx + (v - cy) * dy, ((v - cy) * dx - (u - cx) * dy).abs()
    return torch.hypot(along, across + (r - w)) - r


def union(*distances: Tensor) -> Tensor:
    out = distances[0]
    for d in distances[1:]:
        out = torch.minimum(out, d)
    return out


def smooth_union(a: Tensor, b: Tensor, k: float) -> Tensor:
    h = (0.5 + 0.5 * (b - a) / k).clamp(0, 1)
    return torch.lerp(b, a, h) - k * h * (1 - h)


def ease(t: Tensor) -> Tensor:
    """Smooth step from 0 to 1 over t = 0 .. 1."""
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def swell(distance: Tensor, bevel: float, spacing: Tensor) -> tuple[Tensor, Tensor]:
    """Surface normal (x, y) of the outline swollen to a round edge `bevel` wide; `spacing` is a pixel's size."""
    dx, dy = torch.zeros_like(distance), torch.zeros_like(distance)
    dx[..., 1:-1] = distance[..., 2:] - distance[..., :-2]
    dy[..., 1:-1, :] = distance[..., 2:, :] - distance[..., :-2, :]
    dx, dy = dx / (2 * spacing), dy / (2 * spacing)
    lean = 0.98 * (1 + distance / bevel).clamp(0, 1) / torch.hypot(dx, dy).clamp(min=1.0)
    return dx * lean, dy * lean
