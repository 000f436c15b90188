"""A tiny SDXL with random weights, inside the host: same topology and keys, small widths."""

from __future__ import annotations

import math
import re
import uuid

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

CONTEXT, POOLED, HEAD = 64, 32, 16
SHORT = ([0, 0, 1, 1, 2, 2], 2, [0, 0, 0, 1, 1, 1, 2, 2, 2])  # depth of input, middle, output blocks
REAL = ([0, 0, 2, 2, 10, 10], 10, [0, 0, 0, 2, 2, 2, 10, 10, 10])  # SDXL's own 70 blocks


def unet_config(depth=SHORT, in_channels: int = 4) -> dict:
    """Keyword arguments of the host's UNetModel."""
    return dict(
        image_size=32, in_channels=in_channels, out_channels=4, model_channels=32, num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4],
        transformer_depth=list(depth[0]), transformer_depth_middle=depth[1], transformer_depth_output=list(depth[2]),
        use_linear_in_transformer=True, context_dim=CONTEXT, num_classes="sequential", adm_in_channels=POOLED + 1536,
        use_spatial_transformer=True, legacy=False, use_temporal_attention=False, use_temporal_resblock=False,
    )  # fmt: skip


class TinySDXL(comfy.supported_models.SDXL):
    """Model configuration of the tiny SDXL; not registered with the host."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": HEAD}


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Weights ~ N(0, 1 / fan_in), norms near 1: finite, non-trivial outputs."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim > 1:
            value = noise / math.sqrt(p[0].numel())
        else:
            value = 1.0 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
        p.data.copy_(value)


def tiny_sdxl(
    seed: int = 0, depth=SHORT, dtype: torch.dtype = torch.float32, in_channels: int = 4
) -> ModelPatcher:
    """A MODEL as the host's loaders make it; in_channels 9 makes it one for inpainting."""
    config = TinySDXL(unet_config(depth, in_channels))
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device="cpu")
    randomize(model.diffusion_model, seed)
    device = comfy.model_management.get_torch_device()
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    return patcher(model.eval(), load_device=device, offload_device=torch.device("cpu"))


def attention_weights(model: ModelPatcher) -> list[str]:
    """Names of all attention projection weights, without '.weight'."""
    return [
        key[: -len(".weight")]
        for key in model.model.state_dict()
        if key.endswith((".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight"))
    ]


def foreground_file(model: ModelPatcher, seed: int = 1, rank: int = 4, scale: float = 0.5) -> dict[str, torch.Tensor]:
    """Random foreground weights in the LayerDiffuse grammar, one pair per attention projection."""
    generator = torch.Generator().manual_seed(seed)
    weights = model.model.state_dict()
    found = {}
    for name in attention_weights(model):
        out, into = weights[name + ".weight"].shape
        found[f"{name}.weight::lora::0"] = scale * torch.randn(out, rank, generator=generator) / math.sqrt(rank)
        found[f"{name}.weight::lora::1"] = torch.randn(rank, into, generator=generator) / math.sqrt(into)
    return found


def with_foreground(model: ModelPatcher, file: dict[str, torch.Tensor], strength: float = 1.0) -> ModelPatcher:
    """The foreground MODEL, merged the ordinary way by the host's LoRA reader."""
    import comfy.lora

    renamed = {}
    for key, tensor in file.items():
        name, _, slot = key.split("::")
        renamed[name[: -len(".weight")] + (".lora_up.weight" if slot == "0" else ".lora_down.weight")] = tensor
    keys = {name: name + ".weight" for name in attention_weights(model)}
    patches = comfy.lora.load_lora(renamed, keys)
    clone = model.clone()
    bound = clone.add_patches(patches, strength)
    assert len(bound) == len(keys)
    return clone


def deltas(model: ModelPatcher, where=lambda key: True, seed: int = 2, scale: float = 0.3) -> dict[str, torch.Tensor]:
    """Random full differences {weight key: delta} of the UNet's parameters that `where` chooses."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for key, weight in model.model.state_dict().items():
        if key.startswith("diffusion_model.") and where(key):
            fan_in = weight[0].numel() if weight.ndim > 1 else 4
            found[key] = scale * torch.randn(weight.shape, generator=generator) / math.sqrt(fan_in)
    return found


def in_conv_file(key: str) -> bool:
    """Whether LayerDiffuse's conv packaging changes a parameter: all but q, k, v and the time and label embeddings."""
    return not re.search(r"\.to_[qkv]\.|\.time_embed\.|\.label_emb\.", key)


def with_deltas(model: ModelPatcher, differences: dict[str, torch.Tensor], strength: float = 1.0) -> ModelPatcher:
    """A MODEL with full differences, merged the ordinary way by the host."""
    clone = model.clone()
    bound = clone.add_patches({key: ("diff", (delta,)) for key, delta in differences.items()}, strength)
    assert len(bound) == len(differences)
    return clone


def conditioning(seed: int, tokens: int = 77, eos: int | None = 8, batch: int = 1) -> list:
    """Random CONDITIONING of the tiny text width; eos None leaves the column out, as CLIPTextEncode does."""
    generator = torch.Generator().manual_seed(1000 + seed)
    extra = {"pooled_output": torch.randn(batch, POOLED, generator=generator)}
    if eos is not None:
        extra["layerfusion_eos"] = [eos]
    return [[torch.randn(batch, tokens, CONTEXT, generator=generator), extra]]


def fresh(conditioning: list) -> list:
    """A copy with its own identity, as another node would hand on."""
    return [[tensor, {**extra, "id": uuid.uuid4()}] for tensor, extra in conditioning]
