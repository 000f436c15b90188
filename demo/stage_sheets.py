"""Stage `sheets`: pictures of random samples with their captions, to be judged by eye."""

from __future__ import annotations

import random

import numpy as np
import stage_alpha
import torch
from common import Settings, log
from PIL import Image, ImageDraw
from sample import Sampler
from scenes import BACKGROUND_COLOURS, BACKGROUNDS, OBJECT_COLOURS, SHAPES

COLUMNS = 6


def captions(kind: str, count: int, seed: int) -> list[str]:
    """`count` captions of a kind (foregrounds, backgrounds, composites), every shape and background equally often."""
    rng = random.Random(seed)
    out = []
    for i in range(count):
        glass = "glass " if rng.random() < 0.25 else ""
        front = f"a {glass}{rng.choice(list(OBJECT_COLOURS))} {SHAPES[i % len(SHAPES)]}".replace(
            "a orange", "an orange"
        )
        j = i // len(SHAPES) + i
        back = f"{rng.choice(list(BACKGROUND_COLOURS))} {BACKGROUNDS[j % len(BACKGROUNDS)]}"
        out.append({"foregrounds": front, "backgrounds": back, "composites": f"{front} on a {back}"}[kind])
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
        pen.text((x, y), text.replace(" on ", "\non "), fill="black", font_size=9)
    return page


def over_checkerboard(argb: torch.Tensor) -> torch.Tensor:
    """Alpha-over of A, R, G, B (B, 4, S, S) on a light checkerboard."""
    size = argb.shape[-1]
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    board = (0.75 + 0.2 * ((x // 8 + y // 8) % 2)).to(argb)
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
