"""How well matched layers add up to the blended picture, and how clean their effects layer is.

    python evaluation/matching.py --host ~/comfy/ComfyUI [--models demo|DIR] [--n N] [--out DIR]

Makes trios with the default options (kept in DIR and not made again), matches them and prints a table. *Stack*: PSNR of
the layers, rounded to 8 bit as files hold them, laid over each other, against the blended picture. *Far* is the region
of `measures.outside`, away from the object: the effects layer's mean alpha there is a film of noise. *Speckles*: share
of far pixels whose alpha is more than 0.04 off the median of the 3 x 3 pixels around. The first --files trios are also
saved as PSD and flattened by psd-tools and ImageMagick, where these are there. --sheet writes docs/matched.jpg.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import shutil
import subprocess
import sys
from pathlib import Path

from run import register_pack, run_key, start_host

METHOD = "share"
LEVELS = (0.0, 0.02, 0.04, 0.06, 0.1)
FILM = 0.05  # alpha of the effects from which a film is seen


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", type=Path, required=True)
    parser.add_argument("--models", default="demo")
    parser.add_argument("--n", type=int, default=200, help="pairs of the prompt list")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=10, help="trios that are sampled together")
    parser.add_argument("--files", type=int, default=10, help="trios that are saved as PSD and flattened by others")
    parser.add_argument("--out", type=Path, default=Path("layerfusion-evaluation"))
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="a picture of --rows and nothing else")
    parser.add_argument("--rows", default="4,0,14", help="indices of the pairs in the picture")
    options = parser.parse_args(argv)
    start_host(options.host)
    register_pack()
    import torch

    from layerfusion_pack.layerfusion_core.layers import compositing, matching

    torch.set_num_threads(1)
    foreground, background, blended = made(options)
    if options.sheet:
        rows = [int(row) for row in options.rows.split(",")]
        sheet(*(pictures[rows] for pictures in (foreground, background, blended))).save(options.sheet, quality=80, optimize=True)
        return 0
    say = sys.stdout.write
    pasted = compositing.alpha_over(foreground, background)
    heads = ("", "stack, dB: median, worst tenth", "mean alpha far: mean, median", f"alpha > {FILM}, %", "speckles, %")
    say(f"n = {len(blended)}\n\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|\n")
    say(f"| foreground over background | {decibels(pasted, blended)} | | | |\n")
    for linear in (False, True):
        for level in sorted({*LEVELS, matching.CLEANLINESS}):
            found = matching.match_layers([foreground], background, blended, level, linear)
            rounded = matching.Matched([rounded_8(layer) for layer in found.foregrounds], rounded_8(found.effects))
            stack = matching.flattened(rounded, rounded_8(background), linear)
            light, alpha = "linear" if linear else "sRGB", found.effects[..., 3]
            say(f"| {light}, {level:g} | {decibels(stack, blended)} | {film(alpha, foreground[..., 3])} |\n")
    for name, pictures in flattened_by_others(foreground, background, blended, options.files).items():
        say(f"\nPSD flattened by {name}: {decibels(pictures, blended[: len(pictures)])} dB\n")
    return 0


def made(options):
    """Foregrounds (N, H, W, 4), backgrounds and blended pictures (N, H, W, 3) of the first pairs, out of --out or new."""
    import torch

    from layerfusion_pack.evaluation import generate, methods, models, prompts, results

    settings = models.default_settings(options.models)
    settings = dataclasses.replace(settings, steps=options.steps or settings.steps)
    folder = options.out / f"matching-{run_key(models.fingerprint(options.models), settings)}"
    pairs = prompts.read(prompts.FOLDER / ("demo.txt" if models.is_demo(options.models) else "real.txt"))[: options.n]
    missing = [pair for pair in pairs if not results.picture_path(folder, METHOD, pair.index, "blended").is_file()]
    if missing:
        with torch.inference_mode():
            maker = generate.Generator(models.load(options.models), settings)
            for group in maker.groups(missing, options.batch):
                trios = maker.trios(methods.ALL[METHOD], group)
                rgba = torch.cat([trios.foreground, trios.alpha[..., None]], dim=-1)
                for row, pair in enumerate(group):
                    pictures = (x[row].float().cpu().numpy() for x in (rgba, trios.background, trios.blended))
                    results.save_pictures(folder, METHOD, pair.index, *pictures)
    (options.out / ".gitignore").write_text("*\n", encoding="utf-8")
    return [
        torch.stack([torch.from_numpy(results.load_picture(folder, METHOD, pair.index, stream)) for pair in pairs])
        for stream in results.STREAMS
    ]


def sheet(foreground, background, blended):
    """A row of labelled pictures per trio: what is wanted, what the layers give unmatched and matched, the parts."""
    from PIL import Image

    from layerfusion_pack.layerfusion_core.layers import compositing, matching

    matched = matching.match_layers([foreground], background, blended)
    columns = {
        "blended picture": blended,
        "foreground over background": compositing.alpha_over(foreground, background),
        "matched layers": matching.flattened(matched, background),
        "effects": matched.effects,
        "effects over background": compositing.alpha_over(matched.effects, background),
        "matched foreground": matched.foregrounds[0],
    }
    rows = []
    for index in range(len(blended)):
        tiles = [(name, compositing.as_image(pictures[index].numpy())) for name, pictures in columns.items()]
        tiles = [(name, x.resize((256, 256 * x.height // x.width), Image.Resampling.BICUBIC)) for name, x in tiles]
        rows.append(compositing.labelled_row([
            (name, compositing.on_checkerboard(x, 16) if x.mode == "RGBA" else x) for name, x in tiles
        ]))  # fmt: skip
    whole = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for index, row in enumerate(rows):
        whole.paste(row, (0, index * row.height))
    return whole


def rounded_8(x):
    """Values as 8-bit files hold them."""
    return (x * 255).round() / 255


def decibels(pictures, wanted) -> str:
    """Median and tenth percentile of the PSNR."""
    import torch

    from layerfusion_pack.layerfusion_core.layers import measures

    found = measures.psnr(pictures, wanted)
    return f"{found.median():.1f}, {torch.quantile(found, 0.1):.1f}"


def film(alpha, cover) -> str:
    """The table's columns for effects of alpha (N, H, W) under foregrounds of alpha `cover`."""
    from layerfusion_pack.layerfusion_core.layers import measures

    far = measures.outside(cover)
    means = (alpha * far).sum(dim=(1, 2)) / far.sum(dim=(1, 2)).clamp_min(1)
    around = alpha.unfold(1, 3, 1).unfold(2, 3, 1).flatten(-2).median(dim=-1).values
    speckles = ((alpha[:, 1:-1, 1:-1] - around).abs() > 0.04) & far[:, 1:-1, 1:-1]
    shares = 100 * (alpha > FILM).float().mean(), 100 * speckles.float().mean()
    return f"{means.mean():.4f}, {means.median():.4f} | {shares[0]:.0f} | {shares[1]:.2f}"


def flattened_by_others(foreground, background, blended, count: int) -> dict:
    """{program: (count, H, W, 3)}: what other programs make of our PSD files of the first trios."""
    import numpy as np
    import torch
    from PIL import Image

    from layerfusion_pack.layerfusion_core.layers import export, export_formats, matching

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


if __name__ == "__main__":
    sys.exit(main())
