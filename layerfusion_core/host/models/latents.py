"""Checks of what comes in through a LATENT socket, and what of a picture goes into one."""

from __future__ import annotations

from typing import Any

import torch

from ...vae.decoder import LATENT_SCALE


def vae_crop(height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns that the host's VAE encodes of a picture: multiples of 8 around the middle, maybe none."""
    tops = (side % LATENT_SCALE // 2 for side in (height, width))
    rows, columns = (slice(top, top + side // LATENT_SCALE * LATENT_SCALE) for top, side in zip(tops, (height, width)))
    return rows, columns


def described(samples: Any) -> str:
    """The shape of a tensor, or the type of what came in its stead, for messages."""
    return str(tuple(samples.shape)) if isinstance(samples, torch.Tensor) else type(samples).__name__


def require_picture(name: str, samples: Any) -> torch.Tensor:
    """The samples of the input `name`; ValueError naming it when they are not latents of pictures, (B, C, h, w)."""
    if not isinstance(samples, torch.Tensor) or samples.ndim != 4:
        raise ValueError(f"{name}: expected a picture latent (batch, 4, height / 8, width / 8), got {described(samples)}")
    return samples


def require_channels(name: str, samples: torch.Tensor, channels: int) -> None:
    """ValueError when the samples (B, C, h, w) are not of SDXL's VAE."""
    if samples.shape[1] != channels:
        raise ValueError(
            f"{name}: expected {channels} latent channels (SDXL), got {samples.shape[1]}; encode the picture with the VAE "
            "of the SDXL checkpoint"
        )
