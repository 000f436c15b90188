"""Does the blended picture light its object and cast its shadow as the demo's drawn composites do?

    python evaluation/light_truth.py DIR [--method NAME]     reads the demo's results in DIR, writes DIR/light.md

Light: the object's mean colour in the blended picture minus that of the foreground, against the same of the drawn
composite of that object in that place; correlation over pairs and channels. Shadow: where the drawn composite has its
shadow (light from the left or from the right, whichever fits), the blended picture is darker than the background by
more than DARKER, relative to the rest of the picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from report import part
from torch import Tensor

DARKER = 0.04  # of the background's brightness
SIDE = 128


def drawn_pair(row: dict, alpha: Tensor):
    """The drawn scene of a pair, its object laid where `alpha` (H, W) has it; light from the left and from the right."""
    scenes, truth = part("drawings").scenes_module(), part("truth")
    shape, colour, backdrop, tone = truth.named(row["foreground"], row["background"])
    kind = tuple(scenes.OBJECTS)[shape - 1]
    item = scenes.Item(kind, tuple(scenes.COLOURS)[colour - 1], "glass" in row["foreground"].split(), (0.5, 0.5), 0.6, 0.5)
    scene = scenes.Scene((item,), scenes.BACKDROPS[backdrop - 1], tuple(scenes.TONES)[tone - 1] if tone else None, False,
                         (0.5,) * 4)  # fmt: skip
    plain = box_of(scenes.draw_batch([scene], SIDE).alpha[0, 0])
    found = box_of(alpha)
    scale = (found[3] - found[2]) / (plain[3] - plain[2])
    centre = tuple((a + b) / 2 - scale * ((c + d) / 2 - 0.5) for a, b, c, d in
                   ((*found[:2], *plain[:2]), (*found[2:], *plain[2:])))  # fmt: skip
    scene = dataclasses.replace(scene, items=(dataclasses.replace(item, centre=centre, size=0.6 * scale),))
    return scenes.draw_batch([scene, dataclasses.replace(scene, mirror=True)], SIDE)


def box_of(alpha: Tensor) -> tuple[float, float, float, float]:
    """left, right, top, bottom of what is covered, as fractions of the picture."""
    y, x = (alpha > 0.15).nonzero(as_tuple=True)
    height, width = alpha.shape
    return x.min().item() / width, (x.max().item() + 1) / width, y.min().item() / height, (y.max().item() + 1) / height


def inside(picture: Tensor, alpha: Tensor) -> Tensor:
    """Mean colour (3,) of (3, H, W) weighted by alpha (H, W)."""
    return (picture * alpha).sum((1, 2)) / alpha.sum()


def judge(out: Path, row: dict) -> dict:
    """shift, drawn (3,): change of the object's mean colour here and as drawn; darker: of the shadow's place, NaN where
    none is drawn; stray: share of alpha that lies where the shadow is drawn and the object is not."""
    pictures = []
    for stream in part("results").STREAMS:
        picture = torch.from_numpy(part("results").load_picture(out, row["method"], row["index"], stream).copy())
        pictures.append(F.interpolate(picture.permute(2, 0, 1)[None], size=(SIDE, SIDE), mode="area")[0])
    foreground, background, blended = pictures
    colour, alpha = foreground[:3], foreground[3]
    drawn = drawn_pair(row, alpha)
    layers = ((drawn.composite[i], drawn.colour[i], drawn.alpha[i, 0]) for i in (0, 1))
    wanted = [inside(composite, a) - inside(own, a) for composite, own, a in layers]
    darker = 1 - (blended.mean(0) + 0.02) / (background.mean(0) + 0.02)
    clear = F.max_pool2d(torch.maximum(alpha, drawn.alpha.amax(0)[0])[None, None], 5, 1, 2)[0, 0] < 0.05
    places, stray = [], 0.0
    for shadow in drawn.shadow[:, 0]:
        there, elsewhere = clear & (shadow > 0.15), clear & (shadow < 0.02)
        if there.sum() > 20:
            places.append((darker[there].mean() - darker[elsewhere].median()).item())
            stray = max(stray, (alpha[there].sum() / alpha.sum()).item())
    return {"shift": inside(blended, alpha) - inside(colour, alpha), "drawn": torch.stack(wanted).mean(0),
            "darker": max(places, default=math.nan), "stray": stray}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", default="share")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [row for row in part("results").latest(options.out) if row["method"] == options.method]
    if not rows:
        parser.error(f"{options.out} holds no results of {options.method}")
    judged = [judge(options.out, row) for row in rows]
    shift, drawn = (torch.stack([j[name] for j in judged]) for name in ("shift", "drawn"))
    together = torch.corrcoef(torch.stack([shift.flatten(), drawn.flatten()]))[0, 1]
    hue = torch.corrcoef(torch.stack([(x - x.mean(1, keepdim=True)).flatten() for x in (shift, drawn)]))[0, 1]
    shadows = [j["darker"] for j in judged if not math.isnan(j["darker"])]
    found = sum(value > DARKER for value in shadows)
    stray = sum(j["stray"] > 0.01 for j in judged)
    text = (
        f"{options.method}, {len(rows)} pairs: light, correlation of the object's change of colour with the drawn one "
        f"{together:.2f} (of its hue alone {hue:.2f}); shadow found in {found} of {len(shadows)} scenes that have one; "
        f"shadow in alpha in {stray}\n"
    )
    (options.out / "light.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
