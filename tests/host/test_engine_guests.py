"""Patches and LoRAs that other nodes put on the models keep working, beside LayerFusion's own."""

from __future__ import annotations

import pytest
import tiny
import torch
from comfy.ldm.modules.attention import optimized_attention
from once import once
from runs import close, layered, models, prompts, stock


def scaled_attention(q, k, v, extra_options):
    """A foreign replace patch with a visible effect."""
    return 0.5 * optimized_attention(q, k, v, extra_options["n_heads"])


def tilted_output(n, extra_options):
    """A foreign output patch with a visible effect."""
    return n * 1.5 - 0.1


def patched(how):
    base, _ = models()
    base = base.clone()
    how(base)
    return base, tiny.with_foreground(base, tiny.foreground_file(base))


GUESTS = {
    "attn2 replace, one layer": lambda m: m.set_model_attn2_replace(scaled_attention, "output", 1, 0),
    "attn2 replace, all layers": lambda m: m.set_model_attn2_replace(scaled_attention, "output", 5),
    "attn1 replace": lambda m: m.set_model_attn1_replace(scaled_attention, "middle", 0, 1),
    "attn1 output": lambda m: m.set_model_attn1_output_patch(tilted_output),
    "attn2 output": lambda m: m.set_model_attn2_output_patch(tilted_output),
    "attn2 input": lambda m: m.set_model_attn2_patch(
        lambda n, context, value, options: (n, context * 0.7, value * 1.3)
    ),
    "unet function wrapper": lambda m: m.set_model_unet_function_wrapper(
        lambda apply, args: 0.9 * apply(args["input"], args["timestep"], **args["c"])
    ),
    "post cfg": lambda m: m.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.9),
}


def equals_stock(pair) -> None:
    """Assert that without blending every stream is its stock run."""
    base, foreground = pair
    layers, _ = layered(pair, strength=0.0, steps=2)
    for model, prompt, layer in zip((foreground, base, base), prompts(), layers):
        assert close(layer, once(stock, model, prompt, steps=2))


@pytest.mark.parametrize("guest", GUESTS, ids=str)
def test_foreign_patches_still_act_on_every_stream(guest):
    base, foreground = patched(GUESTS[guest])
    plain = once(stock, models()[0], prompts()[1], steps=2)
    with_guest = once(stock, base, prompts()[1], steps=2)
    assert not close(with_guest, plain, 1e-2), "the guest has no effect; the test would prove nothing"
    equals_stock((base, foreground))


def test_foreign_patches_act_while_blending():
    for how in (GUESTS["attn2 replace, all layers"], GUESTS["attn1 output"]):
        with_guest, without = layered(patched(how), steps=2)[0], once(layered, steps=2)[0]
        assert all(not close(a, b, 1e-2) for a, b in zip(with_guest, without))


def user_lora(model, seed=40):
    return tiny.foreground_file(model, seed=seed, rank=2, scale=0.4)


def test_lora_on_both_models():
    base, _ = models()
    base = tiny.with_foreground(base, user_lora(base))
    foreground = tiny.with_foreground(base, tiny.foreground_file(base))
    equals_stock((base, foreground))


@pytest.mark.parametrize("side", ["base", "foreground"])
def test_attention_lora_on_one_model_only(side):
    base, foreground = models()
    if side == "base":
        base = tiny.with_foreground(base, user_lora(base), 0.7)
    else:
        foreground = tiny.with_foreground(foreground, user_lora(base), 0.7)
    equals_stock((base, foreground))


def test_full_differences_on_attention():
    """Foreground weights as full deltas, as the Diffusers packaging holds them."""
    base, _ = models()
    file = tiny.foreground_file(base)
    deltas = {
        key.split("::")[0]: ("diff", (up @ file[key.replace("lora::0", "lora::1")],))
        for key, up in file.items()
        if key.endswith("lora::0")
    }
    foreground = base.clone()
    foreground.add_patches(deltas, 0.8)
    layers, _ = layered((base, foreground), strength=0.0, steps=2)
    assert close(layers[0], once(stock, foreground, prompts()[0], steps=2))


def perturbed(scale: float):
    """What PAG nodes do: a second call within the step, with another attention in the middle block."""
    import comfy.samplers
    from comfy.model_patcher import set_model_options_patch_replace

    def guide(args):
        options = args["model_options"].copy()
        options = set_model_options_patch_replace(options, lambda q, k, v, extra: v, "attn1", "middle", 0)
        (weak,) = comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"] + scale * (args["cond_denoised"] - weak)

    return patched(lambda m: m.set_model_sampler_post_cfg_function(guide))


def test_perturbed_attention_guidance_acts_on_every_stream():
    base, foreground = perturbed(2.0)
    assert not close(*(once(stock, model, prompts()[1], steps=2) for model in (base, models()[0])), 1e-2)
    equals_stock((base, foreground))


@pytest.mark.parametrize("mode", ["exact", "previous_step"])
def test_perturbed_attention_guidance_does_not_disturb_the_masks(mode):
    found, record = layered(perturbed(0.0), prior_mode=mode, steps=2)
    expected, _ = once(layered, prior_mode=mode, steps=2)
    assert len(record.maps) == 2
    assert all(close(a, b) for a, b in zip(found, expected))


def test_second_run_finds_the_delta_loaded():
    base, foreground = models()
    layered(steps=1)
    kept = foreground.attachments["layerfusion_delta"][1]
    layered(steps=1)
    assert foreground.attachments["layerfusion_delta"][1] is kept
    assert torch.equal(next(iter(kept.model.parameters())), next(iter(kept.model.parameters())))
