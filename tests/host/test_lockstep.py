"""Two different checkpoints in lock step: what holds for one checkpoint holds for two, and each keeps its own."""

from __future__ import annotations

import threading

import comfy.model_management
import comfy.samplers
import pairs
import pytest
import runs
import tiny
import torch
from once import once
from runs import NAMES, close, empty_latent, layered, models, prompts, slow, stock

SAMPLERS = ["euler", "dpmpp_2m_sde", *slow("euler_ancestral", "dpmpp_2m", "heun")]
PRIOR_MODES = ["exact", "previous_step"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_strength_zero_is_three_stock_runs(sampler):
    base, foreground = pairs.unlike()
    layers, record = layered(pairs.unlike(), sampler=sampler, strength=0.0)
    assert not record.maps
    for name, model, prompt, layer in zip(NAMES, (foreground, base, base), prompts(), layers):
        assert close(layer, once(stock, model, prompt, sampler=sampler)), name


@pytest.mark.parametrize("mode", PRIOR_MODES)
@pytest.mark.parametrize(("sampler", "cfg"), [("euler", 5.0), *slow(("euler_ancestral", 5.0)), ("dpmpp_2m", 1.0)])
def test_merged_checkpoint_equals_the_single_pass(mode, sampler, cfg):
    settings = dict(sampler=sampler, cfg=cfg, prior_mode=mode, latent=empty_latent(2))
    expected, known = once(layered, **settings)
    found, record = layered(pairs.merged(), **settings)
    assert record.sigmas == known.sigmas
    assert all(close(a, b) for a, b in zip(found, expected))


def test_blending_changes_every_stream():
    quiet, _ = once(layered, pairs.unlike(), strength=0.0)
    adapted, record = once(layered, pairs.unlike())
    assert len(record.maps) == runs.STEPS
    for a, b in zip(quiet, adapted):
        assert (a - b).abs().max() > 0.01 * a.std()


def test_same_seed_twice_is_bit_equal():
    for mode in PRIOR_MODES:
        first, second = once(layered, pairs.unlike(), prior_mode=mode)[0], layered(pairs.unlike(), prior_mode=mode)[0]
        assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("mode", PRIOR_MODES)
def test_batch_of_two_equals_two_singles(mode):
    pair = pairs.unlike()
    both, _ = layered(pair, latent={**empty_latent(2), "batch_index": [0, 1]}, prior_mode=mode, steps=2)
    for i in range(2):
        single, _ = layered(pair, latent={**empty_latent(1), "batch_index": [i]}, prior_mode=mode, steps=2)
        assert all(close(b[i : i + 1], s) for b, s in zip(both, single))


@pytest.mark.parametrize("side", [0, *slow(1)], ids=["base", "foreground"])
def test_cond_and_uncond_apart_equal_together(monkeypatch, side):
    """One model alone is short of memory: both run the chunks that the host made for the base model."""
    pair = pairs.unlike()
    together = {mode: once(layered, pair, prior_mode=mode)[0] for mode in PRIOR_MODES}
    for model in pair if side == 0 else pair[1:]:
        monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: float("inf"))
    for mode, expected in together.items():
        apart = layered(pair, prior_mode=mode)[0]
        assert all(close(a, b) for a, b in zip(apart, expected))


@pytest.mark.parametrize("prediction", ["v_prediction", *slow("lcm")])
def test_each_model_keeps_its_prediction_type(prediction):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    base, foreground = pairs.unlike()
    (foreground,) = ModelSamplingDiscrete().patch(foreground, prediction, False)
    layers, _ = layered((base, foreground), strength=0.0)
    # The run's schedule is the base model's.
    sigmas = comfy.samplers.KSampler(base, runs.STEPS, "cpu", "euler", "normal", 1.0).sigmas
    expected = stock(foreground, prompts()[0], sigmas=sigmas)
    for layer, picture in zip(layers, (expected, *(once(stock, base, prompt) for prompt in prompts()[1:]))):
        assert close(layer, picture)
    assert all(layer.isfinite().all() for layer in layered((base, foreground))[0])


def test_unlike_number_formats():
    base, _ = models()
    half = tiny.tiny_sdxl(seed=3, dtype=torch.bfloat16)
    pair = base, tiny.with_foreground(half, tiny.foreground_file(half))
    layers, _ = layered(pair, strength=0.0, steps=2)
    for model, prompt, layer in zip((pair[1], base, base), prompts(), layers):
        assert close(layer, once(stock, model, prompt, steps=2))
    for found, expected in zip(layered(pair, steps=2)[0], once(layered, pairs.unlike(), steps=2)[0]):
        assert (found - expected).std() < 0.1 * expected.std()


def test_two_foregrounds():
    base, foreground = pairs.merged()
    streams = [tiny.conditioning(20, eos=5), *prompts()]
    for mode in PRIOR_MODES:
        expected, _ = layered(streams=streams, prior_mode=mode, steps=2)
        found, _ = layered((base, foreground), streams=streams, prior_mode=mode, steps=2)
        assert all(close(a, b) for a, b in zip(found, expected))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("layerfusion")]


def test_models_are_untouched_by_a_run():
    base, foreground = pairs.unlike()
    before = [once(stock, base, prompts()[1]), once(stock, foreground, prompts()[0])]
    options = [(repr(model.model_options), model.patches_uuid) for model in (base, foreground)]
    layered(pairs.unlike())
    assert [(repr(model.model_options), model.patches_uuid) for model in (base, foreground)] == options
    assert not base.wrappers.get("diffusion_model") and not foreground.wrappers.get("diffusion_model")
    assert foreground.model.current_patcher is None and not threads()
    after = [stock(base, prompts()[1]), stock(foreground, prompts()[0])]
    assert all(torch.equal(a, b) for a, b in zip(before, after))


@pytest.mark.parametrize(
    ("place", "error"),
    [("input_blocks", comfy.model_management.InterruptProcessingException), ("output_blocks", RuntimeError)],
)
@pytest.mark.parametrize("side", [0, 1], ids=["base", "foreground"])
def test_an_error_on_either_side_ends_both(side, place, error):
    pair = pairs.unlike()
    before = [once(stock, pair[0], prompts()[1], steps=1), once(stock, pair[1], prompts()[0], steps=1)]
    expected = once(layered, pair, steps=2)[0]
    blocks = getattr(pair[side].model.diffusion_model, place)
    calls = []

    def interrupt(module, args):
        calls.append(1)
        if len(calls) == 2:
            raise error()

    handle = blocks[5 if place == "input_blocks" else 1][0].register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(error):
            layered(pair)
    finally:
        handle.remove()
    assert not threads()
    after = [stock(pair[0], prompts()[1], steps=1), stock(pair[1], prompts()[0], steps=1)]
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert all(torch.equal(a, b) for a, b in zip(layered(pair, steps=2)[0], expected))


@pytest.mark.parametrize("size", [(15, 19), *slow(((24, 16),))])
def test_any_size_divisible_by_eight(size):
    latent = empty_latent(1, *size)
    for mode in PRIOR_MODES:
        expected, _ = layered(latent=latent, prior_mode=mode, steps=2)
        found, _ = layered(pairs.merged(), latent=latent, prior_mode=mode, steps=2)
        assert all(close(a, b) for a, b in zip(found, expected))
