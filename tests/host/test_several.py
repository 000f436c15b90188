"""Several foregrounds and regions on the host: invariants of the engine, both ways through the nodes, given layers, messages."""

from __future__ import annotations

from types import SimpleNamespace

import pairs
import pytest
import tiny
import torch
from compat import core
from once import once
from runs import NEGATIVE, SEED, STEPS, close, empty_latent, layered, models, prompts, stock
from test_given_layers import give, picture
from test_guider_nodes import advanced_rows

from layerfusion_pack.layerfusion_core.host.sampling.foregrounds import (
    CANVAS_KEY,
    FOREGROUNDS_KEY,
    Foreground,
    Regions,
    emptied,
    gathered,
    split_foregrounds,
)
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.nodes.custom_sampling import LayerFusionSplitLatents, LayerFusionStackLatents
from layerfusion_pack.nodes.foregrounds import LayerFusionAddForeground
from layerfusion_pack.nodes.sampling import LayerFusionKSampler

CANVAS = torch.tensor([0.9, -1.4, 0.3, 2.0]).view(1, 4, 1, 1)
VAE = SimpleNamespace(encode=lambda pixels: CANVAS.expand(1, 4, 32, 32) + torch.eye(32))  # what its border does
OTHER = tiny.conditioning(20, eos=5)
HALVES = tuple(mask.float()[None] for mask in ((torch.arange(16) < 8).expand(16, 16), (torch.arange(16) >= 8).expand(16, 16)))
REGIONS = Regions(HALVES, CANVAS)
LEFT, RIGHT = (..., slice(0, 8)), (..., slice(8, 16))


def two(**run):
    """Two foregrounds, blended and background; the left half is the first's."""
    return layered(**{"streams": [OTHER, *prompts()], "regions": REGIONS, "steps": 2, **run})


def sampled(foregrounds=None, region=None, vae=None, latent=None, steps=2, denoise=1.0, **inputs) -> list[dict]:
    """The KSampler node's latents: foreground, background, blended."""
    base, foreground_model = models()
    streams = dict(zip(("foreground", "blended", "background"), prompts()))
    return LayerFusionKSampler.execute(
        base, foreground_model, **streams, negative=NEGATIVE, latent_image=latent or empty_latent(), seed=SEED, steps=steps,
        cfg=5.0, sampler_name="euler", scheduler="normal", denoise=denoise, foregrounds=foregrounds, region=region, vae=vae,
        **inputs,
    ).result[:3]  # fmt: skip


def held(latent: torch.Tensor) -> bool:
    return bool((latent == CANVAS).all())


@pytest.mark.parametrize("pair", [models, pairs.unlike], ids=["one checkpoint", "two checkpoints"])
def test_outside_its_region_a_foreground_is_empty_and_its_mask_ends(pair):
    for mode in ("exact", "previous_step"):
        layers, record = two(pair=pair(), prior_mode=mode)
        assert held(layers[0][RIGHT]) and held(layers[1][LEFT])
        assert not held(layers[0][LEFT]) and not held(layers[1][RIGHT])
        for maps in (record.images(step)["soft"] for step in range(2)):
            assert maps.shape == (2, 8, 8) and maps.amax(dim=(1, 2)).min() > 0.3
            assert not maps[0, :, 4:].any() and not maps[1, :, :4].any()


@pytest.mark.parametrize("pair", [models, pairs.unlike], ids=["one checkpoint", "two checkpoints"])
def test_strength_zero_is_a_stock_run_per_stream(pair):
    base, foreground = pair()
    streams = [OTHER, *prompts()]
    quiet, _ = layered((base, foreground), streams, strength=0.0, steps=2)
    for model, prompt, layer in zip((foreground, foreground, base, base), streams, quiet):
        assert close(layer, once(stock, model, prompt, steps=2))
    regional, _ = two(pair=(base, foreground), strength=0.0)
    for i in (2, 3):
        assert torch.equal(regional[i], quiet[i])
    inpainted = {"samples": CANVAS * HALVES[1], "noise_mask": HALVES[0]}
    alone = stock(foreground, OTHER, inpainted, steps=2)
    assert close(regional[0][LEFT], alone[LEFT])


def test_a_region_of_the_whole_canvas_and_none_are_the_same_run():
    whole = Regions((torch.ones(1, 5, 7),), CANVAS)
    for a, b in zip(layered(regions=whole, steps=2)[0], once(layered, steps=2)[0]):
        assert torch.equal(a, b)


def test_rows_grow_with_the_streams(monkeypatch):
    base, _ = models()
    inner, rows = base.model.apply_model, []
    monkeypatch.setattr(base.model, "apply_model", lambda x, *args, **kwargs: rows.append(len(x)) or inner(x, *args, **kwargs))
    for count in (1, 2, 3):
        rows.clear()
        layered(streams=[*[OTHER] * (count - 1), *prompts()], steps=1)
        assert sorted(rows) == [count, 2 * (count + 2)]


def test_pictures_of_a_batch_have_regions_of_their_own():
    masks = torch.cat(HALVES), torch.cat(HALVES[::-1])  # the second picture the other way round
    latent = {**empty_latent(2), "batch_index": [0, 1]}
    both, _ = two(latent=latent, regions=Regions(masks, CANVAS))
    for i in range(2):
        own = Regions(tuple(mask[i : i + 1] for mask in masks), CANVAS)
        single, _ = two(latent={**empty_latent(), "batch_index": [i]}, regions=own)
        assert all(close(b[i : i + 1], s) for b, s in zip(both, single))
    assert held(both[0][0][RIGHT]) and held(both[0][1][LEFT])


def test_nodes_put_foregrounds_in_their_order_and_mark_the_latent():
    node = LayerFusionAddForeground
    (one,) = node.execute(OTHER, 0.5, 0.0, 0.5, 1.0, 1).result
    (both,) = node.execute(tiny.conditioning(21, eos=6), 0.0, 0.0, 1.0, 1.0, -1, None, one).result
    foreground, background, blended = sampled(both, HALVES[0], VAE)
    assert foreground[FOREGROUNDS_KEY] == (3, 1) and torch.equal(foreground[CANVAS_KEY], CANVAS)
    assert FOREGROUNDS_KEY not in background and CANVAS_KEY not in blended
    behind, own, front = (latent["samples"] for latent in split_foregrounds(foreground))
    assert held(own[RIGHT]) and held(front[LEFT]) and not held(behind[LEFT]) and not held(behind[RIGHT])
    expected, _ = layered(
        streams=[both[1].conditioning, prompts()[0], OTHER, *prompts()[1:]], steps=2, regions=Regions((None, *HALVES), CANVAS)
    )
    for found, layer in zip((behind, own, front, blended["samples"], background["samples"]), expected):
        assert torch.equal(found, layer)


@pytest.mark.parametrize("latent", [empty_latent(2), give(0.5, background=picture(2)), empty_latent(1, 15, 19)])
def test_the_guider_is_the_ksampler(latent):
    (added,) = LayerFusionAddForeground.execute(OTHER, 0.5, 0.0, 0.5, 1.0, 1).result
    expected = sampled(added, HALVES[0], VAE, latent, STEPS)
    (stacked,) = LayerFusionStackLatents.execute(latent, added, HALVES[0], VAE).result
    found = LayerFusionSplitLatents.execute(advanced_rows(stacked, foregrounds=added)).result
    for a, b in zip(found, expected):
        assert torch.equal(a["samples"], b["samples"])
    assert found[0][FOREGROUNDS_KEY] == expected[0][FOREGROUNDS_KEY]


def test_foregrounds_of_a_run_are_given_to_the_next_and_come_back():
    added = (Foreground(OTHER, HALVES[1]),)
    foreground, *_ = sampled(added, HALVES[0], VAE, empty_latent(2))
    again, *_ = sampled(added, HALVES[0], VAE, give(foreground=foreground))
    assert torch.equal(again["samples"], foreground["samples"])
    assert again["layerfusion_keep"].shape == (4, 1, 16, 16)
    one = split_foregrounds(foreground)[1]
    assert FOREGROUNDS_KEY not in one and one["samples"].shape[0] == 2


def test_a_single_given_foreground_is_the_samplers_own():
    cutout = picture(3)
    behind = (Foreground(OTHER, HALVES[1], -1),)
    foreground, _, _ = sampled(behind, None, VAE, give(foreground=cutout))
    first, second = split_foregrounds(foreground)
    assert torch.equal(second["samples"], cutout["samples"]) and held(first["samples"][LEFT])


def test_outside_its_region_a_given_foreground_stays_as_it_is():
    cutout = picture(3)
    layers, _ = layered(latent=give(0.5, foreground=cutout), regions=Regions(HALVES[:1], CANVAS), steps=2)
    assert torch.equal(layers[0][RIGHT], cutout["samples"][RIGHT]) and not close(layers[0], cutout["samples"], 1e-2)


def test_masks_on_parts_of_the_blended_prompt_still_act():
    left, right = (core("ConditioningSetMask", tiny.conditioning(30 + i), HALVES[i], "default", 1.0) for i in range(2))
    parts = core("ConditioningCombine", left, right)
    streams = [OTHER, prompts()[0], parts, prompts()[2]]
    quiet, _ = two(streams=streams, strength=0.0)
    assert close(quiet[2], stock(models()[0], parts, steps=2))
    assert not close(two(streams=streams)[0][2], two()[0][2], 1e-2)


def test_cells_of_the_canvas_are_transparent():
    samples = torch.cat([CANVAS.expand(1, 4, 2, 3), picture(1, size=3)["samples"][:, :, :2]])
    alpha = torch.ones(2, 16, 24)
    found = emptied(alpha, {"samples": samples, CANVAS_KEY: CANVAS})
    assert not found[0].any() and found[1].all() and emptied(alpha, {"samples": samples}) is alpha


def test_gathered_regions_of_a_vae_take_its_grey():
    assert torch.allclose(gathered(OTHER, HALVES[0], (), VAE).regions.canvas, CANVAS)
    assert gathered(OTHER, torch.ones(1, 4, 4), None, None).regions is None


def refused(message: str, run, *args, **kwargs):
    with pytest.raises(ValueError, match=message):
        run(*args, **kwargs)


def test_messages():
    added = (Foreground(OTHER, HALVES[1]),)
    refused("connect the checkpoint's VAE to vae", sampled, added)
    refused("region of foreground 2: it is black everywhere", sampled, (Foreground(OTHER, torch.zeros(1, 8, 8)),), None, VAE)
    refused("region of foreground: expected a MASK .batch, height, width., got .1, 4, 8, 8", sampled, None, torch.ones(1, 4, 8, 8))
    refused("region of foreground 1: expected 1 mask or 1, one per picture", sampled, added, torch.cat(HALVES), VAE)
    refused("got a region and a box", LayerFusionAddForeground.execute, OTHER, 0.5, 0, 0.5, 1, 1, HALVES[0])
    refused("expected a box on the canvas, .* x 0.5, y 0, width 0.6", LayerFusionAddForeground.execute, OTHER, 0.5, 0, 0.6, 1, 1)
    refused("foreground 2: the conditioning is empty", sampled, (Foreground([]),))
    refused("latent_image: got the latents of 2 foregrounds per picture", sampled, None, None, None, {
        "samples": torch.zeros(4, 4, 16, 16), FOREGROUNDS_KEY: (2, 2)})  # fmt: skip
    refused("background: got the latents of 2 foregrounds", give, background={
        "samples": torch.zeros(4, 4, 16, 16), FOREGROUNDS_KEY: (2, 2)})  # fmt: skip
    two_given = {"samples": torch.zeros(2, 4, 16, 16), FOREGROUNDS_KEY: (2, 1)}
    refused("the given layers are foreground 1, foreground 2, blended, background, and the run makes foreground, blended",
            sampled, latent=give(foreground=two_given))  # fmt: skip


def test_a_guider_and_stacked_latents_of_other_foregrounds_are_refused():
    (stacked,) = LayerFusionStackLatents.execute(empty_latent()).result
    refused("for 1 foreground.s., and .* guider has 2: connect the", advanced_rows, stacked, foregrounds=(Foreground(OTHER),))
    (stacked,) = LayerFusionStackLatents.execute(empty_latent(4)).result
    refused("for 1 foreground.s., and .* guider has 2: connect the", advanced_rows, stacked, foregrounds=(Foreground(OTHER),))


def test_options_reach_every_foreground():
    """A guidance scale and a negative of the foreground are those of all."""
    streams, own = [OTHER, *prompts()], tiny.conditioning(40)
    found, _ = layered(streams=streams, strength=0.0, steps=2, cfg_foreground=2.0, negatives=[own, own, None, None])
    for prompt, layer in zip(streams[:2], found):
        assert close(layer, stock(models()[1], prompt, cfg=2.0, negative=own, steps=2))
    assert LayerFusionOptions().cfg_foreground != 2.0
