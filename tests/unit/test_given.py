"""Which cells of a given layer are held, and until which noise level."""

from __future__ import annotations

import math

import pytest
import torch

from layerfusion_pack.layerfusion_core.layers.keep import (
    GivenLayer,
    GivenLayers,
    held,
    keep_map,
    paste,
    paste_pixels,
    release_levels,
    release_sigmas,
)
from layerfusion_pack.layerfusion_core.method.streams import Layers, StreamLayout

SHAPE = torch.Size((2, 4, 4, 4))
SIGMAS = torch.tensor([10.0, 8.0, 6.0, 4.0, 2.0, 0.0])  # five steps


def test_keep_is_strength_times_what_masks_leave():
    half = torch.zeros(1, 1, 32, 32)
    half[..., 16:] = 1.0  # anew on the right
    keep = keep_map(0.5, SHAPE, [half])
    assert keep.shape == (2, 1, 4, 4)
    assert (keep[..., :2] == 0.5).all() and (keep[..., 2:] == 0.0).all()
    assert torch.equal(keep_map(1.0, SHAPE, []), torch.ones(2, 1, 4, 4))
    both = keep_map(1.0, SHAPE, [half, half.flip(-1) * 0.5])
    assert both[0, 0, 0].tolist() == [0.5, 0.5, 0.0, 0.0]


def test_one_masked_pixel_frees_its_cell_a_little():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 9, 9] = 1.0
    keep = keep_map(1.0, SHAPE, [mask])
    assert keep[0, 0, 1, 1] == 1.0 - 1 / 64 and (keep == 1.0).sum() == 30


@pytest.mark.parametrize(
    ("keep", "sigma"),
    [(0.0, 10.0), (0.19, 10.0), (0.2, 8.0), (0.5, 6.0), (0.6, 4.0), (0.8, 2.0), (0.99, 2.0), (1.0, -math.inf)],
)
def test_a_cell_is_released_after_its_share_of_the_steps(keep, sigma):
    assert release_sigmas(torch.full((1, 1, 1, 1), keep), SIGMAS).item() == sigma


@pytest.mark.parametrize("steps", [1, 4, 10, 25, 100])
def test_every_whole_share_is_found_in_spite_of_rounding(steps):
    sigmas = torch.linspace(14.6, 0.0, steps + 1)
    for i in range(steps):
        release = release_sigmas(torch.full((1, 1, 1, 1), i / steps), sigmas)
        assert release.item() == sigmas[i].item()


def test_in_a_part_of_a_run_keep_is_a_share_of_the_schedule():
    levels = torch.tensor([999.0, 8.0, 6.0, 4.0, 0.0])  # at 0, 1/4, 1/2, 3/4 and 1 of it
    keep = torch.tensor([0.0, 0.25, 0.49, 0.51, 0.75, 1.0])
    assert release_levels(keep, levels).tolist() == [999.0, 8.0, 6.0, 6.0, 4.0, -math.inf]
    assert held(release_levels(keep, levels), 6.0).tolist() == [False, False, False, False, True, True]


def test_held_above_the_release_level_and_for_ever_at_keep_one():
    release = torch.tensor([10.0, 6.0, -math.inf])
    assert held(release, 10.0).tolist() == [False, True, True]
    assert held(release, 6.0).tolist() == [False, False, True]
    assert held(release, 6.0 * (1 + 1e-6)).tolist() == [False, False, True]  # a sampler's rounding
    assert held(release, 0.0).tolist() == [False, False, True]


def test_rows_take_given_layers_and_the_rest():
    layout, rest = StreamLayout(), torch.zeros(SHAPE)
    background = GivenLayer(torch.randn(SHAPE), torch.ones(2, 1, 4, 4))
    given = GivenLayers(Layers((None,), None, background))
    rows = given.rows(rest)
    assert torch.equal(layout.split(rows).background, background.samples) and not rows[[0, 1, 3, 4]].any()
    assert given.picture is background.samples
    foreground = GivenLayer(torch.randn(SHAPE), torch.ones(2, 1, 4, 4))
    assert GivenLayers(Layers((foreground,), None, background)).picture is background.samples
    assert GivenLayers(Layers((foreground,), None, None)).picture is foreground.samples
    keep = layout.split(given.keep_rows()).streams
    assert (keep[2] == 1).all() and not keep[0].any() and not keep[1].any()
    unkept = GivenLayers(Layers((None,), None, GivenLayer(background.samples, torch.zeros(2, 1, 4, 4))))
    assert not unkept.keep_rows().any()


def test_paste_takes_held_cells_only():
    rows, given, keep = torch.randn(SHAPE), torch.randn(SHAPE), torch.full((2, 1, 4, 4), 0.9)
    keep[0, 0, 0, 0] = 1.0
    found = paste(rows, given, keep)
    assert torch.equal(found[0, :, 0, 0], given[0, :, 0, 0])
    found[0, :, 0, 0] = rows[0, :, 0, 0]
    assert torch.equal(found, rows)


def test_paste_pixels_takes_the_pixels_of_held_cells():
    pictures, given = torch.rand(2, 16, 24, 3), torch.rand(1, 16, 24, 3)
    keep = torch.full((2, 1, 2, 3), 0.9)
    keep[1, 0, 1, 2] = 1.0
    found = paste_pixels(pictures, given, keep)
    assert torch.equal(found[1, 8:, 16:], given[0, 8:, 16:])
    found[1, 8:, 16:] = pictures[1, 8:, 16:]
    assert torch.equal(found, pictures)
