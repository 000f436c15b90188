"""LATENTs that other nodes made as the start of a run: the sizes, batches and masks that the host's own samplers take."""

from __future__ import annotations

import inspect

import comfy.sample
import pytest
import torch
from compat import core
from runs import NEGATIVE, SEED, close, layered, models, prompts

RATIOS = "downscale_ratio_spacial" in inspect.signature(comfy.sample.fix_empty_latent_channels).parameters


@pytest.mark.skipif(not RATIOS, reason="this host's empty latents do not say for which ratio they were made")
@pytest.mark.parametrize("channels", [4, 128])
def test_an_empty_latent_of_another_ratio_gives_the_stock_picture(channels):
    latent = {"samples": torch.zeros(2, channels, 6, 8), "downscale_ratio_spacial": 16}
    expected = core("KSampler", models()[0], SEED, 1, 5.0, "euler", "normal", prompts()[1], NEGATIVE, latent)
    layers = layered(latent=latent, steps=1, strength=0.0)[0]
    assert expected["samples"].shape == (2, 4, 12, 16) and close(layers[1], expected["samples"])
