"""SDXL's noise schedule, two schedulers and two samplers, written out. Sigmas are those of the k-diffusion convention.

Numbers agree with ComfyUI: ModelSamplingDiscrete in comfy/model_sampling.py, the schedulers in comfy/samplers.py, the
samplers in comfy/k_diffusion/sampling.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

TRAINING_STEPS = 1000
Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x, sigma) -> denoised


class Schedule:
    """sigma(t) of SDXL's 1000 training steps: scaled-linear betas from 0.00085 to 0.012."""

    def __init__(self) -> None:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAINING_STEPS, dtype=torch.float64) ** 2
        alphas_bar = torch.cumprod(1 - betas, dim=0)
        sigmas = ((1 - alphas_bar) / alphas_bar) ** 0.5
        self.sigmas, self.log_sigmas = sigmas.float(), sigmas.log().float()

    def timestep(self, sigma: Tensor) -> Tensor:
        """The training step whose log sigma is nearest: a 0-d float tensor (the host does not interpolate here)."""
        return (sigma.float().log() - self.log_sigmas).abs().argmin().float()

    def sigma(self, timestep: Tensor) -> Tensor:
        """Sigma of a fractional timestep, interpolated in log sigma."""
        t = timestep.float().clamp(0, TRAINING_STEPS - 1)
        low, high, w = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - w) * self.log_sigmas[low] + w * self.log_sigmas[high]).exp()

    def percent_to_sigma(self, percent: float) -> float:
        """Sigma after this share of the schedule: 0 is before everything, 1 after everything."""
        if percent <= 0:
            return 999999999.9
        if percent >= 1:
            return 0.0
        return float(self.sigma(torch.tensor((1 - percent) * 999.0)))

    def normal(self, steps: int) -> Tensor:
        """Equal timestep intervals from 999 to 0, then zero: (steps + 1,)."""
        timesteps = torch.linspace(TRAINING_STEPS - 1, 0, steps)
        return torch.cat([self.sigma(timesteps), torch.zeros(1)])

    def karras(self, steps: int, rho: float = 7.0) -> Tensor:
        """Karras et al. (2022) eq. 5 between the schedule's ends, then zero: (steps + 1,)."""
        low, high = float(self.sigmas[0]) ** (1 / rho), float(self.sigmas[-1]) ** (1 / rho)
        ramp = torch.linspace(0, 1, steps)
        return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1)])

    def make(self, scheduler: str, steps: int) -> Tensor:
        """Sigmas of a scheduler by name, "normal" or "karras"."""
        if scheduler not in ("normal", "karras"):
            raise ValueError(f"The reference knows the schedulers normal and karras, not {scheduler!r}.")
        return getattr(self, scheduler)(steps)

    def initial_latent(self, noise: Tensor, sigma: Tensor) -> Tensor:
        """Pure noise at the first sigma of a run; at the top of the schedule with the unit signal's share added."""
        top = float(self.sigmas[-1])
        if float(sigma) > top or math.isclose(top, float(sigma), rel_tol=1e-5):
            return noise * torch.sqrt(1 + sigma**2)
        return noise * sigma


def euler(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Karras et al. (2022) algorithm 2 without churn: x' = x + (x - D) / sigma * (sigma' - sigma)."""
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        d = (x - denoise(x, sigma)) / sigma
        x = x + d * (following - sigma)
    return x


def dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M), Lu et al. (2022) algorithm 2, with lambda = -log sigma."""
    previous, h_last = None, None
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        denoised = denoise(x, sigma)
        h = sigma.log() - following.log()  # infinite in the step to zero: that step lands on D
        target = denoised
        if previous is not None and following > 0:
            r = h_last / h
            target = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * previous
        x = following / sigma * x - torch.expm1(-h) * target
        previous, h_last = denoised, h
    return x


SAMPLERS = {"euler": euler, "dpmpp_2m": dpmpp_2m}
