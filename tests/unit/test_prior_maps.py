"""Collecting priors and showing them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from layerfusion_pack.layerfusion_core.method.map_colors import enlarge, heat, prior_strip
from layerfusion_pack.layerfusion_core.method.masks import Masks
from layerfusion_pack.layerfusion_core.method.prior_maps import PriorMaps, PriorRecord, ReadPriors, prior_maps

COARSE, FINE = ("middle", 0, 0), ("output", 5, 1)


def read() -> ReadPriors:
    scores = torch.tensor([[1.0, 9.0, 5.0, 9.0, 9.0, 1.0, 9.0, 9.0]])
    content = {COARSE: (torch.tensor([[0.1, 0.2]]), (1, 2)), FINE: (torch.full((1, 8), 0.5), (2, 4))}
    return ReadPriors((scores, (2, 4)), content)


def collected() -> PriorMaps:
    return prior_maps([read()], FINE)


def record() -> PriorRecord:
    record = PriorRecord(10.0, 1, (16, 32), FINE)
    record.add(14.6, collected())
    return record.finish()


def test_masks_of_each_block_on_its_own_grid():
    maps = collected()
    assert torch.allclose(maps.structure, torch.tensor([[1.0, 0, 0.5, 0, 0, 1.0, 0, 0]]))
    assert torch.allclose(maps.soft(maps.grids[FINE]), maps.structure)
    # area average of s' over halves of 2 x 2 tokens: 0.5 and 0.125, times 0.1 and 0.2
    assert torch.allclose(maps.soft(maps.grids[COARSE]), torch.tensor([[1.0, 0.0]]))


def test_maps_of_another_size():
    """The step before had other tokens: content confidence and structure meet on the grid of this one."""
    fine = collected().resized(COARSE, (2, 4))
    assert torch.allclose(fine.content_of(COARSE), torch.tensor([[0.1, 0.1, 0.2, 0.2] * 2]))
    masks = fine.masks((2, 4), 10.0, 1)
    assert fine.on((2, 4)) == [COARSE]
    assert torch.allclose(masks.soft[0], torch.tensor([[[1.0, 0, 1.0, 0, 0, 1.0, 0, 0]]]))
    same = collected()
    assert torch.equal(same.resized(FINE, (2, 4)).soft((2, 4)), same.soft((2, 4)))


def test_the_front_foreground_is_opaque_over_the_one_behind_it():
    """Both objects fill four tokens; the text finds the front one by a third where it finds the rear one wholly."""
    structure = torch.zeros(2, 5, 6)
    structure[0, 1:3, 1:3] = structure[1, 1:3, 2:4] = 1.0
    content = torch.ones(2, 5, 6)
    content[1, 1:3, 2] = 0.3
    regions = [None, torch.ones(2, 5, 6), torch.tensor([[1.0] * 3 + [0] * 3, [0] * 3 + [1.0] * 3]).unsqueeze(1).repeat(1, 5, 1)]
    for region in regions:
        maps = PriorMaps(structure.flatten(1), (5, 6), {(5, 6): content.flatten(1)[None]}, {FINE: (5, 6)}, region)
        masks = Masks(*(mask[0, 0].unflatten(-1, (5, 6)) for mask in maps.masks((5, 6), 10.0, 2)))
        own = maps.soft((5, 6))[0].unflatten(-1, (5, 6))
        apart = region is regions[2]
        assert torch.equal(masks.soft[0], own[0]) and torch.equal(masks.soft, own) == apart
        if not apart:
            assert own[1, 1, 2] < 0.31 and masks.soft[1, 1, 2] > 0.98, "over the rear one"
            assert masks.keep[1, 2] < 0.01 and masks.hard[0, 1, 2] < 0.02, "which takes nothing of what hides it"
            assert abs(masks.soft[1, 4, 5] - own[1, 4, 5]) < 1e-3


def test_a_region_goes_with_the_maps():
    region = torch.zeros(1, 2, 4)
    region[:, 0] = 1.0  # the upper row
    maps = replace(collected(), region=region)
    upper = torch.tensor([[1.0, 0.0, 0.5, 0.0]])
    assert torch.allclose(maps.soft((2, 4)), torch.cat([upper, torch.zeros(1, 4)], dim=1) * maps.region_on((2, 4)))
    assert maps.masks((2, 4), 10.0, 1).soft[0, 0, 0, 4:].max() == 0
    assert torch.equal(maps.resized(COARSE, (2, 4)).region, region) and torch.equal(maps.stored().region, region)
    record = PriorRecord(10.0, 1, (16, 32), FINE)
    record.add(14.6, maps)
    assert record.finish().images(0)["soft"][0, 1].max() == 0


def test_several_conditionings_are_averaged():
    other = ReadPriors((torch.full((1, 8), 1.0), (2, 4)), {FINE: (torch.full((1, 8), 0.1), (2, 4))})
    assert torch.allclose(prior_maps([read(), other], FINE).content_of(FINE), torch.full((1, 8), 0.3))


def test_maps_of_several_devices_come_to_the_first():
    """Conditionings of one stream may run on different GPUs; `meta` stands for one here."""
    one, other = ((torch.ones(1, 8, device=device), (2, 4)) for device in ("meta", "cpu"))
    maps = prior_maps([ReadPriors(one, {FINE: other}), ReadPriors(other, {FINE: one})], FINE)
    assert maps.structure.device.type == maps.content[2, 4].device.type == "meta"


def test_nothing_collected_is_none():
    assert prior_maps([], FINE) is None
    assert prior_maps([ReadPriors()], FINE) is None


def test_record_shows_the_four_maps():
    found = record().images(0)
    assert list(found) == ["structure", "content", "soft", "hard"]
    assert all(x.shape == (1, 2, 4) and 0 <= x.min() and x.max() <= 1 for x in found.values())
    assert prior_strip(record(), -1).shape == (1, 16, 4 * 32, 3)


def test_record_errors():
    with pytest.raises(ValueError, match="no priors were recorded: blending was off"):
        PriorRecord(10.0, 1, (16, 16), FINE).images(0)
    with pytest.raises(ValueError, match="step 3 does not exist: 1 evaluations"):
        record().images(3)
    with pytest.raises(ValueError, match="block input.4.0 does not exist; this model has: middle.0.0, output.5.1"):
        record().images(0, ("input", 4, 0))


def test_heat_runs_from_blue_to_red():
    low, middle, high = heat(torch.tensor([0.0, 0.5, 1.0]))
    assert low[2] > 0.4 and low[0] == 0 and middle[1] == 1 and high[0] > 0.4 and high[2] == 0


def test_enlarge_repeats_tokens():
    assert torch.equal(enlarge(torch.tensor([[[0.0, 1.0]]]), (1, 4)), torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]))
