"""Given layers in LATENTs: checked on their way in, and what a run's result says of them on its way out."""

from __future__ import annotations

import logging

import torch

from ...layers.keep import HELD, GivenLayer, GivenLayers, keep_map
from ...method.streams import Layers
from ...vae.decoder import LATENT_SCALE
from ..models.latents import require_channels, require_picture, vae_crop

GIVEN_KEY = "layerfusion_given"  # of the GivenLayers in a LATENT
KEEP_KEY = "layerfusion_keep"  # of keep (B, 1, h, w) in the LATENT of a layer that a run with GivenLayers gives
KEPT_KEY = "layerfusion_kept"  # of the given latent (B, C, h, w) beside it
_ROUNDING = 1e-3  # of a latent's deviation: by which samplers move what they leave alone

log = logging.getLogger(__name__)


def given_latent(latents: Layers, strengths: Layers, masks: Layers) -> dict:
    """One LATENT of the layers' LATENTs (None where not given): GivenLayers under GIVEN_KEY, and one layer's samples.

    Samples are what other nodes see: the blended picture, else background, else foreground.
    strengths: keep in [0, 1]; masks: (B, H, W) or (H, W), 1 = made anew; a noise mask in a LATENT counts like one. A
    layer of batch 1 serves every picture of the others. ValueError for layers that do not fit each other.
    """
    names = Layers.of(latents.layout.names)
    found = {name: latent for name, latent in zip(names.streams, latents.streams) if latent is not None}
    if not found:
        raise ValueError(
            "expected at least one given layer (foreground, background or blended), got none; for a run without given "
            "layers connect an Empty Latent Image to the sampler instead"
        )
    for name, latent in found.items():
        _check_layer(name, latent)
    sizes = {name: latent["samples"].shape for name, latent in found.items()}
    if len({size[1:] for size in sizes.values()}) > 1:
        raise ValueError(
            f"expected given layers of one size, got {_sizes(sizes)}; Place Foreground brings a cut-out to another size, "
            "ComfyUI's Upscale Image a picture"
        )
    batch = max(size[0] for size in sizes.values())
    if any(size[0] not in (1, batch) for size in sizes.values()):
        raise ValueError(f"expected batches of 1 or one same number, got {_sizes(sizes)}")

    def layer(name: str, latent: dict | None, strength: float, mask: torch.Tensor | None) -> GivenLayer | None:
        if latent is None:
            return None
        samples = latent["samples"].detach().to("cpu", torch.float32)
        samples = samples.expand(batch, *samples.shape[1:])
        regions = [
            _region(name, region, batch) for region in (mask, latent.get("noise_mask")) if region is not None
        ]
        return GivenLayer(samples, keep_map(strength, samples.shape, regions))

    given = GivenLayers(names.map(layer, latents, strengths, masks))
    out = {"samples": given.picture.clone(), GIVEN_KEY: given}
    indices = next((v["batch_index"] for v in found.values() if len(v.get("batch_index") or []) == batch), None)
    return out if indices is None else {**out, "batch_index": indices}


def _check_layer(name: str, latent: dict) -> None:
    samples = latent["samples"]
    if GIVEN_KEY in latent:
        raise ValueError(f"{name}: got the output of another Given Layers node; connect the layer's own latent")
    require_picture(name, samples)
    require_channels(name, samples, 4)


def _sizes(shapes: dict[str, torch.Size]) -> str:
    """Sizes in words, such as "foreground 1 x 128 x 128 pixels"."""
    return ", ".join(f"{name} {s[0]} x {s[-1] * LATENT_SCALE} x {s[-2] * LATENT_SCALE} pixels" for name, s in shapes.items())


def _region(name: str, mask: torch.Tensor, batch: int) -> torch.Tensor:
    """A MASK or noise mask as (B, 1, H, W), or ValueError when its batch does not fit."""
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    if mask.shape[0] not in (1, batch):
        raise ValueError(f"{name}: expected 1 or {batch} masks, got {mask.shape[0]}")
    return mask


def given_layers(latent: dict) -> GivenLayers | None:
    """The given layers of a LATENT, or None; ValueError when a node between has changed its samples, which would be lost."""
    given, samples = latent.get(GIVEN_KEY), latent["samples"]
    if given is None:
        return None
    if given.shape != samples.shape:
        raise ValueError(
            f"the latent's size was changed from {tuple(given.shape)} to {tuple(samples.shape)} after LayerFusion "
            "Given Layers; change the layers before that node instead"
        )
    if not torch.equal(samples, given.picture.to(samples)):
        raise ValueError(
            "a node between LayerFusion Given Layers and the sampler (flip, composite, a sampler) changed the latent, which "
            "the layers would not follow; change the layers before Given Layers instead"
        )
    return given


def given_picture(
    name: str, picture: torch.Tensor, latent: dict, channels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `paste_pixels` takes: the picture (1 | B, H, W, C) that a kept layer was encoded from, and what is kept of it.

    The picture is cropped as the host's VAE crops it. latent: that layer's after the run, with `KEEP_KEY`; cells that
    other samplers changed since are kept no more. ValueError when it does not say what was kept, or when the picture
    does not fit it.
    """
    samples, keep, kept = latent["samples"], latent.get(KEEP_KEY), latent.get(KEPT_KEY)
    if keep is None or kept is None or keep.shape != (samples.shape[0], 1, *samples.shape[-2:]):
        raise ValueError(
            f"given_{name} is connected, but the {name} latent does not say what of it was kept: expected the latent of a run "
            "with LayerFusion Given Layers, unchanged since; disconnect the picture, or connect that latent"
        )
    if picture.shape[-1] < channels:
        raise ValueError(
            f"given_{name}: expected a picture with alpha (RGBA), got {picture.shape[-1]} channels; connect what went into "
            "LayerFusion Encode, after Join Image with Alpha where its mask was connected on its own"
        )
    batch, height, width = picture.shape[:3]
    cells = height // LATENT_SCALE, width // LATENT_SCALE
    if batch not in (1, samples.shape[0]) or cells != tuple(keep.shape[-2:]):
        expected = " x ".join(str(side * LATENT_SCALE) for side in reversed(keep.shape[-2:]))
        raise ValueError(
            f"given_{name}: expected 1 or {samples.shape[0]} pictures of {expected} pixels, got {batch} of {width} x {height}; "
            "connect the picture that the layer was encoded from"
        )
    rows, columns = vae_crop(height, width)
    return picture[:, rows, columns, :channels], _still_kept(name, samples, keep, kept)


def _still_kept(name: str, samples: torch.Tensor, keep: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """keep (B, 1, h, w), 0 where the samples are no longer the given ones."""
    kept = kept.to(samples)
    same = ((samples - kept).abs() <= _ROUNDING * kept.std()).all(dim=1, keepdim=True)
    held = keep.to(samples.device) >= HELD
    if (held & ~same).any():
        log.info(
            "Of the %s latent, %d of %d kept cells were changed after the run: they are decoded, not taken from given_%s.",
            name, int((held & ~same).sum()), int(held.sum()), name,
        )  # fmt: skip
    return keep.to(samples.device) * same
