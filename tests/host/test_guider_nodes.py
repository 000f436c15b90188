"""The guider path under SamplerCustomAdvanced is the LayerFusion KSampler, bit for bit."""

from __future__ import annotations

import comfy.samplers
import pairs
import pytest
import torch
from comfy_extras import nodes_custom_sampler as core
from compat import node
from once import once
from runs import NEGATIVE, SEED, STEPS, empty_latent, layered, models, prompts

from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.nodes.custom_sampling import (
    LayerFusionGuiderNode,
    LayerFusionSplitLatents,
    LayerFusionStackLatents,
)


def guider_of(options=None, pair=None, **inputs):
    """The node's GUIDER."""
    base, foreground = pair or models()
    streams = dict(zip(("foreground", "blended", "background"), prompts()))
    return LayerFusionGuiderNode.execute(
        base, foreground, **streams, negative=NEGATIVE, cfg=5.0, options=options, **inputs
    ).result[0]


def schedule(sampler="euler", scheduler="normal", steps=STEPS, denoise=1.0) -> torch.Tensor:
    return comfy.samplers.KSampler(models()[0], steps, "cpu", sampler, scheduler, denoise).sigmas


def advanced_rows(stacked, options=None, pair=None, sampler="euler", sigmas=None, noise=None, guider=None, **inputs) -> dict:
    """Output LATENT of SamplerCustomAdvanced with a LayerFusion Guider, not yet split. noise: a NOISE, else Random Noise."""
    sigmas = schedule(sampler) if sigmas is None else sigmas
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    guider = guider or guider_of(options, pair, **inputs)
    return node(core.SamplerCustomAdvanced, noise or core.Noise_RandomNoise(SEED), guider, sampler, sigmas, stacked)[0]


def stacked(latent) -> dict:
    return LayerFusionStackLatents.execute(latent).result[0]


def advanced(sampler, latent, options, pair=None, **run):
    """The three nodes: foreground, background, blended LATENT."""
    return LayerFusionSplitLatents.execute(
        advanced_rows(stacked(latent), options, pair, sampler=sampler, **run)
    ).result[:3]


@pytest.mark.parametrize(("sampler", "batch"), [("euler", 1), ("dpmpp_2m_sde", 1), ("euler_ancestral", 2)])
@pytest.mark.parametrize("pair", [models, pairs.unlike], ids=["one checkpoint", "two checkpoints"])
def test_guider_equals_ksampler(sampler, batch, pair):
    foreground, background, blended = advanced(sampler, empty_latent(batch), LayerFusionOptions(), pair())
    expected, _ = once(layered, pair(), latent=empty_latent(batch), sampler=sampler)
    for found, layer in zip((foreground, blended, background), expected):
        assert torch.equal(found["samples"], layer)
        assert "batch_index" not in found


def test_guider_runs_twice():
    first, second = (
        advanced("euler", empty_latent(), LayerFusionOptions(prior_mode="previous_step")) for _ in range(2)
    )
    assert all(torch.equal(a["samples"], b["samples"]) for a, b in zip(first, second))


def test_stack_leaves_the_pictures_to_noise_nodes_and_carries_masks():
    masks = torch.stack([torch.zeros(128, 128), torch.ones(128, 128)])
    found = stacked({**empty_latent(2), "noise_mask": masks, "batch_index": [4, 7]})
    assert found["batch_index"] == [4, 7] and found["samples"].shape[0] == 2
    assert "batch_index" not in stacked(empty_latent(2))
    assert found["noise_mask"][:, 0].mean(dim=(1, 2)).tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("batch", [1, 3])
def test_unstacked_latents_are_refused(batch):
    """A batch of three is no picture in three layers."""
    with pytest.raises(ValueError, match="expected a latent from LayerFusion Stack Latents, got .*put it between"):
        advanced_rows(empty_latent(batch))
    with pytest.raises(ValueError, match="expected a latent from LayerFusion Stack Latents"):
        advanced_rows({**empty_latent(batch), "noise_mask": torch.ones(batch, 128, 128)})


def test_what_is_not_what_it_should_be_is_refused():
    with pytest.raises(ValueError, match="batch of 3 streams per picture .foreground, blended, background., got .2, 4"):
        LayerFusionSplitLatents.execute(empty_latent(2))
    with pytest.raises(ValueError, match="batch of 3 streams per picture"):
        LayerFusionSplitLatents.execute(stacked(empty_latent(3)))  # not sampled
    with pytest.raises(ValueError, match="went through LayerFusion Stack Latents before"):
        stacked(stacked(empty_latent()))
    with pytest.raises(ValueError, match="batch was changed from 1 pictures to 2"):
        advanced_rows({**stacked(empty_latent()), **empty_latent(2)})
