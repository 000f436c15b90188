"""The paper's Fig. 2 on the demo: structure prior, content prior, soft and hard mask at t = 0.8 T, opaque and glass.

    python evaluation/priors_figure.py --host ~/comfy/ComfyUI --out DIR [--n N]     priors.md and evidence-priors.jpg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from run import register_pack, start_host

AT = 0.8  # of T, as the paper's figure
SHOWN = 2  # pictures of each kind in the figure
SIDE = 128
MAPS = ("structure", "content", "soft", "hard")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=20, help="foregrounds of each kind")
    options = parser.parse_args(argv)
    start_host(options.host)
    register_pack()
    import torch

    from layerfusion_pack.evaluation import prompts, table

    options.out.mkdir(parents=True, exist_ok=True)
    lines = ["| foregrounds | n | structure, inside | structure, outside | content, inside | content, outside | "
             "soft, inside | hard, inside |", "|" + "---|" * 8]  # fmt: skip
    strips = []
    with torch.inference_mode():
        make = _Foregrounds()
        for kind in ("opaque", "glass"):
            pairs = [p for p in prompts.read(prompts.FOLDER / "demo.txt") if (kind == "glass") == ("glass" in p.foreground)]
            alpha, colour, maps = make(pairs[: options.n])
            means = {(name, place): _means(maps[name], region) for name in MAPS
                     for place, region in zip(("inside", "outside"), _regions(alpha, maps[name].shape[-1]))}  # fmt: skip
            cells = [("structure", "inside"), ("structure", "outside"), ("content", "inside"), ("content", "outside"),
                     ("soft", "inside"), ("hard", "inside")]  # fmt: skip
            found = [table.cell(table.bootstrap(means[key]), table.Column("", "")) for key in cells]
            lines.append(f"| {kind} | {len(alpha)} | " + " | ".join(found) + " |")
            strips += [_strip(alpha[i], colour[i], {name: maps[name][i] for name in MAPS}) for i in range(SHOWN)]
    (options.out / "priors.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _sheet(strips).save(options.out / "evidence-priors.jpg", quality=85)
    return 0


class _Foregrounds:
    """Foregrounds from the foreground model in the stock sampler, and their priors."""

    def __init__(self) -> None:
        from layerfusion_pack.evaluation import generate, models, plan

        self.maker = generate.Generator(models.load("demo"), plan.SETTINGS)

    def __call__(self, pairs: list):
        """Alpha (N, H, W), colour (N, H, W, 3) and the maps by name, (N, h, w) each, of `pairs` of equal prompt length."""
        from layerfusion_pack.layerfusion_core.host.sampling.extract import extract_priors

        maker = self.maker
        latent, texts = maker.latent(pairs), maker.conditioning([pair.foreground for pair in pairs])
        samples = {**latent, "samples": maker.alone(texts, latent)}
        record = extract_priors(maker.models.foreground, texts, samples, maker.settings.seed, AT)
        picture = maker.models.vae.decode(samples["samples"]).float()
        colour, alpha = maker.models.transparent.decode(picture, samples["samples"], 1)
        return alpha, colour, record.images(0)


def _regions(alpha, tokens: int):
    """Tokens wholly inside and wholly outside the object (alpha > 0.25), (N, tokens, tokens) bool each."""
    from layerfusion_pack.layerfusion_core.layers import measures
    from layerfusion_pack.layerfusion_core.method.masks import area_average

    share = area_average(measures.inside(alpha).float(), (tokens, tokens))
    return share == 1.0, share == 0.0


def _means(maps, region) -> list[float]:
    return [x[r].mean().item() for x, r in zip(maps, region) if r.any()]


def _strip(alpha, colour, maps: dict):
    """Foreground on a checkerboard, then the maps in false colours: dark blue 0 to dark red 1, as in the paper."""
    import numpy as np
    from PIL import Image

    from layerfusion_pack.evaluation import page

    rgba = np.concatenate([colour.numpy(), alpha[..., None].numpy()], axis=-1)
    tiles = [page.on_board(rgba), *(_false_colours(maps[name].numpy()) for name in MAPS)]
    images = [Image.fromarray(np.rint(tile * 255).astype(np.uint8)) for tile in tiles]
    return [image.resize((SIDE, SIDE), Image.Resampling.NEAREST) for image in images]


def _false_colours(x):
    """(h, w) in [0, 1] -> (h, w, 3): the "jet" colours, piecewise linear."""
    import numpy as np

    return np.clip(1.5 - np.abs(4.0 * np.clip(x, 0, 1)[..., None] - np.array([3.0, 2.0, 1.0])), 0, 1)


def _sheet(strips: list, gap: int = 6, head: int = 18):
    from PIL import Image, ImageDraw

    width, height = (SIDE + gap) * (1 + len(MAPS)) - gap, head + len(strips) * (SIDE + gap) - gap
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for x, name in enumerate(("foreground", *MAPS)):
        draw.text((x * (SIDE + gap) + 2, 3), name, fill="black")
        for y, strip in enumerate(strips):
            sheet.paste(strip[x], (x * (SIDE + gap), head + y * (SIDE + gap)))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
