"""What scenes look like: places with a ground to stand on and a light that can be seen, and patterned walls."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scene_canvas import GROUND, Canvas
from scene_shapes import box, capsule, circle, ease, ellipse, polygon
from torch import Tensor


def table(c: Canvas) -> None:
    x, y = c.x, c.y
    c.paint(torch.ones_like(x), c.fade((0.72, 0.66, 0.56), (0.60, 0.52, 0.44), 0.0, GROUND))
    c.glow(0.0, 0.05, 0.75, (1.0, 0.93, 0.74), 0.8)
    c.paint(c.mask(box(x, y, 0.115, 0.20, 0.105, 0.19)), (0.93, 0.90, 0.84))  # a window
    c.paint(c.mask(box(x, y, 0.115, 0.20, 0.09, 0.175)), (1.0, 0.97, 0.86))
    c.paint(c.mask(box(x, y, 0.115, 0.20, 0.006, 0.175)), (0.86, 0.80, 0.70))
    c.paint(c.mask(box(x, y, 0.115, 0.20, 0.09, 0.006)), (0.86, 0.80, 0.70))
    c.paint(c.below(0.80), (0.42, 0.35, 0.30))  # the floor
    c.paint(c.mask((y - 0.80).abs() - 0.012), (0.86, 0.82, 0.76))
    top = c.mask(polygon(x, y, [(0.08, 0.62), (0.92, 0.62), (1.06, 0.93), (-0.06, 0.93)]))
    c.paint(top, c.fade((0.60, 0.37, 0.19), (0.78, 0.51, 0.28), 0.62, 0.93))
    plank = (y - 0.62) / (0.062 + 0.10 * (y - 0.62))
    tint = torch.sin(plank.floor() * 2.4 + 6 * c.phase[1])
    c.paint(top * (0.5 + 0.5 * tint), (0.50, 0.29, 0.14), 0.30)
    grain = torch.sin(plank * 20 + 1.6 * torch.sin(7 * x + plank.floor() * 3 + 6.3 * c.phase[0]))
    c.paint(top * ease((grain - 0.2) / 0.8), (0.42, 0.24, 0.11), 0.16)
    c.paint(top * c.mask((plank - plank.round()).abs() * 0.075 - 0.004), (0.30, 0.16, 0.07), 0.8)
    c.paint(c.mask(box(x, y, 0.5, 0.955, 0.6, 0.026)), (0.44, 0.25, 0.12))
    c.paint(c.mask((y - 0.932).abs() - 0.005), (0.90, 0.66, 0.42), 0.7)
    c.paint(c.below(0.981), (0.16, 0.11, 0.09))
    away = torch.hypot((x - 0.1) / 0.5, (y - 0.74) / 0.16)
    c.paint(top * torch.exp(-away * away), (1.0, 0.86, 0.60), 0.45)


def meadow(c: Canvas) -> None:
    x, y = c.x, c.y
    c.paint(torch.ones_like(x), c.fade((0.36, 0.66, 0.95), (0.80, 0.92, 0.98), 0.0, GROUND))
    c.glow(0.13, 0.12, 0.22, (1.0, 0.97, 0.75), 0.75)
    c.paint(c.mask(circle(x, y, 0.13, 0.12, 0.062)), (1.0, 0.95, 0.55))
    cloud(c, 0.62 + 0.2 * c.phase[0], 0.14 + 0.06 * c.phase[1], 1.0)
    far = 0.50 + 0.025 * torch.sin(7 * x + 6.3 * c.phase[2])
    c.paint(c.below(far), (0.42, 0.66, 0.38))
    near = GROUND + 0.012 * torch.sin(5 * x + 6.3 * c.phase[3])
    c.paint(c.below(near), c.fade((0.48, 0.76, 0.28), (0.24, 0.56, 0.14), GROUND, 1.0))
    for row, (base, tall, count) in enumerate(((0.70, 0.030, 9), (0.84, 0.045, 7), (0.99, 0.06, 6))):
        place = x * count + 0.37 * row + c.phase[row]
        middle = (place - place.floor() - 0.5) / count
        blade = torch.minimum(
            capsule(middle, y, 0.0, base, 0.0, base - tall, 0.004),
            torch.minimum(
                capsule(middle, y, 0.0, base, -0.4 * tall, base - 0.75 * tall, 0.0035),
                capsule(middle, y, 0.0, base, 0.4 * tall, base - 0.75 * tall, 0.0035),
            ),
        )
        c.paint(c.mask(blade), (0.14, 0.42, 0.08), 0.8)
    for row, base in enumerate((0.66, 0.79, 0.93)):
        place = x * 4 + 0.5 * row + 0.23 + c.phase[3 - row]
        middle = (place - place.floor() - 0.5) / 4
        c.paint(c.mask(circle(middle, y, 0.03, base, 0.011)), (1.0, 1.0, 1.0) if row % 2 else (1.0, 0.92, 0.3))


def cloud(c: Canvas, cx, cy, scale: float, colour=(1.0, 1.0, 1.0)) -> None:
    d = box(c.x, c.y, cx, cy + 0.035 * scale, 0.13 * scale, 0.028 * scale, 0.027 * scale)
    for ox, oy, r in ((-0.06, 0.01, 0.050), (0.0, -0.02, 0.066), (0.065, 0.01, 0.052)):
        d = torch.minimum(d, circle(c.x, c.y, cx + ox * scale, cy + oy * scale, r * scale))
    c.paint(c.mask(d, 0.010), colour)


def beach(c: Canvas) -> None:
    x, y = c.x, c.y
    line = 0.42
    sky = torch.where((y < 0.26)[:, None], c.fade((0.40, 0.25, 0.50), (0.92, 0.42, 0.36), 0.0, 0.26),
                      c.fade((0.92, 0.42, 0.36), (1.0, 0.80, 0.40), 0.26, line))  # fmt: skip
    c.paint(torch.ones_like(x), sky)
    sun = 0.15 + 0.05 * c.phase[0]
    c.glow(sun, line - 0.03, 0.30, (1.0, 0.75, 0.30), 0.8)
    c.paint(c.mask(circle(x, y, sun, line - 0.03, 0.085)), (1.0, 0.93, 0.60))
    c.paint(c.below(line), c.fade((0.62, 0.38, 0.44), (0.32, 0.26, 0.46), line, 0.62))
    wave = torch.sin(150 * y) * ease((0.10 + 0.2 * (y - line) - (x - sun).abs()) / 0.08)
    c.paint(c.below(line) * ease(wave), (1.0, 0.80, 0.45), 0.9)
    shore = 0.60 + 0.014 * torch.sin(9 * x + 6.3 * c.phase[1])
    c.paint(c.below(shore - 0.020), (0.96, 0.84, 0.76))
    c.paint(c.below(shore), c.fade((0.70, 0.44, 0.28), (0.88, 0.60, 0.36), 0.6, 1.0))
    ripple = torch.sin(70 * (y - 0.6).clamp(min=0) ** 0.8 + 3 * torch.sin(5 * x + 6.3 * c.phase[2]))
    c.paint(c.below(shore) * ease(ripple), (0.60, 0.36, 0.24), 0.16)
    c.paint(c.mask(ellipse(x, y, 0.90, 0.93, 0.035, 0.020)), (0.98, 0.86, 0.72))


def street(c: Canvas) -> None:
    x, y = c.x, c.y
    c.paint(torch.ones_like(x), c.fade((0.03, 0.04, 0.12), (0.13, 0.14, 0.30), 0.0, GROUND))
    c.paint(c.mask(circle(x, y, 0.86, 0.10, 0.045)), (0.95, 0.95, 0.85))
    tops = ((0.10, 0.20), (0.27, 0.30), (0.45, 0.16), (0.62, 0.28), (0.80, 0.20), (0.95, 0.32))
    for i, (cx, top) in enumerate(tops):
        top = top + 0.06 * (c.phase[i % 4] - 0.5)
        half = 0.085
        c.paint(c.mask(torch.maximum((x - cx).abs() - half, torch.maximum(top - y, y - GROUND))),
                (0.09, 0.10, 0.19) if i % 2 else (0.12, 0.12, 0.24))  # fmt: skip
        wx, wy = (x - cx) / 0.045, (y - top - 0.035) / 0.060
        near = torch.maximum((wx - wx.round()).abs() * 0.045 - 0.011, (wy - wy.round()).abs() * 0.060 - 0.014)
        inside = ((x - cx).abs() < 0.066) & (wy > -0.4) & (y < GROUND - 0.05)
        lit = torch.sin(wx.round() * 12.9 + wy.round() * 7.3 + 5.1 * i + 3 * c.phase[i % 4].round()) > -0.25
        c.paint(c.mask(near) * inside * lit, (1.0, 0.84, 0.42))
    c.paint(c.below(GROUND), c.fade((0.14, 0.14, 0.19), (0.20, 0.20, 0.26), GROUND, 1.0))
    c.paint(c.below(GROUND) * c.mask(y - GROUND - 0.028), (0.27, 0.27, 0.33))
    vanish = (x - 0.5) / (y - 0.45).clamp(min=0.05)
    dash = torch.sin(2.2 / (y - 0.45).clamp(min=0.05) + 6.3 * c.phase[2]) > 0
    c.paint(c.below(GROUND + 0.05) * c.mask((vanish.abs() - 0.045) * (y - 0.45)) * dash, (0.85, 0.80, 0.55), 0.8)
    lamp(c)


def lamp(c: Canvas) -> None:
    x, y = c.x, c.y
    c.glow(0.115, 0.155, 0.34, (1.0, 0.80, 0.42), 0.55)
    floor = ellipse(x, y, 0.22, 0.76, 0.34, 0.17)
    c.paint(ease(-floor / 0.16) * c.below(GROUND + 0.02), (1.0, 0.82, 0.46), 0.42)
    c.paint(c.mask(box(x, y, 0.06, 0.43, 0.010, 0.33)), (0.04, 0.04, 0.06))
    c.paint(c.mask(capsule(x, y, 0.06, 0.105, 0.12, 0.105, 0.009)), (0.04, 0.04, 0.06))
    c.paint(c.mask(polygon(x, y, [(0.095, 0.115), (0.135, 0.115), (0.155, 0.155), (0.075, 0.155)])), (0.05, 0.05, 0.07))
    c.glow(0.115, 0.165, 0.035, (1.0, 0.97, 0.80), 1.0)


def fir(c: Canvas, cx, base: float, tall: float) -> None:
    x, y = c.x - cx, c.y
    c.paint(c.mask(box(x, y, 0.0, base, 0.10 * tall, 0.06 * tall)), (0.30, 0.22, 0.18))
    for i in range(3):
        foot, half = base - 0.06 * tall - i * 0.26 * tall, (0.34 - 0.08 * i) * tall
        c.paint(c.mask(polygon(x, y, [(0.0, foot - 0.42 * tall), (half, foot), (-half, foot)])), (0.13, 0.30, 0.27))
        peak = polygon(
            x, y, [(0.0, foot - 0.42 * tall), (0.42 * half, foot - 0.24 * tall), (-0.42 * half, foot - 0.24 * tall)]
        )
        c.paint(c.mask(peak), (0.93, 0.97, 1.0))


def snow(c: Canvas) -> None:
    x, y = c.x, c.y
    c.paint(torch.ones_like(x), c.fade((0.56, 0.68, 0.82), (0.86, 0.91, 0.96), 0.0, GROUND))
    c.glow(0.12, 0.12, 0.30, (1.0, 1.0, 1.0), 0.5)
    far = 0.50 + 0.03 * torch.sin(6 * x + 6.3 * c.phase[0])
    c.paint(c.below(far), (0.80, 0.87, 0.95))
    fir(c, 0.90 - 0.04 * c.phase[1], 0.60, 0.33)
    fir(c, 0.72 - 0.04 * c.phase[1], 0.565, 0.22)
    fir(c, 0.10 + 0.05 * c.phase[2], 0.575, 0.26)
    near = GROUND + 0.02 * torch.sin(5 * x + 6.3 * c.phase[3])
    c.paint(c.below(near), c.fade((0.90, 0.94, 1.0), (0.97, 0.98, 1.0), GROUND, 0.85))
    dune = 0.80 + 0.03 * torch.sin(4.2 * x + 1 + 6.3 * c.phase[2])
    c.paint(c.below(dune) * c.mask(y - dune - 0.05, 0.09), (0.80, 0.87, 0.97), 0.6)
    for i, (cx, cy) in enumerate(((0.30, 0.10), (0.50, 0.22), (0.66, 0.08), (0.80, 0.26), (0.40, 0.36), (0.22, 0.30))):
        c.paint(
            c.mask(circle(x, y, cx + 0.05 * c.phase[i % 4], cy + 0.04 * c.phase[(i + 1) % 4], 0.010)), (1.0, 1.0, 1.0)
        )


def bricks(c: Canvas) -> None:
    x, y = c.x, c.y
    floor = 0.70
    c.paint(torch.ones_like(x), (0.80, 0.74, 0.68))
    high, wide = 0.0875, 0.20
    row = (y / high).floor()
    shift = x + 0.5 * wide * (row % 2) + 0.25 * wide * (4 * c.phase[0]).floor()
    column = (shift / wide).floor()
    d = torch.maximum(((shift / wide - column - 0.5).abs() - 0.5) * wide, ((y / high - row - 0.5).abs() - 0.5) * high)
    shade = torch.sin(row * 12.7 + column * 5.3 + 6.3 * c.phase[1])[:, None]
    brick = c.tone((0.66, 0.28, 0.20)) * (1 + 0.14 * shade)
    c.paint(c.mask(d + 0.0085), brick)
    c.glow(0.0, 0.0, 0.80, (1.0, 0.86, 0.66), 0.30)
    c.paint(ease((x - 0.5) / 0.6), (0.18, 0.10, 0.10), 0.30)
    c.paint(c.below(floor), c.fade((0.58, 0.57, 0.56), (0.72, 0.71, 0.69), floor, 1.0))
    c.paint(c.mask((y - floor).abs() - 0.008), (0.32, 0.30, 0.30))
    slab = (x - 0.5) / (y - 0.35) * 1.25 + 0.5 + 0.5 * c.phase[2]
    c.paint(c.below(floor) * c.mask((slab - slab.round()).abs() * (y - 0.35) - 0.004), (0.44, 0.43, 0.42))
    c.paint(c.mask((y - 0.86).abs() - 0.0045), (0.46, 0.45, 0.44))


def desert(c: Canvas) -> None:
    x, y = c.x, c.y
    c.paint(torch.ones_like(x), c.fade((0.16, 0.55, 0.92), (0.78, 0.90, 0.94), 0.0, GROUND))
    c.glow(0.14, 0.10, 0.20, (1.0, 0.98, 0.80), 0.8)
    c.paint(c.mask(circle(x, y, 0.14, 0.10, 0.055)), (1.0, 0.97, 0.70))
    for i, (base, high, colour, shade) in enumerate(
        (
            (0.46, 0.055, (0.90, 0.66, 0.36), (0.72, 0.46, 0.25)),
            (0.55, 0.050, (0.95, 0.73, 0.40), (0.78, 0.52, 0.28)),
        )
    ):
        place = 1.6 * x + 0.45 * i + c.phase[i]
        saw = place - place.floor()
        crest = base - high * torch.where(saw < 0.62, ease(saw / 0.62), ease((1 - saw) / 0.38))
        c.paint(c.below(crest), colour)
        lee = ease((saw - 0.62) / 0.03) * ease((1.0 - saw) / 0.10) * ease(1 - (y - crest) / 0.10)
        c.paint(c.below(crest) * lee, shade)
    c.paint(c.below(0.60), c.fade((0.95, 0.73, 0.40), (0.98, 0.80, 0.48), 0.60, 1.0))
    ripple = torch.sin(60 * y + 2.0 * torch.sin(5 * x + 6.3 * c.phase[2]))
    c.paint(c.below(0.62) * ease(ripple), (0.84, 0.60, 0.32), 0.22)
    cactus(c, 0.885 - 0.03 * c.phase[3])


def cactus(c: Canvas, cx) -> None:
    x, y = c.x - cx, c.y
    d = capsule(x, y, 0.0, 0.64, 0.0, 0.34, 0.026)
    for side, low, high in ((-1, 0.52, 0.41), (1, 0.48, 0.38)):
        d = torch.minimum(d, capsule(x, y, 0.0, low, side * 0.065, low, 0.017))
        d = torch.minimum(d, capsule(x, y, side * 0.065, low, side * 0.065, high, 0.017))
    c.paint(c.mask(d), (0.22, 0.46, 0.20))
    c.paint(c.mask(d + 0.012, 0.01), (0.34, 0.60, 0.28))


def forest(c: Canvas) -> None:
    x, y = c.x, c.y
    c.paint(torch.ones_like(x), c.fade((0.10, 0.26, 0.13), (0.36, 0.52, 0.26), 0.0, GROUND))
    c.glow(0.22, 0.0, 0.45, (0.85, 0.95, 0.50), 0.65)
    for cx, half in ((0.34, 0.016), (0.47, 0.012), (0.60, 0.018), (0.74, 0.014)):
        c.paint(c.mask((x - cx - 0.05 * (c.phase[0] - 0.5)).abs() - half) * c.mask(y - GROUND), (0.18, 0.24, 0.12))
    ground = c.below(GROUND + 0.012 * torch.sin(8 * x + 6.3 * c.phase[1]))
    c.paint(ground, c.fade((0.24, 0.36, 0.13), (0.32, 0.27, 0.13), GROUND, 0.95))
    patch = torch.sin(9 * x + 6.3 * c.phase[2]) * torch.sin(30 * y + 3 * x)
    c.paint(ground * ease(patch), (0.38, 0.46, 0.18), 0.45)
    for cx, half, foot in ((0.07, 0.055, 0.70), (0.945, 0.065, 0.74), (0.80, 0.030, 0.62)):
        flare = half * (1 + 1.2 * ease((y - foot + 0.12) / 0.14))
        trunk = c.mask((x - cx).abs() - flare) * c.mask(y - foot)
        c.paint(trunk, (0.30, 0.20, 0.12))
        c.paint(trunk * ease((x - cx) / half * 0.5 + 0.5), (0.16, 0.10, 0.07), 0.9)
    top = 0.12 + 0.03 * torch.sin(22 * x + 6.3 * c.phase[3]) + 0.02 * torch.sin(9 * x)
    c.paint(c.mask(y - top), (0.08, 0.24, 0.09))
    for slope, start in ((0.55, 0.10), (0.55, 0.30)):
        beam = (x - start - slope * (y - 0.05)).abs() - (0.022 + 0.05 * y)
        c.paint(c.mask(beam, 0.03) * c.mask(y - 0.85, 0.2), (0.95, 1.0, 0.60), 0.22)


def stage(c: Canvas) -> None:
    x, y = c.x, c.y
    floor = 0.64
    fold = torch.sin(2 * math.pi * (8 * x + 0.35 * torch.sin(5 * x + 6.3 * c.phase[0]) + c.phase[1]))[:, None]
    c.paint(torch.ones_like(x), c.tone((0.62, 0.06, 0.10)) * (1 + 0.38 * fold))
    c.paint(c.mask(floor - 0.24 - y, 0.3), (0.25, 0.01, 0.04), 0.35)
    c.paint(c.below(floor), c.fade((0.40, 0.22, 0.13), (0.58, 0.35, 0.20), floor, 1.0))
    plank = (y - floor) / (0.045 + 0.16 * (y - floor))
    c.paint(c.below(floor) * c.mask((plank - plank.round()).abs() * 0.06 - 0.0035), (0.26, 0.13, 0.08), 0.9)
    c.paint(c.mask((y - floor).abs() - 0.007), (0.18, 0.05, 0.05))
    beam = (x - 0.06 - 0.44 * y / 0.8).abs() - (0.02 + 0.34 * y)
    c.paint(c.mask(beam, 0.06) * c.mask(y - 0.80, 0.06), (1.0, 0.90, 0.75), 0.20)
    c.paint(ease(-ellipse(x, y, 0.5, 0.82, 0.46, 0.13) / 0.05), (1.0, 0.86, 0.66), 0.55)
    drop = 0.085 + 0.035 * torch.sin(2 * math.pi * (4 * x)).abs()
    c.paint(c.mask(y - drop), (0.45, 0.02, 0.07))
    c.paint(c.mask((y - drop).abs() - 0.009), (0.92, 0.72, 0.28))


def sea(c: Canvas) -> None:
    x, y = c.x, c.y
    c.paint(torch.ones_like(x), c.fade((0.36, 0.80, 0.88), (0.03, 0.32, 0.58), 0.0, 0.66))
    for start, slope in ((0.08, 0.30), (0.28, 0.24), (0.50, 0.18)):
        beam = (x - start - 0.06 * c.phase[0] - slope * y).abs() - (0.02 + 0.05 * y)
        c.paint(c.mask(beam, 0.05) * c.mask(y - 0.40, 0.6), (0.85, 1.0, 1.0), 0.38)
    shore = 0.64 + 0.02 * torch.sin(6 * x + 6.3 * c.phase[1])
    c.paint(c.below(shore), c.fade((0.34, 0.60, 0.60), (0.66, 0.76, 0.62), 0.62, 1.0))
    ripple = torch.sin(52 * y + 2.4 * torch.sin(6 * x + 6.3 * c.phase[2]))
    c.paint(c.below(shore + 0.02) * ease(ripple), (0.30, 0.54, 0.56), 0.30)
    for cx, tall, foot in (
        (0.05, 0.34, 0.74),
        (0.115, 0.24, 0.77),
        (0.90, 0.38, 0.76),
        (0.96, 0.26, 0.73),
        (0.84, 0.20, 0.73),
    ):
        sway = cx + 0.016 * torch.sin(24 * y + 6.3 * c.phase[3] + 20 * cx)
        weed = torch.maximum((x - sway).abs() - 0.016 * ((y - foot + tall) / tall).clamp(0.05, 1) ** 0.5,
                             torch.maximum(foot - tall - y, y - foot))  # fmt: skip
        c.paint(c.mask(weed), (0.05, 0.42, 0.26))
    for i, (cx, cy, r) in enumerate(
        ((0.20, 0.20, 0.018), (0.235, 0.11, 0.012), (0.80, 0.26, 0.020), (0.77, 0.15, 0.013), (0.83, 0.07, 0.011))
    ):
        bubble = circle(x, y, cx, cy + 0.05 * c.phase[i % 4], r)
        c.paint(c.mask(bubble.abs() - 0.0035), (0.88, 1.0, 1.0), 0.9)
        c.paint(c.mask(bubble), (0.80, 1.0, 1.0), 0.25)


def pattern(name: str, c: Canvas, dark: Tensor, light: Tensor) -> None:
    """A wall in two shades of a tone; offsets are multiples of 1/32 of the canvas: one latent cell at 256 px."""
    x, y, p = c.x, c.y, c.phase
    sx, sy = (p[0] * 8).floor() / 32, (p[1] * 8).floor() / 32

    def wave(z: Tensor, period: float = 0.25) -> Tensor:
        return c.mask((z % period - period / 2).abs() - period / 4)

    if name == "sky":
        t = (y * 1.1 + 0.10 * (p[0] - 0.5)).clamp(0, 1)
    elif name == "stripes":
        t = wave(x - sx)
    elif name == "checkerboard":
        a, b = wave(x - sx), wave(y - sy)
        t = a * b + (1 - a) * (1 - b)
    elif name == "dots":
        t = 1 - c.mask(torch.hypot((x - sx) % 0.25 - 0.125, (y - sy) % 0.25 - 0.125) - 0.075)
    elif name == "hills":
        far = 0.42 + 0.08 * (p[2] - 0.5) + 0.09 * torch.sin(2 * math.pi * (x + p[0]))
        near = 0.66 + 0.06 * (p[3] - 0.5) + 0.06 * torch.sin(2 * math.pi * (x * 0.9 + p[1]))
        t = 1.0 - 0.5 * c.below(far) - 0.5 * c.below(near)
    else:  # clouds
        c.paint(torch.ones_like(x), dark)
        for cx, cy, scale in ((p[0] * 0.4, 0.12 + 0.1 * p[2], 1.3), (0.6 + p[0] * 0.35, 0.24 + 0.1 * p[3], 1.5),
                              (p[1] * 0.5, 0.70 + 0.1 * p[3], 1.5), (0.62 + p[1] * 0.35, 0.84, 1.2)):  # fmt: skip
            cloud(c, cx, cy, scale, light)
        return
    c.picture = dark + (light - dark) * t[:, None].clamp(0, 1)


PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "table": table, "meadow": meadow, "beach": beach, "street": street, "snow": snow, "bricks": bricks,
    "desert": desert, "forest": forest, "stage": stage, "sea": sea,
}  # fmt: skip
