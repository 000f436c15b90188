"""Nodes that call the UNet otherwise than ComfyUI: they work, or they are named; they never leave LayerFusion out."""

from __future__ import annotations

import importlib
from unittest import mock

import comfy.samplers
import pytest
import torch
from compat import pair_of, streams_equal_stock
from runs import close, layered, models

STEPS = 3


def base_with(how):
    base = models()[0].clone()
    how(base)
    return base


def without_forward(base):
    """As packs that replace the UNet's forward with one of their own, which knows no wrappers."""
    base.add_object_patch("diffusion_model.forward", base.model.diffusion_model._forward)


def own_blocks(base):
    """As DeepCache: it takes the place of apply_model and runs the UNet's blocks itself."""

    def apply(apply_model, args):
        model, x, c = apply_model.__self__, args["input"], args["c"]
        sampling = model.model_sampling
        timestep = sampling.timestep(args["timestep"]).float()
        scaled = sampling.calculate_input(args["timestep"], x)
        out = model.diffusion_model._forward(
            scaled, timestep, context=c["c_crossattn"], y=c["y"], transformer_options=c["transformer_options"]
        )
        return sampling.calculate_denoised(args["timestep"], out, x)

    base.set_model_unet_function_wrapper(apply)


def tiled(base):
    """As Tiled Diffusion: the UNet sees one half of the picture after the other."""

    def apply(apply_model, args):
        return torch.cat([apply_model(half, args["timestep"], **args["c"]) for half in args["input"].chunk(2, dim=3)], dim=3)

    base.set_model_unet_function_wrapper(apply)


def sliding(base):
    """As Sliding Window Guidance: a second call in a step, on a crop."""

    def guide(args):
        crop = args["input"][..., :8, :]
        comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], crop, args["sigma"], args["model_options"])
        return args["denoised"]

    base.set_model_sampler_post_cfg_function(guide)


@pytest.mark.parametrize(
    ("how", "named"),
    [(without_forward, r"object patch diffusion_model.forward of UNetModel._forward \(openaimodel\)"),
     (own_blocks, r"model_function_wrapper of own_blocks \(test_unet_calls\)")],
)  # fmt: skip
def test_a_forward_of_its_own_is_named(how, named):
    pair = pair_of(base_with(how))
    for options in ({}, {"strength": 0.0}, {"prior_mode": "previous_step"}):
        with pytest.raises(ValueError, match=f"replaces its forward or runs its blocks itself.*left out: .*{named}"):
            layered(pair, steps=1, **options)


@pytest.mark.parametrize(
    ("how", "shown", "named"),
    [(tiled, "16 x 8", "model_function_wrapper of tiled"), (sliding, "8 x 16", "sampler_post_cfg_function of sliding")],
)
def test_crops_are_named(how, shown, named):
    pair = pair_of(base_with(how))
    with pytest.raises(ValueError, match=f"shows the UNet {shown} cells of the latent's 16 x 16.*{named}"):
        layered(pair, steps=1)


def test_crops_without_blending():
    streams_equal_stock(pair_of(base_with(tiled)))


def test_a_cache_of_blocks(monkeypatch):
    """As WaveSpeed's first block cache: it replaces the UNet's inner forward for a call, and keeps what came at the end."""
    kept, seen = {}, []

    def apply(apply_model, args):
        unet, sigma = apply_model.__self__.diffusion_model, float(args["timestep"][0])
        inner = unet._forward
        number = seen.count(sigma)  # WaveSpeed takes calls of one sigma for chunks of one evaluation
        seen.append(sigma)
        steps = sorted(set(seen), reverse=True)

        def cached(x, *rest, **options):
            if len(steps) % 2 == 0:
                assert number in kept, "nothing kept"
                return x * 0 + kept[number]
            kept[number] = inner(x, *rest, **options)
            return kept[number]

        with mock.patch.object(unet, "_forward", cached):
            return apply_model(args["input"], args["timestep"], **args["c"])

    pair = pair_of(base_with(lambda base: base.set_model_unet_function_wrapper(apply)))
    plain, _ = layered(steps=STEPS)
    layers, record = layered(pair, steps=STEPS)
    assert len(record.maps) == STEPS and torch.equal(record.maps[0].structure, record.maps[1].structure)
    assert not torch.equal(record.maps[1].structure, record.maps[2].structure)
    assert all(layer.isfinite().all() and not close(layer, other) for layer, other in zip(layers, plain))


def easy_cache(name: str, base):
    module = importlib.import_module("comfy_extras.nodes_easycache")
    result = getattr(module, name).execute(base, 3.0, 0.0, 1.0, False)
    return getattr(result, "result", result)[0]


def calls_of(pair, **options) -> list[int]:
    """Rows of every call of the UNet in a run."""
    rows = []
    first = pair[0].model.diffusion_model.input_blocks[0][0]
    handle = first.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    try:
        layers, _ = layered(pair, steps=6, **options)
    finally:
        handle.remove()
    assert all(layer.isfinite().all() for layer in layers)
    return rows


@pytest.mark.parametrize("options", [{}, {"prior_mode": "previous_step"}, {"strength": 0.0}], ids=str)
def test_easycache(options):
    """It skips evaluations, whatever the mode of the masks: a prior pass is not one of those it watches."""
    try:
        rows = calls_of(pair_of(easy_cache("EasyCacheNode", models()[0])), **options)
    except ValueError as error:
        assert "adds what it kept of one conditioning to the rows of all: use LazyCache" in str(error)
        holder = importlib.import_module("comfy_extras.nodes_easycache").EasyCacheHolder
        assert not hasattr(holder, "can_apply_cache_diff"), "a host whose EasyCache works"
        return
    assert rows.count(6) < 6, "nothing was skipped"
    assert rows.count(1) == {"{}": 6, "{'prior_mode': 'previous_step'}": 1, "{'strength': 0.0}": 0}[str(options)]


def test_lazycache():
    rows = calls_of(pair_of(easy_cache("LazyCacheNode", models()[0])))
    assert rows.count(6) == rows.count(1) < 6
