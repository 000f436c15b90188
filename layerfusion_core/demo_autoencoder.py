"""The small image autoencoder of the demonstration model: 8x smaller, four latent channels.

A pixel-unshuffle stem and a pixel-shuffle head keep every convolution at 1/8 or 1/4 of the image size, which is what
makes it trainable in minutes on a CPU. The scale of the latent is folded into the weights: `encode(x) * 0.13025` has
unit standard deviation, as SDXL's latents do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LATENT_CHANNELS = 4
DOWNSCALE = 8


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), no normalisation (it would lose flat colours)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class DemoEncoder(nn.Module):
    """Pixels (B, 3, H, W) in [-1, 1] to latent (B, 4, H/8, W/8)."""

    def __init__(self, width: int = 64, depth: int = 1):
        super().__init__()
        self.stem = nn.Conv2d(3 * DOWNSCALE**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.head = nn.Conv2d(width, LATENT_CHANNELS, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.stem(F.pixel_unshuffle(pixels, DOWNSCALE))  # (B, width, H/8, W/8)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class DemoDecoder(nn.Module):
    """Latent (B, 4, h, w) to pixels (B, 3, 8h, 8w), nominally in [-1, 1], not clipped."""

    def __init__(self, width: int = 80, depth: int = 3, upper_width: int = 48, upper_depth: int = 2):
        super().__init__()
        self.stem = nn.Conv2d(LATENT_CHANNELS, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.up = nn.Conv2d(width, 4 * upper_width, 1)
        self.upper = nn.ModuleList(ResidualBlock(upper_width) for _ in range(upper_depth))
        self.head = nn.Conv2d(upper_width, 3 * 16, 3, padding=1)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        x = self.stem(latent)  # (B, width, h, w)
        for block in self.blocks:
            x = block(x)
        x = F.pixel_shuffle(self.up(x), 2)  # (B, upper_width, 2h, 2w)
        for block in self.upper:
            x = block(x)
        return F.pixel_shuffle(self.head(x), 4)


class DemoAutoencoder(nn.Module):
    """Encoder and decoder; `encode` and `decode` are what the host's VAE wrapper calls."""

    def __init__(
        self,
        encoder_width: int = 64,
        encoder_depth: int = 1,
        decoder_width: int = 80,
        decoder_depth: int = 3,
        upper_width: int = 48,
        upper_depth: int = 2,
    ):
        super().__init__()
        self.encoder = DemoEncoder(encoder_width, encoder_depth)
        self.decoder = DemoDecoder(decoder_width, decoder_depth, upper_width, upper_depth)

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, torch.Tensor]) -> DemoAutoencoder:
        """Builds the module with the widths and depths found in `state_dict` and loads it (raises on a bad file)."""

        def depth(prefix: str) -> int:
            return len({k.split(".")[2] for k in state_dict if k.startswith(prefix)})

        try:
            model = cls(
                encoder_width=state_dict["encoder.stem.weight"].shape[0],
                encoder_depth=depth("encoder.blocks."),
                decoder_width=state_dict["decoder.stem.weight"].shape[0],
                decoder_depth=depth("decoder.blocks."),
                upper_width=state_dict["decoder.head.weight"].shape[1],
                upper_depth=depth("decoder.upper."),
            )
        except KeyError as error:
            raise ValueError(
                f"expected the weights of a demo autoencoder, but {error} is missing; use demo/models/vae.safetensors"
            ) from error
        model.load_state_dict(state_dict)
        return model

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] to latent (B, 4, H/8, W/8) of standard deviation about 1 / 0.13025."""
        height, width = pixels.shape[-2:]
        if height % DOWNSCALE or width % DOWNSCALE:
            raise ValueError(
                f"expected a height and width divisible by {DOWNSCALE}, got {height}x{width}; crop or resize"
            )
        return self.encoder(pixels)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Latent (B, 4, h, w) to pixels (B, 3, 8h, 8w) in [-1, 1]."""
        return self.decoder(latent).clamp(-1, 1)
