"""What the training stages share: settings, the wall clock, drawn data, and atomic safetensors export."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]  # the pack's pure core and the demo's own modules

import scenes  # noqa: E402

LATENT_SCALE = 0.13025  # SDXL's
RECIPE = "LayerFusion demonstration model: procedural scenes, demo/train.py"
LICENSE = "GPL-3.0-or-later"
log = logging.getLogger("demo")


@dataclass
class Settings:
    """Command-line settings common to all stages."""

    size: int = 128
    seed: int = 0
    count: int = 10000
    models: Path = ROOT / "demo" / "models"
    work: Path = ROOT / "demo" / "cache"
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


class Clock:
    """Progress from 0 to 1 over `minutes` of wall time, `spent` minutes of which lie in earlier runs."""

    def __init__(self, minutes: float, spent: float = 0.0):
        self.start, self.total = time.time() - 60 * spent, 60 * minutes

    def progress(self) -> float:
        return min((time.time() - self.start) / self.total, 1.0)

    def minutes(self) -> float:
        return (time.time() - self.start) / 60


def rate(progress: float, warm_up: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then linear decay to zero."""
    return (min(progress / warm_up, 1.0) if warm_up else 1.0) * (1.0 - progress)


def export(settings: Settings, name: str, tensors: dict[str, torch.Tensor], config: dict, **extra: str) -> Path:
    """Writes `models/<name>.safetensors` in fp16 with its metadata, first to a temporary name and then renamed."""
    half = {k: (v.half() if v.is_floating_point() else v).detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {
        "format": f"layerfusion-demo/{name}/1",
        "config": json.dumps(config),
        "recipe": RECIPE,
        "seed": str(settings.seed),
        "license": LICENSE,
        **extra,
    }
    settings.models.mkdir(parents=True, exist_ok=True)
    path = settings.models / f"{name}.safetensors"
    temporary = path.with_suffix(".partial")
    save_file(half, str(temporary), metadata=metadata)
    os.replace(temporary, path)
    return path


def save_checkpoint(path: Path, state: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)


def to_tensor(pictures: np.ndarray, device: str) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def scene_seed(settings: Settings, index: int) -> int:
    """Seed of training scene `index`; held-out scenes use indices from 10,000,000 on."""
    return settings.seed * 100_000_000 + index


def draw_triples(settings: Settings, start: int, count: int) -> np.ndarray:
    """uint8 (count, 3, S, S, 3): object on grey, background, composite of scenes start .. start + count."""
    out = np.empty((count, 3, settings.size, settings.size, 3), np.uint8)
    for i in range(count):
        drawn = scenes.draw(scenes.random_scene(scene_seed(settings, start + i)), settings.size)
        for j, picture in enumerate((drawn.on_grey, drawn.background, drawn.composite)):
            out[i, j] = np.rint(picture * 255).astype(np.uint8)
    return out
