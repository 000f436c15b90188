"""Does the blended picture light its object and cast its shadow as the demo's drawn composites do?

Light: the object's mean colour in the blended picture minus that of the foreground, against the same of the drawn
composite of that object in that place. Shadow: where the drawn composite has its shadow (light from the left or from the
right, whichever fits), the blended picture is darker than the background by more than DARKER, relative to the rest of the
picture. `turned` is the same measured in the shadow's place turned upside down, where none is.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import results, table
from .drawings import scenes_module
from .methods import ALL

DARKER = 0.04  # of the background's brightness
SIDE = 128
STRAY = 0.01  # share of alpha that counts as a shadow in it


class Light(NamedTuple):
    """shift, drawn (3,): change of the object's mean colour here and as drawn; found, turned: 1.0 or 0.0, None where the
    drawn scene has no shadow; in_alpha: whether alpha lies where the shadow is drawn and the object is not."""

    shift: Tensor
    drawn: Tensor
    found: float | None
    turned: float | None
    in_alpha: float


def judge(out: Path, row: dict, named: list[int]) -> Light:
    """Light and shadow of one trio; named: the classes of its prompts."""
    pictures = [
        F.interpolate(trio.permute(0, 3, 1, 2), size=(SIDE, SIDE), mode="area")[0]
        for trio in results.load_trios(out, row["method"], [row["index"]])
    ]
    foreground, background, blended = pictures
    colour, alpha = foreground[:3], foreground[3]
    drawn = _drawn_pair(named, "glass" in row["foreground"].split(), alpha)
    layers = ((drawn.composite[i], drawn.colour[i], drawn.alpha[i, 0]) for i in (0, 1))
    wanted = [_inside(composite, a) - _inside(own, a) for composite, own, a in layers]
    darker = 1 - (blended.mean(0) + 0.02) / (background.mean(0) + 0.02)
    clear = F.max_pool2d(torch.maximum(alpha, drawn.alpha.amax(0)[0])[None, None], 5, 1, 2)[0, 0] < 0.05
    here, turned, in_alpha = [], [], 0.0
    for shadow in drawn.shadow[:, 0]:
        there = clear & (shadow > 0.15)
        if there.sum() > 20:
            here.append(_darkness(darker, there, clear & (shadow < 0.02)))
            turned.append(_darkness(darker, clear & (shadow.flip(0) > 0.15), clear & (shadow.flip(0) < 0.02)))
            in_alpha = max(in_alpha, float(alpha[there].sum() > STRAY * alpha.sum()))
    shift = _inside(blended, alpha) - _inside(colour, alpha)
    found, elsewhere = (float(max(places) > DARKER) if places else None for places in (here, turned))
    return Light(shift, torch.stack(wanted).mean(0), found, elsewhere, in_alpha)


def _cells(lit: list[Light]) -> list[str]:
    """n, light, hue, shadows, turned, in alpha: the cells of a method."""
    shift, drawn = (torch.stack([getattr(one, name) for one in lit]) for name in ("shift", "drawn"))
    pairs = ((shift, drawn), [x - x.mean(1, keepdim=True) for x in (shift, drawn)])
    correlations = [f"{torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]:.2f}" for a, b in pairs]
    shadows = [[getattr(one, name) for one in lit if one.found is not None] for name in ("found", "turned")]
    counts = [f"{int(sum(found))} of {len(found)}" for found in shadows]
    return [str(len(lit)), *correlations, *counts, str(int(sum(one.in_alpha for one in lit)))]


def table_of(lit: dict[str, list[Light]]) -> str:
    """A row per method."""
    head = ("setting", "n", "object's change of colour, correlation with drawn composites", "of its hue alone",
            "shadow found", "found in its place upside down", "shadow in alpha")  # fmt: skip
    return table.markdown(head, ([ALL[name].label, *_cells(lit[name])] for name in ALL if len(lit.get(name, ())) > 1))


def _drawn_pair(named: list[int], glass: bool, alpha: Tensor):
    """The drawn scene of a pair, its object laid where `alpha` (H, W) has it; light from the left and from the right."""
    scenes, (shape, colour, backdrop, tone) = scenes_module(), named
    kind = tuple(scenes.OBJECTS)[shape - 1]
    item = scenes.Item(kind, tuple(scenes.COLOURS)[colour - 1], glass, (0.5, 0.5), 0.6, 0.5)
    scene = scenes.Scene((item,), scenes.BACKDROPS[backdrop - 1], tuple(scenes.TONES)[tone - 1] if tone else None, False,
                         (0.5,) * 4)  # fmt: skip
    plain, found = _box(scenes.draw_batch([scene], SIDE).alpha[0, 0]), _box(alpha)
    scale = (found[3] - found[2]) / (plain[3] - plain[2])
    centre = tuple((a + b) / 2 - scale * ((c + d) / 2 - 0.5) for a, b, c, d in
                   ((*found[:2], *plain[:2]), (*found[2:], *plain[2:])))  # fmt: skip
    scene = dataclasses.replace(scene, items=(dataclasses.replace(item, centre=centre, size=0.6 * scale),))
    return scenes.draw_batch([scene, dataclasses.replace(scene, mirror=True)], SIDE)


def _box(alpha: Tensor) -> tuple[float, float, float, float]:
    """left, right, top, bottom of what is covered, as fractions of the picture; the whole where nothing is."""
    y, x = (alpha > 0.15).nonzero(as_tuple=True)
    if not len(x):
        return 0.0, 1.0, 0.0, 1.0
    height, width = alpha.shape
    return x.min().item() / width, (x.max().item() + 1) / width, y.min().item() / height, (y.max().item() + 1) / height


def _inside(picture: Tensor, alpha: Tensor) -> Tensor:
    """Mean colour (3,) of (3, H, W) weighted by alpha (H, W)."""
    return (picture * alpha).sum((1, 2)) / alpha.sum().clamp_min(1e-6)


def _darkness(darker: Tensor, there: Tensor, elsewhere: Tensor) -> float:
    return (darker[there].mean() - darker[elsewhere].median()).item()
