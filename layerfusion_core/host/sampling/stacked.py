"""A LATENT on its way through sampler nodes: what Stack Latents packs, the guider unpacks and Split Latents takes apart.

A sampler node draws noise for the samples of its LATENT, and hands nothing on to the guider but noise, samples and one
mask. So the samples stay those of N pictures, for which every noise node draws what it draws for a lone run, and all
that the N * S rows of the streams need goes into the mask. The guider gives rows; a second sampler gets them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import comfy.utils
import torch

from ...layers.keep import GivenLayers
from ...method.masks import area_average
from ...method.streams import Layers, StreamLayout
from ..models.latents import described, require_picture
from .foregrounds import CANVAS_KEY, FOREGROUNDS_KEY, Regions, of_own, require_one
from .given_layers import GIVEN_KEY, KEEP_KEY, KEPT_KEY, given_layers

MASK, COUNT, KEEP, CLEAN = range(4)  # channels of a packed mask: the host's, K, keep, and from there the given latents' own
CHANNELS = 4
REGION = CLEAN + CHANNELS  # channel of the regions, where there are any
STACKED_KEY = "layerfusion_stacked"  # of the number of foregrounds in a stacked LATENT
_OF_A_RUN = (GIVEN_KEY, KEEP_KEY, KEPT_KEY, CANVAS_KEY, FOREGROUNDS_KEY, STACKED_KEY)
LAYER_KEY = "layerfusion_layer"  # of the layer's name in the LATENT that a run gives of it
_BETWEEN = "LayerFusion Stack Latents must be the last node before the sampler: change latents, batch and masks before it"


@dataclass(frozen=True)
class StackedStart:
    """What a run of the guider starts from, in rows of all streams (R = N * S).

    latent: (R, C, h, w); mask: the host's denoise mask (R, 1, H, W) or None; keep: (R, 1, h, w) and clean, the given
    layers and empty canvases (R, C, h, w), or None without any; region: where the foregrounds may be, (N * K, h, w), or None.
    """

    latent: torch.Tensor
    mask: torch.Tensor | None
    keep: torch.Tensor | None = None
    clean: torch.Tensor | None = None
    region: torch.Tensor | None = None


def stack_latent(latent: dict, foreground_count: int = 1, regions: Regions | None = None, own: int = 0) -> dict:
    """A LATENT for a LayerFusion guider: its samples (N, C, h, w) as they are, what the N * S rows need in its noise mask.

    So noise nodes draw for N pictures, as for a lone run. own: which foreground a single given one is. ValueError for what
    is stacked already, for given layers of another layout, and for regions of another batch.
    """
    samples, layout = require_picture("latent", latent.get("samples")), StreamLayout(foreground_count)
    require_one("latent", latent)
    if stacked_count(latent) is not None:
        raise ValueError(
            "latent: got one that went through LayerFusion Stack Latents before; connect it to the sampler as it is, or take "
            "it apart with LayerFusion Split Latents first"
        )
    given = given_layers(latent)
    out = {key: value for key, value in latent.items() if key not in _OF_A_RUN} | {STACKED_KEY: foreground_count}
    rows = samples.shape[0] * layout.count
    mask = stream_mask(latent, layout)
    if given is None and regions is None:
        mask = samples.new_ones(rows, 1, *samples.shape[-2:]) if mask is None else mask
        return {**out, "noise_mask": torch.cat([mask, torch.full_like(mask, foreground_count)], dim=1)}
    if given is None:
        keep, clean = samples.new_zeros(rows, 1, *samples.shape[-2:]), samples.repeat_interleave(layout.count, dim=0)
    else:
        given = GivenLayers(of_own(given.layers, foreground_count, own))
        if given.layers.layout != layout:
            raise ValueError(
                f"the given layers are {', '.join(given.layers.layout.names)}, and the run makes {', '.join(layout.names)}: "
                "give LayerFusion Given Layers one foreground, which is the sampler's own, or as many as the sampler"
            )
        keep, clean = given.keep_rows(), given.rows(torch.zeros_like(samples))
        out |= {KEEP_KEY: keep, KEPT_KEY: clean}
    if mask is None:
        mask = torch.ones_like(keep)
    mask = torch.nn.functional.interpolate(mask.to(keep), size=keep.shape[-2:], mode="bilinear")  # as the host does
    count = torch.full_like(mask, foreground_count)
    if regions is None:
        return {**out, "noise_mask": torch.cat([mask, count, keep, clean], dim=1)}
    inside = regions.cells(samples).to(keep)  # (N, K, h, w)
    keep, clean = _held_outside(keep, clean, inside, regions.canvas, given, layout)
    if given is not None:  # a cell outside the region is kept in full, of a layer that was given
        out[KEEP_KEY] = torch.where(given.rows_given(), keep, 0.0)
    scenes = inside.new_ones(inside.shape[0], 2, *inside.shape[-2:])
    region = torch.cat([inside, scenes], dim=1).flatten(0, 1).unsqueeze(1)
    return {**out, CANVAS_KEY: regions.canvas, "noise_mask": torch.cat([mask, count, keep, clean.to(keep), region], dim=1)}


def _held_outside(
    keep: torch.Tensor, clean: torch.Tensor, inside: torch.Tensor, canvas: torch.Tensor, given: GivenLayers | None,
    layout: StreamLayout,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """keep and clean in rows, with the foregrounds held outside their regions (N, K, h, w) for as long as a cell lies outside.

    At the empty canvas; a given foreground stays as it is given.
    """
    keep, clean = layout.grouped(keep.clone()), layout.grouped(clean.clone())
    outside = 1.0 - inside
    for k in range(layout.foreground_count):
        outer = outside[:, k, None]
        if given is None or given.layers.foregrounds[k] is None:
            clean[:, k] = torch.where(outer > 0, canvas.to(clean), clean[:, k])
        keep[:, k] = torch.maximum(keep[:, k], outer)
    return keep.flatten(0, 1), clean.flatten(0, 1)


def stream_mask(latent: dict, layout: StreamLayout) -> torch.Tensor | None:
    """The LATENT's noise mask for the rows of its streams (N * S, 1, H, W), or None; other batches repeat, as in the host."""
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    mask = mask.reshape((-1, 1, mask.shape[-2], mask.shape[-1]))
    mask = comfy.utils.repeat_to_batch_size(mask, latent["samples"].shape[0])
    return mask.repeat_interleave(layout.count, dim=0)


def stacked_count(latent: dict) -> int | None:
    """For how many foregrounds a LATENT went through `stack_latent`; None for one that did not."""
    mask = latent.get("noise_mask")
    return int(mask[0, COUNT].max()) if _packed(mask) else None


def require_layer(name: str, latent: dict) -> None:
    """ValueError naming the input `name` for a LATENT that holds all layers of a run, where one layer is expected."""
    if (count := stacked_count(latent)) is not None:
        raise ValueError(
            f"{name}: got all layers of a run in one latent ({', '.join(StreamLayout(count).names)}), expected the {name} alone; "
            "connect the sampler's output of that name, behind SamplerCustomAdvanced that of LayerFusion Split Latents"
        )


def require_same_run(latent: dict, regions: Regions | None, layout: StreamLayout) -> None:
    """ValueError when a stacked LATENT was begun with other foregrounds or regions than a run goes on with; None: as begun."""
    mask = latent["noise_mask"]
    unstack_start(latent["samples"], mask, layout)
    if regions is None:
        return
    cells = regions.cells(mask[:: layout.count]).flatten(0, 1)
    before = layout.grouped(mask[:, REGION:])[:, : layout.foreground_count].flatten(0, 2)
    if before.shape != cells.shape or not torch.allclose(before.float().cpu(), cells, atol=1e-3):
        raise ValueError(
            "region: this part of the run has other regions than the part before, whose canvas is empty outside its own; connect "
            "the same regions to every part, or none to the later ones, which know them"
        )


def require_noise_outside(start: StackedStart, layout: StreamLayout) -> None:
    """ValueError when a run that adds no noise would hold given foregrounds, outside their regions, with noise left in them.

    For a run's start from N pictures: what is held there is what was given, and in a part of a run that is no empty canvas.
    """
    if start.region is None or start.clean is None:
        return
    foregrounds = layout.grouped(start.clean)[:, : layout.foreground_count].flatten(0, 1)  # (N * K, C, h, w)
    for cells, region in zip(foregrounds, start.region):
        outside = cells[:, region <= 0]
        if outside.numel() and not torch.allclose(outside, outside[:, :1], rtol=1e-4, atol=1e-4):
            raise ValueError(
                "no noise is added, and a given foreground with a region is no empty canvas outside of it, so it has noise left of "
                "a run before: to go on with that run connect its latent of all layers (LayerFusion KSampler (Advanced): latent), "
                "which knows regions and noise, instead of LayerFusion Given Layers"
            )


def _packed(mask: torch.Tensor | None) -> TypeGuard[torch.Tensor]:
    return mask is not None and mask.ndim == 4 and mask.shape[1] in (KEEP, REGION, REGION + 1) and len(mask) > 0


def unstack_start(latent: torch.Tensor, mask: torch.Tensor | None, layout: StreamLayout) -> StackedStart:
    """What `stack_latent` packed, of the samples and the mask that a sampler node hands on.

    latent: (N, C, h, w) at a run's start, or the rows (N * S, C, h, w) of a run before. ValueError for a latent that did
    not go through Stack Latents, or was changed after it in a way that would be lost.
    """
    if not _packed(mask):
        raise ValueError(
            f"expected a latent from LayerFusion Stack Latents, got {described(latent)} without what that node adds: put it "
            f"between the latent and the sampler. {_BETWEEN}"
        )
    if (count := int(mask[0, COUNT].max())) != layout.foreground_count:
        raise ValueError(
            f"the latent is one for {count} foreground(s), and the sampler or guider has {layout.foreground_count}: connect the "
            "same foregrounds to LayerFusion Stack Latents and LayerFusion Guider, and to every part of a run"
        )
    rows, pictures = mask.shape[0], mask.shape[0] // layout.count
    if latent.shape[0] not in (rows, pictures):
        raise ValueError(
            f"the batch was changed from {pictures} pictures to {latent.shape[0]} after LayerFusion Stack Latents. {_BETWEEN}"
        )
    goes_on = latent.shape[0] == rows
    host = mask[:, MASK : MASK + 1]
    host = None if (host == 1).all() else host
    if mask.shape[1] == KEEP:
        return StackedStart(latent if goes_on else latent.repeat_interleave(layout.count, dim=0), host)
    keep, clean = mask[:, KEEP : KEEP + 1], mask[:, CLEAN:REGION].to(latent)
    region = None
    if mask.shape[1] > REGION:
        region = layout.grouped(mask[:, REGION])[:, : layout.foreground_count].flatten(0, 1)
        region = area_average(region, tuple(latent.shape[-2:])) if region.shape[-2:] != latent.shape[-2:] else region
    if not goes_on and not any(torch.equal(latent, stream) for stream in layout.split(clean).streams):
        raise ValueError(f"the latent was changed after given layers were stacked, and they would not follow. {_BETWEEN}")
    if not keep.any():
        return StackedStart(latent if goes_on else clean, host, region=region)
    if clean.shape[-2:] != latent.shape[-2:]:  # a run before was enlarged: its layers are the given ones now
        return StackedStart(latent, host, area_average(keep, tuple(latent.shape[-2:])), latent, region)
    return StackedStart(latent if goes_on else clean, host, keep, clean, region)


def split_latent(latent: dict) -> Layers:
    """Take a guider's result apart: a LATENT per layer, of as many foregrounds as were stacked."""
    samples: Any = latent.get("samples")
    mask, layout = latent.get("noise_mask"), StreamLayout(stacked_count(latent) or latent.get(STACKED_KEY, 1))
    rows = samples.shape[0] if isinstance(samples, torch.Tensor) and samples.ndim == 4 else 0
    if not rows or rows % layout.count or (_packed(mask) and mask.shape[0] != rows):
        raise ValueError(
            f"expected a latent batch of {layout.count} streams per picture ({', '.join(layout.names)}), got "
            f"{described(samples)}; connect the output of a sampler whose latent came from LayerFusion Stack Latents"
        )
    out = {
        k: v
        for k, v in latent.items()
        if not k.startswith("downscale_ratio") and k not in ("noise_mask", "batch_index", *_OF_A_RUN)
    }
    layers = layout.split(samples).map(
        lambda samples, name: {**out, "samples": samples.contiguous(), LAYER_KEY: name}, Layers.of(layout.names)
    )
    for key in (KEEP_KEY, KEPT_KEY):
        if key in latent:
            layers = layers.map(lambda layer, part, key=key: {**layer, key: part}, layout.split(latent[key]))
    if CANVAS_KEY in latent:
        canvas = {CANVAS_KEY: latent[CANVAS_KEY]}
        layers = layers._replace(foregrounds=tuple({**layer, **canvas} for layer in layers.foregrounds))
    return layers
