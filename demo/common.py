"""What the training stages share: settings, the wall clock, drawn data, and atomic safetensors export."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]  # the pack's pure core and the demo's own modules

import scenes  # noqa: E402

SCALE_FACTOR = 0.13025  # SDXL's
RECIPE = "LayerFusion demonstration model: procedural scenes, demo/train.py"
LICENSE = "GPL-3.0-or-later"
log = logging.getLogger("demo")


@dataclass
class Settings:
    """Command-line settings common to all stages."""

    size: int = 256
    seed: int = 0
    count: int = 40000
    first: int = 0  # index of the first training scene
    models: Path = ROOT / "demo" / "models"
    work: Path = ROOT / "demo" / "cache"
    compiled: bool = False  # torch.compile the U-Net
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


def scene_seed(settings: Settings, index: int) -> int:
    """Seed of training scene `index`; held-out scenes use indices from 10,000,000 on."""
    return settings.seed * 100_000_000 + index


def drawn_batches(settings: Settings, start: int, count: int, batch: int = 0) -> Iterator[scenes.Drawing]:
    """Scenes start .. start + count, drawn on the training device in batches."""
    batch = batch or (256 if settings.device != "cpu" else 8)
    for first in range(start, start + count, batch):
        records = [
            scenes.random_scene(scene_seed(settings, i)) for i in range(first, min(first + batch, start + count))
        ]
        yield scenes.draw_batch(records, settings.size, settings.device)


def to_bytes(pictures: torch.Tensor) -> torch.Tensor:
    """[0, 1] to uint8."""
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)


def from_bytes(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 to [-1, 1]."""
    return pictures.float().div_(127.5).sub_(1.0)


def draw_pictures(settings: Settings, start: int, count: int) -> torch.Tensor:
    """uint8 (3 count, 3, S, S) on the device: object on grey, background and composite of each scene."""
    parts = (
        to_bytes(torch.stack([d.on_grey, d.background, d.composite], 1)).flatten(0, 1)
        for d in drawn_batches(settings, start, count)
    )
    return torch.cat(list(parts))


def half_precision(settings: Settings):
    """bfloat16 for the matrix work where there is a GPU; nothing on a CPU, which has no use for it."""
    return torch.autocast("cuda", torch.bfloat16, enabled=settings.device != "cpu")


class Average:
    """Running average of a model's parameters."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.source, self.decay, self.step = list(model.parameters()), decay, 0
        self.names = [name for name, _ in model.named_parameters()]
        self.value = [p.detach().clone() for p in self.source]

    @torch.no_grad()
    def update(self) -> None:
        self.step += 1
        torch._foreach_lerp_(self.value, self.source, 1 - min(self.decay, self.step / (self.step + 10)))

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in zip(self.names, self.value, strict=True)}
