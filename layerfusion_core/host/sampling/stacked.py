"""A LATENT on its way through sampler nodes: what Stack Latents packs, the guider unpacks and Split Latents takes apart.

A sampler node draws noise for the samples of its LATENT, and hands nothing on to the guider but noise, samples and one
mask. So the samples stay those of N pictures, for which every noise node draws what it draws for a lone run, and all
that the N * S rows of the streams need goes into the mask. The guider gives rows; a second sampler gets them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import comfy.utils
import torch

from ...method.masks import area_average
from ...method.streams import Layers, StreamLayout
from ..models.latents import described, require_picture
from .given_layers import GIVEN_KEY, KEEP_KEY, KEPT_KEY, given_layers

MASK, KEEP, CLEAN = 0, 1, 2  # channels of a packed mask: the host's mask, keep, and from there the given latents' own
CHANNELS = 4
_BETWEEN = "LayerFusion Stack Latents must be the last node before the sampler: change latents, batch and masks before it"


@dataclass(frozen=True)
class StackedStart:
    """What a run of the guider starts from, in rows of all streams (R = N * S).

    latent: (R, C, h, w); mask: the host's denoise mask (R, 1, H, W) or None; keep: (R, 1, h, w) and clean, the given
    layers (R, C, h, w), or None without given layers.
    """

    latent: torch.Tensor
    mask: torch.Tensor | None
    keep: torch.Tensor | None = None
    clean: torch.Tensor | None = None


def stack_latent(latent: dict, foreground_count: int = 1) -> dict:
    """A LATENT for a LayerFusion guider: its samples (N, C, h, w) as they are, what the N * S rows need in its noise mask.

    So noise nodes draw for N pictures, as for a lone run. ValueError for what is stacked already, and for given layers
    of another layout.
    """
    samples, layout = latent.get("samples"), StreamLayout(foreground_count)
    require_picture("latent", samples)
    if _packed(latent.get("noise_mask"), layout):
        raise ValueError(
            "latent: got one that went through LayerFusion Stack Latents before; connect it to the sampler as it is, or take "
            "it apart with LayerFusion Split Latents first"
        )
    given = given_layers(latent)
    out = {key: value for key, value in latent.items() if key not in (GIVEN_KEY, KEEP_KEY, KEPT_KEY)}
    rows = samples.shape[0] * layout.count
    mask = stream_mask(latent, layout)
    if given is None:
        mask = samples.new_ones(rows, 1, *samples.shape[-2:]) if mask is None else mask
        return {**out, "noise_mask": torch.cat([mask, torch.zeros_like(mask)], dim=1)}
    if given.layers.layout != layout:
        raise ValueError(
            f"the given layers are {', '.join(given.layers.layout.names)}, and the run makes {', '.join(layout.names)}: give "
            "LayerFusion Given Layers as many foregrounds as the sampler"
        )
    keep, clean = given.keep_rows(), given.rows(torch.zeros_like(samples))
    if mask is None:
        mask = torch.ones_like(keep)
    mask = torch.nn.functional.interpolate(mask.to(keep), size=keep.shape[-2:], mode="bilinear")  # as the host does
    out |= {KEEP_KEY: keep, KEPT_KEY: clean}
    return {**out, "noise_mask": torch.cat([mask, keep, clean], dim=1)}


def stream_mask(latent: dict, layout: StreamLayout) -> torch.Tensor | None:
    """The LATENT's noise mask for the rows of its streams (N * S, 1, H, W), or None; other batches repeat, as in the host."""
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    mask = mask.reshape((-1, 1, mask.shape[-2], mask.shape[-1]))
    mask = comfy.utils.repeat_to_batch_size(mask, latent["samples"].shape[0])
    return mask.repeat_interleave(layout.count, dim=0)


def _packed(mask: torch.Tensor | None, layout: StreamLayout) -> bool:
    kinds = CLEAN, CLEAN + CHANNELS
    return mask is not None and mask.ndim == 4 and mask.shape[1] in kinds and mask.shape[0] % layout.count == 0


def unstack_start(latent: torch.Tensor, mask: torch.Tensor | None, layout: StreamLayout) -> StackedStart:
    """What `stack_latent` packed, of the samples and the mask that a sampler node hands on.

    latent: (N, C, h, w) at a run's start, or the rows (N * S, C, h, w) of a run before. ValueError for a latent that did
    not go through Stack Latents, or was changed after it in a way that would be lost.
    """
    if not _packed(mask, layout):
        raise ValueError(
            f"expected a latent from LayerFusion Stack Latents, got {described(latent)} without what that node adds: "
            f"put it between the latent and the sampler. {_BETWEEN}"
        )
    rows, pictures = mask.shape[0], mask.shape[0] // layout.count
    if latent.shape[0] not in (rows, pictures):
        raise ValueError(f"the batch was changed from {pictures} pictures to {latent.shape[0]}. {_BETWEEN}")
    goes_on = latent.shape[0] == rows
    host = mask[:, MASK : MASK + 1]
    host = None if (host == 1).all() else host
    if mask.shape[1] == CLEAN:
        return StackedStart(latent if goes_on else latent.repeat_interleave(layout.count, dim=0), host)
    keep, clean = mask[:, KEEP : KEEP + 1], mask[:, CLEAN:].to(latent)
    if not goes_on and not any(torch.equal(latent, stream) for stream in layout.split(clean).streams):
        raise ValueError(f"the latent was changed after given layers were stacked, and they would not follow. {_BETWEEN}")
    if not keep.any():
        return StackedStart(latent if goes_on else clean, host)
    if clean.shape[-2:] != latent.shape[-2:]:  # a run before was enlarged: its layers are the given ones now
        return StackedStart(latent, host, area_average(keep, tuple(latent.shape[-2:])), latent)
    return StackedStart(latent if goes_on else clean, host, keep, clean)


def split_latent(latent: dict, foreground_count: int = 1) -> Layers:
    """Take a guider's result apart: a LATENT per layer."""
    samples, mask, layout = latent.get("samples"), latent.get("noise_mask"), StreamLayout(foreground_count)
    rows = isinstance(samples, torch.Tensor) and samples.ndim == 4 and samples.shape[0]
    if not rows or rows % layout.count or (_packed(mask, layout) and mask.shape[0] != rows):
        raise ValueError(
            f"expected a latent batch of {layout.count} streams per picture ({', '.join(layout.names)}), got "
            f"{described(samples)}; connect the output of a sampler whose latent came from LayerFusion Stack Latents"
        )
    out = {
        k: v
        for k, v in latent.items()
        if not k.startswith("downscale_ratio") and k not in ("noise_mask", "batch_index", GIVEN_KEY, KEEP_KEY, KEPT_KEY)
    }
    layers = layout.split(samples).map(lambda samples: {**out, "samples": samples.contiguous()})
    for key in (KEEP_KEY, KEPT_KEY):
        if key in latent:
            layers = layers.map(lambda layer, part, key=key: {**layer, key: part}, layout.split(latent[key]))
    return layers
