"""Make and measure trios in process on a ComfyUI host; resumes where an earlier run stopped.

    python evaluation --host ~/comfy/ComfyUI run --out DIR [--models demo|DIR] [--methods main|all|A,B] [--n N]

`python dev.py evaluate` starts one or more of these and writes the report.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import torch
from comfy import utils

from . import generate, layerdiffuse, measures, methods, models, plan, prompts, results

log = logging.getLogger("layerfusion.evaluation")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default="demo")
    parser.add_argument("--prompts", type=Path, help="default: prompts/demo.txt, for other models prompts/real.txt")
    parser.add_argument("--methods", default="main")
    parser.add_argument("--n", type=int, help="only the first N pairs")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--ensemble", type=int, help="passes of the transparent decoder")
    parser.add_argument("--plan", choices=["full", "quick"], help="methods, pairs and settings of docs/evidence.md")
    parser.add_argument("--batch", type=int, default=10, help="trios that are sampled together")
    parser.add_argument("--shard", default="1/1", help="I/N: only every N-th batch, from the I-th")
    options = parser.parse_args(argv)
    utils.set_progress_bar_enabled(False)
    settings = models.default_settings(options.models)
    default = prompts.FOLDER / ("demo.txt" if models.is_demo(options.models) else "real.txt")
    pairs = prompts.read(options.prompts or default)[: options.n]
    counts = {method.name: len(pairs) for method in methods.select(options.methods)}
    if options.plan:
        counts, settings = plan.counts(options.plan == "quick"), plan.SETTINGS_OF[options.plan]
    if methods.LAYERDIFFUSE in counts and not models.steps(options.models):
        if methods.LAYERDIFFUSE in options.methods.split(","):
            parser.error(layerdiffuse.missing(options.models))
        log.info("%s is left out: %s", methods.LAYERDIFFUSE, layerdiffuse.missing(options.models))
        del counts[methods.LAYERDIFFUSE]
    changed = {name: getattr(options, name) for name in ("steps", "size", "ensemble") if getattr(options, name)}
    settings = dataclasses.replace(settings, **changed)
    wanted = [methods.ALL[name] for name in counts]
    key = run_key(models.fingerprint(options.models), settings)
    options.out.mkdir(parents=True, exist_ok=True)
    names = ("method", "index", "foreground", "background")
    done = {tuple(row[name] for name in names) for row in results.read(options.out, key)}
    shard, shards = (int(part) for part in options.shard.split("/"))
    with torch.inference_mode():
        maker = generate.Generator(models.load(options.models), settings)
        mine = maker.groups(pairs[: max(counts.values())], options.batch)[shard - 1 :: shards]
        work = [
            (method, [pair for pair in group if pair.index < counts[method.name]
                      and (method.name, pair.index, pair.foreground, pair.background) not in done])
            for group in mine for method in wanted
        ]  # fmt: skip
        made, total = 0, sum(len(todo) for _, todo in work)
        log.info("done 0 of %d", total)
        for method, todo in work:
            if todo:
                run_batch(options.out, key, maker, method, todo)
                made += len(todo)
                log.info("done %d of %d", made, total)
    return 0


def run_key(weights: str, settings: models.Settings) -> str:
    """Identity of weights and settings; lines with another key are not mixed with these."""
    text = weights + json.dumps(dataclasses.asdict(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_batch(out: Path, key: str, maker: generate.Generator, method: methods.Method, pairs: list[prompts.Pair]) -> None:
    """Make, save and measure one batch with one method."""
    if method.name == methods.SEQUENTIAL:
        trios = _saved(out, pairs).pasted()
    else:
        trios = maker.trios(method, pairs)
    for row, pair in enumerate(pairs):
        rgba = _numpy(trios.foreground[row], trios.alpha[row, ..., None])
        scenes = _numpy(trios.background[row]), _numpy(trios.blended[row])
        results.save_pictures(out, method.name, pair.index, rgba, *scenes)
    alone = trios.alpha if method.name == methods.INDEPENDENT else _saved(out, pairs).alpha
    measured = measure(trios, alone)
    rows = [
        {"key": key, "method": method.name, "index": pair.index, "foreground": pair.foreground,
         "background": pair.background, "seconds": trios.seconds, "cpu_seconds": trios.cpu_seconds, "memory": trios.memory,
         **{name: values[row].item() for name, values in measured.items()}}
        for row, pair in enumerate(pairs)
    ]  # fmt: skip
    results.append(out, rows)
    log.info("%s: %d pairs from %d, %.1f s each", method.label, len(pairs), pairs[0].index, trios.seconds)


def measure(trios: generate.Trios, alone: torch.Tensor) -> dict[str, torch.Tensor]:
    """All measures of a batch; alone: alpha of the foreground sampled without the other streams."""
    found = measures.layer_measures(trios.foreground, trios.alpha, trios.background, trios.blended)
    return {**found, "alpha_iou": measures.soft_iou(trios.alpha, alone), "flicker": trios.flicker}


def _saved(out: Path, pairs: list[prompts.Pair]) -> generate.Trios:
    """The unblended trios of `pairs`, which every run makes first."""
    rgba, background, blended = results.load_trios(out, methods.INDEPENDENT, [pair.index for pair in pairs])
    nothing = torch.full((len(pairs),), torch.nan)
    return generate.Trios(rgba[..., :3], rgba[..., 3], background, blended, nothing, 0.0, 0.0)


def _numpy(*parts: torch.Tensor):
    return torch.cat([part.float().cpu() for part in parts], dim=-1).numpy()
