"""The LayerDiffuse transparent decoder ("UNet1024") in plain torch.

Zhang and Agrawala, "Transparent Image Layer Diffusion using Latent Transparency" (2024), section 3.1: a U-Net reads the
picture that the ordinary VAE decodes from a foreground latent (the subject over mid-grey), is given the latent itself
at 1/8 resolution, and returns alpha and straight colour.

The network is the published one: key names are those of `vae_transparent_decoder.safetensors` (538 tensors,
104,104,804 parameters). Widths, depth and the place of the attention layers are read from the file, so that a smaller
network of the same family loads through the same code.

One pass at 1024 x 1024 adds 1.5 GiB to a process on a CPU, in fp32; that of SDXL's own VAE, which comes first in every graph, adds
more than twice as much. So there is nothing here to save memory, such as bands of rows (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_LEVEL = 3
"""The latent enters right before this down block, where the picture is 1/8 of its size."""

LATENT_SCALE = 2**LATENT_LEVEL
"""Pixels per latent cell."""


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a transparent decoder. The defaults are the published network.

    widths: channels per level, from full resolution down (each level halves the picture).
    attention: whether a level has attention after each of its residual blocks.
    layers_per_block: residual blocks per down block (up blocks have one more).
    groups, head_dim: not visible in a state dict; every known file uses 4 and 8.
    """

    widths: tuple[int, ...] = (32, 32, 64, 128, 256, 512, 512)
    attention: tuple[bool, ...] = (False, False, False, False, True, True, True)
    layers_per_block: int = 2
    mid_attention: bool = True
    in_channels: int = 3
    out_channels: int = 4
    latent_channels: int = 4
    groups: int = 4
    head_dim: int = 8

    @property
    def multiple(self) -> int:
        """Pixel sizes the network itself can take are multiples of this (64 for the published one)."""
        return 2 ** (len(self.widths) - 1)


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, conv, twice, plus the input (through a 1x1 conv where the width changes)."""

    def __init__(self, ops, inputs: int, outputs: int, groups: int, **factory) -> None:
        super().__init__()
        self.norm1 = ops.GroupNorm(groups, inputs, eps=1e-5, **factory)
        self.conv1 = ops.Conv2d(inputs, outputs, 3, padding=1, **factory)
        self.norm2 = ops.GroupNorm(groups, outputs, eps=1e-5, **factory)
        self.conv2 = ops.Conv2d(outputs, outputs, 3, padding=1, **factory)
        self.conv_shortcut = ops.Conv2d(inputs, outputs, 1, **factory) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class AttentionBlock(nn.Module):
    """Self-attention over the pixels of one level, with its residual."""

    def __init__(self, ops, channels: int, groups: int, head_dim: int, **factory) -> None:
        super().__init__()
        self.heads = max(1, channels // head_dim)
        self.group_norm = ops.GroupNorm(groups, channels, eps=1e-5, **factory)
        self.to_q = ops.Linear(channels, channels, **factory)
        self.to_k = ops.Linear(channels, channels, **factory)
        self.to_v = ops.Linear(channels, channels, **factory)
        self.to_out = nn.ModuleList([ops.Linear(channels, channels, **factory)])

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, T, C)
        q, k, v = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, C / heads)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        out = self.to_out[0](out.transpose(1, 2).flatten(2))  # (B, T, C)
        return out.transpose(1, 2).reshape(batch, channels, height, width) + x


class Resample(nn.Module):
    """Holds the 3x3 conv of a down- or upsampler (the files keep it one name deeper)."""

    def __init__(self, ops, channels: int, stride: int, **factory) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, 3, stride=stride, padding=1, **factory)


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where the level has it."""

    def __init__(self, ops, channels: list[tuple[int, int]], attention: bool, cfg: DecoderConfig, **factory) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(ops, i, o, cfg.groups, **factory) for i, o in channels])
        if attention:
            self.attentions = nn.ModuleList(
                [AttentionBlock(ops, o, cfg.groups, cfg.head_dim, **factory) for _, o in channels]
            )

    def block(self, index: int, x: Tensor) -> Tensor:
        """Residual block `index`, and the attention that follows it."""
        h = self.resnets[index](x)
        return self.attentions[index](h) if hasattr(self, "attentions") else h


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, ops, channels: int, cfg: DecoderConfig, **factory) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(ops, channels, channels, cfg.groups, **factory) for _ in range(2)])
        if cfg.mid_attention:
            self.attentions = nn.ModuleList([AttentionBlock(ops, channels, cfg.groups, cfg.head_dim, **factory)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        if hasattr(self, "attentions"):
            x = self.attentions[0](x)
        return self.resnets[1](x)


class TransparentDecoder(nn.Module):
    """UNet1024: decoded foreground picture and its latent -> alpha and straight colour.

    operations: `torch.nn`, or a host's drop-in layer classes (Conv2d, GroupNorm, Linear).
    """

    down_blocks: Any  # of Levels
    up_blocks: Any

    def __init__(self, config: DecoderConfig, operations=nn, dtype=None, device=None) -> None:
        super().__init__()
        if len(config.widths) <= LATENT_LEVEL:
            raise ValueError(
                f"A transparent decoder needs at least {LATENT_LEVEL + 1} levels, because the latent enters at 1/8 of "
                f"the picture's size; this one has {len(config.widths)} (widths {config.widths})."
            )
        self.config = config
        ops, factory = operations, {"dtype": dtype, "device": device}
        widths, layers, last = config.widths, config.layers_per_block, len(config.widths) - 1

        self.conv_in = ops.Conv2d(config.in_channels, widths[0], 3, padding=1, **factory)
        self.latent_conv_in = ops.Conv2d(config.latent_channels, widths[LATENT_LEVEL - 1], 1, **factory)

        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]  # channels of every saved feature map, in the order they are saved
        for i, width in enumerate(widths):
            inputs = [widths[max(i - 1, 0)]] + [width] * (layers - 1)
            level = Level(ops, [(c, width) for c in inputs], config.attention[i], config, **factory)
            skips += [width] * layers
            if i < last:
                level.downsamplers = nn.ModuleList([Resample(ops, width, 2, **factory)])
                skips.append(width)
            self.down_blocks.append(level)

        self.mid_block = MidBlock(ops, widths[-1], config, **factory)

        self.up_blocks = nn.ModuleList()
        channels = widths[-1]
        for i in range(last, -1, -1):
            pairs = []
            for _ in range(layers + 1):
                pairs.append((channels + skips.pop(), widths[i]))
                channels = widths[i]
            level = Level(ops, pairs, config.attention[i], config, **factory)
            if i > 0:
                level.upsamplers = nn.ModuleList([Resample(ops, widths[i], 1, **factory)])
            self.up_blocks.append(level)

        self.conv_norm_out = ops.GroupNorm(config.groups, widths[0], eps=1e-5, **factory)
        self.conv_out = ops.Conv2d(widths[0], config.out_channels, 3, padding=1, **factory)

    def forward(self, pixels: Tensor, latent: Tensor) -> Tensor:
        """Alpha and straight colour of a foreground, not clipped.

        pixels: (B, 3, H, W) in [0, 1], the foreground latent decoded by the ordinary VAE; H and W multiples of
        `config.multiple`. latent: (B, 4, H/8, W/8), VAE space, unscaled. Returns (B, 4, H, W): A, R, G, B.
        """
        x = self.conv_in(pixels)
        skips = [x]
        for i, level in enumerate(self.down_blocks):
            if i == LATENT_LEVEL:
                x = x + self.latent_conv_in(latent)  # the skip saved just before stays without it
            for j in range(len(level.resnets)):
                x = level.block(j, x)
                skips.append(x)
            if hasattr(level, "downsamplers"):
                x = level.downsamplers[0].conv(x)
                skips.append(x)

        x = self.mid_block(x)

        for level in self.up_blocks:
            for j in range(len(level.resnets)):
                x = level.block(j, torch.cat([x, skips.pop()], dim=1))
            if hasattr(level, "upsamplers"):
                x = level.upsamplers[0].conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.conv_norm_out(x)))
