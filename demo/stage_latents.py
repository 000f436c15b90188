"""Stage `latents`: draws the training scenes once and caches their latents and caption embeddings."""

from __future__ import annotations

import multiprocessing

import stage_text
import stage_vae
import torch
from common import LATENT_SCALE, Settings, draw_triples, log, save_checkpoint, scene_seed, to_tensor
from scenes import random_scene
from vocabulary import GREY_CAPTION, background_captions, composite_captions, foreground_captions

FILE = "latents.pt"
CHUNK = 250


def encode_chunk(arguments: tuple[Settings, int, int]) -> torch.Tensor:
    """Scaled latents (n, 3, 4, h, w) of n scenes: object on grey, background, composite."""
    settings, start, count = arguments
    torch.set_num_threads(1)
    model = stage_vae.load(settings)
    pictures = draw_triples(settings, start, count).reshape(-1, settings.size, settings.size, 3)
    with torch.no_grad():
        parts = [
            model.encode(to_tensor(pictures[i : i + 50], settings.device)).cpu() for i in range(0, len(pictures), 50)
        ]
    return (torch.cat(parts) * LATENT_SCALE).view(count, 3, *parts[0].shape[1:])


def build(settings: Settings) -> None:
    jobs = [(settings, start, min(CHUNK, settings.count - start)) for start in range(0, settings.count, CHUNK)]
    if settings.device == "cpu":
        with multiprocessing.get_context("spawn").Pool(min(2, multiprocessing.cpu_count())) as pool:
            latents = torch.cat(pool.map(encode_chunk, jobs, chunksize=1))
    else:
        latents = torch.cat([encode_chunk(job) for job in jobs])
    grey = stage_vae.load(settings).encode(torch.zeros(1, 3, settings.size, settings.size, device=settings.device))
    captions: dict[str, int] = {}

    def index(texts: tuple[str, ...]) -> list[int]:
        return [captions.setdefault(text, len(captions)) for text in texts]

    empty, plain = index(("", GREY_CAPTION))
    used = [random_scene(scene_seed(settings, i)) for i in range(len(latents))]
    table = torch.tensor(
        [index(foreground_captions(s)) + index(background_captions(s)) + index(composite_captions(s)) for s in used]
    )
    encoders = stage_text.load(settings)
    texts, context, pooled = list(captions), [], []
    with torch.no_grad():
        for start in range(0, len(texts), 200):
            c, p, _ = encoders(texts[start : start + 200])
            context.append(c.cpu())
            pooled.append(p.cpu())
    log.info("latents: %d scenes, %d captions, latent deviation %.3f", len(latents), len(texts), latents.std().item())
    save_checkpoint(
        settings.work / FILE,
        {
            "latents": latents,
            "grey": grey.cpu()[0] * LATENT_SCALE,
            "captions": table,  # (N, 6): two wordings each of foreground, background, composite
            "context": torch.cat(context),
            "pooled": torch.cat(pooled),
            "empty": empty,
            "plain": plain,
        },
    )
