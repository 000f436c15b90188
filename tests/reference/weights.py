"""SDXL-topology weights: LDM key names to diffusers modules, foreground deltas merged in, and random weights for tests.

A config is a dict: model_channels, channel_mult, num_res_blocks, transformer_depth (one number per input resnet),
context_dim, adm_in_channels, num_head_channels and optionally norm_groups (32).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

PREFIX = "diffusion_model."
StateDict = dict[str, Tensor]
Config = dict[str, Any]

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def level_depths(config: Config) -> list[int]:
    """Transformer depth of each resolution level, finest first."""
    n = config["num_res_blocks"]
    depth = list(config["transformer_depth"])
    levels = [depth[i * n : (i + 1) * n] for i in range(len(config["channel_mult"]))]
    if any(len(set(level)) != 1 for level in levels) or len(depth) != n * len(levels) or not levels[-1][0]:
        raise ValueError(
            f"transformer_depth {depth} cannot be built: it needs {n} equal numbers for each of {len(levels)} levels, "
            "and attention in the last one."
        )
    return [level[0] for level in levels]


def module_table(config: Config) -> dict[str, str]:
    """LDM module name -> diffusers module name, for every module (a spatial transformer counts as one)."""
    table = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "middle_block.1": "mid_block.attentions.0",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }

    def resnet(ldm: str, diffusers: str) -> None:
        table.update({f"{ldm}.{a}": f"{diffusers}.{b}" for a, b in RESNET.items()})

    depths, n = level_depths(config), config["num_res_blocks"]
    last = len(depths) - 1
    for level, depth in enumerate(depths):
        for j in range(n):
            block = f"input_blocks.{1 + level * (n + 1) + j}"
            resnet(f"{block}.0", f"down_blocks.{level}.resnets.{j}")
            if depth:
                table[f"{block}.1"] = f"down_blocks.{level}.attentions.{j}"
        if level < last:
            table[f"input_blocks.{(level + 1) * (n + 1)}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"

    resnet("middle_block.0", "mid_block.resnets.0")
    resnet("middle_block.2", "mid_block.resnets.1")

    for level, depth in enumerate(reversed(depths)):
        for j in range(n + 1):
            block = f"output_blocks.{level * (n + 1) + j}"
            resnet(f"{block}.0", f"up_blocks.{level}.resnets.{j}")
            if depth:
                table[f"{block}.1"] = f"up_blocks.{level}.attentions.{j}"
        if level < last:
            table[f"{block}.{2 if depth else 1}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return table


def rename(key: str, table: dict[str, str]) -> str:
    """A key with the module name at its start replaced; ValueError when the table does not know the module."""
    parts = key.split(".")
    for cut in range(len(parts), 0, -1):
        if new := table.get(".".join(parts[:cut])):
            return ".".join([new, *parts[cut:]])
    raise ValueError(f"{key!r} belongs to no module of this UNet: do the weights and the config fit together?")


def to_diffusers(state_dict: StateDict, config: Config) -> StateDict:
    """UNet weights under diffusers keys, fp32, from LDM keys with or without the `diffusion_model.` prefix."""
    table = module_table(config)
    return {rename(key.removeprefix(PREFIX), table): value.float() for key, value in state_dict.items()}


def to_ldm(state_dict: StateDict, config: Config) -> StateDict:
    """The way back: LDM keys with the `diffusion_model.` prefix."""
    table = {diffusers: ldm for ldm, diffusers in module_table(config).items()}
    return {PREFIX + rename(key, table): value for key, value in state_dict.items()}


def merge_deltas(state_dict: StateDict, deltas: StateDict, strength: float = 1.0) -> StateDict:
    """Weights with the foreground deltas merged the ordinary way: W + strength * (up @ down, or the full difference).

    deltas holds `<weight key>::lora::0` (up, [out, r]) and `::lora::1` (down, [r, in]), or `::diff::0` (full).
    """
    merged = {key: value.float() for key, value in state_dict.items()}
    for key in deltas:
        target, _, kind = key.partition("::")
        if kind not in ("lora::0", "lora::1", "diff::0") or target not in merged:
            raise ValueError(
                f"Foreground weight {key!r} has no place here: expected <UNet weight key>::lora::0 or 1, or ::diff::0."
            )
        if kind == "lora::0":
            up, down = deltas[key].float(), deltas[f"{target}::lora::1"].float()
            merged[target] = merged[target] + strength * (up @ down)
        elif kind == "diff::0":
            merged[target] = merged[target] + strength * deltas[key].float()
    return merged


def empty_unet(config: Config) -> UNet2DConditionModel:
    """diffusers' SDXL UNet of this size, weights still to be loaded."""
    channels = [config["model_channels"] * m for m in config["channel_mult"]]
    depths = level_depths(config)
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)]
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(channels),
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        layers_per_block=config["num_res_blocks"],
        transformer_layers_per_block=tuple(max(depth, 1) for depth in depths),  # ignored where a level has none
        attention_head_dim=tuple(c // config["num_head_channels"] for c in channels),  # diffusers: number of heads
        cross_attention_dim=config["context_dim"],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=config["adm_in_channels"],
        norm_num_groups=config.get("norm_groups", 32),
    )


def build_unet(state_dict: StateDict, config: Config) -> UNet2DConditionModel:
    """A frozen fp32 UNet from LDM weights."""
    unet = empty_unet(config)
    unet.load_state_dict(to_diffusers(state_dict, config), strict=True)
    return unet.float().eval().requires_grad_(False)


def build_unets(
    state_dict: StateDict, deltas: StateDict, config: Config, foreground_strength: float = 1.0
) -> tuple[UNet2DConditionModel, UNet2DConditionModel]:
    """The paper's two denoisers: (eps, eps_FG), eps_FG with the foreground deltas in its weights."""
    merged = merge_deltas(state_dict, deltas, foreground_strength)
    return build_unet(state_dict, config), build_unet(merged, config)


# Random weights for tests -------------------------------------------------------------------------------------------


def random_state_dict(config: Config, seed: int = 0) -> StateDict:
    """LDM weights that keep activations near unit size: normal with std 1 / sqrt(fan in), norms near one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, value in empty_unet(config).state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            weights[key] = noise / value[0].numel() ** 0.5
        else:
            weights[key] = 0.1 * noise + (1.0 if "norm" in key and key.endswith("weight") else 0.0)
    return to_ldm(weights, config)


def random_deltas(state_dict: StateDict, seed: int = 1, rank: int = 4, scale: float = 0.3) -> StateDict:
    """Foreground deltas for every attention projection, about `scale` times the size of the weights."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for key, weight in state_dict.items():
        if ".attn" in key and key.endswith("weight"):
            out, fan_in = weight.shape
            deltas[f"{key}::lora::0"] = torch.randn(out, rank, generator=generator) * scale / rank**0.5
            deltas[f"{key}::lora::1"] = torch.randn(rank, fan_in, generator=generator) / fan_in**0.5
    return deltas
