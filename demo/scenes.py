"""Procedural scenes: one or two objects, a backdrop, and the composite in which the objects stand in the scene's light.

A composite differs from pasting: the object is lit by the scene (colour and side of the light), throws a soft shadow and
a contact shadow, and glass bends what is behind it and colours its shadow. Every layer and the shadow are kept. Colours
are straight (not premultiplied) sRGB values in [0, 1]; alpha and shadow are in [0, 1]. A scene is fully determined by
its `Scene` record, and `random_scene(seed)` draws that record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scene_artist import Artist, Maps
from scene_backdrops import PAINTERS, pattern
from scene_canvas import Canvas
from scene_light import FLOATING, NEUTRAL, PATTERNS, SCENES, TONES, Light, light_of
from scene_objects import COLOURS, FOOT, OBJECTS, OF_GLASS, draw_object
from scene_shapes import ease
from torch import Tensor

BACKDROPS = (*SCENES, *PATTERNS)
GREY = 0.5  # the canvas that a transparent object is shown on
TWO = 0.2  # share of scenes with two objects
GLASS = 0.4  # share of glass among the objects that can be


@dataclass(frozen=True)
class Item:
    """One object. Centre and size (of its square) are fractions of the canvas; `turn` in [0, 1) varies its markings."""

    kind: str
    colour: str
    glass: bool
    centre: tuple[float, float]
    size: float
    turn: float


@dataclass(frozen=True)
class Scene:
    """What is drawn, items from back to front. `tone` only for patterns; `mirror`: the light comes from the right."""

    items: tuple[Item, ...]
    backdrop: str
    tone: str | None
    mirror: bool
    phase: tuple[float, float, float, float]

    @property
    def glass(self) -> bool:
        return self.items[0].glass


class Drawing(NamedTuple):
    """Layers of a batch; `colour`, `alpha`, `on_grey` are those of the first item alone, in neutral light.

    `colour` (B, 3, S, S) straight, padded over the whole canvas; `alpha` and `shadow` (B, 1, S, S); `lit`, the first
    item's straight colour in the scene's light, `background`, `on_grey`, `composite` (B, 3, S, S).
    """

    colour: Tensor
    alpha: Tensor
    shadow: Tensor
    lit: Tensor
    background: Tensor
    on_grey: Tensor
    composite: Tensor


def random_scene(seed: int) -> Scene:
    """Draws a scene record from `seed`; objects, colours, backdrops and tones are uniform and independent."""
    rng = np.random.default_rng(seed)
    kinds, colours, backdrop = list(OBJECTS), list(COLOURS), BACKDROPS[rng.integers(len(BACKDROPS))]
    two = rng.random() < TWO
    overlap, first_left = rng.random() < 0.35, rng.random() < 0.5
    picked = rng.choice(len(kinds), 2, replace=False)
    shades = rng.choice(len(colours), 2, replace=False)
    items = []
    for i in range(2 if two else 1):
        kind = kinds[picked[i]]
        size = rng.uniform(0.40, 0.48) if two else rng.uniform(0.58, 0.70)
        foot = 0.84 + rng.uniform(-0.02, 0.02) + (0.03 * (2 * i - 1) * (1 + overlap) if two else 0.0)
        apart = (0.14 if overlap else 0.245) * (-1 if first_left == (i == 0) else 1) if two else 0.0
        if kind == "balloon":  # it floats
            foot -= 0.04
        centre = (0.5 + apart + rng.uniform(-0.03, 0.03), foot - size / 2)
        glass = kind in OF_GLASS and bool(rng.random() < GLASS)
        items.append(Item(kind, colours[shades[i]], glass, centre, size, float(rng.random())))
    return Scene(
        items=tuple(items),
        backdrop=backdrop,
        tone=list(TONES)[rng.integers(len(TONES))] if backdrop in PATTERNS else None,
        mirror=bool(rng.random() < 0.5),
        phase=tuple(rng.random(4).tolist()),
    )


def draw(scene: Scene, size: int = 256) -> Drawing:
    """One scene as float32 arrays (S, S, channels)."""
    return Drawing(*(t[0].permute(1, 2, 0).contiguous().numpy() for t in draw_batch([scene], size)))


@torch.no_grad()
def draw_batch(scenes: list[Scene], size: int = 256, device: str | torch.device = "cpu") -> Drawing:
    """Renders scenes at `size` x `size` pixels as float32 tensors on `device`."""
    line = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
    y, x = torch.meshgrid(line, line, indexing="ij")
    x, y = x[None], y[None]
    background = _backdrops(scenes, x, y)
    mirror = torch.tensor([s.mirror for s in scenes], device=device).view(-1, 1, 1)
    lights = [light_of(s.backdrop, s.tone) for s in scenes]
    batch = range(len(scenes))
    first = _objects([s.items[0] for s in scenes], x, y)
    seconds = [i for i in batch if len(scenes[i].items) > 1]
    alpha, colour, _ = _lit(first, [NEUTRAL] * len(scenes), torch.zeros_like(mirror))
    layers = [(list(batch), first, [s.items[0] for s in scenes])]
    if seconds:
        others = [scenes[i].items[1] for i in seconds]
        layers.append((seconds, _objects(others, x, y), others))
    shaded, clear = background, background.new_ones(len(scenes), 1, size, size)
    for rows, maps, items in layers:
        strength, tint = _shadow(maps, items, [scenes[i] for i in rows], [lights[i] for i in rows], x, y)
        part = shaded[rows] * (1 - strength * (1 - tint))
        shaded = shaded.index_copy(0, torch.tensor(rows, device=device), part)
        left = clear[rows] * (1 - strength)
        clear = clear.index_copy(0, torch.tensor(rows, device=device), left)
    composite, lit = shaded, None
    for rows, maps, items in layers:
        place = torch.tensor(rows, device=device)
        cover, paint, _ = _lit(maps, [lights[i] for i in rows], mirror[place])
        lit = paint if lit is None else lit
        behind = _through(composite[place], maps, items)
        composite = composite.index_copy(0, place, cover * paint + (1 - cover) * behind)
    on_grey = colour * alpha + GREY * (1 - alpha)
    return Drawing(colour, alpha, 1 - clear, lit, background, on_grey, composite.clamp(0, 1))


def _groups(names: list[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    return rows


def _backdrops(scenes: list[Scene], x: Tensor, y: Tensor) -> Tensor:
    out = x.new_empty(len(scenes), 3, *x.shape[-2:])
    for name, rows in _groups([s.backdrop for s in scenes]).items():
        light_of(name, scenes[rows[0]].tone)  # refuses an unknown name
        phase = x.new_tensor([scenes[i].phase for i in rows])
        mirror = torch.tensor([scenes[i].mirror for i in rows], device=x.device).view(-1, 1, 1)
        canvas = Canvas(x, y, phase, mirror)
        if name in PATTERNS:
            tones = x.new_tensor([TONES[scenes[i].tone] for i in rows])[..., None, None]
            pattern(name, canvas, tones[:, 0], tones[:, 1])
        else:
            PAINTERS[name](canvas)
        out[rows] = canvas.picture.clamp(0, 1)
    return out


def _objects(items: list[Item], x: Tensor, y: Tensor) -> Maps:
    size = x.shape[-1]
    plane, colour = (len(items), size, size), (len(items), 3, size, size)
    out = Maps(*(x.new_empty(s) for s in (plane, colour, plane, plane, plane, colour, *[plane] * 3)))
    for kind, rows in _groups([i.kind for i in items]).items():
        these = [items[i] for i in rows]

        def column(values) -> Tensor:
            return x.new_tensor(list(values)).view(-1, 1, 1)

        artist = Artist(
            x, y,
            centre=x.new_tensor([i.centre for i in these])[..., None, None],
            size=column(i.size for i in these),
            colour=x.new_tensor([COLOURS[i.colour] for i in these])[..., None, None],
            turn=column(i.turn for i in these),
            glass=column(float(i.glass) for i in these) > 0.5,
        )  # fmt: skip
        maps = draw_object(kind, artist)
        for name, value in vars(maps).items():
            getattr(out, name)[rows] = value
    return out


def _lit(maps: Maps, lights: list[Light], mirror: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Alpha (B, 1, S, S) and straight colour (B, 3, S, S) in the given lights, and the highlight (B, 1, S, S)."""
    new = maps.colour.new_tensor
    key, ambient = (new([getattr(light, name) for light in lights])[..., None, None] for name in ("key", "ambient"))
    lx, ly, lz = F.normalize(new([light.towards for light in lights]), dim=1)[..., None, None].unbind(1)
    lx = torch.where(mirror, -lx, lx)
    nz = (1 - maps.nx**2 - maps.ny**2).clamp(min=0).sqrt()
    diffuse = (maps.nx * lx + maps.ny * ly + nz * lz).clamp(min=0)[:, None]
    halfway = (2 + 2 * lz).sqrt()
    shine = ((maps.nx * lx + maps.ny * ly + nz * (lz + 1)) / halfway).clamp(min=0)
    shine = ((0.75 + 0.25 * maps.glass) * torch.maximum(maps.gloss, maps.glass) * shine**30)[:, None]
    glitter = shine * key / key.amax(1, keepdim=True)
    colour = maps.colour * (ambient + key * diffuse) * (1 - maps.glow.amax(1, keepdim=True).clamp(max=1) * 0.9)
    rim, of_glass, alpha = maps.rim[:, None], maps.glass[:, None], maps.alpha[:, None]
    shade = colour * (1 - 0.35 * rim)
    # light that went through glass gathers on the side away from it
    gathered = of_glass * (0.55 * ease((-(maps.nx * lx + maps.ny * ly) - 0.35) / 0.45)[:, None]) * (1 - 0.7 * rim)
    shade = torch.lerp(shade, torch.lerp(maps.colour, key / key.amax(1, keepdim=True), 0.55), gathered)
    colour = (shade * (1 - shine) + glitter + maps.glow).clamp(0, 1)
    thin = alpha * (0.24 + 0.62 * rim + 0.40 * gathered + 0.9 * shine).clamp(0, 1)
    return torch.where(of_glass > 0.5, thin, alpha), colour, shine


def _through(behind: Tensor, maps: Maps, items: list[Item]) -> Tensor:
    """What is seen through glass: bent by its surface, a little in its colour. Other objects hide what is behind."""
    size = behind.shape[-1]
    line = torch.linspace(-1 + 1 / size, 1 - 1 / size, size, device=behind.device)
    gy, gx = torch.meshgrid(line, line, indexing="ij")
    bend = 0.22
    grid = torch.stack([gx - bend * maps.nx * maps.glass, gy - bend * maps.ny * maps.glass], -1)
    bent = F.grid_sample(behind, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    tint = behind.new_tensor([COLOURS[i.colour] for i in items])[..., None, None]
    inside = (maps.alpha * maps.glass)[:, None]
    return torch.lerp(behind, bent * (0.55 + 0.45 * tint), inside)


def _blurred(picture: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, 1, s, s); sigma in pixels."""
    reach = max(1, round(2.5 * sigma))
    weights = torch.exp(-(torch.arange(-reach, reach + 1, device=picture.device) ** 2) / (2 * sigma * sigma))
    weights = weights / weights.sum()
    picture = F.conv2d(picture, weights.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(picture, weights.view(1, 1, -1, 1), padding=(reach, 0))


def _shadow(maps: Maps, items: list[Item], scenes: list[Scene], lights: list[Light], x: Tensor, y: Tensor):
    """How much light is taken away (B, 1, S, S) and the colour of what is left (B, 3, 1, 1).

    The silhouette is laid on the ground, or on the wall behind a pattern; it blurs with the distance from the object.
    """
    size = x.shape[-1]

    def column(values) -> Tensor:
        return x.new_tensor(list(values)).view(-1, 1, 1)

    wall = column(s.backdrop in PATTERNS and s.backdrop != "hills" for s in scenes) > 0.5
    side = column(-1.0 if s.mirror else 1.0 for s in scenes)
    foot = column(i.centre[1] + i.size / 2 + (0.05 if i.kind == "balloon" else 0.0) for i in items) - 0.008
    fall, slant = column(light.fall for light in lights), column(light.slant for light in lights)
    height = (foot - y) / fall
    source_x = torch.where(wall, x - 0.035 * side, x - side * slant * height)
    source_y = torch.where(wall, y - 0.045, foot - height)
    grid = torch.stack([source_x, source_y], -1) * 2 - 1
    small = F.avg_pool2d(maps.solid[:, None], 2)
    sharp, soft = _blurred(small, 0.006 * size / 2), _blurred(small, 0.030 * size / 2)
    near, far = (F.grid_sample(p, grid, padding_mode="zeros", align_corners=False)[:, 0] for p in (sharp, soft))
    distance = torch.where(wall, torch.full_like(height, 0.5), (height / 0.7).clamp(0, 1))
    cast = torch.lerp(near, far, distance) * torch.where(wall, torch.ones_like(height), (height > 0).float())
    cast = cast * (1 - 0.35 * distance) * column(light.shadow for light in lights)
    half = column(FOOT.get(i.kind, 0.4) * i.size / 2 for i in items)
    middle = column(i.centre[0] for i in items)
    away = torch.hypot((x - middle) / (half * 1.12 + 0.012), (y - foot) / 0.020)
    contact = 0.62 * ease((1.25 - away) / 0.8) * (half > 0) * ~wall
    of_glass = column(float(i.glass) for i in items)
    cast, contact = cast * (1 - 0.10 * of_glass), contact * (1 - 0.45 * of_glass)
    there = column(float(s.backdrop not in FLOATING) for s in scenes)
    strength = (1 - (1 - cast) * (1 - contact)) * there
    ambient = x.new_tensor([light.ambient for light in lights])
    dark = 0.22 * ambient / ambient.mean(1, keepdim=True)
    own = x.new_tensor([COLOURS[i.colour] for i in items])
    tint = torch.where(of_glass[:, 0] > 0.5, 0.28 + 0.72 * own, dark)
    return strength[:, None], tint[..., None, None]
