"""Stage `sheets`: pictures of random samples with their captions, to be judged by eye."""

from __future__ import annotations

import random

import numpy as np
import stage_alpha
import torch
from common import Settings, log
from PIL import Image, ImageDraw
from sample import Sampler
from scene_light import TONES
from scene_objects import COLOURS, OBJECTS, OF_GLASS
from scenes import BACKDROPS, Item, Scene
from vocabulary import background_caption, composite_caption, foreground_caption

COLUMNS = 6


def captions(kind: str, count: int, seed: int) -> list[str]:
    """`count` captions of a kind (foregrounds, backgrounds, composites), every object and backdrop equally often."""
    rng, kinds = random.Random(seed), list(OBJECTS)
    out = []
    for i in range(count):
        name = kinds[i % len(kinds)]
        item = Item(name, rng.choice(list(COLOURS)), name in OF_GLASS and rng.random() < 0.5, (0.5, 0.5), 0.6, 0.5)
        backdrop = BACKDROPS[(i + i // len(BACKDROPS)) % len(BACKDROPS)]
        scene = Scene((item,), backdrop, rng.choice(list(TONES)), False, (0.0,) * 4)
        describe = {
            "foregrounds": foreground_caption,
            "backgrounds": background_caption,
            "composites": composite_caption,
        }
        out.append(describe[kind](scene))
    return out


def sheet(pictures: torch.Tensor, texts: list[str]) -> Image.Image:
    """Labelled grid of pictures (B, 3, S, S) in [0, 1]."""
    size, line = pictures.shape[-1], 26
    rows = -(-len(texts) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * (size + 4), rows * (size + line + 4)), "white")
    pen = ImageDraw.Draw(page)
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = i % COLUMNS * (size + 4) + 2, i // COLUMNS * (size + line + 4) + 2
        page.paste(
            Image.fromarray((picture.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)), (x, y + line)
        )
        pen.text((x, y), text, fill="black", font_size=13)
    return page


def over_checkerboard(argb: torch.Tensor) -> torch.Tensor:
    """Alpha-over of A, R, G, B (B, 4, S, S) on a light checkerboard."""
    size = argb.shape[-1]
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    board = (0.75 + 0.2 * ((x // 16 + y // 16) % 2)).to(argb)
    return argb[:, :1] * argb[:, 1:] + (1 - argb[:, :1]) * board


def draw_all(settings: Settings, count: int = 24, seed: int = 1, out=None) -> None:
    out = out or settings.models.parent / "samples"
    out.mkdir(parents=True, exist_ok=True)
    sampler = Sampler(settings)
    for kind in ("foregrounds", "backgrounds", "composites"):
        texts = captions(kind, count, seed)
        latents, pictures = sampler(texts, kind == "foregrounds", seed=seed)
        if kind == "foregrounds":
            border = torch.cat([pictures[..., :6, :].flatten(1), pictures[..., -6:, :].flatten(1)], 1)
            log.info(
                "sheets: foreground border mean %.3f, largest deviation from grey %.3f",
                border.mean().item(),
                (border.mean(1) - 0.5).abs().max().item(),
            )
            sheet(pictures, texts).save(out / "foregrounds_on_grey.jpg", quality=88)
            with torch.no_grad():
                pictures = over_checkerboard(stage_alpha.load(settings)(pictures, latents).clamp(0, 1))
        sheet(pictures, texts).save(out / f"{kind}.jpg", quality=88)
