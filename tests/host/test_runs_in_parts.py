"""Runs that are parts of one: kept layers through two samplers, and schedules that rise."""

from __future__ import annotations

import pytest
import torch
from comfy_extras import nodes_custom_sampler as core
from runs import close, slow
from test_given_layers import give, left_half, picture
from test_guider_nodes import advanced_rows, schedule, stacked

from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.nodes.custom_sampling import LayerFusionSplitLatents

APART = 0.02  # the host scales noise at the top level by 0.2 % more, which a part that starts lower takes for noise
QUIET = core.Noise_EmptyNoise()


def layers(rows: dict) -> list[torch.Tensor]:
    """Foreground, background, blended samples of a guider's result."""
    return [layer["samples"] for layer in LayerFusionSplitLatents.execute(rows).result[:3]]


def given(keep: float = 1.0) -> dict:
    """Two pictures: unlike foregrounds kept where their mask says so, unlike backgrounds kept."""
    return give(keep, foreground=picture(1, 2), background=picture(2, 2), mask_foreground=left_half())


@pytest.mark.parametrize("sampler", ["euler", *slow("heun", "dpmpp_2m_sde")])
def test_kept_layers_stay_kept_through_two_halves(sampler):
    latent, sigmas = stacked(given()), schedule(sampler)
    first = advanced_rows(latent, sampler=sampler, sigmas=sigmas[:3])
    assert not close(layers(first)[1], picture(2, 2)["samples"], 1e-2)  # it has the level's noise, as all layers
    second = layers(advanced_rows(first, sampler=sampler, sigmas=sigmas[2:], noise=QUIET))
    assert torch.equal(second[1], picture(2, 2)["samples"])
    assert torch.equal(second[0][..., 8:], picture(1, 2)["samples"][..., 8:])
    if sampler != "dpmpp_2m_sde":  # it draws other noise in a second run, stock too
        whole = layers(advanced_rows(latent, sampler=sampler, sigmas=sigmas))
        assert all(close(a, b, APART) for a, b in zip(second, whole))


@pytest.mark.parametrize("cut", [1, 3])
def test_partly_kept_layers_are_released_at_the_same_level_in_parts(cut):
    """keep is a share of the model's schedule there; sgm_uniform's steps are equal shares, so that nothing changes."""
    latent, sigmas = stacked(given(0.5)), schedule(scheduler="sgm_uniform")
    first = advanced_rows(latent, sigmas=sigmas[: cut + 1])
    second = layers(advanced_rows(first, sigmas=sigmas[cut:], noise=QUIET))
    whole = layers(advanced_rows(latent, sigmas=sigmas))
    assert all(close(a, b, APART) for a, b in zip(second, whole))
    assert not close(second[1], picture(2, 2)["samples"], 0.1)


def test_noise_added_by_a_node_before_the_sampler_is_the_same():
    """Add Noise and Disable Noise instead of Random Noise."""
    sigmas = schedule(denoise=0.7)
    noised = stacked(picture(batch=2))
    scale = 0.13025  # SDXL's latent scale: noise levels count in scaled latents
    noised["samples"] = noised["samples"] + core.Noise_RandomNoise(7).generate_noise(noised) * sigmas[0] / scale
    found = layers(advanced_rows(noised, sigmas=sigmas, noise=QUIET))
    assert all(close(a, b) for a, b in zip(found, layers(advanced_rows(stacked(picture(batch=2)), sigmas=sigmas))))


def test_a_rising_run_shares_no_predictions_and_holds_nothing():
    """It looks for the noise of each layer; the run down again gives the kept ones back."""
    sigmas = schedule(denoise=0.5)
    up = sigmas.flip(0).clone()
    up[0] = 1e-4
    latent = stacked(given())
    rise = advanced_rows(latent, LayerFusionOptions(background_mode="one_scene"), sigmas=up, noise=QUIET)
    shared_attention = advanced_rows(latent, LayerFusionOptions(background_mode="share"), sigmas=up, noise=QUIET)
    assert torch.equal(rise["samples"], shared_attention["samples"])
    free = advanced_rows(
        stacked(give(0.0, foreground=picture(1, 2), background=picture(2, 2))), sigmas=up, noise=QUIET
    )
    assert torch.equal(rise["samples"], free["samples"]) and not close(layers(rise)[1], picture(2, 2)["samples"], 1e-2)
    down = layers(advanced_rows(rise, sigmas=sigmas, noise=QUIET))
    assert torch.equal(down[1], picture(2, 2)["samples"]) and all(layer.isfinite().all() for layer in down)


def test_an_enlarged_run_holds_its_own_layers():
    first = advanced_rows(stacked(given()), sigmas=schedule(steps=1))
    first["samples"] = torch.nn.functional.interpolate(first["samples"], size=(24, 24), mode="bilinear")
    background = layers(first)[1]
    second = layers(advanced_rows(first, sigmas=schedule(steps=2, denoise=0.5)))
    assert torch.equal(second[1], background) and not close(second[2], layers(first)[2], 1e-2)
    changed = stacked(given())
    changed["samples"] = changed["samples"].flip(-1)
    with pytest.raises(ValueError, match="changed after given layers were stacked.*must be the last node before the sampler"):
        advanced_rows(changed)
