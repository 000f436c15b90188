"""Two and three foregrounds in the engine equal the method written plainly on diffusers, on the same weights."""

from __future__ import annotations

import comfy.samplers
import pytest
import tiny
import torch
from runs import NEGATIVE, SEED, close, empty_latent, layered, models, prompts, slow

pytest.importorskip(
    "diffusers", reason="DIFFUSERS IS NOT INSTALLED: pip install diffusers to compare with the reference"
)
from reference.several import Foreground, SeveralOptions, several
from test_engine_reference import TOLERANCE, reference_prompt, unets

SCALE = 0.13025  # of SDXL's latents in model space


def compare(count: int, size=(16, 16), batch: int = 1, steps: int = 2, sampler: str = "euler", **options):
    base, _ = models()
    streams = [*(tiny.conditioning(20 + k, eos=5 + k) for k in range(count - 1)), *prompts()]
    latent = empty_latent(batch, *size)
    ours, _ = layered(streams=streams, latent=latent, steps=steps, sampler=sampler, **options)
    *foregrounds, blended, background, negative = (reference_prompt(base, c, size) for c in (*streams, NEGATIVE))
    chosen = SeveralOptions(options.get("background_mode", "share"), strength=options.get("strength", 1.0))
    theirs = several(
        *unets(), [Foreground(prompt) for prompt in foregrounds], blended, background, negative,
        torch.randn(latent["samples"].shape, generator=torch.manual_seed(SEED)),
        comfy.samplers.KSampler(base, steps, "cpu", sampler, "normal", 1.0).sigmas, 5.0, None, chosen, sampler,
    )  # fmt: skip
    for i, (found, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert close(found * SCALE, expected, TOLERANCE), f"stream {i} of {count + 2}"


@pytest.mark.parametrize("options", [{}, {"background_mode": "off"}, *slow({"strength": 0.4})], ids=str)
def test_two_foregrounds(options):
    compare(2, **options)


def test_three_foregrounds_in_a_batch_on_an_odd_grid():
    compare(3, size=(15, 19), batch=2)
