"""LayerFusion KSampler (Advanced): parts of a run, as KSampler (Advanced) makes them; priors of the guider path."""

from __future__ import annotations

import pytest
import torch
from once import once
from runs import NEGATIVE, SEED, STEPS, close, empty_latent, layered, models, prompts
from test_given_layers import give, picture
from test_guider_nodes import advanced_rows, guider_of, stacked

import nodes as core
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.nodes.custom_sampling import LayerFusionSplitLatents
from layerfusion_pack.nodes.sampling import LayerFusionKSamplerAdvanced

WHOLE = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 10000, "return_with_leftover_noise": "disable"}
FIRST = {**WHOLE, "end_at_step": 2, "return_with_leftover_noise": "enable"}
SECOND = {**WHOLE, "add_noise": "disable", "start_at_step": 2}


def part(latent: dict, settings: dict, **options) -> tuple:
    """The node's outputs: foreground, background, blended, priors, latent."""
    base, foreground = models()
    streams = dict(zip(("foreground", "blended", "background"), prompts()))
    return LayerFusionKSamplerAdvanced.execute(
        base, foreground, **streams, negative=NEGATIVE, latent_image=latent, noise_seed=SEED, steps=STEPS, cfg=5.0,
        sampler_name="euler", scheduler="normal", options=LayerFusionOptions(**options), **settings,
    ).result  # fmt: skip


def rows(outputs: tuple) -> list[torch.Tensor]:
    """Samples in the order of the streams."""
    foreground, background, blended = (layer["samples"] for layer in outputs[:3])
    return [foreground, blended, background]


def test_the_whole_run_is_the_samplers():
    found = rows(part(empty_latent(2), WHOLE))
    assert all(torch.equal(a, b) for a, b in zip(found, once(layered, latent=empty_latent(2))[0]))


def test_two_parts_are_one_run():
    first = part(empty_latent(2), FIRST)
    second = part(first[4], SECOND)
    assert [len(outputs[3].maps) for outputs in (first, second)] == [2, STEPS - 2]
    expected = once(layered, latent=empty_latent(2))[0]
    assert all(close(a, b) for a, b in zip(rows(second), expected))
    assert not any(close(a, b, 0.1) for a, b in zip(rows(first), expected))
    foreground, background, blended = first[:3]  # the layers themselves go on as well
    joined = give(0.0, foreground=foreground, background=background, blended=blended)
    assert all(close(a, b) for a, b in zip(rows(part(joined, SECOND)), expected))


def test_kept_layers_stay_kept_in_parts():
    first = part(give(foreground=picture(1, 2)), FIRST)
    assert torch.equal(rows(part(first[4], SECOND))[0], picture(1, 2)["samples"])


@pytest.mark.parametrize("settings", [FIRST, {**WHOLE, "end_at_step": 2}, {**WHOLE, "start_at_step": 2}])
def test_strength_0_is_the_stock_sampler(settings):
    base, foreground = models()
    latent = picture(3, 2)
    found = rows(part(latent, settings, strength=0.0))
    for model, prompt, layer in zip((foreground, base, base), prompts(), found):
        stock = core.KSamplerAdvanced().sample(
            model, noise_seed=SEED, steps=STEPS, cfg=5.0, sampler_name="euler", scheduler="normal", positive=prompt,
            negative=NEGATIVE, latent_image=latent, **settings,
        )  # fmt: skip
        assert close(layer, stock[0]["samples"])


def test_a_part_past_the_end_gives_its_latent_back():
    outputs = part(picture(3, 2), {**WHOLE, "start_at_step": STEPS})
    assert all(torch.equal(layer, picture(3, 2)["samples"]) for layer in rows(outputs)) and outputs[3].maps == []


def test_no_noise_on_an_empty_latent_is_refused():
    with pytest.raises(ValueError, match="add_noise is off and latent_image is empty.*return_with_leftover_noise"):
        part(empty_latent(), SECOND)


def test_split_latents_gives_the_guiders_priors():
    guider = guider_of()
    latent = advanced_rows(stacked(empty_latent()), guider=guider)
    *_, priors = LayerFusionSplitLatents.execute(latent, guider).result
    expected = once(layered)[1]
    assert priors.sigmas == expected.sigmas
    assert torch.equal(priors.images(-1)["hard"], expected.images(-1)["hard"])
    assert LayerFusionSplitLatents.execute(latent).result[3] is None
    with pytest.raises(ValueError, match="made no run yet"):
        LayerFusionSplitLatents.execute(latent, guider_of())
    with pytest.raises(ValueError, match="expected a LayerFusion Guider, got object"):
        LayerFusionSplitLatents.execute(latent, object())
