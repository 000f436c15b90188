"""What the two MODELs differ in besides patches of attention and blocks: it acts on its own streams, or it is named."""

from __future__ import annotations

from functools import cache

import pytest
import tiny
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP
from compat import has_effect, pair_of, streams_equal_stock
from runs import NEGATIVE, empty_latent, layered, models, prompts
from test_compat_models import extra

from layerfusion_pack.layerfusion_core.host.models.foreground import apply_foreground
from layerfusion_pack.layerfusion_core.host.unet.model_parts import alike
from layerfusion_pack.layerfusion_core.host.unet.stream_patches import with_foreground_patches
from layerfusion_pack.layerfusion_core.weights.formats import parse
from layerfusion_pack.nodes.custom_sampling import LayerFusionGuiderNode
from layerfusion_pack.nodes.sampling import LayerFusionKSampler, LayerFusionKSamplerAdvanced

BEFORE = "before Apply Foreground Weights"


def nothing(*args, **kwargs):
    """A wrapper, callback or function that is never called here."""


def rescaled(model, multiplier: float):
    return extra("model_advanced", "RescaleCFG", model, multiplier)


def sampling(model, kind: str):
    return extra("model_advanced", "ModelSamplingDiscrete", model, kind, False)


def with_wrapper(model):
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "guest", nothing)


def with_callback(model):
    model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, "guest", nothing)


def with_option(model):
    model.model_options["transformer_options"]["guest"] = 1


PARTS = {
    "apply_model wrapper guest": with_wrapper,
    "on_pre_run callback guest": with_callback,
    "injection guest": lambda m: m.set_injections("guest", [PatcherInjection(nothing, nothing)]),
    "additional model guest": lambda m: m.set_additional_models("guest", [tiny.tiny_sdxl()]),
    "model_function_wrapper number 1": lambda m: m.set_model_unet_function_wrapper(nothing),
    "transformer option guest": with_option,
    "object patch diffusion_model.out": lambda m: m.add_object_patch("diffusion_model.out", torch.nn.Identity()),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_foreground_model_alone_is_named(name):
    base, foreground = models()
    foreground = foreground.clone()
    PARTS[name](foreground)
    with pytest.raises(ValueError, match=f"foreground_model carries {name}, which base_model lacks.*{BEFORE}"):
        layered((base, foreground))
    both = base.clone()
    PARTS[name](both)
    if "additional" not in name:  # another model of another load
        assert with_foreground_patches(both, foreground) is both
    assert with_foreground_patches(both, both.clone()) is both


def test_a_part_with_other_settings_is_named():
    base, foreground = models()
    for name, how, settings in (
        ("sampler_cfg_function number 1", rescaled, (0.3, 0.7)),
        ("object patch model_sampling", sampling, ("eps", "v_prediction")),
    ):
        unlike = [how(model, setting) for model, setting in zip((base, foreground), settings)]
        with pytest.raises(ValueError, match=f"foreground_model carries {name}, which base_model has another of.*{BEFORE}"):
            layered(unlike)
        alone = how(foreground, settings[1])
        with pytest.raises(ValueError, match=f"foreground_model carries {name}, which base_model lacks.*{BEFORE}"):
            layered((base, alone))
        same = how(base, settings[1])  # by a node of its own with the same settings
        assert with_foreground_patches(same, alone) is same


def test_alike():
    class Patch:
        def __init__(self, *values):
            self.values = values

        def method(self):
            """Bound."""

    def closure(value):
        return lambda: value

    for a, b in ((1, 2), ("a", "b"), ([1], [1, 2]), ({"a": 1}, {"b": 1}), (torch.ones(2), torch.zeros(2))):
        assert alike(a, a) and not alike(a, b)
        assert not alike(closure(a), closure(b)) or isinstance(a, torch.Tensor)
    assert alike(closure(1), closure(1)) and not alike(closure(1), lambda: 1)
    assert alike(torch.nn.Linear(2, 2).state_dict(), {}) is False
    ring = [1]
    ring.append(ring)
    other = [1]
    other.append(other)
    assert alike(ring, other)
    assert alike(Patch(1).method, Patch(1).method) and alike(Patch(torch.ones(1)), Patch(torch.ones(1)))


@pytest.mark.parametrize("side", [0, 1], ids=["base", "foreground"])
@pytest.mark.parametrize("multiplied", ["UNetSelfAttentionMultiply", "UNetCrossAttentionMultiply"])
def test_multiplied_weights_of_one_model_are_named(multiplied, side):
    """Patches of strength 0: what they multiply is the weight itself."""
    pair = list(models())
    pair[side] = extra("attention_multiply", multiplied, pair[side], 1.2, 0.9, 1.0, 1.0)
    with pytest.raises(ValueError, match="'weight times 1.2' .UNet Self- or Cross-Attention Multiply.*differs between"):
        layered(pair)
    both = extra("attention_multiply", multiplied, models()[0], 1.2, 0.9, 1.0, 1.0)
    if not side and "Self" in multiplied:
        has_effect(both)
        streams_equal_stock(pair_of(both))


SAMPLERS = {
    LayerFusionGuiderNode: {"cfg": 5.0},
    LayerFusionKSampler: {"cfg": 5.0, "seed": 0, "steps": 1, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
    LayerFusionKSamplerAdvanced: {
        "cfg": 5.0, "noise_seed": 0, "steps": 1, "sampler_name": "euler", "scheduler": "normal", "add_noise": "enable",
        "start_at_step": 0, "end_at_step": 1, "return_with_leftover_noise": "disable",
    },
}  # fmt: skip


@cache
def wrong_pairs() -> dict[str, tuple]:
    """Models at the wrong socket: (base_model, foreground_model)."""
    base = models()[0]
    weights, lora = parse(tiny.foreground_file(base), "made up"), tiny.foreground_file(base, seed=5)
    foreground, with_lora = apply_foreground(base, weights), tiny.with_foreground(base, lora)
    return {
        "plain": (foreground, base),
        "a LoRA on the base alone": (foreground, with_lora),
        "a LoRA on the foreground alone": (tiny.with_foreground(foreground, lora), base),
        "a LoRA before both": (apply_foreground(with_lora, weights), with_lora),
        "another checkpoint": (foreground, tiny.tiny_sdxl(seed=3)),
        "weights of strength 0": (foreground, apply_foreground(base, weights, 0.0)),
        "foreground at both": (foreground, foreground),
        "foreground at both, one with a LoRA": (foreground, tiny.with_foreground(foreground, lora)),
    }


@pytest.mark.parametrize("node", SAMPLERS, ids=lambda node: node.__name__)
@pytest.mark.parametrize("case", wrong_pairs())
def test_a_foreground_model_at_base_model_is_refused(node, case):
    streams = dict(zip(("foreground", "blended", "background"), prompts())) | {"negative": NEGATIVE}
    latent = {"latent_image": empty_latent()} if "steps" in SAMPLERS[node] else {}
    why = "as foreground_model does" if case.startswith("foreground at both") else "the two are swapped"
    with pytest.raises(ValueError, match=f"base_model carries foreground weights .made up..*{why}"):
        node.execute(*wrong_pairs()[case], **streams, **latent, **SAMPLERS[node])


def test_swapped_models_of_weights_that_another_node_applied():
    base, foreground = models()
    with pytest.raises(ValueError, match="carries no foreground weights.*or swap the two: base_model carries patches"):
        layered((foreground, base))
