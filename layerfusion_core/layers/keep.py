"""Layers the user brings: which cells of a stream keep them, until which noise level, and how they lie in the batch.

One number per latent cell says it all: keep in [0, 1] = the layer's strength where its mask keeps it. A cell is held at
the given latent (noised to the current level) for the first `keep` of the run's steps and denoised in the rest, which
is img2img with denoise = 1 - keep; at 1 it is held to the end and comes out as it went in. A run that is a part of
another does not know the others' steps; there `keep` is a share of the model's own schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..method.masks import area_average
from ..method.streams import Layers

HELD = 1.0  # keep from which a cell is never denoised
_STEP = 1e-4  # of a step, and of a noise level: what rounding may move


@dataclass(frozen=True)
class GivenLayer:
    """One given layer: samples (N, C, h, w) and keep (N, 1, h, w) in [0, 1]."""

    samples: torch.Tensor
    keep: torch.Tensor


@dataclass(frozen=True)
class GivenLayers:
    """The `GivenLayer` of each layer, None where there is none."""

    layers: Layers

    @property
    def shape(self) -> torch.Size:
        """(N, C, h, w), the same for all layers."""
        return next(layer.samples.shape for layer in self.layers.streams if layer is not None)

    @property
    def picture(self) -> torch.Tensor:
        """The one layer (N, C, h, w) that shows most of the picture: blended, else background, else a foreground."""
        foregrounds, blended, background = self.layers
        return next(layer.samples for layer in (blended, background, *foregrounds) if layer is not None)

    def rows(self, rest: torch.Tensor) -> torch.Tensor:
        """Start latents of all streams (N * S, C, h, w): the given ones, and `rest` (N, C, h, w) for the others."""
        given = self.layers.map(lambda layer: rest if layer is None else layer.samples.to(rest))
        return self.layers.layout.stack(given)

    def rows_given(self) -> torch.Tensor:
        """Which rows of all streams are of a given layer: bool, (N * S, 1, 1, 1)."""
        flags = self.layers.map(lambda layer: torch.full((self.shape[0], 1, 1, 1), layer is not None))
        return self.layers.layout.stack(flags)

    def keep_rows(self) -> torch.Tensor:
        """keep of all streams (N * S, 1, h, w), 0 for layers not given."""
        n, _, h, w = self.shape
        keep = self.layers.map(lambda layer: torch.zeros(n, 1, h, w) if layer is None else layer.keep)
        return self.layers.layout.stack(keep)


def keep_map(strength: float, shape: torch.Size, masks: list[torch.Tensor]) -> torch.Tensor:
    """keep (N, 1, h, w) of a layer (N, C, h, w): the strength, times what every mask leaves of it.

    masks: (B, 1, H, W) in [0, 1] at any size, B one or N, 1 = made anew, as in inpainting. A cell takes the mean of its
    pixels, so that only cells without any masked pixel are kept in full.
    """
    keep = torch.full((shape[0], 1, *shape[-2:]), float(strength))
    for mask in masks:
        keep = keep * (1.0 - area_average(mask.float().clamp(0.0, 1.0).cpu(), tuple(shape[-2:])))
    return keep


def release_sigmas(keep: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Noise level from which on each cell is denoised, as `keep`; cells held to the end get -inf.

    sigmas: (n + 1,) falling, of a run of n steps. A cell is released at step floor(keep * n), so that keep below 1
    leaves at least the last step.
    """
    steps = len(sigmas) - 1
    index = torch.floor(keep * steps + _STEP).long().clamp(0, max(steps - 1, 0))
    return torch.where(keep >= HELD, -math.inf, sigmas.to(keep)[index])


def release_levels(keep: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """`release_sigmas` for a part of a run: each cell's noise level in `levels` (n + 1,), those of keep = 0, 1/n ... 1."""
    index = torch.round(keep * (len(levels) - 1)).long().clamp(0, len(levels) - 1)
    return torch.where(keep >= HELD, -math.inf, levels.to(keep)[index])


def held(release: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
    """Which cells an evaluation at `sigma` holds at the given latent: bool, as `release`."""
    return sigma > release * (1.0 + _STEP)


def paste_pixels(pictures: torch.Tensor, given: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Decoded `pictures` with the pixels of cells that are held to the end taken from the `given` ones, as they are.

    pictures: (N, H, W, C); given: (1 | N, H, W, C); keep: (N, 1, h, w), where h and w divide H and W.
    """
    cell = pictures.shape[1] // keep.shape[-2], pictures.shape[2] // keep.shape[-1]
    kept = (keep >= HELD).movedim(1, -1).repeat_interleave(cell[0], dim=1).repeat_interleave(cell[1], dim=2)
    return torch.where(kept.to(pictures.device), given.to(pictures), pictures)


def paste(rows: torch.Tensor, given: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """`rows` (R, C, h, w) with the cells that are held to the end taken from `given`, bit for bit."""
    return torch.where(keep.to(rows.device) >= HELD, given.to(rows), rows)
