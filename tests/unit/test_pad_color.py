"""Colour under transparent pixels: smooth, taken from the object, no black or white fringe."""

from __future__ import annotations

import pytest
import torch

from layerfusion_pack.layerfusion_core.vae.encode import over_grey, pad_color


def disc(size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """A red anti-aliased disc whose transparent pixels hold black: (1, 3, H, W), (1, 1, H, W)."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    alpha = ((0.5 - (x**2 + y**2).sqrt()) * size / 4).clamp(0, 1)[None, None]
    return torch.tensor([0.9, 0.1, 0.2]).view(1, 3, 1, 1) * (alpha > 0), alpha


def test_one_colour_fills_the_whole_canvas():
    rgb, alpha = disc()
    torch.testing.assert_close(
        pad_color(rgb, alpha), rgb.amax(dim=(2, 3), keepdim=True).expand_as(rgb), atol=1e-4, rtol=0
    )


def test_opaque_pixels_keep_their_colour_and_the_rest_stays_in_range():
    generator = torch.Generator().manual_seed(0)
    rgb, (_, alpha) = torch.rand(1, 3, 48, 48, generator=generator), disc()
    padded = pad_color(rgb, alpha)
    opaque = (alpha == 1).expand_as(rgb)
    torch.testing.assert_close(padded[opaque], rgb[opaque])
    corner = padded[..., :6, :6]
    assert corner.std() < 0.05 and 0.3 < corner.mean() < 0.7  # smooth, near the disc's mean colour


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 8)])
def test_any_size_and_an_empty_picture(size):
    rgb = torch.rand(1, 3, *size)
    torch.testing.assert_close(pad_color(rgb, torch.zeros(1, 1, *size)), torch.full_like(rgb, 0.5))
    torch.testing.assert_close(pad_color(rgb, torch.ones(1, 1, *size)), rgb)


def test_over_grey():
    rgb, alpha = torch.full((1, 3, 1, 2), 0.9), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    torch.testing.assert_close(over_grey(rgb, alpha)[0, 0, 0], torch.tensor([0.5, 0.9]))
