"""One LayerFusion run as the KSampler does it: noise, schedule, guider, and a LATENT per stream."""

from __future__ import annotations

import inspect

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ..options import LayerFusionOptions, NoiseMode
from ..prior_maps import PriorRecord
from ..streams import StreamLayout
from .given import GIVEN_KEY, KEEP_KEY, given_layers, join_masks
from .guider import LayerFusionGuider
from .latents import described, require_channels, require_picture
from .preview import strip_callback
from .run import PIXELS


def check_latent(model: ModelPatcher, latent: dict) -> torch.Tensor:
    """Return the samples of a LATENT as (N, channels, h, w) of the model's channel count, or raise ValueError."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    require_picture("latent_image", samples)
    if torch.count_nonzero(samples) > 0:
        require_channels("latent_image", samples, model.get_model_object("latent_format").latent_channels)
    ratios = {key: latent[key] for key in _fix_options() if key in latent}  # of an empty latent made for other models
    samples = comfy.sample.fix_empty_latent_channels(model, samples, **ratios)
    if min(samples.shape[-2:]) < 4:
        height, width = (side * PIXELS for side in samples.shape[-2:])
        raise ValueError(f"latent_image: expected at least 32 x 32 pixels, got {width} x {height}")
    return samples


def _fix_options() -> list[str]:
    """What of a LATENT the host's own samplers hand to `fix_empty_latent_channels` beside its samples; nothing on older ones."""
    return list(inspect.signature(comfy.sample.fix_empty_latent_channels).parameters)[2:]


def start_noise(latent: dict, samples: torch.Tensor, seed: int, mode: NoiseMode, layout: StreamLayout) -> torch.Tensor:
    """Noise (N * S, 4, h, w). The foreground's is the stock KSampler's for this seed; shared: so are the others'.

    independent: stream i draws with seed + i.
    """
    indices = latent.get("batch_index")
    if mode is NoiseMode.SHARED:
        return comfy.sample.prepare_noise(samples, seed, indices).repeat_interleave(layout.count, dim=0)
    draws = [comfy.sample.prepare_noise(samples, (seed + i) % 2**64, indices) for i in range(layout.count)]
    return layout.stack(draws)


def stream_mask(latent: dict, layout: StreamLayout) -> torch.Tensor | None:
    """The LATENT's noise mask with its rows repeated for the streams, or None."""
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    mask = mask.reshape((-1, 1, mask.shape[-2], mask.shape[-1]))
    return mask if mask.shape[0] == 1 else mask.repeat_interleave(layout.count, dim=0)


def sample_layers(
    base: ModelPatcher,
    foreground: ModelPatcher,
    streams: list[list],
    negative: list,
    latent: dict,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float,
    options: LayerFusionOptions,
    negatives: list[list | None] | None = None,
) -> tuple[list[dict], PriorRecord]:
    """Denoise all streams together; returns a LATENT per stream in layout order (foreground, blended, background) and the priors.

    streams: the streams' conditionings in layout order; negatives: their own negatives, None for `negative`; the other
    arguments as in the stock KSampler. ValueError for bad input before anything is computed.
    """
    layout = StreamLayout(len(streams) - 2)
    guider = LayerFusionGuider(base, foreground, streams, negative, cfg, options, layout, negatives)
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
    stacked = stack_latent({**latent, "samples": samples}, layout)
    rows = guider.sample(
        noise,
        stacked["samples"],
        comfy.samplers.sampler_object(sampler_name),
        schedule.sigmas,
        denoise_mask=stacked.get("noise_mask"),
        callback=strip_callback(base, len(schedule.sigmas) - 1, layout),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    ).to(comfy.model_management.intermediate_device())
    layers = split_latent({**stacked, "samples": rows}, layout)
    kept = {key: latent[key] for key in ("noise_mask", "batch_index") if key in latent}
    return [{**layer, **kept} for layer in layers], guider.run.record.finish()


def stack_latent(latent: dict, layout: StreamLayout) -> dict:
    """A LATENT (N, 4, h, w) repeated for the streams: (N * S, 4, h, w), rows interleaved.

    Given layers go to the rows of their streams, and what to keep of them into the noise mask (`join_masks`). The
    batch_index gives the streams of a sample the same noise in every node that honours it (Random Noise does).
    """
    samples = latent["samples"]
    indices = latent.get("batch_index") or range(samples.shape[0])
    given = given_layers(latent)
    out = {
        **latent,
        "samples": samples.repeat_interleave(layout.count, dim=0) if given is None else given.rows(samples, layout),
        "batch_index": [i for i in indices for _ in range(layout.count)],
    }
    out.pop(GIVEN_KEY, None)
    mask = stream_mask(latent, layout)
    if given is not None:
        keep = out[KEEP_KEY] = given.keep_rows(layout)
        mask = join_masks(mask, keep) if keep.any() else mask
    return out if mask is None else {**out, "noise_mask": mask}


def split_latent(latent: dict, layout: StreamLayout) -> list[dict]:
    """Undo `stack_latent`: a LATENT per stream in layout order."""
    samples = latent.get("samples")
    if not isinstance(samples, torch.Tensor) or samples.ndim != 4 or samples.shape[0] % layout.count:
        raise ValueError(
            f"expected a latent batch of {layout.count} streams per picture ({', '.join(layout.names)}), got "
            f"{described(samples)}; connect the output of a sampler whose latent came from LayerFusion Stack Latents"
        )
    out = {
        k: v
        for k, v in latent.items()
        if not k.startswith("downscale_ratio") and k not in ("noise_mask", "batch_index", GIVEN_KEY, KEEP_KEY)
    }
    layers = [{**out, "samples": stream.contiguous()} for stream in layout.split(samples)]
    keep = latent.get(KEEP_KEY)
    if keep is None:
        return layers
    return [{**layer, KEEP_KEY: part} for layer, part in zip(layers, layout.split(keep))]
