"""The published UNet1024 built from diffusers' own blocks, to compare ours with (needs the `reference` extra)."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block, get_up_block
from torch import nn


class PublishedUNet1024(nn.Module):
    """LayerDiffuse's alpha decoder as published: diffusers' blocks, one latent injection, no time embedding."""

    def __init__(self, widths=(32, 32, 64, 128, 256, 512, 512), attention=None, layers=2, groups=4, head_dim=8) -> None:
        super().__init__()
        attention = attention or (False,) * (len(widths) - 3) + (True,) * 3
        common = dict(
            temb_channels=None,
            resnet_eps=1e-5,
            resnet_act_fn="silu",
            attention_head_dim=head_dim,
            resnet_groups=groups,
            resnet_time_scale_shift="default",
            dropout=0.0,
        )
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.latent_conv_in = nn.Conv2d(4, widths[2], 1)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            self.down_blocks.append(
                get_down_block(
                    "AttnDownBlock2D" if attention[i] else "DownBlock2D",
                    num_layers=layers,
                    in_channels=widths[max(i - 1, 0)],
                    out_channels=width,
                    add_downsample=i < last,
                    downsample_padding=1,
                    downsample_type="conv",
                    **common,
                )
            )
        self.mid_block = UNetMidBlock2D(
            in_channels=widths[-1],
            temb_channels=None,
            resnet_eps=1e-5,
            resnet_act_fn="silu",
            output_scale_factor=1,
            resnet_time_scale_shift="default",
            dropout=0.0,
            attention_head_dim=head_dim,
            resnet_groups=groups,
            attn_groups=None,
            add_attention=True,
        )
        back = widths[::-1]
        for i, width in enumerate(back):
            self.up_blocks.append(
                get_up_block(
                    "AttnUpBlock2D" if attention[::-1][i] else "UpBlock2D",
                    num_layers=layers + 1,
                    in_channels=back[min(i + 1, last)],
                    out_channels=width,
                    prev_output_channel=back[max(i - 1, 0)],
                    add_upsample=i < last,
                    upsample_type="conv",
                    **common,
                )
            )
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], 4, 3, padding=1)

    def forward(self, pixels: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        sample = self.conv_in(pixels)
        skips = (sample,)
        for i, block in enumerate(self.down_blocks):
            if i == 3:
                sample = sample + self.latent_conv_in(latent)
            sample, saved = block(hidden_states=sample, temb=None)
            skips += saved
        sample = self.mid_block(sample, None)
        for block in self.up_blocks:
            mine, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
            sample = block(sample, mine, None)
        return self.conv_out(nn.functional.silu(self.conv_norm_out(sample)))
