"""Cut-outs at another place and size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from layerfusion_pack.layerfusion_core.layers.placing import place


def cutout(height: int = 32, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Random colour; a square of 8 pixels, its corner at (4, 8), is visible."""
    rgb, alpha = torch.rand(2, height, width, 3), torch.zeros(2, height, width)
    alpha[:, 4:12, 8:16] = 1.0
    return rgb, alpha


def box(alpha: torch.Tensor) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of what is more than half visible."""
    rows, columns = torch.nonzero((alpha > 0.5).any(dim=1)), torch.nonzero((alpha > 0.5).any(dim=0))
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def test_at_rest_nothing_changes():
    rgb, alpha = cutout()
    found = place(rgb, alpha, (32, 32), 0, 0, 1.0)
    assert torch.equal(found[0], rgb) and torch.equal(found[1], alpha)


def test_moving_copies_pixels():
    rgb, alpha = cutout()
    color, cover = place(rgb, alpha, (32, 32), 5, -3, 1.0)
    assert box(cover[0]) == (1, 9, 13, 21)
    assert torch.equal(color[:, :29, 5:], rgb[:, 3:, :27]) and not cover[:, 29:].any() and not cover[:, :, :5].any()


def test_scaling_keeps_the_objects_centre():
    rgb, alpha = cutout()
    for scale, expected in ((2.0, (0, 16, 4, 20)), (0.5, (6, 10, 10, 14))):
        assert box(place(rgb, alpha, (32, 32), 0, 0, scale)[1][0]) == expected


def test_canvas_of_another_size_centres_the_picture():
    rgb, alpha = cutout()
    assert box(place(rgb, alpha, (64, 48), 0, 0, 1.0)[1][1]) == (20, 28, 16, 24)
    assert box(place(rgb, alpha, (16, 32), 0, 8, 1.0)[1][1]) == (4, 12, 8, 16)


def test_an_object_moved_off_the_canvas_is_gone():
    rgb, alpha = cutout()
    for x, y in ((100, 0), (-100, 0), (0, 100), (0, -100), (10**5, 10**5)):
        assert not place(rgb, alpha, (32, 32), x, y, 1.0)[1].any()


def test_hidden_colour_does_not_bleed_into_edges():
    rgb, alpha = torch.zeros(1, 32, 32, 3), torch.zeros(1, 32, 32)
    rgb[..., 1] = 1.0  # green, but hidden
    rgb[:, 8:24, 8:24], alpha[:, 8:24, 8:24] = torch.tensor([1.0, 0.0, 0.0]), 1.0
    color, cover = place(rgb, alpha, (32, 32), 0, 0, 0.7)
    assert (color[cover > 0.05] - torch.tensor([1.0, 0.0, 0.0])).abs().max() < 1e-3
    assert 0.0 < cover.max() <= 1.0 and abs(float(cover.sum()) - 256 * 0.7**2) < 6


@pytest.mark.parametrize("scale", [1.01, 1.5, 3.7])
def test_an_enlargement_is_part_of_the_whole_one(scale):
    rgb, alpha = cutout()
    alpha[:] = 0.3 + 0.7 * torch.rand(2, 32, 32)  # the centre of what is visible: the picture's
    color, cover = place(rgb, alpha, (20, 44), 3, -2, scale)
    side = round(32 * scale)
    weighted = torch.cat([rgb * alpha[..., None], alpha[..., None]], dim=-1).movedim(-1, 1)
    whole = F.interpolate(weighted, size=(side, side), mode="bilinear", antialias=True).movedim(1, -1)
    got = torch.zeros(2, 20, 44, 4)
    top, left = round((20 - 32) / 2 + 16 * (1 - scale)) - 2, round((44 - 32) / 2 + 16 * (1 - scale)) + 3
    for y in range(20):
        for x in range(44):
            if 0 <= y - top < side and 0 <= x - left < side:
                got[:, y, x] = whole[:, y - top, x - left]
    torch.testing.assert_close(cover, got[..., 3], atol=1e-5, rtol=0)
    torch.testing.assert_close(color * cover[..., None], got[..., :3], atol=1e-5, rtol=0)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.numel())
        return result


def test_only_what_is_seen_is_enlarged():
    rgb, alpha = cutout(64, 64)
    with Largest() as largest:
        _, cover = place(rgb, alpha, (64, 64), 0, 0, 16.0)
    assert cover[0].all() and largest.elements <= 2 * 64 * 64 * 4  # of the canvas; enlarged in full it is 128 times that


def test_bad_values_are_named():
    rgb, alpha = cutout()
    with pytest.raises(ValueError, match="scale: expected a number above 0, got 0"):
        place(rgb, alpha, (32, 32), 0, 0, 0.0)
    with pytest.raises(ValueError, match="canvas of at least one pixel, got 32 x 0"):
        place(rgb, alpha, (0, 32), 0, 0, 1.0)
