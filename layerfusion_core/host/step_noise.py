"""Noise that stochastic samplers add in every step: the same for all streams of a sample, as a lone run would get it."""

from __future__ import annotations

import inspect

import torch
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler, default_noise_sampler
from comfy.samplers import KSAMPLER

from ..streams import StreamLayout


def share_step_noise(sampler: KSAMPLER, layout: StreamLayout) -> KSAMPLER:
    """Return `sampler` with noise drawn per sample and repeated over its streams.

    Left as it is when the sampler draws none, or brings a noise sampler of its own. With equal start noise, a stream
    then sees exactly the noise that the stock KSampler gives a batch of these samples.
    """
    function = getattr(sampler, "sampler_function", None)
    if function is None or "noise_sampler" in sampler.extra_options:
        return sampler
    if "noise_sampler" not in inspect.signature(function).parameters:
        return sampler
    name = getattr(function, "__name__", "")
    # The host's own choice for these families; the others use its default Gaussian sampler.
    brownian = "dpmpp" in name and "_sde" in name

    def shared(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        rows = layout.grouped(x)[:, 0]  # what a run of one stream would hold
        seed = (extra_args or {}).get("seed")
        if brownian:
            low, high = sigmas[sigmas > 0].min(), sigmas.max()
            draw = BrownianTreeNoiseSampler(rows, low, high, seed=seed, cpu="_gpu" not in name)
        else:
            draw = default_noise_sampler(rows, seed=seed)

        def noise(sigma, sigma_next) -> torch.Tensor:
            return draw(sigma, sigma_next).repeat_interleave(layout.count, dim=0)

        return function(
            model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable, noise_sampler=noise, **options
        )

    return KSAMPLER(shared, sampler.extra_options, sampler.inpaint_options)
