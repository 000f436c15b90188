"""The way round, picture with alpha -> latent -> colour and alpha, on drawn objects: fringes, ensembles, tiles.

    python evaluation/decode_truth.py --host ~/comfy/ComfyUI [--models demo|DIR] [--n N]

Errors are in 1/255. *Edge* is within 2 pixels of the object's outline; a fringe would be an edge that is wrong over
some colours. *Over grey* takes the VAE's picture (the object over mid-grey) as the colour, which
is what leaves a fringe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from run import register_pack, start_host

BACKDROPS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "magenta": (1.0, 0.0, 1.0), "green": (0.0, 1.0, 0.0)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", type=Path, required=True)
    parser.add_argument("--models", default="demo")
    parser.add_argument("--n", type=int, default=20, help="objects of each kind")
    options = parser.parse_args(argv)
    start_host(options.host)
    register_pack()
    import torch

    from layerfusion_pack.evaluation import drawings, models
    from layerfusion_pack.layerfusion_core.host.models.transparent_encode import encode_transparent
    from layerfusion_pack.layerfusion_core.layers import measures
    from layerfusion_pack.layerfusion_core.layers.compositing import alpha_over

    demo, say = models.load(options.models), sys.stdout.write
    for glass in (False, True):
        drawn = drawings.of_kind(glass, options.n, 3_000_000, models.DEMO.size)
        truth = torch.stack([torch.cat([torch.from_numpy(d.colour), torch.from_numpy(d.alpha)], -1) for d in drawn]).float()
        rgb, alpha = truth[..., :3], truth[..., 3]
        with torch.inference_mode():
            latent = encode_transparent(demo.vae, rgb, alpha)
            picture = demo.vae.decode(latent).float()[..., :3]
            decoded = {n: demo.transparent.decode(picture, latent, n) for n in (1, 2, 4, 8)}
            whole = decoded[1]
            tiles = {n: demo.transparent.decode(picture, latent, 1, tile=n) for n in (96, 64)}
        say(f"\n{'glass' if glass else 'opaque'}, n = {options.n}\n")
        for n, (_, found) in decoded.items():
            iou, error = measures.soft_iou(found, alpha).mean(), 255 * (found - alpha).abs().mean()
            say(f"ensemble {n}: soft IoU {iou:.3f}, alpha error {error:.2f}\n")
        color, found = decoded[8]
        solid = alpha > 0.98 if not glass else alpha > 0.3
        say(f"colour error inside: {255 * (color - rgb).abs()[solid].mean():.1f}\n")
        edge = measures.dilate(alpha > 0.02, 2) & measures.dilate(alpha <= 0.02, 2)
        for name, backdrop in BACKDROPS.items():
            behind = torch.tensor(backdrop).expand_as(rgb)
            want = alpha_over(truth, behind)
            errors = [
                255 * (alpha_over(torch.cat([c, found[..., None]], dim=-1), behind) - want)[edge] for c in (color, picture)
            ]
            texts = [f"{e.abs().mean():.1f} (signed {e.mean():+.1f})" for e in errors]
            say(f"edge over {name}: decoded {texts[0]}, over grey {texts[1]}\n")
        empty = ~measures.dilate(alpha > 0.02, 2)
        say(f"colour step between neighbours under alpha 0: {255 * steps(color, empty):.2f}, in the VAE's picture "
            f"{255 * steps(picture, empty):.2f}, inside the object {255 * steps(color, alpha > 0.98):.2f}\n")
        for side, (_, part) in tiles.items():
            difference = 255 * (part - whole[1]).abs()
            say(f"tiles of {side} px against untiled: alpha {difference.mean():.2f} on average, {difference.max():.0f} at worst\n")
    return 0


def steps(picture, region) -> float:
    """Mean difference of a pixel to its right neighbour, both in the region."""
    both = region[..., 1:] & region[..., :-1]
    return float((picture[..., 1:, :] - picture[..., :-1, :]).abs()[both].mean())


if __name__ == "__main__":
    sys.exit(main())
