"""What must hold whatever the weights: independence at strength 0, determinism, and models left as they were."""

from __future__ import annotations

import comfy.model_management
import pytest
import runs
import tiny
import torch
from once import once
from runs import NAMES, close, empty_latent, layered, models, prompts, slow, stock

SAMPLERS = ["euler", "dpmpp_2m_sde", "uni_pc", *slow("euler_ancestral", "dpmpp_2m", "heun", "lcm")]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_strength_zero_is_three_stock_runs(sampler):
    base, foreground = models()
    layers, record = layered(sampler=sampler, strength=0.0)
    assert not record.maps
    for name, model, prompt, layer in zip(NAMES, (foreground, base, base), prompts(), layers):
        assert close(layer, once(stock, model, prompt, sampler=sampler)), name


@pytest.mark.parametrize("scheduler", ["karras", *slow("sgm_uniform", "simple")])
def test_strength_zero_with_other_schedules_and_cfg_one(scheduler):
    base, foreground = models()
    layers, _ = layered(scheduler=scheduler, cfg=1.0, strength=0.0)
    for model, prompt, layer in zip((foreground, base, base), prompts(), layers):
        assert close(layer, once(stock, model, prompt, scheduler=scheduler, cfg=1.0))


def test_blending_changes_every_stream_that_it_should():
    quiet, _ = once(layered, strength=0.0)
    adapted, record = once(layered)
    for a, b in zip(quiet, adapted):
        assert (a - b).abs().max() > 0.01 * a.std()
    assert len(record.maps) == runs.STEPS
    off, _ = layered(background_mode="off")
    assert close(off[2], quiet[2]) and not close(off[1], quiet[1], 1e-2)


def test_same_seed_twice_is_bit_equal():
    for mode in ("exact", "previous_step"):
        first, second = once(layered, prior_mode=mode)[0], layered(prior_mode=mode)[0]
        assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_cond_and_uncond_apart_equal_together(monkeypatch):
    together = {mode: once(layered, prior_mode=mode)[0] for mode in ("exact", "previous_step")}
    base, _ = models()
    forwards = []
    inner = base.model.apply_model
    monkeypatch.setattr(base.model, "memory_required", lambda *args, **kwargs: float("inf"))
    monkeypatch.setattr(
        base.model, "apply_model", lambda x, *args, **kwargs: forwards.append(x.shape[0]) or inner(x, *args, **kwargs)
    )
    for mode, expected in together.items():
        forwards.clear()
        apart = layered(prior_mode=mode)[0]
        assert set(forwards) == {1, 3}, "the host did not split the batch"
        assert all(close(a, b) for a, b in zip(apart, expected))


def test_negative_first_equals_positive_first(monkeypatch):
    """Apart, in the other order: state is keyed by conditioning, not by position."""
    import comfy.samplers

    expected = once(layered, prior_mode="previous_step")[0]
    original = comfy.samplers.calc_cond_batch

    def reversed_order(model, conds, x, timestep, options):
        if len(conds) < 2 or conds[1] is None:
            return original(model, conds, x, timestep, options)
        negative = original(model, [[], conds[1]], x, timestep, options)[1]
        return [original(model, [conds[0]], x, timestep, options)[0], negative]

    monkeypatch.setattr(comfy.samplers, "calc_cond_batch", reversed_order)
    found = layered(prior_mode="previous_step")[0]
    assert all(close(a, b) for a, b in zip(found, expected))


def test_batch_of_two_equals_two_singles():
    for mode in ("exact", "previous_step"):
        both, _ = layered(latent={**empty_latent(2), "batch_index": [0, 1]}, prior_mode=mode, steps=2)
        for i in range(2):
            single, _ = layered(latent={**empty_latent(1), "batch_index": [i]}, prior_mode=mode, steps=2)
            assert all(close(b[i : i + 1], s) for b, s in zip(both, single))


def test_first_evaluation_of_previous_step_is_exact():
    exact, previous = layered(steps=1)[0], layered(steps=1, prior_mode="previous_step")[0]
    assert all(torch.equal(a, b) for a, b in zip(exact, previous))


def test_models_are_untouched_by_a_run():
    base, foreground = models()
    before = [once(stock, base, prompts()[1]), once(stock, foreground, prompts()[0])]
    options, patches = repr(base.model_options), base.patches_uuid
    layered()
    assert repr(base.model_options) == options and base.patches_uuid == patches
    assert not base.wrappers.get("diffusion_model") and not foreground.wrappers.get("diffusion_model")
    after = [stock(base, prompts()[1]), stock(foreground, prompts()[0])]
    assert all(torch.equal(a, b) for a, b in zip(before, after))


def test_models_are_untouched_by_an_interrupt_in_mid_step():
    base, foreground = models()
    before = [once(stock, base, prompts()[1]), once(stock, foreground, prompts()[0])]
    expected = once(layered)[0]
    block = base.model.diffusion_model.output_blocks[1][0]
    calls = []

    def interrupt(module, args):
        calls.append(1)
        if len(calls) == 4:  # in the blended pass of the second step, half way through the network
            raise comfy.model_management.InterruptProcessingException()

    handle = block.register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            layered()
    finally:
        handle.remove()
    after = [stock(base, prompts()[1]), stock(foreground, prompts()[0])]
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert all(torch.equal(a, b) for a, b in zip(layered()[0], expected))


def test_independent_noise_leaves_the_foreground_its_own():
    base, foreground = models()
    layers, _ = layered(noise="independent", strength=0.0)
    assert close(layers[0], once(stock, foreground, prompts()[0]))
    assert close(layers[1], stock(base, prompts()[1], seed=runs.SEED + 1))
    assert close(layers[2], stock(base, prompts()[2], seed=runs.SEED + 2))


def test_start_and_end_percent_bound_the_blending():
    quiet = once(layered, strength=0.0)[0]
    never, record = layered(start_percent=1.0, end_percent=1.0)
    assert not record.maps and all(close(a, b, 1e-6) for a, b in zip(never, quiet))
    _, half = layered(end_percent=0.5)
    _, later = layered(start_percent=0.5)
    assert 0 < len(half.maps) < runs.STEPS and len(half.maps) + len(later.maps) == runs.STEPS
    _, previous = layered(start_percent=0.5, prior_mode="previous_step")
    assert previous.sigmas == later.sigmas


@pytest.mark.parametrize("size", [(15, 19), *slow(((9, 16),), ((24, 16),))])
def test_any_size_divisible_by_eight(size):
    base, foreground = models()
    latent = empty_latent(1, *size)
    for mode in ("exact", "previous_step"):
        layers, record = layered(latent=latent, prior_mode=mode, steps=2)
        assert all(layer.shape == latent["samples"].shape and layer.isfinite().all() for layer in layers)
    assert record.images(0)["soft"].shape[-2:] == (-(-size[0] // 2), -(-size[1] // 2))
    quiet = layered(latent=latent, strength=0.0, steps=2)[0]
    assert close(quiet[0], stock(foreground, prompts()[0], latent=latent, steps=2))


@pytest.mark.parametrize("dtype", [torch.float16, *slow(torch.bfloat16)])
def test_half_precision_stays_near_fp32(dtype):
    base = tiny.tiny_sdxl(dtype=dtype)
    foreground = tiny.with_foreground(base, tiny.foreground_file(base))
    half, full = layered((base, foreground), steps=2)[0], once(layered, steps=2)[0]
    for a, b in zip(half, full):
        assert a.isfinite().all()
        assert (a - b).std() < 0.1 * b.std()


def test_inpainting_mask_keeps_the_rest():
    latent = {
        "samples": torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3)),
        "noise_mask": torch.zeros(2, 128, 128),
    }
    latent["noise_mask"][0, :, 64:] = 1.0
    layers, _ = layered(latent=latent)
    for layer in layers:
        assert torch.allclose(layer[0, :, :, :7], latent["samples"][0, :, :, :7], atol=1e-4)
        assert not torch.allclose(layer[0, :, :, 9:], latent["samples"][0, :, :, 9:], atol=1.0)
        assert torch.allclose(layer[1], latent["samples"][1], atol=1e-4)


def test_two_foregrounds_share_the_engine():
    """K = 2: both foregrounds keep their own prompt and enter the blended picture."""
    base, foreground = models()
    streams = [tiny.conditioning(20, eos=5), *prompts()]
    quiet, _ = layered(streams=streams, strength=0.0, steps=2)
    for model, prompt, layer in zip((foreground, foreground, base, base), streams, quiet):
        assert close(layer, once(stock, model, prompt, steps=2))
    for mode in ("exact", "previous_step"):
        layers, record = layered(streams=streams, prior_mode=mode, steps=2)
        assert record.images(0)["soft"].shape[0] == 2
        assert not any(close(a, b, 1e-2) for a, b in zip(layers, quiet))
