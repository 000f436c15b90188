"""Given layers in runs of several foregrounds: unlike rows, masks for each, cut-outs of one's own, and what a second run gets."""

from __future__ import annotations

from types import SimpleNamespace

import pairs
import pytest
import torch
from compat import core
from runs import close, layered, models, prompts, slow
from test_given_layers import give, picture
from test_several import CANVAS, HALVES, LEFT, OTHER, RIGHT, VAE, held, refused, sampled

from layerfusion_pack.layerfusion_core.host.sampling import on_layers
from layerfusion_pack.layerfusion_core.host.sampling.extract import extract_priors
from layerfusion_pack.layerfusion_core.host.sampling.foregrounds import (
    FOREGROUNDS_KEY,
    Foreground,
    gathered,
    join_foregrounds,
    per_foreground,
    split_foregrounds,
)
from layerfusion_pack.layerfusion_core.host.sampling.given_layers import KEEP_KEY, given_picture
from layerfusion_pack.layerfusion_core.layers.regions import box_mask
from layerfusion_pack.layerfusion_core.weights.conditional import KINDS

IN_FRONT = (Foreground(OTHER, HALVES[1]),)


def cutouts(count: int, pictures: int) -> dict:
    """A LATENT of unlike foregrounds as LayerFusion Encode and Latent Batch give them: no word of what belongs together."""
    return picture(11, count * pictures)


def row(latent: dict, i: int, rows: int = 1) -> dict:
    return {"samples": latent["samples"][i * rows : (i + 1) * rows]}


def two(latent: dict, pair=models, steps=2) -> list[torch.Tensor]:
    return layered(pair(), [prompts()[0], OTHER, *prompts()[1:]], latent, steps=steps)[0]


@pytest.mark.parametrize("pair", [models, *slow(pairs.unlike)])
def test_unlike_pictures_of_a_batch_do_not_mix(pair):
    """Two pictures, each with two given foregrounds and a background of its own; every foreground with a mask of its own."""
    foregrounds, background = cutouts(2, 2), picture(5, 2)
    masks = torch.stack([(torch.arange(16) // 4 == i).float().expand(16, 16) for i in range(4)])
    given = {"keep_foreground": 1.0, "keep_background": 0.5, "foregrounds_per_picture": 2}
    both = give(foreground=foregrounds, background=background, mask_foreground=masks, **given)
    found = two({**both, "batch_index": [0, 1]}, pair)
    for k in range(2):
        for i in range(2):
            kept = masks[2 * i + k] == 0
            assert torch.equal(found[k][i][:, kept], foregrounds["samples"][2 * i + k][:, kept])
            assert not torch.isclose(found[k][i][:, ~kept], foregrounds["samples"][2 * i + k][:, ~kept]).any()
    for i in range(2):
        one = give(
            foreground=row(foregrounds, i, 2), background=row(background, i), mask_foreground=masks[2 * i : 2 * i + 2], **given
        )
        single = two({**one, "batch_index": [i]}, pair)
        assert all(close(b[i : i + 1], s) for b, s in zip(found, single))


def test_cut_outs_of_ones_own_are_several_foregrounds_when_told():
    latent = cutouts(2, 1)
    found = split_foregrounds(sampled(IN_FRONT, HALVES[0], VAE, give(foreground=latent, foregrounds_per_picture=2))[0])
    assert [torch.equal(one["samples"][0], own) for one, own in zip(found, latent["samples"])] == [True, True]
    single = sampled(latent=give(foreground=latent))[0]["samples"]  # not told: two pictures
    assert torch.equal(single, latent["samples"])
    refused("foregrounds_per_picture: got 2, and foreground holds 3", give, foreground=cutouts(3, 1), foregrounds_per_picture=2)
    of_a_run = {**cutouts(2, 2), FOREGROUNDS_KEY: (2, 2)}
    assert len(split_foregrounds({**of_a_run})) == 2 and give(foreground=of_a_run, foregrounds_per_picture=2)
    refused("got 4, and foreground holds 4 latent.s., 2 of each picture", give, foreground=of_a_run, foregrounds_per_picture=4)


def test_masks_are_for_all_foregrounds_or_for_each():
    latent, kept = cutouts(2, 2), []
    for masks in (HALVES[0], torch.cat(HALVES), torch.cat([*HALVES, *HALVES])):
        given = give(foreground=latent, foregrounds_per_picture=2, mask_foreground=masks)
        kept.append([[layer.keep[i, 0, 0, 0].item() for layer in given["layerfusion_given"].layers.foregrounds] for i in range(2)])
    assert kept == [[[0, 0], [0, 0]], [[0, 0], [1, 1]], [[0, 1], [0, 1]]]
    refused("foreground 1: expected 1 or 2 masks, got 3", give, foreground=latent, foregrounds_per_picture=2,
            mask_foreground=torch.ones(3, 8, 8))  # fmt: skip


def test_what_a_latent_holds_for_each_row_stays_with_its_foreground():
    def latent(k: int) -> dict:
        keep = torch.full((2, 1, 4, 4), float(k))
        return {"samples": picture(k, 2, 4)["samples"], KEEP_KEY: keep, "noise_mask": mask, "batch_index": [3, 8]}

    for mask in (torch.rand(4, 4), torch.rand(1, 32, 32), torch.rand(2, 1, 32, 32)):
        joined = join_foregrounds((latent(0), latent(1)))
        assert joined["batch_index"] == [3, 3, 8, 8] and len(joined["noise_mask"]) == 4
        assert joined[KEEP_KEY].flatten(1)[:, 0].tolist() == [0, 1, 0, 1]
        for k, one in enumerate(split_foregrounds(joined)):
            assert torch.equal(one["samples"], latent(k)["samples"]) and one["batch_index"] == [3, 8]
            assert torch.equal(one["noise_mask"], mask.expand(2, *mask.shape[1 if mask.ndim > 2 else 0 :]))
    masked = {**joined, "noise_mask": torch.rand(1, 32, 32)}  # by Set Latent Noise Mask, for all
    assert all(torch.equal(one["noise_mask"], masked["noise_mask"]) for one in split_foregrounds(masked))


def test_a_noise_mask_of_the_run_before_counts_for_all_foregrounds():
    """As for a single one: what was outside of it then stays as it is."""
    start = {**picture(4), "noise_mask": HALVES[0]}
    first = sampled((Foreground(OTHER),), latent=start)
    again = sampled((Foreground(OTHER),), latent=give(foreground=first[0], background=first[1], blended=first[2]))
    for before, after in zip((*split_foregrounds(first[0]), *first[1:]), (*split_foregrounds(again[0]), *again[1:])):
        assert torch.equal(before["samples"][RIGHT], after["samples"][RIGHT])
        assert not close(before["samples"][LEFT], after["samples"][LEFT], 1e-2)


def test_a_given_foreground_keeps_its_pixels_outside_its_region():
    """And a picture for each of a batch is that of all its foregrounds; what was kept of which says the latent."""
    given = give(0.5, foreground=picture(3, 2))
    foreground, *_ = sampled(IN_FRONT, HALVES[0], VAE, given)
    assert foreground[KEEP_KEY].shape[0] == 4 and not foreground[KEEP_KEY][1::2].any()
    assert (foreground[KEEP_KEY][0::2][RIGHT] == 1).all() and (foreground[KEEP_KEY][0::2][LEFT] == 0.5).all()
    pictures = torch.rand(2, 128, 128, 4)
    found, keep = given_picture("foreground", per_foreground(pictures, foreground), foreground, 4)
    assert torch.equal(found, pictures[[0, 0, 1, 1]]) and torch.equal(keep[0::2] == 1, foreground[KEEP_KEY][0::2] == 1)
    refused("given_foreground: expected 1 or 4 pictures", given_picture, "foreground", torch.rand(3, 128, 128, 4), foreground, 4)
    assert held(split_foregrounds(foreground)[1]["samples"][LEFT])


def test_regions_may_have_any_size_and_type():
    """A mask counts by the share of each cell that it covers, on an odd canvas as well."""
    samples = torch.zeros(2, 4, 9, 13)
    top = torch.zeros(1, 9, 13)
    top[:, :3] = 1.0
    large = top.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    masks = [top, top[0], large, large.bool(), large.to(torch.uint8), box_mask(0, 0, 1, 1 / 3), torch.tensor([[1.0], [0.0], [0.0]])]
    for mask in masks:
        regions = gathered(OTHER, mask, (), VAE).regions
        assert regions is not None and torch.allclose(regions.cells(samples)[:, 0], top.expand(2, 9, 13), atol=0.01)
    refused("region of foreground: the mask holds values that are no numbers", gathered, OTHER, torch.full((1, 8, 8), torch.nan))
    refused("region of foreground: expected a MASK .*, got .0, 8, 8", gathered, OTHER, torch.zeros(0, 8, 8))


def test_a_region_of_a_single_cell_is_a_small_place_and_no_fault():
    region = torch.zeros(1, 16, 16)
    region[:, 9, 4] = 1.0
    foreground, *others = sampled(region=region, vae=VAE, steps=1)
    assert all(layer["samples"].isfinite().all() for layer in (foreground, *others))
    outside = foreground["samples"] == CANVAS
    assert not outside[..., 9, 4].any() and outside.sum() == 4 * 255


def test_nodes_that_take_one_layer_per_picture_say_how_to_take_one_out():
    several = {**cutouts(2, 2), FOREGROUNDS_KEY: (2, 2)}
    says = "got the latents of 2 foregrounds per picture.* Latent From Batch takes one of them out"
    refused(f"latent_image: {says}", extract_priors, models()[1], prompts()[0], several, 0, 0.8)
    weights = SimpleNamespace(kind=KINDS["fg2ble"], name="file")
    refused(f"foreground: {says}", on_layers._given_latents, weights, {"foreground": several})
    one = core("LatentFromBatch", several, 1, 1)
    assert torch.equal(give(foreground=one)["samples"], several["samples"][1:2])
