"""One UNet pass as a generator that stops at every attention output.

`walk_unet` follows diffusers' UNet2DConditionModel.forward module by module. At every attention it yields an
`AttentionOutput` and goes on with whatever tensor it is sent back in place of `output`; the generator's return value is
the noise prediction. Sending every output back unchanged is the ordinary forward.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import Tensor, nn


class AttentionOutput(NamedTuple):
    """Where the walk stands."""

    site: str  # "attn1" self-attention, "attn2" cross-attention
    block: str  # diffusers name of the transformer block
    output: Tensor  # (N, M, D) after the output projection, before the residual add
    probabilities: Tensor  # (N, H, M, K) softmax(Q K^T / sqrt(d))
    grid: tuple[int, int]  # token rows and columns, M = rows * columns


Walk = Generator[AttentionOutput, Tensor, Tensor]


def attention(attn: nn.Module, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-head attention with the whole matrix in memory: output (N, M, D) and probabilities (N, H, M, K)."""

    def heads(t: Tensor) -> Tensor:  # (N, L, D) -> (N, H, L, d)
        return t.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

    q, k, v = heads(attn.to_q(x)), heads(attn.to_k(context)), heads(attn.to_v(context))
    probabilities = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
    values = (probabilities @ v).transpose(1, 2).flatten(-2)  # (N, M, D)
    return attn.to_out[0](values), probabilities


def walk_block(block: nn.Module, name: str, x: Tensor, context: Tensor, grid: tuple[int, int]) -> Walk:
    """One transformer block on tokens x (N, M, D)."""
    normed = block.norm1(x)
    x = x + (yield AttentionOutput("attn1", name, *attention(block.attn1, normed, normed), grid))
    x = x + (yield AttentionOutput("attn2", name, *attention(block.attn2, block.norm2(x), context), grid))
    return x + block.ff(block.norm3(x))


def walk_transformer(transformer: nn.Module, name: str, x: Tensor, context: Tensor) -> Walk:
    """All transformer blocks of one spatial transformer on x (N, C, h, w)."""
    grid = (x.shape[2], x.shape[3])
    tokens = transformer.norm(x).flatten(2).transpose(1, 2)  # (N, M, C)
    tokens = transformer.proj_in(tokens)
    for i, block in enumerate(transformer.transformer_blocks):
        tokens = yield from walk_block(block, f"{name}.transformer_blocks.{i}", tokens, context, grid)
    tokens = transformer.proj_out(tokens)
    return x + tokens.transpose(1, 2).unflatten(2, grid)


def walk_unet(unet: nn.Module, x: Tensor, timestep: Tensor, y: Tensor, context: Tensor) -> Walk:
    """Noise prediction for model inputs x (N, 4, h, w) at one timestep, with y (1|N, adm) and context (1|N, K, D)."""
    context, y = context.expand(len(x), -1, -1), y.expand(len(x), -1)
    emb = unet.time_embedding(unet.time_proj(timestep.reshape(1).float())) + unet.add_embedding(y)

    h = unet.conv_in(x)
    skips = [h]
    for level, down in enumerate(unet.down_blocks):
        for i, resnet in enumerate(down.resnets):
            h = resnet(h, emb)
            if attentions := getattr(down, "attentions", None):
                h = yield from walk_transformer(attentions[i], f"down_blocks.{level}.attentions.{i}", h, context)
            skips.append(h)
        for downsampler in down.downsamplers or ():
            h = downsampler(h)
            skips.append(h)

    h = unet.mid_block.resnets[0](h, emb)
    h = yield from walk_transformer(unet.mid_block.attentions[0], "mid_block.attentions.0", h, context)
    h = unet.mid_block.resnets[1](h, emb)

    for level, up in enumerate(unet.up_blocks):
        for i, resnet in enumerate(up.resnets):
            h = resnet(torch.cat([h, skips.pop()], dim=1), emb)
            if attentions := getattr(up, "attentions", None):
                h = yield from walk_transformer(attentions[i], f"up_blocks.{level}.attentions.{i}", h, context)
        for upsampler in up.upsamplers or ():
            h = upsampler(h, skips[-1].shape[2:])  # an odd grid comes back to its own size

    return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))


def advance(walk: Walk, value: Tensor | None) -> tuple[AttentionOutput | None, Tensor | None]:
    """Send a value into a walk: (the next attention output, None), or (None, noise prediction) at the end."""
    try:
        return walk.send(value), None
    except StopIteration as end:
        return None, end.value
