"""LATENTs that other nodes made as the start of a run: the sizes, batches and masks that the host's own samplers take."""

from __future__ import annotations

import inspect

import comfy.sample
import pytest
import torch
from compat import core, streams_equal_stock
from runs import NEGATIVE, SEED, close, empty_latent, layered, models, prompts
from test_given_layers import give, picture
from test_guider_nodes import advanced, schedule

from layerfusion_pack.layerfusion_core.host.sampling.given_layers import KEEP_KEY, KEPT_KEY
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.nodes.given import LayerFusionGivenLayers
from layerfusion_pack.nodes.sampling import LayerFusionKSampler

RATIOS = "downscale_ratio_spacial" in inspect.signature(comfy.sample.fix_empty_latent_channels).parameters


@pytest.mark.skipif(not RATIOS, reason="this host's empty latents do not say for which ratio they were made")
@pytest.mark.parametrize("channels", [4, 128])
def test_an_empty_latent_of_another_ratio_gives_the_stock_picture(channels):
    latent = {"samples": torch.zeros(2, channels, 6, 8), "downscale_ratio_spacial": 16}
    expected = core("KSampler", models()[0], SEED, 1, 5.0, "euler", "normal", prompts()[1], NEGATIVE, latent)
    layers = layered(latent=latent, steps=1, strength=0.0)[0]
    assert expected["samples"].shape == (2, 4, 12, 16) and close(layers[1], expected["samples"])


def test_an_empty_latent_of_another_ratio_goes_through_the_guider_too():
    latent = {"samples": torch.zeros(1, 4, 6, 8), "downscale_ratio_spacial": 16} if RATIOS else empty_latent(1, 12, 16)
    assert advanced("euler", latent, LayerFusionOptions(), sigmas=schedule(steps=1))[0]["samples"].shape[-2:] == (12, 16)


def ran(latent: dict, **run) -> list[dict]:
    """LATENTs of a LayerFusion KSampler run in the node's order."""
    base, foreground = models()
    options, run = LayerFusionOptions(**run), {"seed": SEED, "steps": 2, "cfg": 5.0, "denoise": 0.5}
    return LayerFusionKSampler.execute(
        base, foreground, *ordered(prompts()), NEGATIVE, latent, sampler_name="euler", scheduler="normal", options=options, **run
    ).result[:3]


def ordered(layers: list) -> list:
    """Foreground, background, blended of foreground, blended, background."""
    return [layers[i] for i in (0, 2, 1)]


@pytest.mark.parametrize("batch", [1, 3])
def test_layers_of_a_run_with_given_layers_start_a_second_run(batch):
    first = ran(give(foreground=picture(1, batch), background=picture(2)))
    assert all(KEEP_KEY in layer for layer in first)
    again, plain = ran(first[0]), ran({"samples": first[0]["samples"]})
    assert all(torch.equal(a["samples"], b["samples"]) for a, b in zip(again, plain))
    assert not any({KEEP_KEY, KEPT_KEY} & set(layer) for layer in again)
    given = ran(LayerFusionGivenLayers.execute(0.5, 0.5, 0.5, *ordered(first)).result[0])  # or each its own
    assert all(KEEP_KEY in layer and layer["samples"].isfinite().all() for layer in given)


def masks(count: int) -> torch.Tensor:
    """Noise masks (count, 128, 128): each leaves another part as it is."""
    return torch.stack([(torch.arange(128) >= 16 * (i + 2)).float().expand(128, 128) for i in range(count)])


def test_a_noise_mask_of_another_batch_repeats_as_in_the_stock_sampler():
    latent = {**picture(batch=3), "noise_mask": masks(2)}
    streams_equal_stock(latent=latent)
    given = {**give(foreground=picture(1, 3), background=picture(2)), "noise_mask": masks(2)}
    found, one_each = (layered(latent={**given, "noise_mask": m}, steps=2)[0] for m in (masks(2), masks(2)[[0, 1, 0]]))
    assert all(torch.equal(a, b) for a, b in zip(found, one_each))
    assert torch.equal(found[0], picture(1, 3)["samples"]) and not close(found[1][:1], found[1][2:], 1e-2)


def test_given_layers_in_other_nodes_are_one_of_the_pictures():
    """The blended picture, else the background, else the foreground."""
    layers = {"foreground": picture(1, 2), "background": picture(2), "blended": picture(3)}
    for name in ("blended", "background", "foreground"):
        latent = give(**layers)
        assert torch.equal(latent["samples"], layers.pop(name)["samples"].expand(2, -1, -1, -1))
    plain = core("KSampler", models()[0], SEED, 1, 5.0, "euler", "normal", prompts()[1], NEGATIVE, picture(1, 2), 0.5)
    found = core("KSampler", models()[0], SEED, 1, 5.0, "euler", "normal", prompts()[1], NEGATIVE, latent, 0.5)
    assert torch.equal(found["samples"], plain["samples"])
