"""Several foregrounds: what a run takes for each, and their latents as one LATENT.

Foregrounds lie over each other in the order of their numbers, the first at the back. Where a foreground has a region, its
stream is held at the empty canvas outside, as a given layer is held, and its mask ends there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import comfy.utils
import torch

from ...method.masks import area_average
from ...method.streams import Layers, by_sample, interleave
from .given_layers import GIVEN_KEY, KEEP_KEY, KEPT_KEY

FOREGROUNDS_KEY = "layerfusion_foregrounds"  # of (K, N) in the LATENT of the N * K foregrounds of N pictures
CANVAS_KEY = "layerfusion_canvas"  # of the empty canvas (1, C, 1, 1) in the LATENT of foregrounds held at it
GREY = 0.5  # of the canvas that foreground models paint on
_SIDE = 256  # pixels of the grey picture that is encoded
_PER_ROW = (KEEP_KEY, KEPT_KEY, "noise_mask")  # what a LATENT holds beside its samples for each of them


class Foreground(NamedTuple):
    """One foreground of a run; the LAYERFUSION_FOREGROUNDS socket holds a tuple of them.

    region: (B, H, W) or (H, W), 1 where the object may be, at any size; None for anywhere. order: larger lies in front, equal
    ones as they come.
    """

    conditioning: list
    region: torch.Tensor | None = None
    order: int = 1


@dataclass(frozen=True)
class Regions:
    """Where the K foregrounds of a run may be, and what their empty canvas is.

    masks: (B, H, W) of each, None for anywhere, at least one of them given; canvas: an empty foreground's latent (1, C, 1, 1).
    """

    masks: tuple[torch.Tensor | None, ...]
    canvas: torch.Tensor

    def cells(self, samples: torch.Tensor) -> torch.Tensor:
        """The share of each latent cell of samples (N, C, h, w) inside the regions, (N, K, h, w); ValueError for other batches."""
        count, size = samples.shape[0], tuple(samples.shape[-2:])
        found = []
        for name, mask in zip(_names(len(self.masks)), self.masks):
            mask = torch.ones(1, 1, 1) if mask is None else mask
            if mask.shape[0] not in (1, count):
                raise ValueError(
                    f"region of {name}: expected 1 mask or {count}, one per picture of the batch, got {mask.shape[0]}"
                )
            found.append(area_average(mask.float().cpu(), size).expand(count, *size))
        return torch.stack(found, dim=1)


class Gathered(NamedTuple):
    """The foregrounds of a run in their order: conditionings, regions if any has one, the place of the sampler's own."""

    conditionings: tuple[list, ...]
    regions: Regions | None
    own: int


def gathered(
    foreground: list, region: torch.Tensor | None = None, added: tuple[Foreground, ...] | None = None, vae=None
) -> Gathered:
    """The sampler's own foreground, of order 0, with the `added` ones, from the rearmost to the front one.

    vae: the host's VAE, which says what an empty canvas is; ValueError without it where a region is given, and for regions
    that are no masks or that hold nothing.
    """
    own, ordered = _ordered(foreground, region, added)
    masks = [_checked(name, one.region) for name, one in zip(_names(len(ordered)), ordered)]
    place = next(i for i, one in enumerate(ordered) if one is own)
    conditionings = tuple(one.conditioning for one in ordered)
    if all(mask is None for mask in masks):
        return Gathered(conditionings, None, place)
    if vae is None:
        raise ValueError(
            "a foreground has a region, and outside it its canvas must stay empty: connect the checkpoint's VAE to vae, which "
            "says what an empty canvas is"
        )
    return Gathered(conditionings, Regions(tuple(masks), canvas_latent(vae)), place)


def conditionings(foreground: list, added: tuple[Foreground, ...] | None) -> tuple[list, ...]:
    """The conditionings of `gathered` alone."""
    return tuple(one.conditioning for one in _ordered(foreground, None, added)[1])


def _ordered(
    foreground: list, region: torch.Tensor | None, added: tuple[Foreground, ...] | None
) -> tuple[Foreground, list[Foreground]]:
    """The sampler's own foreground, and all from the rearmost to the front one."""
    own = Foreground(foreground, region, 0)
    return own, sorted((own, *(added or ())), key=lambda one: one.order)


def _names(count: int) -> list[str]:
    return ["foreground"] if count == 1 else [f"foreground {k}" for k in range(1, count + 1)]


def _checked(name: str, region: torch.Tensor | None) -> torch.Tensor | None:
    """A region (B, H, W) in [0, 1], or None for the whole canvas."""
    if region is None:
        return None
    if not isinstance(region, torch.Tensor) or region.ndim not in (2, 3) or not region.numel():
        came = tuple(region.shape) if isinstance(region, torch.Tensor) else type(region).__name__
        raise ValueError(f"region of {name}: expected a MASK (batch, height, width), got {came}")
    found: torch.Tensor = region.reshape(-1, *region.shape[-2:]).float().clamp(0.0, 1.0)
    if not found.isfinite().all():
        raise ValueError(f"region of {name}: the mask holds values that are no numbers (NaN); look at the node that made it")
    if (found.flatten(1).amax(dim=1) <= 0).any():
        raise ValueError(
            f"region of {name}: it is black everywhere, so that the object has no place; white (1) is where it may be"
        )
    return None if (found == 1).all() else found


def canvas_latent(vae) -> torch.Tensor:
    """What the VAE makes of a picture of mid-grey, (1, C, 1, 1): the value of most cells, for its border differs."""
    latent = vae.encode(torch.full((1, _SIDE, _SIDE, 3), GREY))
    return latent.float().cpu().flatten(2).median(dim=2).values[:1, :, None, None]


def join_foregrounds(latents: tuple[dict, ...]) -> dict:
    """One LATENT of the foregrounds' LATENTs (N rows each): rows of K foregrounds picture by picture, marked as such."""
    if len(latents) == 1:
        return latents[0]
    first, count = latents[0], len(latents)
    pictures = first["samples"].shape[0]
    out = {**first, "samples": interleave([latent["samples"] for latent in latents]), FOREGROUNDS_KEY: (count, pictures)}
    for key in _PER_ROW:
        if key in first:
            out[key] = interleave([comfy.utils.repeat_to_batch_size(_per_row(latent, key), pictures) for latent in latents])
    if first.get("batch_index") is not None:
        out["batch_index"] = [index for index in first["batch_index"] for _ in latents]  # they share their noise
    return out


def _per_row(latent: dict, key: str) -> torch.Tensor:
    """A LATENT's entry with a batch; a noise mask may come without one."""
    return latent[key].unsqueeze(0) if latent[key].ndim == 2 else latent[key]


def foreground_count(latent: dict) -> int:
    """How many foregrounds of each picture a LATENT holds; 1 where a node has changed their number since the run."""
    count, pictures = latent.get(FOREGROUNDS_KEY, (1, 0))
    return count if latent["samples"].shape[0] == count * pictures else 1


def split_foregrounds(latent: dict) -> tuple[dict, ...]:
    """Undo `join_foregrounds`: a LATENT for each foreground."""
    count, rows = foreground_count(latent), latent["samples"].shape[0]
    if count == 1:
        return (latent,)
    out = {key: value for key, value in latent.items() if key != FOREGROUNDS_KEY}
    per_row = [key for key in ("samples", *_PER_ROW) if key in out and _per_row(out, key).shape[0] == rows]
    parts = zip(*(by_sample(_per_row(out, key), count).unbind(1) for key in per_row))
    if len(out.get("batch_index") or ()) == rows:
        out["batch_index"] = out["batch_index"][::count]
    return tuple({**out, **dict(zip(per_row, part))} for part in parts)


def of_each_picture(latent: dict, count: int) -> dict:
    """A LATENT marked as one of `count` foregrounds of each picture; 0: as it says. ValueError where its rows are no multiple."""
    rows = latent["samples"].shape[0]
    if not count or count == foreground_count(latent):
        return latent
    if foreground_count(latent) > 1 or rows % count:
        raise ValueError(
            f"foregrounds_per_picture: got {count}, and foreground holds {rows} latent(s)"
            + (f", {foreground_count(latent)} of each picture" if foreground_count(latent) > 1 else "")
            + ": set it to how many of them belong to one picture, or to 0 for what a run says itself"
        )
    return {**latent, FOREGROUNDS_KEY: (count, rows // count)}


def masks_of_foregrounds(mask: torch.Tensor | None, latents: tuple[dict | None, ...]) -> tuple[torch.Tensor | None, ...]:
    """A MASK for each of the foregrounds' LATENTs (N rows each): its own of N * K masks, else the same for all."""
    count = len(latents)
    rows = 0 if latents[0] is None else count * latents[0]["samples"].shape[0]
    if mask is None or count == 1 or mask.ndim < 3 or mask.shape[0] != rows:
        return (mask,) * count
    return by_sample(mask, count).unbind(1)


def per_foreground(pictures: torch.Tensor, latent: dict) -> torch.Tensor:
    """Pictures (B, ...) for the rows of a LATENT of several foregrounds: repeated where there is one for each N of N * K."""
    count = foreground_count(latent)
    of_pictures = count > 1 and pictures.shape[0] > 1 and pictures.shape[0] * count == latent["samples"].shape[0]
    return pictures.repeat_interleave(count, dim=0) if of_pictures else pictures


def require_one(name: str, latent: dict) -> None:
    """ValueError naming the input `name` when a LATENT holds several foregrounds, where one picture is expected."""
    if GIVEN_KEY not in latent and (count := foreground_count(latent)) > 1:
        raise ValueError(
            f"{name}: got the latents of {count} foregrounds per picture, expected one latent per picture; to go on with "
            "layers of a run connect them to LayerFusion Given Layers, and Latent From Batch takes one of them out"
        )


def empty_pixels(alpha: torch.Tensor, latent: dict) -> torch.Tensor | None:
    """Which pixels of alpha (B, H, W) lie in cells of a foreground LATENT that are its empty canvas; None without regions."""
    canvas, samples = latent.get(CANVAS_KEY), latent["samples"]
    if canvas is None:
        return None
    empty = torch.isclose(samples, canvas.to(samples), rtol=1e-5, atol=1e-5).all(dim=1)  # (B, h, w)
    cell = alpha.shape[1] // empty.shape[1], alpha.shape[2] // empty.shape[2]
    return empty.repeat_interleave(cell[0], dim=1).repeat_interleave(cell[1], dim=2).to(alpha.device)


def emptied(alpha: torch.Tensor, latent: dict) -> torch.Tensor:
    """alpha (B, H, W), 1 = opaque, with 0 in the cells of a foreground LATENT that are its empty canvas."""
    empty = empty_pixels(alpha, latent)
    return alpha if empty is None else alpha.masked_fill(empty, 0.0)


def of_own(layers: Layers, count: int, own: int) -> Layers:
    """Layers of a run of one foreground as those of a run of `count`, in which it is number `own`; others as they are."""
    if len(layers.foregrounds) != 1 or count == 1:
        return layers
    (given,) = layers.foregrounds
    return layers._replace(foregrounds=tuple(given if k == own else None for k in range(count)))
