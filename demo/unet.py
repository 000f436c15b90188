"""The U-Net used for training: diffusers' SDXL U-Net with low-rank foreground deltas on the first rows of a batch."""

from __future__ import annotations

import json

import torch
from common import Settings, export
from diffusers import UNet2DConditionModel
from keys import DIFFUSERS_CONFIG, HOST_CONFIG, PREFIX, attention_projections, diffusers_to_ldm, ldm_to_diffusers
from safetensors.torch import load_file
from torch import nn

RANK = 32


class Rows:
    """How many leading rows of the batch are foreground rows; shared by all deltas of a network."""

    count = 0


class ForegroundLinear(nn.Module):
    """A linear layer plus up(down(x)) on the first `rows.count` rows only."""

    def __init__(self, linear: nn.Linear, rows: Rows, rank: int = RANK):
        super().__init__()
        self.linear, self.rows = linear, rows
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, n = self.linear(x), self.rows.count
        if n == 0:
            return y
        if n >= x.shape[0]:
            return y + self.up(self.down(x))
        return torch.cat([y[:n] + self.up(self.down(x[:n])), y[n:]])


def build() -> tuple[UNet2DConditionModel, Rows]:
    """The network with fresh weights, every attention projection wrapped, and its row counter."""
    model, rows = UNet2DConditionModel(**DIFFUSERS_CONFIG), Rows()
    for name in attention_projections().values():
        parent, _, leaf = name.rpartition(".")
        holder = model.get_submodule(parent)
        wrapped = ForegroundLinear(model.get_submodule(name), rows)
        if leaf.isdigit():
            holder[int(leaf)] = wrapped
        else:
            setattr(holder, leaf, wrapped)
    return model, rows


def predict(model: nn.Module, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, pooled: torch.Tensor, size: int):
    """Noise prediction (B, 4, h, w); the sizes are height, width, crop top, crop left, target height, target width."""
    ids = torch.tensor([[size, size, 0, 0, size, size]], device=x.device, dtype=x.dtype).expand(x.shape[0], 6)
    added = {"text_embeds": pooled, "time_ids": ids}
    return model(x, t, encoder_hidden_states=context, added_cond_kwargs=added, return_dict=False)[0]


def split(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A training state dict to (LDM U-Net tensors, foreground deltas in the `::lora::` grammar)."""
    to_ldm, base, deltas = diffusers_to_ldm(), {}, {}
    for key, value in state.items():
        for suffix, slot in ((".up.weight", 0), (".down.weight", 1)):
            module = key.removesuffix(suffix) + ".weight"
            if key.endswith(suffix) and module in to_ldm:
                deltas[f"{PREFIX}{to_ldm[module]}::lora::{slot}"] = value
                break
        else:
            base[PREFIX + to_ldm[key.replace(".linear.weight", ".weight").replace(".linear.bias", ".bias")]] = value
    return base, deltas


def save(settings: Settings, state: dict[str, torch.Tensor]) -> None:
    base, deltas = split(state)
    export(settings, "unet", base, {"host": HOST_CONFIG, "diffusers": DIFFUSERS_CONFIG, "norm_num_groups": 8})
    export(
        settings, "foreground_lora", deltas, {"rank": RANK, "grammar": "KEY::lora::0 up, ::lora::1 down", "alpha": None}
    )


def load(settings: Settings) -> tuple[UNet2DConditionModel, Rows]:
    """The shipped weights in the training network."""
    model, rows = build()
    base = load_file(str(settings.models / "unet.safetensors"))
    deltas = load_file(str(settings.models / "foreground_lora.safetensors"))
    table, state = ldm_to_diffusers(), {}
    wrapped = set(attention_projections().values())
    for key, value in base.items():
        name = table[key.removeprefix(PREFIX)]
        module, _, end = name.rpartition(".")
        state[f"{module}.linear.{end}" if module in wrapped else name] = value.float()
    for key, value in deltas.items():
        ldm, _, slot = key.removeprefix(PREFIX).partition("::lora::")
        module = table[ldm].removesuffix(".weight")
        state[f"{module}.{'up' if slot == '0' else 'down'}.weight"] = value.float()
    model.load_state_dict(state)
    return model.to(settings.device).eval().requires_grad_(False), rows


def describe(model: nn.Module) -> str:
    deltas = sum(p.numel() for n, p in model.named_parameters() if n.endswith((".up.weight", ".down.weight")))
    return json.dumps({"unet": sum(p.numel() for p in model.parameters()) - deltas, "foreground": deltas})
