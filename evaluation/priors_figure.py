"""The paper's Fig. 2 on the demo: structure prior, content prior, soft and hard mask at t = 0.8 T, opaque and glass.

    python evaluation --host ~/comfy/ComfyUI priors_figure --out DIR [--n N]     priors.md and evidence-priors.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..layerfusion_core.host.sampling.extract import extract_priors
from ..layerfusion_core.method.map_colors import FIGURE_ORDER, heat
from ..layerfusion_core.method.masks import area_average
from . import generate, measures, models, page, plan, prompts, table

AT = 0.8  # of T, as the paper's figure
SHOWN = 2  # pictures of each kind in the figure
SIDE = 128
CELLS = (("structure", "inside"), ("structure", "outside"), ("content", "inside"), ("content", "outside"),
         ("soft", "inside"), ("hard", "inside"))  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=20, help="foregrounds of each kind")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    rows, figure = [], []
    with torch.inference_mode():
        maker = generate.Generator(models.load("demo"), plan.SETTINGS)
        for kind in ("opaque", "glass"):
            pairs = [p for p in prompts.read(prompts.FOLDER / "demo.txt") if (kind == "glass") == ("glass" in p.foreground)]
            alpha, colour, maps = _foregrounds(maker, pairs[: options.n])
            share = area_average(measures.inside(alpha).float(), maps["soft"].shape[-2:])
            region = {"inside": share == 1.0, "outside": share == 0.0}  # tokens that lie so as a whole
            found = [table.cell(table.bootstrap(_means(maps[name], region[place]))) for name, place in CELLS]
            rows.append([kind, len(alpha), *found])
            rgba = torch.cat([colour, alpha[..., None]], dim=-1)
            figure += [[_tile(rgba[i]), *(_tile(heat(maps[name][i])) for name in FIGURE_ORDER)] for i in range(SHOWN)]
    head = ["foregrounds", "n", *map(", ".join, CELLS)]
    (options.out / "priors.md").write_text(table.markdown(head, rows), encoding="utf-8")
    page.save(page.grid(["foreground", *FIGURE_ORDER], figure), options.out / "evidence-priors.jpg")
    return 0


def _foregrounds(maker: generate.Generator, pairs: list[prompts.Pair]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Alpha (N, H, W), colour (N, H, W, 3) and the maps by name, (N, h, w) each, of the foreground model's own pictures."""
    latent, texts = maker.latent(pairs), maker.conditioning([pair.foreground for pair in pairs])
    samples = {**latent, "samples": maker.alone(texts, latent)}
    record = extract_priors(maker.models.foreground, texts, samples, maker.settings.seed, AT)
    picture = maker.models.vae.decode(samples["samples"]).float()
    colour, alpha = maker.models.transparent.decode(picture, samples["samples"], 1)
    return alpha, colour, record.images(0)


def _means(maps: Tensor, region: Tensor) -> list[float]:
    return [x[r].mean().item() for x, r in zip(maps, region) if r.any()]


def _tile(picture: Tensor) -> Image.Image:
    return page.as_picture(picture.numpy()).resize((SIDE, SIDE), Image.Resampling.NEAREST)
