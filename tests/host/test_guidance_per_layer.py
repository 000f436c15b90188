"""Guidance nodes on base_model are called for each layer: at strength 0 every layer is the stock run with that node."""

from __future__ import annotations

import importlib

import pytest
import runs
from compat import has_effect, node, pair_of, streams_equal_stock
from runs import empty_latent, layered, models, prompts, stock


def core_guidance(module: str, name: str, *values):
    """The base MODEL behind a guidance node of the host; the test is skipped on hosts without it."""
    cls = getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name, None)
    if cls is None:
        pytest.skip(f"this host has no {name}")
    return node(cls, models()[0], *values)


CORE = {
    "one picture at a time": ("lumina2", "RenormCFG", 100.0, 0.9),
    "one noise level": ("eps", "TemporalScoreRescaling", 0.3, 3.0),
    "a mean over the batch": ("mahiro", "Mahiro"),
    "a scale for each row of the batch": ("video_model", "VideoLinearCFGGuidance", 1.0),
    "momentum": ("apg", "APG", 0.5, 0.0, -0.4),
}


@pytest.mark.parametrize("kind", CORE)
def test_guidance_of_the_host(kind):
    base = core_guidance(*CORE[kind])
    if kind != "a scale for each row of the batch":  # of one picture it is the plain scale
        has_effect(base)
    streams_equal_stock(pair_of(base), cfgs=(7.0, 5.0, 3.0))
    if kind.startswith("a "):
        streams_equal_stock(pair_of(base), latent=empty_latent(2))


def test_one_picture_at_a_time_in_a_batch():
    """Where the stock sampler fails, every picture is what it is alone."""
    base = core_guidance(*CORE["one picture at a time"])
    batch = {**empty_latent(2), "batch_index": [0, 1]}
    layers, _ = layered(pair_of(base), latent=batch, strength=0.0, steps=2)
    for i in range(2):
        expected = stock(base, prompts()[1], {**empty_latent(), "batch_index": [i]}, steps=2)
        assert runs.close(layers[1][i : i + 1], expected)


class Thresholding:
    """What dynamic thresholding does: a step kept from call to call, a scale changed in place, a limit of the whole batch."""

    def __init__(self):
        self.calls, self.kept = 0, []

    def __call__(self, args):
        self.calls += 1
        self.kept.append(float(args["sigma"][0]))
        scale = args["cond_scale"]
        scale -= 0.5
        scale *= 1.0 - 0.1 * self.calls
        guided = args["uncond"] + (args["cond"] - args["uncond"]) * scale
        return guided.clamp(-guided.abs().quantile(0.9), guided.abs().quantile(0.9)) if scale != 0 else guided


def test_thresholding_with_a_scale_for_each_layer():
    """Each layer's calls find what the step before left, as in a run of its own."""
    base = models()[0].clone()
    function = Thresholding()
    base.set_model_sampler_cfg_function(lambda args: function(args))
    scales = (7.0, 3.0, 2.0)
    own = dict(zip(("cfg_foreground", "cfg_blended", "cfg_background"), scales))
    pair = pair_of(base)
    function.__init__()
    layers, _ = layered(pair, strength=0.0, steps=3, latent=empty_latent(2), **own)
    assert function.calls == 3
    for model, prompt, scale, layer in zip((pair[1], base, base), prompts(), scales, layers):
        function.__init__()
        assert runs.close(layer, stock(model, prompt, empty_latent(2), steps=3, cfg=scale))


def test_guidance_that_fails_is_named():
    def broken_guidance(args):
        return args["denoised"].reshape(7, -1)

    base = models()[0].clone()
    base.set_model_sampler_post_cfg_function(broken_guidance)
    with pytest.raises(ValueError, match="test_guidance_that_fails_is_named.broken_guidance of test_guidance_per_layer.*remove it"):
        layered(pair_of(base), steps=1)


@pytest.mark.parametrize("sampler", ["euler_cfg_pp"])
def test_samplers_that_keep_the_prediction(sampler):
    streams_equal_stock(sampler=sampler, latent=empty_latent(2))
