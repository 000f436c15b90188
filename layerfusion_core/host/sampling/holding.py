"""Kept layers in a run: a denoise mask that differs by stream and noise level, and the start they are held from.

The host's own inpainting does the work: its `KSamplerX0Inpaint` shows the model the run's start latent with the run's
noise at the current level, wherever the denoise mask is 0, and returns the start latent there. The mask function of a
run (`denoise_mask_function`, as Differential Diffusion has one) makes that mask 0 where a cell is held at this level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from comfy.samplers import KSAMPLER, CFGGuider

from ...layers.keep import HELD, held, release_levels, release_sigmas
from .stacked import StackedStart

MASK_FUNCTION = "denoise_mask_function"
_LEVELS = 1001  # of keep, for which the model's schedule is read


def rises(sigmas: torch.Tensor) -> bool:
    """Whether a run adds noise on the whole, as one does that looks for the noise of a picture (unsampling)."""
    return len(sigmas) > 1 and bool(sigmas[-1] > sigmas[0])


@contextmanager
def holding(
    guider: CFGGuider, start: StackedStart, noise: torch.Tensor, sigmas: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Noise, latent and denoise mask to start a run of `guider` from, whose kept cells are held for as long as it lasts.

    A run that goes on where another stopped starts from latents with noise in them: the same start is told apart into
    the given layers and their noise, so that both are known at every level. A rising run holds nothing: it finds the
    noise of the given layers, too. A mask function that is on the guider already still acts.
    """
    if start.keep is None or start.clean is None or rises(sigmas):
        yield noise, start.latent, start.mask
        return
    keep, latent, clean = start.keep, start.latent, start.clean
    fresh = _same(latent, clean, keep > 0)
    if not fresh:
        noise, latent = _told_apart(guider, start.latent, clean, keep > 0, noise, sigmas)
    whole = fresh and bool(sigmas[-1] == 0)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    release = release_sigmas(keep, sigmas) if whole else release_levels(keep, _levels(sampling))
    mask = (torch.ones_like(keep) if start.mask is None else start.mask) * (keep < HELD)
    before = guider.model_options
    guider.model_options = {**before, MASK_FUNCTION: _mask_function(release, before.get(MASK_FUNCTION))}
    try:
        yield noise, latent, mask
    finally:
        guider.model_options = before


def _same(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> bool:
    return bool(((a == b) | ~where).all())


def _told_apart(
    guider: CFGGuider, start: torch.Tensor, clean: torch.Tensor, kept: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(noise, latent) that make the run's start, with the given layers `clean` for latent wherever something of them is kept."""
    sampling = guider.model_patcher.get_model_object("model_sampling")
    highest, sigma = float(sampling.sigma_max), float(sigmas[0])
    top = sigma > highest or math.isclose(sigma, highest, rel_tol=1e-5)  # as KSAMPLER.max_denoise says
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    share = [float(sampling.noise_scaling(sigmas[0].cpu(), *pair, top)) for pair in ((one, zero), (zero, one))]
    scaled = guider.model_patcher.model.process_latent_in
    rest = (scaled(start) - scaled(clean)) * (share[1] / share[0])
    return torch.where(kept, noise + rest.to(noise), noise), torch.where(kept, clean, start)


def _levels(sampling) -> torch.Tensor:
    """Noise levels of the model's schedule after 0, 1/1000, 2/1000 ... of it."""
    return torch.tensor([float(sampling.percent_to_sigma(i / (_LEVELS - 1))) for i in range(_LEVELS)])


def _mask_function(release: torch.Tensor, foreign):
    def mask_at(sigma: torch.Tensor, denoise_mask: torch.Tensor, extra_options: dict) -> torch.Tensor:
        nonlocal release
        if foreign is not None:
            denoise_mask = foreign(sigma, denoise_mask, extra_options=extra_options)
        release = release.to(denoise_mask.device)
        return denoise_mask.masked_fill(held(release, sigma[0]), 0.0)

    return mask_at


def same_noise(sampler: KSAMPLER) -> KSAMPLER:
    """`sampler` with the run's noise in held cells, where it would draw another (ddim): streams must agree on it."""
    if not getattr(sampler, "inpaint_options", {}).get("random"):
        return sampler
    return KSAMPLER(sampler.sampler_function, sampler.extra_options, {**sampler.inpaint_options, "random": False})
