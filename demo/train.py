"""Trains the demonstration model end to end; see demo/README.md.  `python demo/train.py all --minutes 90`"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from common import Settings, log

SETTINGS = ("size", "seed", "count", "first", "models", "work", "compiled")
# Share of the wall time that each stage gets in `all`, in the order they run (the last two have no budget).
SHARES = {"vae": 0.08, "text": 0.03, "latents": 0.0, "alpha": 0.09, "unet": 0.80, "sheets": 0.0, "evaluate": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "stage", choices=["init", "vae", "text", "latents", "unet", "alpha", "layers", "sheets", "evaluate", "all"]
    )
    parser.add_argument("--minutes", type=float, default=90.0, help="wall time of the stage, or of all stages together")
    parser.add_argument("--size", type=int, default=256, help="picture side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=40000, help="number of drawn scenes")
    parser.add_argument("--first", type=int, default=0, help="index of the first scene, for another set of them")
    parser.add_argument(
        "--compiled", action="store_true", help="compile the U-Net (a minute, then half the time a step)"
    )
    parser.add_argument("--start", type=float, default=0.0, help="unet: share of the training already done")
    parser.add_argument("--end", type=float, default=1.0, help="unet: share of the training done after this run")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads per process (0: leave as is)")
    parser.add_argument("--models", type=Path, default=Settings.models, help="where the weights go")
    parser.add_argument("--work", type=Path, default=Settings.work, help="latents, checkpoints")
    parser.add_argument("--resume", action="store_true", help="alpha: go on from the exported weights")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    settings = Settings(**{name: getattr(arguments, name) for name in SETTINGS})
    run(settings, arguments.stage, arguments.minutes, arguments.resume, (arguments.start, arguments.end))


def run(settings: Settings, stage: str, minutes: float, resume: bool = False, part: tuple = (0.0, 1.0)) -> None:
    """Runs one stage, or all in order with their shares of `minutes`."""
    import stage_alpha
    import stage_latents
    import stage_layers
    import stage_sheets
    import stage_text
    import stage_unet
    import stage_vae

    if stage == "all":
        for name, share in SHARES.items():
            run(settings, name, minutes * share)
    elif stage == "init":
        initialise(settings)
    elif stage == "vae":
        stage_vae.train(settings, minutes)
    elif stage == "text":
        stage_text.train(settings, minutes)
    elif stage == "latents":
        stage_latents.build(settings)
    elif stage == "unet":
        stage_unet.train(settings, minutes, start=part[0], end=part[1])
    elif stage == "alpha":
        stage_alpha.train(settings, minutes, resume=resume)
    elif stage == "layers":
        stage_layers.train(settings, minutes)
    elif stage == "sheets":
        stage_sheets.draw_all(settings)
    elif stage == "evaluate":
        log.info("evaluate: autoencoder, held-out PSNR %.2f dB", stage_vae.evaluate(settings))
        log.info(
            "evaluate: held-out alpha error %.4f, colour error in the object %.4f", *stage_alpha.evaluate(settings)
        )


def initialise(settings: Settings) -> None:
    """Random weights in the shipped format, to build loaders on before anything is trained."""
    import stage_alpha
    import stage_text
    import stage_vae
    import unet
    from common import export
    from text_model import TextEncoders

    from layerfusion_core.vae.decoder import TransparentDecoder
    from layerfusion_core.vae.demo_autoencoder import DemoAutoencoder

    torch.manual_seed(settings.seed)
    export(settings, "vae", DemoAutoencoder().state_dict(), stage_vae.CONFIG)
    stage_text.save(settings, TextEncoders())
    unet.save(settings, unet.build()[0].state_dict())
    export(
        settings,
        "transparent_decoder",
        TransparentDecoder(stage_alpha.CONFIG).state_dict(),
        {"widths": stage_alpha.CONFIG.widths},
    )


if __name__ == "__main__":
    main()
