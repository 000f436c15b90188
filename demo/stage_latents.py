"""Stage `latents`: draws the training scenes once and caches their latents and caption embeddings."""

from __future__ import annotations

import multiprocessing
import random

import stage_text
import stage_vae
import torch
from common import SCALE_FACTOR, Settings, half_precision, log, save_checkpoint, scene_seed
from scenes import Scene, draw_batch, random_scene
from vocabulary import GREY_CAPTION, background_caption, composite_caption, foreground_caption

FILE = "latents.pt"
WORDINGS = 2


def records(arguments: tuple[Settings, int, int]) -> tuple[list[Scene], list[list[str]]]:
    """Scene records and their captions: WORDINGS each of foreground, background, composite."""
    settings, start, count = arguments
    scenes = [random_scene(scene_seed(settings, i)) for i in range(start, start + count)]
    texts = []
    for i, scene in enumerate(scenes):
        rng = random.Random(scene_seed(settings, start + i))
        describe = (foreground_caption, background_caption, composite_caption)
        texts.append([one(scene, rng) for one in describe for _ in range(WORDINGS)])
    return scenes, texts


def build(settings: Settings) -> None:
    batch = 256 if settings.device != "cpu" else 8
    jobs = [
        (settings, settings.first + start, min(batch, settings.count - start))
        for start in range(0, settings.count, batch)
    ]
    captions: dict[str, int] = {"": 0, GREY_CAPTION: 1}
    latents, table = [], []
    workers = multiprocessing.get_context("fork").Pool(min(8, multiprocessing.cpu_count()))  # before the GPU wakes up
    with workers:
        pending = workers.imap(records, jobs)
        vae = stage_vae.load(settings)
        for scenes, texts in pending:
            table += [[captions.setdefault(text, len(captions)) for text in row] for row in texts]
            d = draw_batch(scenes, settings.size, settings.device)
            pictures = torch.stack([d.on_grey, d.background, d.composite], 1).flatten(0, 1) * 2 - 1
            with torch.no_grad(), half_precision(settings):
                z = torch.cat([vae.encode(part).float() for part in pictures.split(128)])
            latents.append((z * SCALE_FACTOR).unflatten(0, (-1, 3)).to(torch.bfloat16))
    latents = torch.cat(latents)
    with torch.no_grad():
        grey = vae.encode(torch.zeros(1, 3, settings.size, settings.size, device=settings.device))[0] * SCALE_FACTOR
        context, pooled = embed(settings, list(captions))
    log.info(
        "latents: %d scenes, %d captions, deviation %.3f", len(latents), len(captions), latents.float().std().item()
    )
    save_checkpoint(
        settings.work / FILE,
        {"latents": latents, "grey": grey, "captions": torch.tensor(table), "context": context, "pooled": pooled},
    )


def embed(settings: Settings, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    encoders = stage_text.load(settings)
    context, pooled = [], []
    for start in range(0, len(texts), 2000):
        c, p, _ = encoders(texts[start : start + 2000])
        context.append(c.to(torch.bfloat16))
        pooled.append(p)
    return torch.cat(context), torch.cat(pooled)
