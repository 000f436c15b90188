"""From a picture with alpha to a foreground latent: padded colour, mid-grey composite and the latent offset.

Zhang and Agrawala, "Transparent Image Layer Diffusion using Latent Transparency" (2024), sections 3.1 and appendix: the
colour under alpha 0 is filled smoothly, the picture is laid over mid-grey, the ordinary VAE encodes it, and a small
network moves the latent by `offset * std * scale` so that it carries the alpha.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OFFSET_SCALE = 300.0
"""Multiplier of the offset in the authors' command line tool (their Forge extension uses 1 with the same weights)."""


@dataclass(frozen=True)
class EncoderConfig:
    """Channels after each of the nine 3x3 convolutions; default: the published encoder (1,181,764 parameters)."""

    channels: tuple[int, ...] = (32, 32, 64, 64, 128, 128, 256, 256, 4)
    in_channels: int = 4


class OffsetEncoder(nn.Module):
    """LatentTransparencyOffsetEncoder: (B, 4, H, W) A, R, G, B in [0, 1] -> (B, 4, H/8, W/8) latent offset.

    Keys are `blocks.{0, 2, ..., 16}`; the third, fifth and seventh convolution have stride 2, SiLU stands between.
    """

    def __init__(self, config: EncoderConfig, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = config.in_channels
        for i, outputs in enumerate(config.channels):
            stride = 2 if i in (2, 4, 6) else 1
            layers.append(operations.Conv2d(inputs, outputs, 3, stride=stride, padding=1, dtype=dtype, device=device))
            layers.append(nn.SiLU())
            inputs = outputs
        self.config = config
        self.blocks = nn.Sequential(*layers[:-1])

    def forward(self, argb: Tensor) -> Tensor:
        return self.blocks(argb)


def pad_color(rgb: Tensor, alpha: Tensor, factor: float = 1.2) -> Tensor:
    """Straight colour whose transparent parts are filled smoothly from the opaque ones.

    rgb: (B, 3, H, W), alpha: (B, 1, H, W), both in [0, 1]. Premultiplied colour is averaged down an alpha pyramid with
    steps of about `factor` to a single pixel; coming back up, each level is laid over the coarser one by its alpha (the
    authors' `pad_rgb`). Where alpha is 1 the colour stays what it was; an empty picture becomes mid-grey.
    """
    levels = [(rgb * alpha, alpha)]
    height, width = rgb.shape[-2:]
    while height > 1 or width > 1:
        height, width = max(1, int(height / factor)), max(1, int(width / factor))
        color, coverage = (F.interpolate(x, size=(height, width), mode="area") for x in levels[-1])
        levels.append((color, coverage))

    color, coverage = levels[-1]
    fill = torch.where(coverage > 0, color / coverage.clamp_min(1e-8), torch.full_like(color, 0.5))
    for color, coverage in reversed(levels):
        fill = F.interpolate(fill, size=color.shape[-2:], mode="bilinear", align_corners=False)
        fill = color + (1.0 - coverage) * fill
    return fill.clamp(0.0, 1.0)


def over_grey(rgb: Tensor, alpha: Tensor) -> Tensor:
    """The picture over mid-grey, which is what the VAE sees of a foreground; all in [0, 1]."""
    return 0.5 + (rgb - 0.5) * alpha
