"""Conds that the host makes for all rows at once: each stream gets those that a run of it alone gets."""

from __future__ import annotations

from functools import lru_cache

import pytest
import runs
import tiny
import torch
from compat import core, different, pair_of, streams_equal_stock
from runs import NAMES, layered, prompts, stock

from layerfusion_pack.layerfusion_core.host.sampling.given_layers import given_latent
from layerfusion_pack.layerfusion_core.method.streams import Layers


@lru_cache(maxsize=1)
def inpainting() -> tuple:
    """(base, foreground) of a 9-channel SDXL: latent, mask, masked picture."""
    return pair_of(tiny.tiny_sdxl(in_channels=9))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def half(side: str) -> torch.Tensor:
    mask = torch.zeros(1, 128, 128)
    mask[(slice(None), slice(64), slice(None)) if side == "upper" else (slice(None), slice(None), slice(64))] = 1.0
    return mask


def masked(batch: int = 2) -> dict:
    """A LATENT of unlike pictures with unlike noise masks."""
    masks = torch.stack([half("upper"), half("left")])[:batch]
    return {"samples": random(batch, 4, 16, 16), "noise_mask": masks, "batch_index": list(range(batch))}


def for_inpainting(conditioning: list, pictures: int, seed: int) -> list:
    """What Inpaint Model Conditioning adds to a prompt, for `pictures` unlike pictures and masks."""
    masks = torch.stack([half("upper"), half("left"), 1.0 - half("upper")])[:pictures]
    extra = {"concat_latent_image": random(pictures, 4, 16, 16, seed=seed), "concat_mask": masks}
    return [[tensor, {**held, **extra}] for tensor, held in conditioning]


@pytest.mark.parametrize("cfg", [5.0, *runs.slow(1.0)])
def test_inpainting_checkpoint_on_a_batch_with_masks(cfg):
    streams_equal_stock(inpainting(), latent=masked(), cfg=cfg, tolerance=2e-4)


def test_blending_on_an_inpainting_checkpoint_takes_each_picture_for_itself():
    """A batch of two is two runs: prior pass and blended pass see each picture's own mask."""
    latent = masked()
    for mode in ("exact", "previous_step"):
        both, record = layered(inpainting(), latent=latent, prior_mode=mode, steps=2)
        second = {"samples": latent["samples"][1:], "noise_mask": latent["noise_mask"][1:], "batch_index": [1]}
        alone, own = layered(inpainting(), latent=second, prior_mode=mode, steps=2)
        assert all(runs.close(a[1:], b, 1e-3) for a, b in zip(both, alone))
        for step in range(2):
            for name, image in own.images(step).items():
                assert torch.allclose(record.images(step)[name][1:], image, atol=2e-3), (mode, step, name)  # kept in fp16


@pytest.mark.parametrize("pictures", [*runs.slow(1, 2), 3])
def test_inpaint_model_conditioning_for_each_stream(pictures):
    """Also with more pictures than latents, which the host thins out to the batch of one stream."""
    streams = [for_inpainting(c, pictures, seed=i) for i, c in enumerate(prompts())]
    negative = for_inpainting(runs.NEGATIVE, pictures, seed=9)
    assert different(
        stock(inpainting()[0], streams[1], negative=negative, steps=2), stock(inpainting()[0], prompts()[1], steps=2)
    )
    latent = {"samples": torch.zeros(2, 4, 16, 16)}
    streams_equal_stock(inpainting(), streams, negative, latent=latent, tolerance=2e-4)


def test_given_layers_on_an_inpainting_checkpoint():
    """The stream with a mask gets it, with its picture; the others are runs without a mask."""
    pictures = {"samples": random(2, 4, 16, 16)}
    masks = torch.cat([half("upper"), half("left")])
    given = given_latent(Layers((None,), None, pictures), Layers((1.0,), 1.0, 1.0), Layers((None,), None, masks))
    found, _ = layered(inpainting(), latent=given, strength=0.0, steps=2)
    latents = [runs.empty_latent(2), runs.empty_latent(2), {**pictures, "noise_mask": masks.unsqueeze(1)}]
    base, foreground = inpainting()
    for name, model, prompt, layer, latent in zip(NAMES, (foreground, base, base), prompts(), found, latents):
        assert runs.close(layer, stock(model, prompt, latent, steps=2), 2e-4), name


def test_negative_that_differs_by_picture():
    """For all streams, with a prompt or a mask for each latent of the batch."""
    for negative in (
        tiny.conditioning(40, eos=None, batch=2),
        core(
            "ConditioningCombine",
            runs.NEGATIVE,
            core("ConditioningSetMask", tiny.conditioning(41, eos=None), torch.cat([half("upper"), half("left")]), "default", 2.0),
        ),
    ):
        streams_equal_stock(negative=negative, latent=runs.empty_latent(2))
