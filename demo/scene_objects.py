"""Everyday objects as maps that any light can be put on: coverage, colour, surface normal, gloss and glow.

Each object is drawn in its own coordinates: u from -1 to 1 across, v from -1 (top) to 1 (the ground it stands on).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scene_artist import Artist, Maps
from scene_shapes import (
    box,
    capsule,
    circle,
    ease,
    ellipse,
    heart,
    polygon,
    smooth_union,
    star,
    union,
    vesica,
)

COLOURS = {
    "red": (0.86, 0.09, 0.10),
    "orange": (1.00, 0.46, 0.03),
    "yellow": (0.99, 0.83, 0.08),
    "green": (0.08, 0.58, 0.17),
    "blue": (0.08, 0.26, 0.90),
    "purple": (0.50, 0.10, 0.70),
}
BROWN, DARK, CREAM, WHITE, LEAF = (
    (0.40, 0.24, 0.12),
    (0.10, 0.10, 0.12),
    (0.96, 0.91, 0.80),
    (0.97, 0.97, 0.97),
    (0.20, 0.55, 0.16),
)


def apple(a: Artist) -> None:
    u, v = a.u, a.v
    a.part(capsule(u, v, 0.0, -0.35, 0.10, -0.86, 0.055), BROWN, 0.06)
    body = smooth_union(circle(u, v, -0.29, 0.16, 0.62), circle(u, v, 0.29, 0.16, 0.62), 0.12)
    body = smooth_union(body, ellipse(u, v, 0.0, 0.52, 0.60, 0.48), 0.25)
    a.part(body, gloss=0.8, normal=a.sphere(0, 0.22, 1.0, 0.86))
    dent = ease(1 - ellipse(u, v, 0.0, -0.43, 0.28, 0.10) / 0.10 - 1.0)
    a.paint(dent * (v > -0.6), a.mix((0.05, 0.05, 0.0), 0.55))
    a.part(capsule(u, v, 0.0, -0.42, 0.10, -0.86, 0.055), BROWN, 0.06)
    a.part(vesica(u, v, 0.10, -0.56, 0.70, -0.90, 0.30), LEAF, 0.12)


def ball(a: Artist) -> None:
    nx, ny = a.sphere()
    nz = (1 - nx * nx - ny * ny).clamp(min=0).sqrt()
    a.part(circle(a.u, a.v), gloss=0.7, normal=(nx, ny))
    tilt = 0.55 + 0.35 * (a.turn - 0.5)  # the seams meet at a pole that leans towards the viewer
    c, s = torch.cos(tilt), torch.sin(tilt)
    px, up = nx * 0.88 + ny * 0.47, nx * 0.47 - ny * 0.88
    pole, depth = up * c + nz * s, nz * c - up * s
    around = torch.atan2(px, depth)
    width = torch.hypot(px, depth).clamp(min=0.05)
    stripe = torch.sin(3 * around + 0.6) * width / 3 / a.pixel
    a.paint(a.opaque((0.5 + stripe).clamp(0, 1)), WHITE)
    a.paint(a.opaque(a.mask(width - 0.17) * (pole > 0)), WHITE)


def balloon(a: Artist) -> None:
    u, v = a.u, a.v
    string = (u - 0.05 * torch.sin(7 * v)).abs() * 0.95 - 0.016
    a.part(torch.maximum(string, torch.maximum(0.40 - v, v - 0.98)), (0.85, 0.85, 0.85), 0.05)
    a.part(polygon(u, v, [(0.0, 0.36), (0.11, 0.52), (-0.11, 0.52)], 0.02), a.mix(DARK, 0.2), 0.1)
    body = smooth_union(ellipse(u, v, 0.0, -0.34, 0.62, 0.66), circle(u, v, 0.0, 0.30, 0.10), 0.35)
    a.part(body, gloss=1.0, normal=a.sphere(0, -0.34, 0.66, 0.74))


def bottle(a: Artist) -> None:
    u, v = a.u, a.v
    shoulder = ease((v + 0.58) / 0.40)
    width = 0.145 + 0.265 * shoulder
    body = torch.maximum(u.abs() - width, torch.maximum(-0.90 - v, v - 1.0)) * 0.85
    body = smooth_union(body, box(u, v, 0.0, 0.45, 0.41, 0.55, 0.10), 0.02)
    body = torch.maximum(body, box(u, v, 0.0, 0.0, 0.42, 1.0, 0.09))
    round_x = (u / width).clamp(-0.97, 0.97)
    a.part(body, gloss=0.9, normal=(round_x, 0 * v))
    label = torch.maximum(box(u, v, 0.0, 0.40, 0.6, 0.27), body + 0.5 * a.pixel)
    a.paint(a.opaque(a.mask(label)), CREAM)
    a.paint(a.opaque(a.mask(star(u, v, 5, 0.17, 0.075, 0.40))), a.main)
    a.part(box(u, v, 0.0, -0.88, 0.17, 0.12, 0.04), a.mix(DARK, 0.75), gloss=0.4,
           normal=((u / 0.18).clamp(-0.95, 0.95), 0 * v))  # fmt: skip


def mug(a: Artist) -> None:
    u, v = a.u, a.v
    ring = (ellipse(u, v, 0.50, 0.22, 0.36, 0.40)).abs() - 0.085
    a.part(ring, bevel=0.09, gloss=0.6)
    body = torch.maximum(box(u, v, -0.12, 0.20, 0.66, 0.78, 0.14), -0.44 - v)
    body = union(body, ellipse(u, v, -0.12, -0.46, 0.66, 0.17))
    a.part(body, gloss=0.7, normal=(((u + 0.12) / 0.68).clamp(-0.97, 0.97), 0 * v))
    a.part(ellipse(u, v, -0.12, -0.46, 0.66, 0.17), a.mix(WHITE, 0.25), normal=(0 * u, 0 * v - 0.5), gloss=0.2)
    a.paint(a.opaque(a.mask(ellipse(u, v, -0.12, -0.455, 0.58, 0.125))), (0.20, 0.11, 0.06))


def lantern(a: Artist) -> None:
    u, v = a.u, a.v
    metal = (0.16, 0.15, 0.17)
    away = torch.hypot(u / 0.95, (v - 0.15) / 1.0)
    halo = 0.42 * torch.exp(-((away / 0.62) ** 2)) * ease((1.0 - away) / 0.35)
    light = a.mix((1.0, 0.95, 0.75), 0.5)
    a.maps.alpha = halo
    a.maps.colour = light.expand_as(a.maps.colour)
    a.maps.glow = light.expand_as(a.maps.colour)
    a.part(ellipse(u, v, 0.0, -0.80, 0.20, 0.17).abs() - 0.035, metal, 0.04, 0.5)
    a.part(polygon(u, v, [(-0.13, -0.66), (0.13, -0.66), (0.54, -0.34), (-0.54, -0.34)], 0.03), metal, 0.1, 0.6)
    glass = box(u, v, 0.0, 0.20, 0.42, 0.54, 0.05)
    a.part(glass, a.main, normal=((u / 0.6).clamp(-0.9, 0.9), 0 * v), gloss=0.3)
    flame = torch.exp(-((u / 0.24) ** 2 + ((v - 0.25) / 0.34) ** 2))[:, None]
    inside = a.mask(glass)[:, None]
    a.maps.glow = torch.lerp(a.maps.glow, a.main * 0.85 * (1 - flame) + a.tone((1.0, 0.97, 0.85)) * flame, inside)
    for c in (-0.40, 0.0, 0.40):
        a.part(box(u, v, c, 0.20, 0.035, 0.54), metal, 0.04, 0.4)
    a.part(box(u, v, 0.0, 0.84, 0.56, 0.15, 0.05), metal, 0.1, 0.6)


def star_object(a: Artist) -> None:
    d = star(a.u, a.v, 5, 1.08, 0.46, 0.09) - 0.03
    a.part(d, bevel=0.45, gloss=0.5)


def heart_object(a: Artist) -> None:
    a.part(heart(a.u, a.v + 0.02, 1.72, 0.98) - 0.02, bevel=0.55, gloss=0.9)


def fish(a: Artist) -> None:
    u, v = a.u, a.v - 0.42
    fin = a.mix((1.0, 1.0, 0.9), 0.12)
    a.part(polygon(u, v, [(0.46, 0.0), (0.98, -0.46), (0.86, 0.0), (0.98, 0.46)], 0.03), fin, 0.12, 0.3)
    a.part(vesica(u, v, -0.42, -0.30, 0.44, -0.34, 0.60), fin, 0.12, 0.3)
    a.part(vesica(u, v, -0.10, 0.36, 0.36, 0.50, 0.22), fin, 0.12, 0.3)
    body = vesica(u, v, -0.98, 0.02, 0.72, 0.0, 1.02)
    shape = (u / 1.0, (v / 0.56).clamp(-0.95, 0.95))
    cover = a.part(body, gloss=0.6, normal=(shape[0] * 0.5, shape[1] * 0.95))
    a.paint(a.opaque(cover) * ease((v - 0.06) / 0.34), a.mix(WHITE, 0.55))
    for c in (-0.02, 0.26):
        a.paint(a.opaque(cover) * a.mask((torch.hypot(u - c + 0.26, v) - 0.30).abs() - 0.028) * (u > c),
                a.mix(DARK, 0.35))  # fmt: skip
    a.paint(cover * a.mask((torch.hypot(u + 1.06, v) - 0.58).abs() - 0.02), a.mix(DARK, 0.4))
    a.part(circle(u, v, -0.64, -0.10, 0.115), WHITE, 0.2, 0.3)
    a.part(circle(u, v, -0.665, -0.10, 0.062), DARK, 0.1, 0.6)


def leaf(a: Artist) -> None:
    u, v = a.u, a.v
    a.part(capsule(u, v, -0.30, 0.62, -0.50, 0.97, 0.045), a.mix(BROWN, 0.6), 0.05)
    bend = u - 0.10 * (v + 0.2) ** 2
    cover = a.part(vesica(bend, v, -0.36, 0.74, 0.55, -0.96, 1.02), bevel=0.5, gloss=0.25)
    vein = a.mix((1.0, 1.0, 0.85), 0.50)
    a.paint(cover * a.mask(capsule(bend, v, -0.36, 0.74, 0.50, -0.86, 0.026)), vein)
    for t in (0.16, 0.34, 0.52, 0.70):
        mx, my = -0.36 + 0.88 * t, 0.74 - 1.65 * t
        reach = 0.52 * (1 - 0.75 * t)
        for ex, ey in ((mx - 0.55 * reach, my - 0.9 * reach), (mx + 1.0 * reach, my - 0.35 * reach)):
            a.paint(cover * a.mask(capsule(bend, v, mx, my, ex, ey, 0.014)), vein)


def ring(a: Artist) -> None:
    away = torch.hypot(a.u, a.v)
    d = (away - 0.69).abs() - 0.30
    across = ((away - 0.69) / 0.30).clamp(-0.98, 0.98)
    a.part(d, gloss=0.9, normal=(across * a.u / away.clamp(min=0.1), across * a.v / away.clamp(min=0.1)))


def house(a: Artist) -> None:
    u, v = a.u, a.v
    a.part(box(u, v, 0.42, -0.62, 0.11, 0.30), (0.50, 0.25, 0.20), 0.06)
    a.part(box(u, v, 0.0, 0.42, 0.72, 0.58, 0.02), bevel=0.05)
    gable = polygon(u, v, [(0.0, -0.88), (0.72, -0.10), (-0.72, -0.10)])
    a.part(gable, bevel=0.05)
    roof = union(capsule(u, v, 0.0, -0.90, -0.90, -0.02, 0.105), capsule(u, v, 0.0, -0.90, 0.90, -0.02, 0.105))
    a.part(roof, (0.30, 0.20, 0.20), 0.1)
    a.part(box(u, v, 0.0, 0.66, 0.17, 0.34, 0.02), (0.42, 0.26, 0.14), 0.05)
    a.part(circle(u, v, 0.10, 0.68, 0.03), (0.95, 0.85, 0.4), 0.03)
    for c in (-0.45, 0.45):
        a.part(box(u, v, c, 0.38, 0.19, 0.19), WHITE, 0.03)
        a.part(box(u, v, c, 0.38, 0.15, 0.15), (0.55, 0.75, 0.90), 0.02, 0.6)
        a.part(box(u, v, c, 0.38, 0.15, 0.02), WHITE, 0.02)
        a.part(box(u, v, c, 0.38, 0.02, 0.15), WHITE, 0.02)
    a.part(circle(u, v, 0.0, -0.38, 0.13), WHITE, 0.03)
    a.part(circle(u, v, 0.0, -0.38, 0.095), (0.55, 0.75, 0.90), 0.02)


def tree(a: Artist) -> None:
    u, v = a.u, a.v
    trunk = polygon(u, v, [(-0.11, 0.0), (0.11, 0.0), (0.15, 0.85), (0.24, 1.0), (-0.24, 1.0), (-0.15, 0.85)])
    a.part(trunk, BROWN, normal=((u / 0.2).clamp(-0.9, 0.9), 0 * v))
    a.part(capsule(u, v, 0.02, 0.48, 0.34, 0.16, 0.05), BROWN, 0.06)
    for cx, cy, r in (
        (-0.48, 0.02, 0.40), (0.48, 0.02, 0.40), (0.0, 0.10, 0.42), (-0.34, -0.40, 0.42), (0.36, -0.40, 0.42),
        (0.0, -0.58, 0.42), (0.02, -0.22, 0.42),
    ):  # fmt: skip
        a.part(circle(u, v, cx, cy, r), normal=a.sphere(cx * 0.6, cy * 0.6 - 0.08, 0.85, 0.8), bevel=0.3)
        a.paint(a.mask(circle(u, v, cx, cy, r)) * ease(circle(u, v, cx - 0.02, cy - 0.06, r - 0.10) / 0.12),
                a.mix((0.0, 0.0, 0.05), 0.30))  # fmt: skip


def mushroom(a: Artist) -> None:
    u, v = a.u, a.v
    stalk = polygon(u, v, [(-0.24, -0.05), (0.24, -0.05), (0.34, 0.94), (-0.34, 0.94)], 0.05)
    a.part(stalk, CREAM, normal=((u / 0.36).clamp(-0.93, 0.93), 0 * v))
    a.paint(a.mask(stalk) * ease((0.34 - v) / 0.25), (0.66, 0.60, 0.50))
    cap = torch.maximum(ellipse(u, v, 0.0, 0.08, 0.97, 1.02), ellipse(u, v, 0.0, -0.30, 1.2, 0.53))
    cover = a.part(cap, gloss=0.6, normal=a.sphere(0, 0.15, 1.0, 1.1))
    for cx, cy, rx, ry in (
        (-0.05, -0.55, 0.20, 0.17), (-0.55, -0.30, 0.14, 0.15), (0.46, -0.42, 0.15, 0.15), (0.16, -0.08, 0.15, 0.11),
        (-0.26, -0.02, 0.10, 0.08), (0.76, -0.06, 0.09, 0.12),
    ):  # fmt: skip
        a.paint(cover * a.mask(ellipse(u, v, cx, cy, rx, ry)), WHITE)


def flower(a: Artist) -> None:
    u, v = a.u, a.v
    a.part(capsule(u, v, 0.0, -0.2, 0.03, 0.98, 0.055), LEAF, 0.06)
    a.part(vesica(u, v, 0.02, 0.86, 0.62, 0.42, 0.30), LEAF, 0.15)
    a.part(vesica(u, v, 0.02, 0.94, -0.60, 0.56, 0.28), LEAF, 0.15)
    for i in range(6):
        angle = math.pi * (i / 3 + 1 / 6)
        cx, cy = 0.38 * math.cos(angle), -0.34 + 0.38 * math.sin(angle)
        a.part(circle(u, v, cx, cy, 0.265), bevel=0.22, gloss=0.1)
        a.paint(a.mask(circle(u, v, cx, cy, 0.265)) * ease(1.25 - torch.hypot(u, v + 0.34) / 0.36),
                a.mix(DARK, 0.35))  # fmt: skip
    centre = a.mix((1.0, 0.80, 0.10), 1.0)
    yellowish = (a.main[:, 0:1] > 0.95) & (a.main[:, 1:2] > 0.7)
    a.part(circle(u, v, 0.0, -0.34, 0.22), torch.where(yellowish, a.tone((0.45, 0.25, 0.10)), centre), 0.2)


def car(a: Artist) -> None:
    u, v = a.u, a.v - 0.30
    cabin = polygon(u, v, [(-0.52, 0.0), (-0.30, -0.50), (0.26, -0.50), (0.56, 0.0)], 0.05)
    a.part(cabin, bevel=0.2, gloss=0.7)
    a.part(
        polygon(u, v, [(-0.38, -0.04), (-0.23, -0.40), (-0.05, -0.40), (-0.05, -0.04)], 0.01),
        (0.62, 0.80, 0.92),
        0.05,
        0.7,
    )
    a.part(
        polygon(u, v, [(0.04, -0.04), (0.04, -0.40), (0.20, -0.40), (0.40, -0.04)], 0.01), (0.62, 0.80, 0.92), 0.05, 0.7
    )
    body = box(u, v, 0.0, 0.20, 0.97, 0.28, 0.16)
    a.part(body, gloss=0.8, normal=(u * 0.25, ((v - 0.2) / 0.34).clamp(-0.9, 0.9)))
    a.part(box(u, v, -0.92, 0.14, 0.055, 0.08, 0.03), (1.0, 0.95, 0.65), 0.05, 0.5)
    a.part(box(u, v, 0.93, 0.14, 0.04, 0.09, 0.02), (0.75, 0.10, 0.08), 0.05, 0.5)
    a.paint(a.mask(box(u, v, 0.02, 0.20, 0.012, 0.24)), a.mix(DARK, 0.45))
    a.paint(a.mask(box(u, v, 0.14, 0.10, 0.06, 0.018)), a.mix(DARK, 0.55))
    for c in (-0.54, 0.54):
        a.part(circle(u, v, c, 0.44, 0.265), DARK, 0.08, 0.1)
        a.part(circle(u, v, c, 0.44, 0.135), (0.72, 0.73, 0.76), 0.1, 0.6)


OBJECTS: dict[str, Callable[[Artist], None]] = {
    "apple": apple, "ball": ball, "balloon": balloon, "bottle": bottle, "mug": mug, "lantern": lantern,
    "star": star_object, "heart": heart_object, "fish": fish, "leaf": leaf, "ring": ring, "house": house, "tree": tree,
    "mushroom": mushroom, "flower": flower, "car": car,
}  # fmt: skip
OF_GLASS = ("apple", "ball", "bottle", "mug", "star", "heart", "fish", "ring")
"""What can also be made of glass."""
FOOT = {
    "apple": 0.50, "ball": 0.32, "balloon": 0.0, "bottle": 0.40, "mug": 0.56, "lantern": 0.56, "star": 0.55, "heart": 0.16,
    "fish": 0.35, "leaf": 0.12, "ring": 0.32, "house": 0.72, "tree": 0.22, "mushroom": 0.36, "flower": 0.12, "car": 0.80,
}  # fmt: skip
"""Half the width of what touches the ground; 0 floats above it."""


def draw_object(kind: str, artist: Artist) -> Maps:
    """Draws `kind` and, where the batch says so, makes glass of it: a thin body, a thick rim."""
    if kind not in OBJECTS:
        raise ValueError(f"unknown object {kind!r}; known objects are {', '.join(OBJECTS)}")
    OBJECTS[kind](artist)
    maps = artist.maps
    if kind in OF_GLASS:
        steep = torch.hypot(maps.nx, maps.ny)
        maps.rim = ease((steep - 0.55) / 0.40) * artist.glass
    return maps
