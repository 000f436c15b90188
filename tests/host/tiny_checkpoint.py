"""A tiny SDXL checkpoint file (UNet, both CLIPs, TAESD) that the host's own CheckpointLoaderSimple loads."""

from __future__ import annotations

import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.taesd.taesd
import tiny
import torch
from safetensors.torch import save_file

_WIDTHS = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=3, projection_dim=32)
_CLIP_OPTIONS = {"clip_l_model_config": _WIDTHS, "clip_g_model_config": _WIDTHS}


class TinyClip(comfy.sdxl_clip.SDXLClipModel):
    """Both text encoders at 32 channels and 3 layers; the tokenizer is the real one."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(device=device, dtype=dtype, model_options={**(model_options or {}), **_CLIP_OPTIONS})


class TinySDXLFile(tiny.TinySDXL):
    """Configuration that the host detects from the tiny checkpoint; append it to `comfy.supported_models.models`."""

    unet_config = {
        "model_channels": 32,
        "use_linear_in_transformer": True,
        "transformer_depth": tiny.SHORT[0],
        "context_dim": tiny.CONTEXT,
        "adm_in_channels": tiny.POOLED + 1536,
        "use_temporal_attention": False,
    }

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, TinyClip)


def unet_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """The tiny UNet's weights under a checkpoint's names."""
    weights = tiny.tiny_sdxl(seed).model.diffusion_model.state_dict()
    return {f"model.diffusion_model.{key}": tensor.clone() for key, tensor in weights.items()}


def write_checkpoint(path, seed: int = 0, clip: bool = True) -> None:
    """Write a checkpoint with random weights; clip False leaves the text encoders out."""
    tensors = unet_tensors(seed)
    if clip:
        text = TinyClip(dtype=torch.float32)
        tiny.randomize(text, seed + 1)
        names = {key: tensor for key, tensor in text.state_dict().items() if "logit_scale" not in key}
        config = TinySDXLFile(tiny.unet_config())
        tensors.update(config.process_clip_state_dict_for_saving(names))
    vae = comfy.taesd.taesd.TAESD()
    tiny.randomize(vae, seed + 2)  # the host's layers start with whatever was in memory
    tensors.update({f"first_stage_model.{key}": tensor for key, tensor in vae.state_dict().items()})
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, str(path))
