"""Other nodes' patches are called for each stream on its own rows, as the stock KSampler's run of that stream calls them."""

from __future__ import annotations

import torch
from comfy.ldm.modules.attention import optimized_attention
from compat import has_effect, pair_of, streams_equal_stock
from runs import models

BATCH = 2
LATENT = {"samples": torch.zeros(BATCH, 4, 16, 16)}


def entries(x: torch.Tensor, options: dict) -> torch.Tensor:
    """A factor for each latent, brought to the rows of `x` as IPAdapter does: tiled over the conditionings in the call."""
    chunks = len(options["cond_or_uncond"])
    assert options["sigmas"].shape[0] * chunks == x.shape[0] == options["original_shape"][0]
    each = torch.tensor([0.4, 1.6, 0.7, 1.3, 0.5, 1.5])[: x.shape[0] // chunks]
    return each.repeat(chunks).reshape(-1, *[1] * (x.ndim - 1))


def attention(q, k, v, options):
    return entries(q, options) * optimized_attention(q, k, v, options["n_heads"])


def inputs(n, context, value, options):
    return n, entries(n, options) * context, value


def block(h, hsp, options):
    assert options["block"][0] == "output"
    h[:, :8] *= entries(h, options)  # in place, as FreeU does
    return h, hsp


def scaled(x, options):
    return entries(x, options) * x


KINDS = {
    "attn1 replace": lambda m: m.set_model_attn1_replace(attention, "middle", 0),
    "attn2 replace": lambda m: m.set_model_attn2_replace(attention, "output", 5, 0),
    "attn2 input": lambda m: m.set_model_attn2_patch(inputs),
    "attn1 output": lambda m: m.set_model_attn1_output_patch(scaled),
    "middle patch": lambda m: m.set_model_patch(scaled, "middle_patch"),
    "input block": lambda m: m.set_model_input_block_patch(scaled),
    "output block": lambda m: m.set_model_output_block_patch(block),
}


def with_patches(model, *kinds):
    model = model.clone()
    for kind in kinds:
        KINDS[kind](model)
    return model


def test_an_entry_for_each_latent():
    """Every kind of patch at once, with unlike entries for two unlike pictures."""
    base = with_patches(models()[0], *KINDS)
    has_effect(base, latent=LATENT)
    streams_equal_stock(pair_of(base), latent=LATENT)


def other_attention(q, k, v, options):
    return 1.5 * entries(q, options) * optimized_attention(q, k, v, options["n_heads"])


def tilted(x, options):
    return entries(x, options) * x - 0.1


def test_each_model_its_own_patches():
    """Different ones at one place, some for a whole block; in lists, too; batch 2 with unlike entries."""
    base, foreground = models()
    base, foreground = with_patches(base, "attn2 replace", "attn1 output", "output block"), foreground.clone()
    foreground.set_model_attn2_replace(other_attention, "output", 5)
    base.set_model_attn2_replace(attention, "input", 4)
    foreground.set_model_attn2_replace(other_attention, "input", 4, 0)
    foreground.set_model_attn1_replace(other_attention, "middle", 0, 1)
    foreground.set_model_attn1_output_patch(tilted)
    KINDS["output block"](foreground)
    foreground.set_model_input_block_patch(tilted)
    streams_equal_stock((base, foreground), latent=LATENT)
