"""Short runs of the engine and of the stock sampler on the tiny model, shared by the engine's tests."""

from __future__ import annotations

from functools import lru_cache

import comfy.sample
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher

from layerfusion_pack.layerfusion_core.host.sampling.ksampler import sample_layers
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.layerfusion_core.method.streams import Layers

SEED, STEPS = 7, 4
NAMES = ("foreground", "blended", "background")


def slow(*values) -> list:
    """Values of a parametrization (tuples for several parameters) that are left out of `dev.py test`: they repeat others."""
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) for v in values]


@lru_cache(maxsize=1)
def models() -> tuple[ModelPatcher, ModelPatcher]:
    """(base, foreground) tiny MODELs, built once."""
    base = tiny.tiny_sdxl()
    return base, tiny.with_foreground(base, tiny.foreground_file(base))


def prompts(tokens=(77, 77, 77)) -> list[list]:
    """Foreground, blended, background conditioning; <EOS> in the last chunk."""
    return [tiny.conditioning(i, tokens=n, eos=n - 77 + 8 + i) for i, n in enumerate(tokens)]


NEGATIVE = tiny.conditioning(9, eos=None)


def empty_latent(batch: int = 1, height: int = 16, width: int = 16) -> dict:
    """LATENT of zeros."""
    return {"samples": torch.zeros(batch, 4, height, width)}


def layered(
    pair=None,
    streams=None,
    latent=None,
    cfg=5.0,
    sampler="euler",
    scheduler="normal",
    seed=SEED,
    steps=STEPS,
    negative=None,
    negatives=None,
    regions=None,
    own=0,
    **options,
):
    """Run the engine; returns ([foreground, blended, background] samples, priors)."""
    base, foreground = pair or models()
    layers, record = sample_layers(
        base, foreground, Layers.of(streams or prompts()), negative or NEGATIVE, latent or empty_latent(), seed, steps, cfg,
        sampler, scheduler, 1.0, LayerFusionOptions(**options), negatives and Layers.of(negatives),
        regions=regions, own=own,
    )  # fmt: skip
    return [layer["samples"] for layer in layers.streams], record


def stock(
    model, positive, latent=None, cfg=5.0, sampler="euler", scheduler="normal", seed=SEED, steps=STEPS, negative=None,
    sigmas=None,
) -> torch.Tensor:  # fmt: skip
    """What the stock KSampler makes of one prompt."""
    latent = latent or empty_latent()
    noise = comfy.sample.prepare_noise(latent["samples"], seed, latent.get("batch_index"))
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, scheduler, positive, negative or NEGATIVE, latent["samples"], denoise=1.0,
        noise_mask=latent.get("noise_mask"), seed=seed, disable_pbar=True, sigmas=sigmas,
    )  # fmt: skip


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Largest difference within `tolerance` of the expected values' standard deviation.

    Random weights do not denoise, so these latents keep the scale of the noise (about 150); a trained model's have 7.7.
    """
    return bool((found - expected).abs().max() <= tolerance * expected.std())
