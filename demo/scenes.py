"""Procedural scenes: one object, one background, and the composite of both with a soft shadow.

Everything is drawn from signed distance functions, so edges are anti-aliased and alpha is exact. Colours are straight
(not premultiplied) sRGB values in [0, 1]; alpha and shadow are in [0, 1]. A scene is fully determined by its `Scene`
record, and `random_scene(seed)` draws that record, so the same seed gives the same pixels on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "heart")
BACKGROUNDS = ("sky", "checkerboard", "stripes", "dots", "hills", "clouds")
# Objects are saturated and backgrounds pale, so a blue object still stands out from a blue background.
OBJECT_COLOURS = {
    "red": (0.88, 0.10, 0.12),
    "green": (0.05, 0.58, 0.16),
    "blue": (0.08, 0.20, 0.90),
    "yellow": (0.98, 0.86, 0.05),
    "orange": (1.00, 0.48, 0.02),
    "purple": (0.50, 0.08, 0.70),
}
BACKGROUND_COLOURS = {  # (dark tone, light tone)
    "blue": ((0.42, 0.66, 0.96), (0.86, 0.94, 1.00)),
    "green": ((0.48, 0.82, 0.44), (0.90, 0.98, 0.84)),
    "yellow": ((0.94, 0.84, 0.38), (1.00, 0.98, 0.84)),
    "pink": ((0.97, 0.58, 0.76), (1.00, 0.91, 0.95)),
}
GREY = 0.5  # the canvas that a transparent object is shown on
SHADOW_STRENGTH = 0.40


@dataclass(frozen=True)
class Scene:
    """What is drawn. Lengths are fractions of the canvas side; `phase` is four numbers in [0, 1) for the background."""

    shape: str
    colour: str
    glass: bool
    background: str
    background_colour: str
    centre: tuple[float, float]
    size: float
    phase: tuple[float, float, float, float]

    @property
    def foreground_caption(self) -> str:
        return f"a {'glass ' if self.glass else ''}{self.colour} {self.shape}"

    @property
    def background_caption(self) -> str:
        return f"{self.background_colour} {self.background}"


class Drawing(NamedTuple):
    """`colour` (S, S, 3) straight, padded over the whole canvas; `alpha` and `shadow` (S, S, 1); the rest (S, S, 3)."""

    colour: np.ndarray
    alpha: np.ndarray
    shadow: np.ndarray
    background: np.ndarray
    on_grey: np.ndarray
    composite: np.ndarray


def random_scene(seed: int) -> Scene:
    """Draws a scene record from `seed`; every attribute is independent and uniform (glass: one in four)."""
    rng = np.random.default_rng(seed)
    return Scene(
        shape=SHAPES[rng.integers(len(SHAPES))],
        colour=tuple(OBJECT_COLOURS)[rng.integers(len(OBJECT_COLOURS))],
        glass=bool(rng.random() < 0.25),
        background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
        background_colour=tuple(BACKGROUND_COLOURS)[rng.integers(len(BACKGROUND_COLOURS))],
        centre=(0.5 + rng.uniform(-0.05, 0.05), 0.5 + rng.uniform(-0.05, 0.05)),
        size=rng.uniform(0.54, 0.72),
        phase=tuple(rng.random(4).tolist()),
    )


def draw(scene: Scene, size: int = 128) -> Drawing:
    """Renders `scene` at `size` x `size` pixels (float32). Composite = alpha-over on the shadowed background."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    x, y = (x + 0.5) / size, (y + 0.5) / size
    background = _background(scene, x, y, size)
    radius = scene.size / 2
    u, v = (x - scene.centre[0]) / radius, (y - scene.centre[1]) / radius
    distance = _distance(scene.shape, u, v) * radius  # canvas units, negative inside
    colour, alpha = _object(scene, u, v, distance, size)
    offset = _distance(scene.shape, u - 0.10, v - 0.14) * radius
    shadow = np.clip(0.5 - offset / 0.10, 0, 1)
    shadow = (shadow * shadow * (3 - 2 * shadow))[..., None] * SHADOW_STRENGTH * (0.5 if scene.glass else 1.0)
    on_grey = colour * alpha + GREY * (1 - alpha)
    composite = colour * alpha + background * (1 - shadow) * (1 - alpha)
    drawn = (colour, alpha, shadow, background, on_grey, composite)
    return Drawing(*(np.ascontiguousarray(a, dtype=np.float32) for a in drawn))


def _object(scene: Scene, u, v, distance, size: int):
    """Straight colour (smooth outside the object) and alpha of the object."""
    base = np.array(OBJECT_COLOURS[scene.colour], np.float32)
    inside = np.clip(0.5 - distance * size, 0, 1)[..., None]
    light = np.clip(1.0 - 0.10 * (v + 0.3 * u), 0.85, 1.12)[..., None]  # a little brighter towards the top
    colour = np.clip(base * light, 0, 1)
    if not scene.glass:
        return colour, inside
    width = 0.020 if scene.shape == "ring" else 0.028
    rim = np.clip(1.0 - np.abs(distance + width) / width, 0, 1)[..., None]
    rim = np.clip(rim * 2.0, 0, 1) * inside
    gleam = np.exp(-(((u + 0.30) / 0.22) ** 2 + ((v + 0.32) / 0.16) ** 2))[..., None] * 0.55
    if scene.shape == "ring":
        gleam = gleam * 0
    body = 0.42 + 0 * inside
    alpha = inside * np.clip(body + (0.95 - body) * rim + (0.9 - body) * gleam * (1 - rim), 0, 1)
    tint = colour * (1 - gleam * (1 - rim)) + gleam * (1 - rim)
    return tint * (1 - 0.25 * rim), alpha


def _distance(shape: str, u, v):
    """Signed distance to `shape` in a canvas of half-size 1, y down (formulas: Inigo Quilez, 2D distance functions)."""
    if shape == "circle":
        return np.hypot(u, v) - 0.95
    if shape == "square":
        du, dv = np.abs(u) - 0.84, np.abs(v) - 0.84
        return np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0)
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.70) - 0.28
    if shape == "triangle":
        return _triangle(u, v)
    if shape == "star":
        return _star(u, v)
    if shape == "heart":
        return _heart(u, v)
    raise ValueError(f"unknown shape {shape!r}; known shapes are {', '.join(SHAPES)}")


def _triangle(u, v):
    k, r = np.sqrt(3.0), 1.0
    px, py = np.abs(u) - r, -(v - 0.28) + r / k
    flip = px + k * py > 0
    qx, qy = np.where(flip, (px - k * py) / 2, px), np.where(flip, (-k * px - py) / 2, py)
    qx = qx - np.clip(qx, -2 * r, 0)
    return -np.hypot(qx, qy) * np.sign(qy)


def _star(u, v, r: float = 1.05, rf: float = 0.46):
    k1x, k1y, k2x, k2y = 0.809016994375, -0.587785252292, -0.809016994375, -0.587785252292
    px, py = np.abs(u), -v - 0.05
    d = 2 * np.maximum(k1x * px + k1y * py, 0)
    px, py = px - d * k1x, py - d * k1y
    d = 2 * np.maximum(k2x * px + k2y * py, 0)
    px, py = px - d * k2x, py - d * k2y
    px, py = np.abs(px), py - r
    bx, by = rf * -k1y, rf * k1x - 1
    h = np.clip((px * bx + py * by) / (bx * bx + by * by), 0, r)
    return np.hypot(px - bx * h, py - by * h) * np.sign(py * bx - px * by)


def _heart(u, v):
    scale = 1.70
    px, py = np.abs(u) / scale, (0.93 - v) / scale
    upper = np.hypot(px - 0.25, py - 0.75) - np.sqrt(2.0) / 4
    m = 0.5 * np.maximum(px + py, 0)
    lower = np.sqrt(np.minimum(px**2 + (py - 1) ** 2, (px - m) ** 2 + (py - m) ** 2)) * np.sign(px - py)
    return np.where(py + px > 1, upper, lower) * scale


def _background(scene: Scene, x, y, size: int):
    """Background colours (S, S, 3). Pattern offsets are multiples of 1/16 of the canvas: one latent cell at 128 px."""
    dark, light = (np.array(c, np.float32) for c in BACKGROUND_COLOURS[scene.background_colour])
    a, b, c, d = scene.phase
    snap_x, snap_y = np.floor(a * 4) / 16, np.floor(b * 4) / 16
    edge = size / 2.0  # half-pixel anti-aliasing of distances given in canvas units

    if scene.background == "sky":
        t = np.clip(y * 1.1 + 0.10 * (a - 0.5), 0, 1)
    elif scene.background == "stripes":
        t = _square_wave(x - snap_x, edge)
    elif scene.background == "checkerboard":
        p, q = _square_wave(x - snap_x, edge), _square_wave(y - snap_y, edge)
        t = p * q + (1 - p) * (1 - q)
    elif scene.background == "dots":
        gx, gy = (x - snap_x) % 0.25 - 0.125, (y - snap_y) % 0.25 - 0.125
        t = np.clip(0.5 + (np.hypot(gx, gy) - 0.078) * size, 0, 1)
    elif scene.background == "hills":
        far = 0.42 + 0.08 * (c - 0.5) + 0.09 * np.sin(2 * np.pi * (x + a))
        near = 0.70 + 0.08 * (d - 0.5) + 0.08 * np.sin(2 * np.pi * (x * 0.9 + b))
        t = 1.0 - 0.5 * np.clip(0.5 + (y - far) * size, 0, 1) - 0.5 * np.clip(0.5 + (y - near) * size, 0, 1)
    elif scene.background == "clouds":
        t = np.zeros_like(x)
        for cx, cy in (
            (a * 0.4, 0.10 + 0.12 * c),
            (0.55 + a * 0.4, 0.22 + 0.12 * d),
            (b * 0.5, 0.72 + 0.1 * d),
            (0.6 + b * 0.4, 0.84),
        ):
            for ox, oy, r in ((-0.11, 0.02, 0.075), (0.0, -0.03, 0.10), (0.12, 0.02, 0.08)):
                t = np.maximum(t, np.clip(0.5 + (r - np.hypot(x - cx - ox, (y - cy - oy) * 1.25)) * size / 3, 0, 1))
    else:
        raise ValueError(f"unknown background {scene.background!r}; known backgrounds are {', '.join(BACKGROUNDS)}")
    return dark + (light - dark) * t[..., None]


def _square_wave(x, edge: float, period: float = 0.25):
    """0 / 1 wave with anti-aliased steps every half period."""
    saw = np.abs((x % period) - period / 2) - period / 4  # triangle wave through zero at the steps
    return np.clip(0.5 + saw * 2 * edge, 0, 1)
