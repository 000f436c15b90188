"""The U-Net used for training: SDXL's structure under its LDM names, with foreground deltas on a batch's first rows.

Plain torch, so that it compiles and can be captured as one CUDA graph; `keys.py` holds its widths. A test holds it against
diffusers' UNet2DConditionModel with the shipped weights.
"""

from __future__ import annotations

import json
import math

import torch
import torch.nn.functional as F
from common import Settings, export
from keys import (
    ADM_CHANNELS,
    BLOCKS_PER_LEVEL,
    CHANNEL_MULT,
    CONTEXT_DIM,
    DEPTH,
    DIFFUSERS_CONFIG,
    GROUPS,
    HEAD_CHANNELS,
    HOST_CONFIG,
    MODEL_CHANNELS,
    PREFIX,
)
from safetensors.torch import load_file
from torch import Tensor, nn

RANK = 24


class Rows:
    """How many leading rows of the batch are foreground rows; shared by all projections of a network."""

    count = 0


class Projection(nn.Linear):
    """A linear layer plus up(down(x)) on the first `rows.count` rows only."""

    def __init__(self, inputs: int, outputs: int, bias: bool, rows: Rows):
        super().__init__(inputs, outputs, bias)
        self.rows = rows
        self.down = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(RANK, inputs), a=math.sqrt(5)))
        self.up = nn.Parameter(torch.zeros(outputs, RANK))

    def forward(self, x: Tensor) -> Tensor:
        y, n = super().forward(x), self.rows.count
        if n == 0:
            return y
        delta = F.linear(F.linear(x[:n], self.down), self.up)
        return y + delta if n >= len(x) else torch.cat([y[:n] + delta, y[n:]])


class Attention(nn.Module):
    def __init__(self, width: int, context: int, rows: Rows):
        super().__init__()
        self.heads = width // HEAD_CHANNELS
        self.to_q = Projection(width, width, False, rows)
        self.to_k = Projection(context, width, False, rows)
        self.to_v = Projection(context, width, False, rows)
        self.to_out = nn.ModuleList([Projection(width, width, True, rows)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, rows: Rows):
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width, rows), Attention(width, CONTEXT_DIM, rows)
        self.ff = nn.ModuleDict({"net": nn.Sequential(Gated(width), nn.Identity(), nn.Linear(4 * width, width))})
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff["net"](self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, width: int, depth: int, rows: Rows):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width, rows) for _ in range(depth))

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + self.proj_out(h).transpose(1, 2).unflatten(2, x.shape[-2:])


class Resnet(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * MODEL_CHANNELS, outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, outputs), nn.SiLU(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[..., None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Down(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class First(nn.Conv2d):
    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return super().forward(x)


def frequencies(t: Tensor, width: int) -> Tensor:
    """Cosines and sines (..., width) of positions (...)."""
    steps = torch.arange(width // 2, device=t.device, dtype=torch.float32)
    angles = t[..., None].float() * torch.exp(-math.log(10000.0) * steps / (width // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class UNet(nn.Module):
    """SDXL's U-Net; rows: shared counter of foreground rows."""

    def __init__(self, rows: Rows):
        super().__init__()
        widths, emb = [MODEL_CHANNELS * m for m in CHANNEL_MULT], 4 * MODEL_CHANNELS
        self.time_embed = nn.Sequential(nn.Linear(MODEL_CHANNELS, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.ModuleList(
            [nn.Sequential(nn.Linear(ADM_CHANNELS, emb), nn.SiLU(), nn.Linear(emb, emb))]
        )  # fmt: skip
        self.input_blocks = nn.ModuleList([nn.ModuleList([First(4, MODEL_CHANNELS, 3, padding=1)])])
        width, kept = MODEL_CHANNELS, [MODEL_CHANNELS]
        for level, (wide, depth) in enumerate(zip(widths, DEPTH, strict=True)):
            for _ in range(BLOCKS_PER_LEVEL):
                parts = [Resnet(width, wide), *([Transformer(wide, depth, rows)] if depth else [])]
                self.input_blocks.append(nn.ModuleList(parts))
                width = wide
                kept.append(width)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([Down(width)]))
                kept.append(width)
        self.middle_block = nn.ModuleList(
            [Resnet(width, width), Transformer(width, DEPTH[-1], rows), Resnet(width, width)]
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for block in range(BLOCKS_PER_LEVEL + 1):
                parts = [Resnet(width + kept.pop(), widths[level])]
                width = widths[level]
                if DEPTH[level]:
                    parts.append(Transformer(width, DEPTH[level], rows))
                if block == BLOCKS_PER_LEVEL and level > 0:
                    parts.append(Up(width))
                self.output_blocks.append(nn.ModuleList(parts))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, context: Tensor, label: Tensor) -> Tensor:
        """x (B, 4, h, w), t (B,), context (B, 77, C), label (B, ADM_CHANNELS) -> noise (B, 4, h, w)."""
        emb = self.time_embed(frequencies(t, MODEL_CHANNELS)) + self.label_emb[0](label)
        kept = []
        for parts in self.input_blocks:
            for part in parts:
                x = part(x, emb, context)
            kept.append(x)
        for part in self.middle_block:
            x = part(x, emb, context)
        for parts in self.output_blocks:
            x = torch.cat([x, kept.pop()], dim=1)
            for part in parts:
                x = part(x, emb, context)
        return self.out(x)


def build() -> tuple[UNet, Rows]:
    """The network with fresh weights, and its row counter."""
    rows = Rows()
    model = UNet(rows)
    with torch.no_grad():  # every residual starts as nothing, and so does the noise that is predicted
        for module in model.modules():
            last = {Resnet: "out_layers", Transformer: "proj_out", UNet: "out"}.get(type(module))
            if last:
                layer = getattr(module, last)
                layer = layer[-1] if isinstance(layer, nn.Sequential) else layer
                layer.weight.zero_()
                layer.bias.zero_()
    return model, rows


def predict(model: nn.Module, x: Tensor, t: Tensor, context: Tensor, pooled: Tensor, size: int) -> Tensor:
    """Noise prediction (B, 4, h, w); the sizes are height, width, crop top, crop left, target height, target width."""
    ids = x.new_full((x.shape[0], 6), float(size))
    ids[:, 2:4] = 0
    return model(x, t, context, torch.cat([pooled, frequencies(ids, 256).flatten(1)], dim=1))


def split(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A training state dict to (LDM U-Net tensors, foreground deltas in the `::lora::` grammar)."""
    base, deltas = {}, {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        if leaf in ("up", "down"):
            deltas[f"{PREFIX}{module}.weight::lora::{0 if leaf == 'up' else 1}"] = value
        else:
            base[PREFIX + key] = value
    return base, deltas


def save(settings: Settings, state: dict[str, Tensor]) -> None:
    base, deltas = split(state)
    export(settings, "unet", base, {"host": HOST_CONFIG, "diffusers": DIFFUSERS_CONFIG, "norm_num_groups": GROUPS})
    export(
        settings, "foreground_lora", deltas, {"rank": RANK, "grammar": "KEY::lora::0 up, ::lora::1 down", "alpha": None}
    )


def load(settings: Settings) -> tuple[UNet, Rows]:
    """The shipped weights in the training network."""
    model, rows = build()
    state = {k.removeprefix(PREFIX): v.float() for k, v in load_file(str(settings.models / "unet.safetensors")).items()}
    for key, value in load_file(str(settings.models / "foreground_lora.safetensors")).items():
        weight, _, slot = key.removeprefix(PREFIX).partition("::lora::")
        state[f"{weight.removesuffix('.weight')}.{'up' if slot == '0' else 'down'}"] = value.float()
    model.load_state_dict(state)
    return model.to(settings.device).eval().requires_grad_(False), rows


def describe(model: nn.Module) -> str:
    deltas = sum(p.numel() for n, p in model.named_parameters() if n.endswith((".up", ".down")))
    return json.dumps({"unet": sum(p.numel() for p in model.parameters()) - deltas, "foreground": deltas})
