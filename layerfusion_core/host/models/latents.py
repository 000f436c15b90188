"""Checks of what comes in through a LATENT socket, and what of a picture goes into one."""

from __future__ import annotations

import torch

from ...vae.decoder import LATENT_SCALE


def vae_crop(height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns that the host's VAE encodes of a picture: multiples of 8 around the middle, maybe none."""
    tops = (side % LATENT_SCALE // 2 for side in (height, width))
    return tuple(slice(top, top + side // LATENT_SCALE * LATENT_SCALE) for top, side in zip(tops, (height, width)))


def described(samples: object) -> str:
    """The shape of a tensor, or the type of what came in its stead, for messages."""
    return str(tuple(samples.shape)) if isinstance(samples, torch.Tensor) else type(samples).__name__


def require_picture(name: str, samples: object) -> None:
    """ValueError naming the input `name` when its samples are not latents of pictures, (B, C, h, w)."""
    if not isinstance(samples, torch.Tensor) or samples.ndim != 4:
        raise ValueError(f"{name}: expected a picture latent (batch, 4, height / 8, width / 8), got {described(samples)}")


def require_channels(name: str, samples: torch.Tensor, channels: int) -> None:
    """ValueError when the samples (B, C, h, w) are not of SDXL's VAE."""
    if samples.shape[1] != channels:
        raise ValueError(
            f"{name}: expected {channels} latent channels (SDXL), got {samples.shape[1]}; encode the picture with the VAE "
            "of the SDXL checkpoint"
        )
