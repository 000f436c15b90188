"""Given layers inside the host: checked LATENTs, and a denoise mask that differs by stream and noise level.

The host's own inpainting does the work: its `KSamplerX0Inpaint` shows the model the given latent with the run's noise
at the current level, wherever the denoise mask is 0, and returns the given latent there. The mask function of a run
(`denoise_mask_function`, as Differential Diffusion has one) makes that mask 0 where a cell is held at this level.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from comfy.samplers import KSAMPLER, CFGGuider

from ..given import HELD, GivenLayer, GivenLayers, held, keep_map, release_sigmas
from ..streams import StreamLayout
from .latents import require_channels, require_picture, vae_crop
from .run import PIXELS

GIVEN_KEY = "layerfusion_given"  # of the GivenLayers in a LATENT
KEEP_KEY = "layerfusion_keep"  # of keep (B, 1, h, w) in the LATENT of a layer that a run with GivenLayers gives
MASK_FUNCTION = "denoise_mask_function"


def given_latent(
    latents: list[dict | None], strengths: list[float], masks: list[torch.Tensor | None], layout: StreamLayout
) -> dict:
    """One LATENT of the given LATENTs, all lists in layout order: empty samples, and GivenLayers under GIVEN_KEY.

    strengths: keep in [0, 1]; masks: (B, H, W) or (H, W), 1 = made anew; a noise mask in a LATENT counts like one. A
    layer of batch 1 serves every picture of the others. ValueError for layers that do not fit each other.
    """
    found = {name: latent for name, latent in zip(layout.names, latents) if latent is not None}
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

    layers: list[GivenLayer | None] = []
    for name, latent, strength, mask in zip(layout.names, latents, strengths, masks):
        if latent is None:
            layers.append(None)
            continue
        samples = latent["samples"].detach().to("cpu", torch.float32)
        samples = samples.expand(batch, *samples.shape[1:])
        regions = [
            _region(name, region, batch) for region in (mask, latent.get("noise_mask")) if region is not None
        ]
        layers.append(GivenLayer(samples, keep_map(strength, samples.shape, regions)))

    given = GivenLayers(tuple(layers))
    out = {"samples": torch.zeros(given.shape), GIVEN_KEY: given}
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
    return ", ".join(f"{name} {s[0]} x {s[-1] * PIXELS} x {s[-2] * PIXELS} pixels" for name, s in shapes.items())


def _region(name: str, mask: torch.Tensor, batch: int) -> torch.Tensor:
    """A MASK or noise mask as (B, 1, H, W), or ValueError when its batch does not fit."""
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    if mask.shape[0] not in (1, batch):
        raise ValueError(f"{name}: expected 1 or {batch} masks, got {mask.shape[0]}")
    return mask


def given_layers(latent: dict) -> GivenLayers | None:
    """The given layers of a LATENT, or None; ValueError when a node between has changed its size or batch."""
    given = latent.get(GIVEN_KEY)
    if given is not None and given.shape != latent["samples"].shape:
        raise ValueError(
            f"the latent's size was changed from {tuple(given.shape)} to {tuple(latent['samples'].shape)} after LayerFusion "
            "Given Layers; change the layers before that node instead"
        )
    return given


def given_picture(name: str, picture: torch.Tensor, latent: dict, channels: int) -> torch.Tensor:
    """The picture (1 | B, H, W, C) that a kept layer was encoded from, cropped as the host's VAE crops it, for `paste_pixels`.

    latent: that layer's after the run, with `KEEP_KEY`. ValueError when it does not say what was kept, or when the
    picture does not fit it.
    """
    samples, keep = latent["samples"], latent.get(KEEP_KEY)
    if keep is None or keep.shape != (samples.shape[0], 1, *samples.shape[-2:]):
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
    cells = height // PIXELS, width // PIXELS
    if batch not in (1, samples.shape[0]) or cells != tuple(keep.shape[-2:]):
        expected = " x ".join(str(side * PIXELS) for side in reversed(keep.shape[-2:]))
        raise ValueError(
            f"given_{name}: expected 1 or {samples.shape[0]} pictures of {expected} pixels, got {batch} of {width} x {height}; "
            "connect the picture that the layer was encoded from"
        )
    rows, columns = vae_crop(height, width)
    return picture[:, rows, columns, :channels]


def join_masks(mask: torch.Tensor | None, keep: torch.Tensor) -> torch.Tensor:
    """The host's noise mask (B, 1, H, W) and keep (R, 1, h, w) as the two channels of one mask (R, 2, h, w).

    A sampler node hands nothing but samples and one mask on to the guider, so both go into it.
    """
    if mask is None:
        mask = torch.ones_like(keep)
    mask = torch.nn.functional.interpolate(mask.to(keep), size=keep.shape[-2:], mode="bilinear")  # as the host does
    return torch.cat([mask.expand_as(keep), keep], dim=1)


def part_masks(mask: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Undo `join_masks`: (the host's mask, 0 too where a cell is held to the end; keep), or (mask, None) for others."""
    if mask is None or mask.ndim != 4 or mask.shape[1] != 2:
        return mask, None
    mask, keep = mask.split(1, dim=1)
    return mask * (keep < HELD), keep


@contextmanager
def holding(guider: CFGGuider, keep: torch.Tensor | None) -> Iterator[None]:
    """While it lasts, runs of `guider` hold the streams' cells by keep (R, 1, h, w); a mask function there still acts."""
    if keep is None:
        yield
        return
    before = guider.model_options
    guider.model_options = {**before, MASK_FUNCTION: _mask_function(keep, before.get(MASK_FUNCTION))}
    try:
        yield
    finally:
        guider.model_options = before


def _mask_function(keep: torch.Tensor, foreign):
    release: dict[str, torch.Tensor] = {}

    def mask_at(sigma: torch.Tensor, denoise_mask: torch.Tensor, extra_options: dict) -> torch.Tensor:
        if foreign is not None:
            denoise_mask = foreign(sigma, denoise_mask, extra_options=extra_options)
        if not release:
            release["sigma"] = release_sigmas(keep, extra_options["sigmas"].to(keep)).to(denoise_mask.device)
        return denoise_mask.masked_fill(held(release["sigma"], sigma[0]), 0.0)

    return mask_at


def same_noise(sampler: KSAMPLER) -> KSAMPLER:
    """`sampler` with the run's noise in held cells, where it would draw another (ddim): streams must agree on it."""
    if not getattr(sampler, "inpaint_options", {}).get("random"):
        return sampler
    return KSAMPLER(sampler.sampler_function, sampler.extra_options, {**sampler.inpaint_options, "random": False})
