"""Command line of the reference: generate three layers with the demonstration model and write them to a folder.

python tests/reference/generate.py --foreground "a red apple" --background "a wooden table" --seed 0 --out DIR

Writes foreground.png (RGBA, straight alpha), background.png, blended.png, masks/soft.png, masks/hard.png and run.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reference.demo import MODELS, Layers, generate, load_demo
from reference.equations import BACKGROUND_MODES
from reference.pipeline import Options
from reference.sampling import SAMPLERS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Three layers from the reference implementation of LayerFusion.")
    parser.add_argument("--foreground", default="a red apple")
    parser.add_argument("--background", default="a wooden table")
    parser.add_argument("--blended", default="", help='default: "FOREGROUND, BACKGROUND"')
    parser.add_argument("--negative", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=4.5)
    parser.add_argument("--sampler", "--sampler_name", choices=list(SAMPLERS), default="dpmpp_2m")
    parser.add_argument("--scheduler", choices=["normal", "karras"], default="karras")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--noise", choices=["shared", "independent"], default="shared")
    parser.add_argument("--ensemble", type=int, choices=[1, 2, 4, 8], default=8)
    parser.add_argument("--background-mode", "--background_mode", choices=BACKGROUND_MODES, default="adapt")
    parser.add_argument("--prior-mode", "--prior_mode", choices=["exact", "previous_step"], default="exact")
    parser.add_argument("--hardness", type=float, default=10.0)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--start-percent", "--start_percent", type=float, default=0.0)
    parser.add_argument("--end-percent", "--end_percent", type=float, default=1.0)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def write(layers: Layers, out: Path) -> None:
    """Write the pictures of a run."""
    (out / "masks").mkdir(parents=True, exist_ok=True)
    layers.foreground.save(out / "foreground.png")
    layers.background.save(out / "background.png")
    layers.blended.save(out / "blended.png")
    for name, mask in (("soft", layers.soft), ("hard", layers.hard)):
        path = out / "masks" / f"{name}.png"
        path.unlink(missing_ok=True)  # a run without blending has no masks: leave no older ones behind
        if mask is not None:
            mask.save(path)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    begun = time.monotonic()
    models = load_demo(args.models)
    loaded = time.monotonic()
    options = Options(
        background_mode=args.background_mode,
        prior_mode=args.prior_mode,
        hardness=args.hardness,
        strength=args.strength,
        start_percent=args.start_percent,
        end_percent=args.end_percent,
    )
    layers = generate(
        models,
        args.foreground,
        args.background,
        args.blended,
        args.negative,
        seed=args.seed,
        steps=args.steps,
        cfg=args.cfg,
        width=args.width,
        height=args.height,
        sampler=args.sampler,
        scheduler=args.scheduler,
        noise=args.noise,
        ensemble=args.ensemble,
        options=options,
        progress=lambda step, steps: print(f"step {step}/{steps}", flush=True),
    )
    done = time.monotonic()
    write(layers, args.out)
    packages = ("torch", "diffusers", "transformers")
    settings = {key: value for key, value in vars(args).items() if key not in ("out", "models")}
    settings["blended"] = args.blended or f"{args.foreground}, {args.background}"
    record = {
        "engine": "reference",
        "settings": settings,
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "seconds": {"load": round(loaded - begun, 2), "generate": round(done - loaded, 2)},
    }
    (args.out / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
