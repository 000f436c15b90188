"""Plain sampling of the demonstration model: DPM-Solver++(2M) with classifier-free guidance, in k-diffusion's terms."""

from __future__ import annotations

import math

import stage_text
import stage_unet
import stage_vae
import torch
import unet
from common import SCALE_FACTOR, Settings


def sigmas(steps: int) -> torch.Tensor:
    """Noise levels (steps + 1,) at evenly spaced timesteps, from the highest to zero."""
    alphas = stage_unet.schedule()
    levels = ((1 - alphas) / alphas).sqrt()
    position = torch.linspace(999, 0, steps + 1)[:-1]
    low = position.floor().long()
    high = (low + 1).clamp(max=999)
    log_levels = levels.log()
    chosen = (log_levels[low] + (position - low) * (log_levels[high] - log_levels[low])).exp()
    return torch.cat([chosen, torch.zeros(1)])


class Sampler:
    """The shipped models, loaded once."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.vae, self.text = stage_vae.load(settings), stage_text.load(settings)
        self.model, self.rows = unet.load(settings)
        alphas = stage_unet.schedule()
        self.log_levels = ((1 - alphas) / alphas).sqrt().log()

    @torch.no_grad()
    def __call__(self, captions: list[str], foreground: bool, steps: int = 20, cfg: float = 4.5, seed: int = 1):
        """Unscaled latents (B, 4, h, w) and decoded pictures (B, 3, H, W) in [0, 1]."""
        s, batch = self.settings, len(captions)
        generator = torch.Generator().manual_seed(seed)
        side = s.size // 8
        levels = sigmas(steps).to(s.device)
        x = torch.randn(batch, 4, side, side, generator=generator).to(s.device) * math.sqrt(1 + levels[0] ** 2)
        context, pooled, _ = self.text([*captions, *[""] * batch])
        self.rows.count = 2 * batch if foreground else 0
        previous = None
        for i in range(steps):
            sigma, following = levels[i], levels[i + 1]
            t = torch.bucketize(sigma.log().cpu(), self.log_levels).clamp(max=999).repeat(2 * batch).to(s.device)
            scaled = (x / (sigma**2 + 1).sqrt()).repeat(2, 1, 1, 1)
            eps = unet.predict(self.model, scaled, t, context, pooled, s.size)
            eps = eps[batch:] + cfg * (eps[:batch] - eps[batch:])
            denoised = x - sigma * eps
            if following == 0:
                return denoised / SCALE_FACTOR, (self.vae.decode(denoised / SCALE_FACTOR) + 1) / 2
            h = (sigma / following).log()
            mixed = denoised
            if previous is not None:
                r = (levels[i - 1] / sigma).log() / h
                mixed = (1 + 1 / (2 * r)) * denoised - previous / (2 * r)
            x = following / sigma * x - torch.expm1(-h) * mixed
            previous = denoised
        raise ValueError(f"expected at least one step, got {steps}")
