"""Tiled decoding: coverage, seams, and its measured error on the demonstration decoder."""

from __future__ import annotations

import pytest
import torch

from layerfusion_pack.layerfusion_core.vae.tiling import tile_starts, tiled


@pytest.mark.parametrize(("length", "tile", "overlap"), [(64, 64, 16), (72, 64, 16), (1000, 256, 64), (2048, 512, 128)])
def test_tiles_cover_everything_and_overlap_enough(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] + min(tile, length) == length
    assert all(start % 8 == 0 for start in starts)
    assert all(after - before <= tile - overlap + 8 for before, after in zip(starts, starts[1:]))


def pixelwise(pixels, latent):
    fine = torch.nn.functional.interpolate(latent, scale_factor=8.0)
    return torch.sigmoid(torch.cat([fine[:, :1], pixels + fine[:, 1:]], dim=1))


def test_a_network_without_context_shows_no_seam():
    sizes = []

    def decode(pixels, latent):
        sizes.append(tuple(pixels.shape[-2:]))
        return pixelwise(pixels, latent)

    pixels, latent = torch.rand(1, 3, 200, 96), torch.randn(1, 4, 25, 12)
    got = tiled(decode, tile=60, multiple=32)(pixels, latent)
    torch.testing.assert_close(got, pixelwise(pixels, latent))
    assert set(sizes) == {(64, 64)}
    sizes.clear()
    assert torch.equal(tiled(decode, 256)(pixels, latent), pixelwise(pixels, latent)) and len(sizes) == 1


def test_impossible_overlap():
    with pytest.raises(ValueError, match="cannot overlap by 64"):
        tiled(pixelwise, 64, 64, overlap=64)
