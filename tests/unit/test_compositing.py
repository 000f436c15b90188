"""Alpha-over in both light models, checkerboards and rows of labelled pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from layerfusion_pack.layerfusion_core.layers.compositing import (
    alpha_over,
    as_image,
    checkerboard,
    difference_map,
    labelled_row,
    linear_to_srgb,
    on_checkerboard,
    srgb_to_linear,
)


def test_alpha_over_keeps_the_ends_and_mixes_between():
    foreground, background = torch.rand(2, 5, 6, 4), torch.rand(2, 5, 6, 3)
    for linear in (False, True):
        foreground[..., 3] = 1.0
        torch.testing.assert_close(
            alpha_over(foreground, background, linear), foreground[..., :3], atol=1e-6, rtol=1e-5
        )
        foreground[..., 3] = 0.0
        torch.testing.assert_close(alpha_over(foreground, background, linear), background, atol=1e-6, rtol=1e-5)
    half = torch.tensor([1.0, 1.0, 1.0, 0.5]).view(1, 1, 4)
    black = torch.zeros(1, 1, 3)
    assert alpha_over(half, black).max() == 0.5
    assert alpha_over(half, black, linear_light=True).max().item() == pytest.approx(0.7354, abs=1e-4)


def test_srgb_curve():
    x = torch.linspace(0, 1, 101)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(x)), x, atol=1e-5, rtol=0)
    assert srgb_to_linear(torch.tensor(0.5)).item() == pytest.approx(0.21404, abs=1e-5)


def test_difference_map():
    a, b = torch.full((1, 2, 2, 3), 0.5), torch.full((1, 2, 2, 3), 0.4)
    torch.testing.assert_close(difference_map(a, b, 4.0), torch.full_like(a, 0.4))
    assert difference_map(a, a).max() == 0 and difference_map(a, b, 100.0).max() == 1


def test_checkerboard_shows_where_nothing_is():
    board = np.asarray(checkerboard(16, 16, cell=4))
    assert set(np.unique(board)) == {204, 255} and board[0, 0, 0] != board[0, 4, 0] == board[4, 0, 0]
    empty = np.zeros((16, 16, 4), np.uint8)
    assert np.array_equal(np.asarray(on_checkerboard(empty, cell=4)), board)


def test_a_row_of_labelled_pictures():
    row = labelled_row([("a", Image.new("RGB", (48, 64), "red")), ("b", Image.new("RGB", (48, 60)))])
    assert row.size == (2 * 48 + 3 * 8, 64 + 22 + 8)
    assert row.getpixel((8, 22)) == (255, 0, 0) and row.getpixel((60, 22 + 62)) == (255, 255, 255)


def test_as_image():
    assert as_image(np.full((2, 3, 1), 0.5)).size == (3, 2) and as_image(np.full((2, 3, 1), 0.5)).mode == "L"
    assert np.asarray(as_image(np.full((2, 3, 4), 1.5)))[0, 0].tolist() == [255] * 4
    with pytest.raises(ValueError, match=r"got \(2, 3, 2\)"):
        as_image(np.zeros((2, 3, 2)))
