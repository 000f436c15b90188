"""One LayerFusion run as the KSampler does it: noise, schedule, guider, and a LATENT per stream."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

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
from ..unet.run import Run
from .foregrounds import Regions, require_one
from .guider import LayerFusionGuider
from .preview import strip_callback
from .stacked import require_same_run, split_latent, stack_latent, stacked_count, unstack_start


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


@dataclass(frozen=True)
class Part:
    """A part of a schedule, as KSampler (Advanced) takes it: from step `start` up to `end`, with noise added or not.

    leftover: a part that ends early leaves the level's noise in; otherwise its last step goes down to none.
    """

    start: int = 0
    end: int = 10000
    add_noise: bool = True
    leftover: bool = False

    def of(self, sigmas: torch.Tensor) -> torch.Tensor:
        """The part's noise levels (n + 1,) of a schedule's; none where it starts at the schedule's end."""
        last = len(sigmas) - 1
        if self.end < last:
            sigmas = sigmas[: self.end + 1].clone()
            if not self.leftover:
                sigmas[-1] = 0
        return sigmas[self.start :] if self.start < len(sigmas) - 1 else sigmas[:0]


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
    require_one("latent_image", latent)
    guider = LayerFusionGuider(base, foreground_model, streams, negative, cfg, options, negatives, blending)
    layout = streams.layout
    samples = check_latent(base, latent)
    stacked = stack_latent({**latent, "samples": samples}, layout.foreground_count, regions, own)
    rows, record = sample_stacked(guider, stacked, seed, steps, sampler_name, scheduler, denoise)
    layers = split_latent(rows)
    kept = {key: latent[key] for key in ("noise_mask", "batch_index") if key in latent}
    return layers.map(lambda layer: {**layer, **kept}), record


def sample_part(
    guider: LayerFusionGuider,
    latent: dict,
    seed: int,
    steps: int,
    sampler_name: str,
    scheduler: str,
    part: Part,
    regions: Regions | None = None,
    own: int = 0,
) -> tuple[dict, PriorRecord]:
    """Denoise all layers in a part of a run; returns the LATENT of all rows, for the next part, and the priors.

    latent: as for `sample_layers`, or the rows of the part before, which know the regions: others are refused. A part
    without steps gives its latent back.
    """
    layout = guider.settings.layout
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not part.add_noise and isinstance(samples, torch.Tensor) and torch.count_nonzero(samples) == 0:
        raise ValueError(
            "add_noise is off and latent_image is empty, so there is nothing to denoise: switch add_noise on for the first part of "
            "a run, and connect the latent of that part (with return_with_leftover_noise) to the next one"
        )
    if stacked_count(latent) is not None:
        require_same_run(latent, regions, layout)
    else:
        samples = check_latent(guider.model_patcher, latent)
        latent = stack_latent({**latent, "samples": samples}, layout.foreground_count, regions, own)
    return sample_stacked(guider, latent, seed, steps, sampler_name, scheduler, 1.0, part)


def sample_stacked(
    guider: LayerFusionGuider,
    stacked: dict,
    seed: int,
    steps: int,
    sampler_name: str,
    scheduler: str,
    denoise: float,
    part: Part = Part(),
) -> tuple[dict, PriorRecord]:
    """Run the guider on a LATENT from `stack_latent`, or on the rows of a run before, with the stock KSampler's noise."""
    model, layout = guider.model_patcher, guider.settings.layout
    schedule = comfy.samplers.KSampler(
        model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
    )
    sigmas = part.of(schedule.sigmas)
    samples = stacked["samples"]
    pictures = samples[: stacked["noise_mask"].shape[0] // layout.count]
    if part.add_noise:
        noise = start_noise(stacked, pictures, seed, guider.settings.options.noise, layout)
    else:
        noise = torch.zeros_like(pictures)
    if len(sigmas) == 0:
        start = unstack_start(samples, stacked["noise_mask"], layout)
        return {**stacked, "samples": start.latent}, Run(guider.settings, samples.shape).record.finish()
    rows = guider.sample(
        noise,
        samples,
        comfy.samplers.sampler_object(sampler_name),
        sigmas,
        denoise_mask=stacked["noise_mask"],
        callback=strip_callback(model, len(sigmas) - 1, layout),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    ).to(comfy.model_management.intermediate_device())
    return {**stacked, "samples": rows}, guider.record
