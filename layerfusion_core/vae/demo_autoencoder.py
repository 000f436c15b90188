"""The small image autoencoder of the demonstration model: 8x smaller, four latent channels.

Three pixel-unshuffle steps on the way in, three pixel-shuffle steps on the way out, with residual blocks at every
resolution of the decoder up to the picture's own, which is what keeps edges straight. The scale of the latent is folded
into the weights: `encode(x) * 0.13025` has unit standard deviation, as SDXL's latents do.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .decoder import LATENT_SCALE

LATENT_CHANNELS = 4
ENCODER = ((32, 1), (48, 1), (80, 1))
"""Width and number of residual blocks at 1/2, 1/4 and 1/8 of the picture."""
DECODER = ((112, 3), (80, 2), (40, 2), (20, 1))
"""Width and number of residual blocks at 1/8, 1/4, 1/2 and the whole of the picture."""

Levels = tuple[tuple[int, int], ...]


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

    blocks: Any  # lists of blocks, by level

    def __init__(self, levels: Levels = ENCODER):
        super().__init__()
        before = (3, *(width for width, _ in levels))
        self.down = nn.ModuleList(nn.Conv2d(4 * a, b, 3, padding=1) for a, (b, _) in zip(before, levels, strict=False))
        self.blocks = nn.ModuleList(nn.ModuleList(ResidualBlock(w) for _ in range(depth)) for w, depth in levels)
        self.head = nn.Conv2d(levels[-1][0], LATENT_CHANNELS, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels
        for down, blocks in zip(self.down, self.blocks, strict=True):
            x = down(F.pixel_unshuffle(x, 2))
            for block in blocks:
                x = block(x)
        return self.head(x)


class DemoDecoder(nn.Module):
    """Latent (B, 4, h, w) to pixels (B, 3, 8h, 8w), nominally in [-1, 1], not clipped."""

    blocks: Any  # lists of blocks, by level

    def __init__(self, levels: Levels = DECODER):
        super().__init__()
        widths = [width for width, _ in levels]
        self.stem = nn.Conv2d(LATENT_CHANNELS, widths[0], 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(a, 4 * b, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.blocks = nn.ModuleList(nn.ModuleList(ResidualBlock(w) for _ in range(depth)) for w, depth in levels)
        self.head = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        x = self.stem(latent)
        for level, blocks in enumerate(self.blocks):
            if level:
                x = F.pixel_shuffle(self.up[level - 1](x), 2)
            for block in blocks:
                x = block(x)
        return self.head(F.silu(x))


class DemoAutoencoder(nn.Module):
    """Encoder and decoder; `encode` and `decode` are what the host's VAE wrapper calls."""

    def __init__(self, encoder: Levels = ENCODER, decoder: Levels = DECODER):
        super().__init__()
        self.encoder, self.decoder = DemoEncoder(encoder), DemoDecoder(decoder)

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, torch.Tensor]) -> DemoAutoencoder:
        """Builds the module with the widths and depths found in `state_dict` and loads it (raises on a bad file)."""

        def levels(part: str) -> Levels:
            depths: dict[int, set[str]] = {}
            widths: dict[int, int] = {}
            for key, value in state_dict.items():
                found = re.fullmatch(rf"{part}\.blocks\.(\d+)\.(\d+)\.conv1\.weight", key)
                if found:
                    depths.setdefault(int(found[1]), set()).add(found[2])
                    widths[int(found[1])] = value.shape[0]
            return tuple((widths[i], len(depths[i])) for i in sorted(widths))

        encoder, decoder = levels("encoder"), levels("decoder")
        if len(encoder) != len(ENCODER) or len(decoder) != len(DECODER):
            raise ValueError(
                f"expected the weights of a demo autoencoder with {len(ENCODER)} encoder and {len(DECODER)} decoder levels, "
                f"got {len(encoder)} and {len(decoder)}; use demo/models/vae.safetensors"
            )
        model = cls(encoder, decoder)
        model.load_state_dict(state_dict)
        return model

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] to latent (B, 4, H/8, W/8) of standard deviation about 1 / 0.13025."""
        height, width = pixels.shape[-2:]
        if height % LATENT_SCALE or width % LATENT_SCALE:
            raise ValueError(
                f"expected a height and width divisible by {LATENT_SCALE}, got {height}x{width}; crop or resize"
            )
        return self.encoder(pixels)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Latent (B, 4, h, w) to pixels (B, 3, 8h, 8w) in [-1, 1]."""
        return self.decoder(latent).clamp(-1, 1)
