"""The guider path under SamplerCustomAdvanced is the LayerFusion KSampler, bit for bit."""

from __future__ import annotations

import comfy.samplers
import pairs
import pytest
import torch
from comfy_extras import nodes_custom_sampler as core
from runs import NEGATIVE, SEED, STEPS, empty_latent, layered, models, prompts

from layerfusion_pack.layerfusion_core.options import LayerFusionOptions
from layerfusion_pack.nodes.custom_sampling import (
    LayerFusionGuiderNode,
    LayerFusionSplitLatents,
    LayerFusionStackLatents,
)


def advanced(sampler, latent, options, pair=None):
    base, foreground = pair or models()
    streams = dict(zip(("foreground", "blended", "background"), prompts()))
    (guider,) = LayerFusionGuiderNode.execute(
        base, foreground, **streams, negative=NEGATIVE, cfg=5.0, options=options
    ).result
    (stacked,) = LayerFusionStackLatents.execute(latent).result
    noise = core.Noise_RandomNoise(SEED)
    sigmas = comfy.samplers.KSampler(base, STEPS, "cpu", sampler, "normal", 1.0).sigmas
    node = core.SamplerCustomAdvanced
    run = node.execute if hasattr(node, "execute") else node().sample
    result = run(noise, guider, comfy.samplers.sampler_object(sampler), sigmas, stacked)
    return LayerFusionSplitLatents.execute((getattr(result, "result", None) or result)[0]).result


@pytest.mark.parametrize(("sampler", "batch"), [("euler", 1), ("dpmpp_2m_sde", 1), ("euler_ancestral", 2)])
@pytest.mark.parametrize("pair", [models, pairs.unlike], ids=["one checkpoint", "two checkpoints"])
def test_guider_equals_ksampler(sampler, batch, pair):
    foreground, background, blended = advanced(sampler, empty_latent(batch), LayerFusionOptions(), pair())
    expected, _ = layered(pair(), latent=empty_latent(batch), sampler=sampler)
    for found, layer in zip((foreground, blended, background), expected):
        assert torch.equal(found["samples"], layer)
        assert "batch_index" not in found


def test_guider_runs_twice():
    first, second = (
        advanced("euler", empty_latent(), LayerFusionOptions(prior_mode="previous_step")) for _ in range(2)
    )
    assert all(torch.equal(a["samples"], b["samples"]) for a, b in zip(first, second))


def test_stack_carries_masks_and_indices():
    latent = {
        **empty_latent(2),
        "noise_mask": torch.stack([torch.zeros(128, 128), torch.ones(128, 128)]),
        "batch_index": [4, 7],
    }
    (stacked,) = LayerFusionStackLatents.execute(latent).result
    assert stacked["batch_index"] == [4, 4, 4, 7, 7, 7]
    assert stacked["noise_mask"].mean(dim=(1, 2, 3)).tolist() == [0, 0, 0, 1, 1, 1]


def test_unstacked_latents_are_refused():
    base, foreground = models()
    streams = dict(zip(("foreground", "blended", "background"), prompts()))
    (guider,) = LayerFusionGuiderNode.execute(base, foreground, **streams, negative=NEGATIVE, cfg=5.0).result
    with pytest.raises(ValueError, match="expected a latent batch of 3 streams per picture.*Stack Latents"):
        guider.sample(
            torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 16, 16), comfy.samplers.sampler_object("euler"), torch.ones(2)
        )
    with pytest.raises(
        ValueError, match="expected a latent batch of 3 streams per picture .foreground, blended, background."
    ):
        LayerFusionSplitLatents.execute(empty_latent(2))
