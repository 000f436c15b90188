"""IPAdapter-style attention patches: on every stream, and on chosen streams only."""

from __future__ import annotations

import importlib

import pytest
import tiny
import torch
from comfy.ldm.modules.attention import optimized_attention
from compat import blends, has_effect, node, pair_of, streams_equal_stock
from once import once
from runs import NAMES, close, layered, models, prompts, stock

from layerfusion_pack.nodes.patches import LayerFusionLimitPatches


class ImagePrompt:
    """What IPAdapter puts on attn2: a second attention to image tokens, another for the negative's rows."""

    def __init__(self, seed: int):
        self.seed = seed

    def __call__(self, q, k, v, extra_options):
        chunks = extra_options["cond_or_uncond"]
        generator = torch.Generator().manual_seed(self.seed)
        image = torch.randn(2, 2, 1, 4, v.shape[-1], generator=generator)  # keys and values, cond and uncond
        rows = q.shape[0] // len(chunks)
        keys, values = (torch.cat([side[i].expand(rows, -1, -1) for i in chunks]) for side in image)
        out = optimized_attention(q, k, v, extra_options["n_heads"])
        return out + 0.8 * optimized_attention(q, keys, values, extra_options["n_heads"])


def with_image(model, seed: int = 0):
    model = model.clone()
    for number in (1, 2):
        model.set_model_attn2_replace(ImagePrompt(seed), "input", number + 3)
    model.set_model_attn2_replace(ImagePrompt(seed), "middle", 0)
    return model


def limited(model, patched, *streams: str):
    return node(
        LayerFusionLimitPatches, model, patched, **{n: n in streams for n in ("foreground", "background", "blended")}
    )


def test_on_every_stream():
    base = with_image(models()[0])
    has_effect(base)
    streams_equal_stock(pair_of(base))
    blends(pair_of(base))


@pytest.mark.parametrize("chosen", [("foreground",), ("background",), ("foreground", "blended"), ()], ids="+".join)
def test_on_chosen_streams(chosen):
    plain, patched = models()[0], with_image(models()[0])
    pair = pair_of(limited(plain, patched, *chosen))
    layers, _ = layered(pair, strength=0.0, steps=2)
    for i, (name, layer) in enumerate(zip(NAMES, layers)):
        model = pair_of(patched if name in chosen else plain)[0 if i else 1]
        assert close(layer, once(stock, model, prompts()[i], steps=2)), name
    if chosen:
        blends(pair, sampler="euler")


def test_two_on_different_streams():
    """A second one over the first: each on its own stream, both on the stream they share."""
    plain = models()[0]
    first = limited(plain, with_image(plain, 1), "foreground", "blended")
    both = limited(first, with_image(first, 2), "background")
    pair = pair_of(both)
    layers, _ = layered(pair, strength=0.0, steps=2)
    for i, seed in enumerate((1, 1, 2)):
        assert close(layers[i], once(stock, pair_of(with_image(plain, seed))[0 if i else 1], prompts()[i], steps=2))


def test_without_layerfusion_they_act_as_ever():
    plain, patched = models()[0], with_image(models()[0])
    assert torch.equal(
        stock(limited(plain, patched, "background"), prompts()[1], steps=1), stock(patched, prompts()[1], steps=1)
    )


def test_with_perturbed_attention_guidance():
    """Guidance runs the model a second time within a step; the choice of streams holds there, too."""
    pag = importlib.import_module("comfy_extras.nodes_pag").PerturbedAttentionGuidance
    plain = node(pag, models()[0], 3.0)
    pair = pair_of(limited(plain, with_image(plain), "background"))
    layers, _ = layered(pair, strength=0.0, steps=2)
    assert close(layers[2], once(stock, with_image(plain), prompts()[2], steps=2))
    assert close(layers[1], once(stock, plain, prompts()[1], steps=2))


def test_moving_and_loading_reach_the_limited_patch():
    class Moving(ImagePrompt):
        def to(self, target):
            return Moving(self.seed + 1)

        def models(self):
            return ["model"]

    patched = models()[0].clone()
    patched.set_model_attn2_replace(Moving(0), "middle", 0)
    found = limited(models()[0], patched, "background").clone()
    patch = found.model_options["transformer_options"]["patches_replace"]["attn2"][("middle", 0)]
    assert patch.to("cpu").patch.seed == 1 and patch.models() == ["model"]


def refuse(match: str, *args):
    with pytest.raises(ValueError, match=match):
        limited(*args, "background")


def test_what_cannot_be_limited():
    base, _ = models()
    refuse("patched_model carries no attention patch that model lacks", base, base.clone())
    refuse("do not share their weights", base, tiny.tiny_sdxl(seed=3))
    refuse("other weight patches .LoRAs. than model", base, with_image(tiny.with_foreground(base, tiny.foreground_file(base))))
    freeu = importlib.import_module("comfy_extras.nodes_freelunch").FreeU_V2
    refuse("carries output_block_patch number 1, which cannot be limited", base, node(freeu, base, 1.3, 1.4, 0.9, 0.2))


def test_on_the_foreground_model_alone():
    pair = models()[0], with_image(models()[1])
    has_effect(with_image(models()[0]))
    streams_equal_stock(pair)
    blends(pair)
