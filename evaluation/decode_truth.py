"""The way round, picture with alpha -> latent -> colour and alpha, on drawn objects, opaque and glass; no sampling.

    python evaluation --host ~/comfy/ComfyUI decode_truth [--out DIR] [--models demo|DIR] [--n N] [--fringes]

Writes DIR/alpha.md: alpha against the truth. --fringes prints what docs/layers.md shows of ensembles, edges and tiles, with
errors in 1/255: *edge* is within 2 pixels of the object's outline; a fringe would be an edge that is wrong over some
colours. *Over grey* takes the VAE's picture (the object over mid-grey) as the colour, which is what leaves a fringe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from ..layerfusion_core.host.models.transparent_encode import encode_transparent
from ..layerfusion_core.layers.compositing import alpha_over
from . import drawings, measures, models, plan, table

BACKDROPS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "magenta": (1.0, 0.0, 1.0), "green": (0.0, 1.0, 0.0)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", default="demo")
    parser.add_argument("--n", type=int, default=50, help="objects of each kind")
    parser.add_argument("--fringes", action="store_true")
    options = parser.parse_args(argv)
    demo, rows = models.load(options.models), []
    for kind in ("opaque", "glass"):
        drawn = drawings.of_kind(kind == "glass", options.n, 2_000_000, models.DEMO.size)
        truth = torch.stack([torch.cat([torch.from_numpy(d.colour), torch.from_numpy(d.alpha)], -1) for d in drawn]).float()
        with torch.inference_mode():
            latent = encode_transparent(demo.vae, truth[..., :3], truth[..., 3])
            picture = demo.vae.decode(latent).float()[..., :3]
            found = demo.transparent.decode(picture, latent, plan.SETTINGS.ensemble)[1]
            rows.append([kind, len(drawn), *_alpha(truth[..., 3], found, kind == "glass")])
            if options.fringes:
                sys.stdout.write(f"\n{kind}, n = {options.n}\n")
                _fringes(demo.transparent, latent, picture, truth, kind == "glass")
    head = ("objects", "n", "soft IoU", "mean error of alpha", "alpha of the body, drawn", "the same, decoded")
    text = table.markdown(head, rows)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "alpha.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


def _alpha(truth: Tensor, found: Tensor, glass: bool) -> list[str]:
    """The table's cells for alphas (N, H, W)."""
    body = ((truth > 0.15) & (truth < 0.5) if glass else truth > 0.99).float()
    cells = (
        (measures.soft_iou(found, truth), 3),
        ((found - truth).abs().mean(dim=(-2, -1)), 4),
        *(((x * body).sum(dim=(-2, -1)) / body.sum(dim=(-2, -1)), 2) for x in (truth, found)),
    )
    return [table.cell(table.bootstrap(x.tolist()), table.Column("", "", digits)) for x, digits in cells]


def _fringes(decoder, latent: Tensor, picture: Tensor, truth: Tensor, glass: bool) -> None:
    """Print errors over passes of the ensemble, backdrops and tiles."""
    say, rgb, alpha = sys.stdout.write, truth[..., :3], truth[..., 3]
    decoded = {n: decoder.decode(picture, latent, n) for n in (1, 2, 4, 8)}
    for n, (_, found) in decoded.items():
        iou, error = measures.soft_iou(found, alpha).mean(), 255 * (found - alpha).abs().mean()
        say(f"ensemble {n}: soft IoU {iou:.3f}, alpha error {error:.2f}\n")
    color, found = decoded[8]
    solid = alpha > 0.98 if not glass else alpha > 0.3
    say(f"colour error inside: {255 * (color - rgb).abs()[solid].mean():.1f}\n")
    edge = measures.dilate(alpha > 0.02, 2) & measures.dilate(alpha <= 0.02, 2)
    for name, backdrop in BACKDROPS.items():
        behind = torch.tensor(backdrop).expand_as(rgb)
        layers = (torch.cat([c, found[..., None]], dim=-1) for c in (color, picture))
        errors = [255 * (alpha_over(layer, behind) - alpha_over(truth, behind))[edge] for layer in layers]
        texts = [f"{e.abs().mean():.1f} (signed {e.mean():+.1f})" for e in errors]
        say(f"edge over {name}: decoded {texts[0]}, over grey {texts[1]}\n")
    empty = ~measures.dilate(alpha > 0.02, 2)
    say(f"colour step between neighbours under alpha 0: {255 * _steps(color, empty):.2f}, in the VAE's picture "
        f"{255 * _steps(picture, empty):.2f}, inside the object {255 * _steps(color, alpha > 0.98):.2f}\n")  # fmt: skip
    for side in (96, 64):
        difference = 255 * (decoder.decode(picture, latent, 1, tile=side)[1] - decoded[1][1]).abs()
        say(f"tiles of {side} px against untiled: alpha {difference.mean():.2f} on average, {difference.max():.0f} at worst\n")


def _steps(picture: Tensor, region: Tensor) -> float:
    """Mean difference of a pixel to its right neighbour, both in the region."""
    both = region[..., 1:] & region[..., :-1]
    return float((picture[..., 1:, :] - picture[..., :-1, :]).abs()[both].mean())
