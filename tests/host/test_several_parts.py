"""Runs of several foregrounds in parts, as second passes and under SamplerCustomAdvanced with any part of the sigmas."""

from __future__ import annotations

import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_EmptyNoise
from once import once
from runs import NEGATIVE, SEED, STEPS, close, empty_latent, models, prompts
from test_given_layers import give, picture
from test_guider_nodes import advanced_rows, schedule
from test_sampler_advanced import FIRST, SECOND, WHOLE
from test_several import HALVES, LEFT, OTHER, RIGHT, VAE, held, refused, sampled

import nodes as core
from layerfusion_pack.layerfusion_core.host.sampling.foregrounds import FOREGROUNDS_KEY, Foreground, split_foregrounds
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.nodes.custom_sampling import LayerFusionSplitLatents, LayerFusionStackLatents
from layerfusion_pack.nodes.sampling import LayerFusionKSamplerAdvanced
from layerfusion_pack.nodes.transparent import check_layers

MASKS = torch.cat(HALVES), torch.cat(HALVES[::-1])  # of two pictures, the second the other way round
UNLIKE = (Foreground(OTHER, MASKS[1]),)


def part(latent: dict, settings: dict, foregrounds=UNLIKE, region=MASKS[0], **options) -> tuple:
    """KSampler (Advanced) with two foregrounds: foreground, background, blended, priors, latent."""
    base, foreground = models()
    streams = dict(zip(("foreground", "blended", "background"), prompts()))
    return LayerFusionKSamplerAdvanced.execute(
        base, foreground, **streams, negative=NEGATIVE, latent_image=latent, noise_seed=SEED, steps=STEPS, cfg=5.0,
        sampler_name="euler", scheduler="normal", options=LayerFusionOptions(**options), foregrounds=foregrounds,
        region=region, vae=VAE, **settings,
    ).result  # fmt: skip


def streams(outputs) -> list[torch.Tensor]:
    """Foreground 1, foreground 2, background, blended."""
    foreground, background, blended = outputs[:3]
    return [*(one["samples"] for one in split_foregrounds(foreground)), background["samples"], blended["samples"]]


def whole(latent: dict, denoise: float = 1.0) -> tuple[dict, ...]:
    """The KSampler's latents of the same run: foreground, background, blended."""
    return sampled(UNLIKE, MASKS[0], VAE, latent, STEPS, denoise=denoise)


def test_the_whole_run_is_the_samplers():
    found = part(empty_latent(2), WHOLE)
    assert found[0][FOREGROUNDS_KEY] == (2, 2)
    assert all(torch.equal(a, b) for a, b in zip(streams(found), streams(once(whole, empty_latent(2))), strict=True))


def test_two_parts_are_one_run():
    first = part(empty_latent(2), FIRST)
    second = part(first[4], SECOND)
    assert [len(outputs[3].maps) for outputs in (first, second)] == [2, STEPS - 2]
    expected = streams(once(whole, empty_latent(2)))
    assert all(close(a, b) for a, b in zip(streams(second), expected))
    assert not any(close(a, b, 0.1) for a, b in zip(streams(first), expected))
    own, added = streams(second)[:2]
    assert held(own[0][RIGHT]) and held(own[1][LEFT]) and held(added[0][LEFT]) and held(added[1][RIGHT])
    # without its regions a later part knows them from the first
    again = part(first[4], SECOND, (Foreground(OTHER),), None)
    assert all(torch.equal(a, b) for a, b in zip(streams(again), streams(second)))


def test_other_foregrounds_or_regions_in_a_later_part_are_refused():
    rows = part(empty_latent(3), FIRST, (Foreground(OTHER),), None)[4]  # 12 rows, as four pictures of one foreground have
    refused("the latent is one for 2 foreground.s., and the sampler or guider has 1", part, rows, SECOND, (), None)
    refused("region: this part of the run has other regions", part, rows, SECOND, (Foreground(OTHER, HALVES[1]),), None)
    rows = part(empty_latent(2), FIRST)[4]
    refused("region: this part of the run has other regions", part, rows, SECOND, UNLIKE, MASKS[1])
    (stacked,) = LayerFusionStackLatents.execute(empty_latent(3), (Foreground(OTHER),)).result
    refused("for 2 foreground.s., and the sampler or guider has 1: connect the same foregrounds", advanced_rows, stacked)
    refused("went through LayerFusion Stack Latents before", LayerFusionStackLatents.execute, stacked)
    for name in ("foreground", "background", "blended"):
        refused(f"{name}: got all layers .* .foreground 1, foreground 2, blended, background.", give, **{name: rows})
    refused("foreground: got all layers of a run", check_layers, dict.fromkeys(("foreground", "background", "blended"), rows))


def test_the_guider_goes_on_with_its_rows():
    """Split Sigmas: two SamplerCustomAdvanced, the second without noise of its own."""
    (stacked,) = LayerFusionStackLatents.execute(empty_latent(2), UNLIKE, MASKS[0], VAE).result
    sigmas = schedule()
    rows = advanced_rows(stacked, foregrounds=UNLIKE, sigmas=sigmas[:3])
    rows = advanced_rows(rows, foregrounds=UNLIKE, sigmas=sigmas[2:], noise=Noise_EmptyNoise())
    found = LayerFusionSplitLatents.execute(rows).result
    assert all(close(a, b) for a, b in zip(streams(found), streams(once(whole, empty_latent(2)))))


@pytest.mark.parametrize("settings", [{**WHOLE, "start_at_step": 2}, {**WHOLE, "end_at_step": 2}])
def test_strength_0_is_the_stock_sampler(settings):
    """Started later, from two unlike pictures, or ended early; noise is added to every layer alike."""
    base, foreground = models()
    latent = picture(3, 2)
    found = streams(part(latent, settings, (Foreground(OTHER),), None, strength=0.0))
    positives = prompts()[0], OTHER, prompts()[2], prompts()[1]
    for model, prompt, layer in zip((foreground, foreground, base, base), positives, found):
        expected = core.KSamplerAdvanced().sample(
            model, noise_seed=SEED, steps=STEPS, cfg=5.0, sampler_name="euler", scheduler="normal", positive=prompt,
            negative=NEGATIVE, latent_image=latent, **settings,
        )  # fmt: skip
        assert close(layer, expected[0]["samples"])


def joined(outputs, **keep) -> dict:
    """All layers of a run for the next one, started from them."""
    foreground, background, blended = outputs[:3]
    return give(0.0, foreground=foreground, background=background, blended=blended, **keep)


def test_layers_go_on_through_given_layers_where_no_region_holds_their_noise():
    first = part(empty_latent(2), FIRST, (Foreground(OTHER),), None)
    found = part(joined(first), SECOND, (Foreground(OTHER),), None)
    expected = part(first[4], SECOND, (Foreground(OTHER),), None)
    assert all(close(a, b) for a, b in zip(streams(found), streams(expected)))
    first = part(empty_latent(2), FIRST)
    refused("no noise is added, and a given foreground with a region .* connect its latent", part, joined(first), SECOND)
    finished = part(joined(once(whole, empty_latent(2))), SECOND)  # no noise left: the canvas is empty
    assert held(streams(finished)[0][0][RIGHT])


def test_a_second_pass_starts_from_all_layers():
    """denoise below 1: each stream is the stock KSampler's second pass of its own picture; regions stay empty outside."""
    first = once(whole, empty_latent(2))
    quiet = sampled((Foreground(OTHER),), None, None, joined(first), STEPS, denoise=0.5, options=LayerFusionOptions(strength=0.0))
    base, foreground = models()
    positives = prompts()[0], OTHER, prompts()[2], prompts()[1]
    for model, prompt, before, layer in zip((foreground, foreground, base, base), positives, streams(first), streams(quiet)):
        (expected,) = core.KSampler().sample(
            model, SEED, STEPS, 5.0, "euler", "normal", prompt, NEGATIVE, {"samples": before}, denoise=0.5
        )
        assert close(layer, expected["samples"])
    own, added, *_ = streams(whole(joined(first), 0.5))
    assert held(own[0][RIGHT]) and held(own[1][LEFT]) and held(added[0][LEFT]) and held(added[1][RIGHT])
    assert not close(own, streams(quiet)[0], 1e-2)
