"""Noise of the streams: every layer gets what a stock run of its own gets, in whatever way the noise is drawn."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import pytest
import runs
import torch
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler
from comfy_extras import nodes_custom_sampler as core
from compat import streams_equal_stock
from runs import NAMES, NEGATIVE, SEED, close, empty_latent, layered, models, prompts, slow
from test_given_layers import left_half, picture
from test_guider_nodes import advanced, guider_of, schedule, stacked
from torch.utils._python_dispatch import _get_current_dispatch_mode

from layerfusion_pack.layerfusion_core.host.sampling.step_noise import StepNoise
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.layerfusion_core.method.streams import StreamLayout

ODD = (15, 19)  # no multiple of 4 cells: noise for a batch is not noise for its pictures, drawn one by one


def in_order(layers) -> list[torch.Tensor]:
    foreground, background, blended = (layer["samples"] for layer in layers)
    return [foreground, blended, background]


@pytest.mark.parametrize("noise", ["shared", "independent"])
@pytest.mark.parametrize(("sampler", "batch"), [("dpmpp_2m_sde", 3), *slow(("euler", 1), ("euler_ancestral", 2))])
def test_the_guider_path_has_the_ksamplers_noise_at_any_size(sampler, batch, noise):
    latent, options = empty_latent(batch, *ODD), {"strength": 0.0, "noise": noise}
    found = in_order(advanced(sampler, latent, LayerFusionOptions(**options), sigmas=schedule(sampler, steps=2)))
    expected = layered(latent=latent, sampler=sampler, steps=2, **options)[0]
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


@pytest.mark.parametrize("sampler", ["dpmpp_sde", *slow("euler_ancestral", "lcm", "ddpm", "dpmpp_3m_sde_gpu", "dpm_2_ancestral")])
def test_samplers_that_draw_noise_are_stock_for_every_stream(sampler):
    streams_equal_stock(latent=picture(batch=3), sampler=sampler, steps=3)


def test_ddim_draws_its_noise_for_what_a_mask_leaves_as_stock():
    streams_equal_stock(latent={**picture(batch=2), "noise_mask": left_half()}, sampler="ddim")


def churning(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """A sampler of another pack: noise of its own in three ways."""
    tree = BrownianTreeNoiseSampler(x, sigmas[sigmas > 0].min(), sigmas.max(), seed=3)
    for i in range(len(sigmas) - 1):
        x = x + 0.1 * torch.randn_like(x) + 0.1 * torch.empty(x.shape).normal_() + 0.1 * tree(sigmas[i], sigmas[i] * 0.9)
        denoised = model(x, sigmas[i] * x.new_ones(x.shape[0]), **extra_args)
        x = denoised + (x - denoised) * (sigmas[i + 1] / sigmas[i])
    return x


@pytest.mark.parametrize("options", [{}, *slow({"options": {"s_churn": 5.0}})])
def test_samplers_with_noise_of_their_own_are_stock_for_every_stream(options):
    base, foreground = models()
    extra = options.get("options", {})
    sampler = comfy.samplers.ksampler("euler", extra) if extra else comfy.samplers.KSAMPLER(churning)
    latent, sigmas = picture(batch=3), schedule(steps=3)
    found = in_order(advanced(sampler, latent, LayerFusionOptions(strength=0.0), sigmas=sigmas))
    for name, model, prompt, layer in zip(NAMES, (foreground, base, base), prompts(), found):
        noise = comfy.sample.prepare_noise(latent["samples"], SEED)
        expected = comfy.sample.sample_custom(
            model, noise, 5.0, sampler, sigmas, prompt, NEGATIVE, latent["samples"], disable_pbar=True, seed=SEED
        )
        assert close(layer, expected), name


class Varied(core.Noise_RandomNoise):
    """Noise of a pack that mixes a second seed in, but not where the latent numbers its pictures (Inspire)."""

    def generate_noise(self, latent):
        noise = super().generate_noise(latent)
        if "batch_index" in latent:
            return noise
        return 0.8 * noise + 0.6 * torch.randn(1, *noise.shape[1:], generator=torch.Generator().manual_seed(99))


@pytest.mark.parametrize("numbered", [False, True])
def test_noise_nodes_of_other_packs_act_on_all_layers_alike(numbered):
    latent = {**empty_latent(2, *ODD), **({"batch_index": [5, 2]} if numbered else {})}
    base, foreground = models()
    options, sigmas = LayerFusionOptions(strength=0.0), schedule(steps=1)
    found = in_order(advanced("euler", latent, options, sigmas=sigmas, noise=Varied(SEED)))
    noise = Varied(SEED).generate_noise(latent)
    assert numbered == torch.equal(noise, core.Noise_RandomNoise(SEED).generate_noise(latent))
    for model, prompt, layer in zip((foreground, base, base), prompts(), found):
        euler = comfy.samplers.sampler_object("euler")
        expected = comfy.sample.sample_custom(
            model, noise, 5.0, euler, sigmas, prompt, NEGATIVE, latent["samples"], disable_pbar=True, seed=SEED
        )
        assert close(layer, expected)


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "dpmpp_sde", "euler"])
def test_a_single_sigma_takes_no_step(sampler):
    latent = stacked(picture())
    noise = torch.randn(1, 4, 16, 16)
    sampler = comfy.samplers.sampler_object(sampler)
    found = guider_of().sample(noise, latent["samples"], sampler, torch.tensor([0.0]), latent["noise_mask"], seed=1)
    assert close(found, latent["samples"].repeat(3, 1, 1, 1), 1e-5)


def test_the_model_and_what_follows_a_run_are_left_alone(monkeypatch):
    """Nothing of ours stands between torch and the model, nor anywhere after an error."""
    modes = []
    sample = comfy.samplers.sampling_function

    def watched(*args, **kwargs):
        modes.append(_get_current_dispatch_mode())
        if len(modes) == 2:
            raise RuntimeError("stopped")
        return sample(*args, **kwargs)

    monkeypatch.setattr(comfy.samplers, "sampling_function", watched)
    with pytest.raises(RuntimeError, match="stopped"):
        runs.layered(sampler="euler_ancestral")
    assert modes == [None, None] and _get_current_dispatch_mode() is None


def test_draws_of_other_shapes_stay_as_they_are():
    steps, sampler = StepNoise(StreamLayout()), comfy.samplers.sampler_object("euler")
    drawn = {}

    def draw(_, x, *args, **kwargs):
        drawn.update(row=torch.randn(x.shape[1:]), one=torch.randn(1, *x.shape[1:]), scalars=torch.randn(6))
        drawn["out"] = torch.empty(x.shape)
        torch.randn(x.shape, out=drawn["out"])
        return x

    sampler.sample = draw
    x = torch.zeros(6, 4, 2, 2)
    torch.manual_seed(0)
    steps.shared(sampler).sample(None, x, None, None, x)
    torch.manual_seed(0)
    assert torch.equal(drawn["row"], torch.randn(4, 2, 2)) and torch.equal(drawn["one"], torch.randn(1, 4, 2, 2))
    assert torch.equal(drawn["scalars"], torch.randn(6))
    assert torch.equal(drawn["out"], torch.randn(2, 4, 2, 2).repeat_interleave(3, dim=0))
