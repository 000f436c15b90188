"""One LayerFusion run as the KSampler does it: noise, schedule, guider, and a LATENT per stream."""

from __future__ import annotations

import inspect

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...method.blending import Blending
from ...method.options import LayerFusionOptions, NoiseMode
from ...method.prior_maps import PriorRecord
from ...method.streams import Layers, StreamLayout
from ...vae.decoder import LATENT_SCALE
from ..models.latents import require_channels, require_picture
from .foregrounds import Regions, require_one
from .guider import LayerFusionGuider
from .preview import strip_callback
from .stacked import split_latent, stack_latent


def check_latent(model: ModelPatcher, latent: dict) -> torch.Tensor:
    """Return the samples of a LATENT as (N, channels, h, w) of the model's channel count, or raise ValueError."""
    samples = require_picture("latent_image", latent.get("samples") if isinstance(latent, dict) else None)
    if torch.count_nonzero(samples) > 0:
        require_channels("latent_image", samples, model.get_model_object("latent_format").latent_channels)
    ratios = {key: latent[key] for key in _fix_options() if key in latent}  # of an empty latent made for other models
    samples = comfy.sample.fix_empty_latent_channels(model, samples, **ratios)
    if min(samples.shape[-2:]) < 4:
        height, width = (side * LATENT_SCALE for side in samples.shape[-2:])
        raise ValueError(f"latent_image: expected at least 32 x 32 pixels, got {width} x {height}")
    return samples


def _fix_options() -> list[str]:
    """What of a LATENT the host's own samplers hand to `fix_empty_latent_channels` beside its samples; nothing on older ones."""
    return list(inspect.signature(comfy.sample.fix_empty_latent_channels).parameters)[2:]


def start_noise(latent: dict, samples: torch.Tensor, seed: int, mode: NoiseMode, layout: StreamLayout) -> torch.Tensor:
    """Noise for a guider: shared, (N, 4, h, w) as the stock KSampler draws it for this seed, which goes to every stream.

    independent: (N * S, 4, h, w), stream i with seed + i.
    """
    indices = latent.get("batch_index")
    if mode is NoiseMode.SHARED:
        return comfy.sample.prepare_noise(samples, seed, indices)
    draws = (comfy.sample.prepare_noise(samples, (seed + i) % 2**64, indices) for i in range(layout.count))
    return layout.stack(Layers.of(draws))


def sample_layers(
    base: ModelPatcher,
    foreground_model: ModelPatcher,
    streams: Layers,
    negative: list,
    latent: dict,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float,
    options: LayerFusionOptions,
    negatives: Layers | None = None,
    blending: type[Blending] = Blending,
    regions: Regions | None = None,
    own: int = 0,
) -> tuple[Layers, PriorRecord]:
    """Denoise all layers together; returns each layer's LATENT and the priors.

    streams: the layers' conditionings; negatives: their own negatives, None for `negative`; blending: the method; regions:
    of the foregrounds, None for anywhere; own: which foreground a single given one is; the other arguments as in the stock
    KSampler. ValueError for bad input before anything is computed.
    """
    layout = streams.layout
    require_one("latent_image", latent)
    guider = LayerFusionGuider(base, foreground_model, streams, negative, cfg, options, negatives, blending)
    samples = check_latent(base, latent)
    schedule = comfy.samplers.KSampler(
        guider.model_patcher,
        steps,
        base.load_device,
        sampler_name,
        scheduler,
        denoise,
        guider.model_patcher.model_options,
    )
    noise = start_noise(latent, samples, seed, options.noise, layout)
    stacked = stack_latent({**latent, "samples": samples}, layout.foreground_count, regions, own)
    rows = guider.sample(
        noise,
        stacked["samples"],
        comfy.samplers.sampler_object(sampler_name),
        schedule.sigmas,
        denoise_mask=stacked["noise_mask"],
        callback=strip_callback(base, len(schedule.sigmas) - 1, layout),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    ).to(comfy.model_management.intermediate_device())
    layers = split_latent({**stacked, "samples": rows})
    kept = {key: latent[key] for key in ("noise_mask", "batch_index") if key in latent}
    return layers.map(lambda layer: {**layer, **kept}), guider.record
