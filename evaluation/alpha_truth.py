"""Alpha of the demo's decoder against the true alpha of drawn objects, opaque and glass.

    python evaluation/alpha_truth.py --host ~/comfy/ComfyUI --out DIR [--models demo|DIR] [--n N]     DIR/alpha.md

Each object is drawn on grey, encoded, and decoded to colour and alpha again: no sampling is involved.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from run import register_pack, start_host


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default="demo")
    parser.add_argument("--n", type=int, default=50, help="objects of each kind")
    options = parser.parse_args(argv)
    start_host(options.host)
    register_pack()
    import torch

    from layerfusion_pack.evaluation import drawings, models, plan, table
    from layerfusion_pack.layerfusion_core.layers import measures

    demo = models.load(options.models)
    lines = ["| objects | n | soft IoU | mean error of alpha | alpha of the body, drawn | the same, decoded |",
             "|" + "---|" * 6]  # fmt: skip
    for glass in (False, True):
        drawn = drawings.of_kind(glass, options.n, 2_000_000, models.DEMO.size)
        truth = torch.stack([torch.from_numpy(d.alpha[..., 0]) for d in drawn])
        grey = torch.stack([torch.from_numpy(d.on_grey) for d in drawn])
        with torch.inference_mode():
            latent = demo.vae.encode(grey)
            alpha = demo.transparent.decode(demo.vae.decode(latent).float(), latent, plan.SETTINGS.ensemble)[1]
        body = ((truth > 0.15) & (truth < 0.5) if glass else truth > 0.99).float()
        found = (
            (measures.soft_iou(alpha, truth), 3),
            ((alpha - truth).abs().mean(dim=(-2, -1)), 4),
            *(((x * body).sum(dim=(-2, -1)) / body.sum(dim=(-2, -1)), 2) for x in (truth, alpha)),
        )
        cells = [table.cell(table.bootstrap(x.tolist()), table.Column("", "", digits)) for x, digits in found]
        lines.append(f"| {'glass' if glass else 'opaque'} | {len(drawn)} | " + " | ".join(cells) + " |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "alpha.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
