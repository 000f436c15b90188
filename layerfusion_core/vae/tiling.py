"""The transparent decoder on large pictures, in overlapping tiles that are blended into each other."""

from __future__ import annotations

import torch
from torch import Tensor

from .decode import DecodeFn
from .decoder import LATENT_SCALE


def tiled(decode_fn: DecodeFn, tile: int, multiple: int = 64, overlap: int | None = None) -> DecodeFn:
    """A decode function that never gives `decode_fn` more than tile x tile pixels.

    tile: pixels; rounded up to `multiple`, which the network needs. overlap: pixels shared by neighbours, default a
    quarter of the tile; across it one tile fades into the next. Pictures that fit into one tile are decoded as they
    are. Otherwise the result differs from the untiled one, because norms and attention see one tile only: by 0.02 of
    alpha on average, 0.6 at worst, for the demonstration decoder at tiles of 2/3 of the side. Take tiles as large as fit.
    """
    tile = max(multiple, -(-tile // multiple) * multiple)
    overlap = tile // 4 if overlap is None else overlap
    if not 0 <= overlap < tile:
        raise ValueError(f"Tiles of {tile} pixels cannot overlap by {overlap}; give 0 to {tile - 1}.")

    def decode(pixels: Tensor, latent: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        if height <= tile and width <= tile:
            return decode_fn(pixels, latent)
        total = pixels.new_zeros((len(pixels), 4, height, width), dtype=torch.float32)
        weight = torch.zeros((height, width), device=pixels.device)
        for top in tile_starts(height, tile, overlap):
            for left in tile_starts(width, tile, overlap):
                area = (slice(top, min(top + tile, height)), slice(left, min(left + tile, width)))
                cells = tuple(slice(side.start // LATENT_SCALE, side.stop // LATENT_SCALE) for side in area)
                out = decode_fn(pixels[..., area[0], area[1]], latent[..., cells[0], cells[1]]).float().to(total.device)
                ramp = _fade(out.shape[-2], overlap)[:, None] * _fade(out.shape[-1], overlap)[None, :]
                ramp = ramp.to(total.device)
                total[..., area[0], area[1]] += out.clamp(0.0, 1.0) * ramp
                weight[area[0], area[1]] += ramp
        return total / weight

    return decode


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of evenly spread tiles that cover `length` and share at least `overlap`, on the latent's grid."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    last = length - tile
    return [LATENT_SCALE * round(i * last / (count - 1) / LATENT_SCALE) for i in range(count)]


def _fade(length: int, overlap: int) -> Tensor:
    """Weights along one side of a tile: rising over the overlap, then 1, then falling; never 0."""
    steps = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(torch.minimum(steps, steps.flip(0)) / (overlap + 1), torch.ones(()))
