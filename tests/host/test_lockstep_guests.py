"""Patches and LoRAs of other nodes on either of two checkpoints act on that model's streams; guidance acts on all."""

from __future__ import annotations

import pairs
import pytest
import tiny
import torch
from once import once
from runs import close, layered, models, prompts, slow, stock
from test_compat_control import controlled
from test_compat_models import extra
from test_compat_patches import limited, with_image
from test_engine_guests import GUESTS, patched, perturbed, user_lora

OWN = [guest for guest in GUESTS if guest != "post cfg"]


def guested(side: int, how) -> tuple:
    """The unlike pair with a guest on one of the two."""
    pair = list(pairs.unlike())
    pair[side] = pair[side].clone()
    how(pair[side])
    return tuple(pair)


def equals_stock(pair) -> bool:
    base, foreground = pair
    layers, _ = layered(pair, strength=0.0, steps=2)
    expected = [once(stock, model, prompt, steps=2) for model, prompt in zip((foreground, base, base), prompts())]
    return all(close(found, picture) for found, picture in zip(layers, expected))


@pytest.mark.parametrize("side", [0, 1], ids=["base", "foreground"])
@pytest.mark.parametrize("guest", OWN)
def test_a_patch_acts_on_its_own_models_streams(guest, side):
    assert equals_stock(guested(side, GUESTS[guest]))


def test_wrappers_and_callbacks_of_the_foreground_model_are_called():
    from comfy.patcher_extension import CallbacksMP, WrappersMP

    seen = []

    def shifted(executor, x, t, *args, **kwargs):
        seen.append(x.shape[0])
        return 0.9 * executor(x, t, *args, **kwargs)

    def how(model):
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "guest", shifted)
        for kind in (CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_PREPARE_STATE, CallbacksMP.ON_CLEANUP):
            model.add_callback_with_key(kind, "guest", lambda patcher, *args, kind=kind: seen.append(kind))

    pair = guested(1, how)
    assert equals_stock(pair)
    seen.clear()
    layered(pair, prior_mode="exact", steps=1)
    assert seen == ["on_pre_run", "on_prepare_state", 1, "on_prepare_state", 2, "on_cleanup"]


def test_lora_outside_attention_on_the_foreground():
    """What the single pass refuses: a model of its own may differ from the base anywhere."""
    base, foreground = pairs.unlike()
    name = "diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2.weight"
    foreground = foreground.clone()
    foreground.add_patches({name: ("diff", (0.1 * foreground.model.state_dict()[name],))})
    assert equals_stock((base, foreground))


def test_lora_on_the_base():
    base, foreground = pairs.unlike()
    assert equals_stock((tiny.with_foreground(base, user_lora(base), 0.7), foreground))


@pytest.mark.parametrize("guest", ["attn2 replace, all layers", "attn1 output", "unet function wrapper", "post cfg"])
def test_guests_on_both_equal_the_single_pass(guest):
    expected, _ = layered(patched(GUESTS[guest]), steps=2)
    pair = [model.clone() for model in pairs.merged()]
    for model in pair:
        GUESTS[guest](model)
    found, _ = layered(pair, steps=2)
    assert all(close(a, b) for a, b in zip(found, expected))


@pytest.mark.parametrize("mode", ["exact", *slow("previous_step")])
def test_perturbed_attention_guidance_on_the_base_guides_every_stream(mode):
    single = perturbed(2.0)
    expected, _ = layered(single, prior_mode=mode, steps=2)
    found, record = layered((single[0], pairs.merged()[1]), prior_mode=mode, steps=2)
    assert len(record.maps) == 2
    assert all(close(a, b) for a, b in zip(found, expected))
    assert not close(found[0], once(layered, prior_mode=mode, steps=2)[0][0], 1e-2)


@pytest.mark.parametrize("name", ["RescaleCFG", "PerturbedAttentionGuidance"])
def test_guidance_on_the_foreground_model_alone_is_refused(name):
    module = {"RescaleCFG": "model_advanced", "PerturbedAttentionGuidance": "pag"}[name]
    base, foreground = pairs.unlike()
    foreground = extra(module, name, foreground, 0.7)
    with pytest.raises(ValueError, match="foreground_model carries sampler_.*put the node that adds it on base_model"):
        layered((base, foreground))


def test_self_attention_guidance_is_refused():
    """It keeps the attention of the rows of one network, and here there are two."""
    with pytest.raises(ValueError, match="Self-Attention Guidance is on base_model"):
        layered((extra("sag", "SelfAttentionGuidance", models()[0], 0.5, 2.0), pairs.unlike()[1]))


@pytest.mark.slow
def test_compiled_models_run_as_they_were_written():
    """Threads that wait for each other amid dynamo's tracing take minutes; the stock sampler still runs compiled code."""
    base, foreground = pairs.unlike()
    compiled = tuple(extra("torch_compile", "TorchCompileModel", model, "eager") for model in (base, foreground))
    found, _ = layered(compiled, steps=1)
    expected, _ = layered((base, foreground), steps=1)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert torch.compiler.is_compiling() is False and torch._dynamo.eval_frame._stance.stance == "default"


def test_limited_patch_on_either_model():
    """What Limit Patches to Layers makes knows whose rows it gets, also where a model has only its own."""
    base, foreground = pairs.unlike()
    limited_base = limited(base, with_image(base, 1), "background")
    limited_foreground = limited(foreground, with_image(foreground, 2), "foreground")
    layers, _ = layered((limited_base, limited_foreground), strength=0.0, steps=2)
    for layer, model, prompt in zip(layers, (with_image(foreground, 2), base, with_image(base, 1)), prompts()):
        assert close(layer, once(stock, model, prompt, steps=2))


def test_limited_patch_on_the_other_model_is_refused():
    base, foreground = pairs.unlike()
    with pytest.raises(ValueError, match="base_model carries a patch that Limit Patches to Layers keeps to foreground"):
        layered((limited(base, with_image(base), "foreground", "blended"), foreground))
    with pytest.raises(ValueError, match="foreground_model carries a patch .* keeps to blended"):
        layered((base, limited(foreground, with_image(foreground), "foreground", "blended")))


@pytest.mark.parametrize("stream", [0, 2], ids=["foreground", "background"])
def test_control_on_one_stream_equals_the_single_pass(stream):
    streams, negative = controlled("controlnet", stream)
    for mode in ("exact", "previous_step"):
        expected, _ = layered(streams=streams, negative=negative, prior_mode=mode, steps=2)
        found, _ = layered(pairs.merged(), streams=streams, negative=negative, prior_mode=mode, steps=2)
        assert all(close(a, b) for a, b in zip(found, expected))
