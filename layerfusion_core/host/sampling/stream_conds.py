"""What the host makes of a stream's conditioning for its rows: inputs of inpainting models, text sizes and the like.

The host makes them for all rows at once, from the interleaved batch: a picture or mask of the conditioning would be
spread over the streams, and what comes with a row per row of the noise would be taken for a row per picture. So they
are made once more from each stream's own rows, as a run of that stream alone makes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy.model_base import BaseModel
from comfy.samplers import encode_model_conds

from .stacking import LayerEntry


@dataclass(frozen=True)
class RunRows:
    """What the host makes conds from, for the interleaved rows (N * S, ...) of a run of `streams` streams.

    keep: (N * S, 1, h, w) of a run with given layers, else None.
    """

    noise: torch.Tensor
    latent_image: torch.Tensor | None
    denoise_mask: torch.Tensor | None
    keep: torch.Tensor | None
    seed: int | None
    streams: int

    def encode(self, model: BaseModel, entries: list[LayerEntry], stream: int, kind: str) -> list[LayerEntry]:
        """Copies of a stream's processed entries with `model_conds` as for a run of it alone; kind: positive or negative."""
        return encode_model_conds(
            model.extra_conds,
            list(entries),
            self._own(self.noise, stream),
            self.noise.device,
            kind,
            latent_image=self._own(self.latent_image, stream),
            denoise_mask=self._mask(stream),
            seed=self.seed,
        )

    def _own(self, x: torch.Tensor | None, stream: int) -> torch.Tensor | None:
        return x[stream :: self.streams] if x is not None and x.shape[0] == self.noise.shape[0] else x

    def _mask(self, stream: int) -> torch.Tensor | None:
        """The stream's mask; a layer of which nothing is held to the end is one without a mask."""
        mask = self._own(self.denoise_mask, stream)
        free = self.keep is not None and mask is not None and bool((mask >= 1.0).all())
        return None if free else mask

