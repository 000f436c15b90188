"""Conditioning nodes of the host on single streams: each stream is what the stock KSampler makes of that conditioning."""

from __future__ import annotations

import comfy.hooks
import comfy.samplers
import pytest
import runs
import tiny
import torch
from comfy_extras import nodes_custom_sampler as core_nodes
from compat import blends, core, different, node, streams_equal_stock
from once import once
from runs import NAMES, NEGATIVE, empty_latent, layered, models, prompts, slow, stock

from layerfusion_pack.nodes.custom_sampling import (
    LayerFusionGuiderNode,
    LayerFusionSplitLatents,
    LayerFusionStackLatents,
)
from layerfusion_pack.nodes.sampling import LayerFusionKSampler

STREAMS = [0, *slow(1), 2]


def on(stream: int, change) -> list[list]:
    """The three prompts with one of them changed."""
    streams = prompts()
    streams[stream] = change(streams[stream])
    return streams


def left_half() -> torch.Tensor:
    mask = torch.zeros(1, 128, 128)
    mask[:, :, :64] = 1.0
    return mask


EXTRA = tiny.conditioning(30)
CHANGES = {
    "concat": lambda c: core("ConditioningConcat", c, EXTRA),
    "average": lambda c: core("ConditioningAverage", c, EXTRA, 0.3),
    "combine": lambda c: core("ConditioningCombine", c, EXTRA),
    "zeroed": lambda c: core("ConditioningZeroOut", c),
    "timestep range": lambda c: core(
        "ConditioningCombine",
        core("ConditioningSetTimestepRange", c, 0.0, 0.5),
        core("ConditioningSetTimestepRange", EXTRA, 0.5, 1.0),
    ),
    "mask": lambda c: core(
        "ConditioningCombine",
        core("ConditioningSetMask", c, left_half(), "default", 1.0),
        core("ConditioningSetMask", EXTRA, 1.0 - left_half(), "default", 0.7),
    ),
    "mask beside an unmasked prompt": lambda c: core(
        "ConditioningCombine", c, core("ConditioningSetMask", EXTRA, left_half(), "default", 0.5)
    ),
    "mask with a hole": lambda c: core("ConditioningSetMask", c, left_half(), "default", 1.0),
    "strength": lambda c: core(
        "ConditioningCombine", c, core("ConditioningSetAreaStrength", EXTRA, 0.4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("stream", STREAMS, ids=NAMES)
def test_conditioning_node_on_one_stream(change, stream):
    streams = on(stream, CHANGES[change])
    model = models()[1 if stream == 0 else 0]
    steps = 4 if change == "timestep range" else 2
    with_it, without = (once(stock, model, each[stream], steps=steps) for each in (streams, prompts()))
    assert different(with_it, without), "no effect"
    streams_equal_stock(streams=streams, steps=steps)


@pytest.mark.parametrize("change", ["timestep range", "mask", "combine"])
def test_conditioning_node_on_every_stream(change):
    """Of different number and kind: three entries, two entries, one."""
    streams = prompts()
    streams[0] = core("ConditioningCombine", CHANGES[change](streams[0]), tiny.conditioning(31))
    streams[2] = CHANGES[change](streams[2])
    steps = 4 if change == "timestep range" else 2
    streams_equal_stock(streams=streams, steps=steps)
    blends(streams=streams, steps=steps)


@pytest.mark.parametrize("change", ["timestep range", "mask", "combine", "zeroed"])
def test_conditioning_node_on_the_negative(change):
    streams_equal_stock(negative=CHANGES[change](NEGATIVE), steps=4 if change == "timestep range" else 2)


def test_masks_of_a_batch():
    """A mask per latent of the batch reaches that latent."""
    masks = torch.cat([left_half(), 1.0 - left_half()])
    streams = on(1, lambda c: core("ConditioningCombine", c, core("ConditioningSetMask", EXTRA, masks, "default", 2.0)))
    streams_equal_stock(streams=streams, latent=empty_latent(2))


@pytest.mark.parametrize("tokens", [(77, 154, 231), *slow(((231, 77, 77),))])
def test_prompts_of_different_length(tokens):
    streams_equal_stock(streams=prompts(tokens))
    blends(streams=prompts(tokens))


def test_negative_of_another_length():
    streams_equal_stock(negative=tiny.conditioning(9, tokens=154, eos=None))


def test_a_negative_for_each_stream():
    """Of different length and number of prompts; the middle stream has the common one."""
    long = tiny.conditioning(50, tokens=154, eos=None)
    two = core("ConditioningCombine", tiny.conditioning(51, eos=None), tiny.conditioning(52, eos=None))
    negatives = [long, None, two]
    base, _ = models()
    with_two, with_one = (once(stock, base, prompts()[2], negative=each, steps=2) for each in (two, None))
    assert different(with_two, with_one)
    streams_equal_stock(negatives=negatives)
    found, _ = layered(negatives=negatives, steps=2)
    assert different(found[2], once(layered, steps=2)[0][2])


def test_guidance_for_each_stream():
    streams_equal_stock(cfgs=(7.0, 3.0, 1.0))
    streams_equal_stock(cfgs=(0.0, 3.0, 1.0), latent=empty_latent(2), sampler="dpmpp_2m")


def test_guidance_for_each_stream_that_is_the_same():
    same, _ = layered(cfg=1.0, cfg_foreground=5.0, cfg_blended=5.0, cfg_background=5.0, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(same, once(layered, cfg=5.0, steps=2)[0]))


def refuse(match: str, change):
    with pytest.raises(ValueError, match=match):
        layered(streams=on(2, change))


def test_areas_are_refused():
    refuse("background: the conditioning carries an area.*Set Mask", lambda c: core("ConditioningSetArea", c, 64, 64, 0, 0, 1.0))
    refuse(
        "background: the conditioning carries an area",
        lambda c: core("ConditioningSetAreaPercentage", c, 0.5, 0.5, 0.0, 0.0, 1.0),
    )
    refuse("mask bounds.*Set Mask", lambda c: core("ConditioningSetMask", c, left_half(), "mask bounds", 1.0))


def test_a_schedule_with_a_gap_is_refused():
    refuse(
        "background: its timestep ranges leave the schedule empty at 50%",
        lambda c: core("ConditioningSetTimestepRange", c, 0.0, 0.5),
    )
    refuse("leave the schedule empty at 0%", lambda c: core("ConditioningSetTimestepRange", c, 0.2, 1.0))


def test_gligen_and_hooks_are_refused():
    refuse("GLIGEN boxes", lambda c: [[c[0][0], {**c[0][1], "gligen": ("position", None, [])}]])
    refuse("hooks.*LoRAs on the models", lambda c: [[c[0][0], {**c[0][1], "hooks": object()}]])
    couple = comfy.hooks.HookGroup()
    couple.add(comfy.hooks.TransformerOptionsHook())
    refuse("draw several prompts at once.*COUPLE.*Set Mask", lambda c: [[c[0][0], {**c[0][1], "hooks": couple}]])
    refuse("a default prompt", lambda c: [[c[0][0], {**c[0][1], "default": True}]])


def test_masks_of_different_batches_are_refused():
    streams = prompts()
    for stream, count in ((0, 2), (2, 3)):
        masks = left_half().repeat(count, 1, 1)
        masked = core("ConditioningSetMask", EXTRA, masks, "default", 1.0)
        streams[stream] = core("ConditioningCombine", streams[stream], masked)
    with pytest.raises(ValueError, match="foreground: its mask has 2 pictures where another stream's has 3"):
        runs.layered(streams=streams, latent=empty_latent(6))


LAYERS = ("foreground", "background", "blended")
OWN = {f"negative_{layer}": tiny.conditioning(60 + i, eos=None) for i, layer in enumerate(LAYERS)}
SCALES = {"cfg_foreground": 7.0, "cfg_background": 2.0, "cfg_blended": 4.0}


def in_order(by_layer: dict) -> list:
    """Values of foreground, background, blended in the order of the streams."""
    foreground, background, blended = by_layer.values()
    return [foreground, blended, background]


def expected() -> list[torch.Tensor]:
    return once(layered, negatives=in_order(OWN), steps=2, **SCALES)[0]


def test_the_samplers_inputs_are_those_of_their_layer():
    base, foreground = models()
    prompt = dict(zip(NAMES, prompts()))
    latents = LayerFusionKSampler.execute(
        base, foreground, **prompt, negative=NEGATIVE, latent_image=empty_latent(), seed=runs.SEED, steps=2, cfg=5.0,
        sampler_name="euler", scheduler="normal", denoise=1.0, options=runs.LayerFusionOptions(**SCALES), **OWN,
    ).result[:3]  # fmt: skip
    found = in_order(dict(zip(LAYERS, latents)))
    assert all(torch.equal(a["samples"], b) for a, b in zip(found, expected()))


@pytest.mark.parametrize("where", ["guider", "options"])
def test_the_guiders_inputs_are_those_of_their_layer(where):
    base, foreground = models()
    prompt = dict(zip(NAMES, prompts()))
    scales = SCALES if where == "guider" else {}
    options = runs.LayerFusionOptions(**({"cfg_foreground": 1.0} if where == "guider" else SCALES))
    (guider,) = LayerFusionGuiderNode.execute(
        base, foreground, **prompt, negative=NEGATIVE, cfg=5.0, options=options, **OWN, **scales
    ).result
    (stacked,) = LayerFusionStackLatents.execute(empty_latent()).result
    sigmas = comfy.samplers.KSampler(base, 2, "cpu", "euler", "normal", 1.0).sigmas
    sampler = comfy.samplers.sampler_object("euler")
    out = node(core_nodes.SamplerCustomAdvanced, core_nodes.Noise_RandomNoise(runs.SEED), guider, sampler, sigmas, stacked)
    found = in_order(dict(zip(LAYERS, LayerFusionSplitLatents.execute(out[0]).result)))
    assert all(torch.equal(a["samples"], b) for a, b in zip(found, expected()))
