"""How well matched layers add up to the blended picture, and how clean their effects layer is.

    python evaluation matching DIR [--method NAME] [--files N]      prints a table of the results in DIR
    python evaluation matching DIR --sheet docs/matched.jpg

*Stack*: PSNR of the layers, rounded to 8 bit as files hold them, laid over each other, against the blended picture. *Far* is
the region of `measures.outside`, away from the object: the effects layer's mean alpha there is a film of noise.
*Speckles*: share of far pixels whose alpha is more than 0.04 off the median of the 3 x 3 pixels around. The first --files
trios are also saved as PSD and flattened by psd-tools and ImageMagick, where these are there.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..layerfusion_core.layers import compositing, export, export_formats, matching
from . import measures, methods, page, results, table

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
FILM = 0.05  # alpha of the effects from which a film is seen


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", default=methods.DEFAULT)
    parser.add_argument("--files", type=int, default=10, help="trios that are saved as PSD and flattened by others")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="a picture of --rows and nothing else")
    parser.add_argument("--rows", default="4,0,14", help="indices of the pairs in the picture")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.sheet:
        rows = [int(row) for row in options.rows.split(",")]
        page.save(sheet(*results.load_trios(options.out, options.method, rows)), options.sheet)
        return 0
    indices = sorted(row["index"] for row in results.latest(options.out) if row["method"] == options.method)
    if not indices:
        parser.error(f"{options.out} holds no results of {options.method}")
    foreground, background, blended = results.load_trios(options.out, options.method, indices)
    pasted = compositing.alpha_over(foreground, background)
    rows = [["foreground over background", _decibels(pasted, blended), "", "", ""]]
    for linear in (False, True):
        for level in sorted({*LEVELS, matching.CLEANLINESS}):
            found = matching.match_layers([foreground], background, blended, level, linear)
            rounded = matching.Matched([measures.rounded(x) for x in found.foregrounds], measures.rounded(found.effects))
            stack = matching.flattened(rounded, measures.rounded(background), linear)
            rows.append([f"{'linear' if linear else 'sRGB'}, {level:g}", _decibels(stack, blended),
                         *_film(found.effects[..., 3], foreground[..., 3])])  # fmt: skip
    head = [f"{options.method}, {len(indices)} pairs: light, cleanliness", "stack, dB: median, worst tenth",
            "mean alpha of the effects far: mean, median", f"alpha > {FILM}, %", "speckles, %"]  # fmt: skip
    sys.stdout.write(table.markdown(head, rows))
    for name, pictures in _flattened_by_others(foreground, background, blended, options.files).items():
        sys.stdout.write(f"\nPSD flattened by {name}: {_decibels(pictures, blended[: len(pictures)])} dB\n")
    return 0


def sheet(foreground: Tensor, background: Tensor, blended: Tensor) -> Image.Image:
    """A row of labelled pictures per trio: what is wanted, what the layers give unmatched and matched, the parts."""
    matched = matching.match_layers([foreground], background, blended)
    columns = {
        "blended picture": blended,
        "foreground over background": compositing.alpha_over(foreground, background),
        "matched layers": matching.flattened(matched, background),
        "effects": matched.effects,
        "effects over background": compositing.alpha_over(matched.effects, background),
        "matched foreground": matched.foregrounds[0],
    }
    return page.grid(list(columns), [[page.as_picture(x[i].numpy()) for x in columns.values()] for i in range(len(blended))])


def _decibels(pictures: Tensor, wanted: Tensor) -> str:
    """Median and tenth percentile of the PSNR."""
    found = measures.psnr(pictures, wanted)
    return f"{found.median():.1f}, {torch.quantile(found, 0.1):.1f}"


def _film(alpha: Tensor, cover: Tensor) -> list[str]:
    """The table's columns for effects of alpha (N, H, W) under foregrounds of alpha `cover`."""
    far = measures.outside(cover)
    means = (alpha * far).sum(dim=(1, 2)) / far.sum(dim=(1, 2)).clamp_min(1)
    around = alpha.unfold(1, 3, 1).unfold(2, 3, 1).flatten(-2).median(dim=-1).values
    speckles = ((alpha[:, 1:-1, 1:-1] - around).abs() > 0.04) & far[:, 1:-1, 1:-1]
    shares = 100 * (alpha > FILM).float().mean(), 100 * speckles.float().mean()
    return [f"{means.mean():.4f}, {means.median():.4f}", f"{shares[0]:.0f}", f"{shares[1]:.2f}"]


def _flattened_by_others(foreground: Tensor, background: Tensor, blended: Tensor, count: int) -> dict[str, Tensor]:
    """{program: (count, H, W, 3)}: what other programs make of our PSD files of the first trios."""
    if not (count and export_formats.has_psd_tools()):
        return {}
    from psd_tools import PSDImage

    program = next(filter(None, map(shutil.which, ("magick", "/usr/bin/convert"))), None)
    found: dict[str, list] = {"psd-tools": []} | ({"ImageMagick": []} if program else {})
    for rgba, scene, picture in zip(foreground[:count], background[:count], blended[:count]):
        matched = matching.match_layers([rgba[None]], scene[None], picture[None])
        layers = export.LayerSet(
            (matched.foregrounds[0][0].numpy(),), scene.numpy(), picture.numpy(), matched.effects[0].numpy()
        )
        file = io.BytesIO()
        export_formats.psd_set(layers, {})["layers.psd"](file)
        file.seek(0)
        found["psd-tools"].append(np.asarray(PSDImage.open(file).composite(force=True).convert("RGB")))
        if program:
            command = [program, "psd:-[1-3]", "-background", "none", "-layers", "flatten", "png:-"]
            data = subprocess.run(command, input=file.getvalue(), check=True, capture_output=True, timeout=60).stdout
            found["ImageMagick"].append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    return {name: torch.from_numpy(np.stack(pictures) / 255.0).float() for name, pictures in found.items()}
