"""The demonstration models on the host: SDXL's topology at small widths, built without registering anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.taesd.taesd
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError, safe_open

from ...vae.checkpoint import decoder_config
from ...vae.demo_autoencoder import DemoAutoencoder
from ...weights.header import read_header
from .foreground import apply_foreground, load_foreground_weights
from .management import managed
from .transparent_vae import TransparentVAE, read_weights

MODELS = Path(__file__).resolve().parents[3] / "demo" / "models"
VOCABULARY = 49408  # rows of CLIP's token table


@dataclass(frozen=True)
class DemoModels:
    """What the Load Demo Models node gives."""

    base: ModelPatcher
    foreground_model: ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    transparent_vae: TransparentVAE


def load_demo(folder: Path = MODELS) -> DemoModels:
    """Load the demonstration models from `folder` (safetensors with metadata). ValueError for missing or damaged files."""
    try:
        base = _load_unet(folder)
        foreground = apply_foreground(base, load_foreground_weights(str(_file(folder, "foreground_lora"))))
        transparent = TransparentVAE(read_weights(str(_file(folder, "transparent_decoder")), decoder_config))
        return DemoModels(base, foreground, _load_clip(folder), _load_vae(folder), transparent)
    except KeyError as error:
        raise ValueError(
            f"demo model: {error} is missing from a file in {folder}; get them again (git checkout demo/models)"
        ) from error


def _file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(
            f"demo model: {path.name} is missing from {folder}; get the whole pack again (git checkout demo/models), or "
            "make the files with demo/train.py"
        )
    return path


def _read(folder: Path, name: str) -> tuple[dict[str, torch.Tensor], dict]:
    path = _file(folder, name)
    try:
        read_header(str(path))  # a pointer of git-lfs or a cut file is called that
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(metadata.get("config", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"demo model: {path.name} is damaged ({error}); get it again (git checkout demo/models)"
        ) from error


def _operations(groups: int):
    """The host's layers with `groups` instead of 32 groups in every GroupNorm: 32 groups on 32 channels lose colour."""

    class DemoOperations(comfy.ops.manual_cast):
        class GroupNorm(comfy.ops.manual_cast.GroupNorm):
            def __init__(self, num_groups, num_channels, *args, **kwargs):
                super().__init__(groups, num_channels, *args, **kwargs)

    return DemoOperations


class _DemoLatents(comfy.latent_formats.SDXL):
    """SDXL's latent scale; preview colours of the demo's own autoencoder, where the file brings them."""

    def __init__(self, factors: list[list[float]] | None = None, bias: list[float] | None = None):
        super().__init__()
        self.taesd_decoder_name = None
        if factors is not None:
            self.latent_rgb_factors, self.latent_rgb_factors_bias = factors, bias


class _DemoSDXL(comfy.supported_models.SDXL):
    """Model configuration of the demo; an SDXL for every node that asks, known to nobody but this loader."""

    def __init__(self, unet_config: dict, groups: int, head_channels: int):
        self.unet_extra_config = {"num_heads": -1, "num_head_channels": head_channels}
        super().__init__(unet_config)
        self.custom_operations = _operations(groups)


def _load_unet(folder: Path) -> ModelPatcher:
    weights, config = _read(folder, "unet")
    host = config["host"]
    model_config = _DemoSDXL(host, config["norm_num_groups"], host["num_head_channels"])
    model_config.latent_format = _DemoLatents(*_preview_colours(folder))
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(device=device, model_params=sum(w.numel() for w in weights.values()))
    model_config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device))
    model = model_config.get_model(weights, "diffusion_model.", device=torch.device("cpu"))
    weights = {key.removeprefix("diffusion_model."): value.to(dtype) for key, value in weights.items()}
    missing, unexpected = model.diffusion_model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"demo model: unet.safetensors does not fit its own configuration, first {[*missing, *unexpected][0]}"
        )
    offload = comfy.model_management.unet_offload_device()
    return managed(model.eval().to(offload), load_device=device, offload_device=offload)


def _preview_colours(folder: Path) -> tuple[list | None, list | None]:
    config = _read(folder, "vae")[1]
    return config.get("latent_rgb_factors"), config.get("latent_rgb_factors_bias")


def _load_clip(folder: Path) -> comfy.sd.CLIP:
    weights, config = _read(folder, "text_encoders")
    used = weights.pop("clip_l.used_ids")
    shape = {
        key: config[key]
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "projection_dim")
    }

    class DemoClip(comfy.sdxl_clip.SDXLClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            sizes = {f"{n}_model_config": {**shape, "hidden_act": act} for n, act in config["hidden_act"].items()}
            super().__init__(device=device, dtype=dtype, model_options={**(model_options or {}), **sizes})

    state = {}
    for key, value in weights.items():
        side, name = key.split(".", 1)
        if name.endswith("token_embedding.weight"):
            rows = value[-1:].repeat(VOCABULARY, 1)  # words the demo does not know share the last row
            rows[used] = value[:-1]
            value = rows
        state[f"{side}.transformer.{name}"] = value
    # No state dict in the constructor: hosts differ in how they name that argument.
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, DemoClip)
    clip = comfy.sd.CLIP(target, parameters=sum(v.numel() for v in state.values()))
    _, unexpected = clip.cond_stage_model.load_state_dict(state, strict=False)
    if unexpected:
        raise ValueError(f"demo model: text_encoders.safetensors holds unknown weights, first {unexpected[0]}")
    return clip


def _load_vae(folder: Path) -> comfy.sd.VAE:
    weights, _ = _read(folder, "vae")
    model = DemoAutoencoder.from_state_dict({key: value.float() for key, value in weights.items()})
    # The host's VAE class picks its network by known keys; its small one is exchanged for ours right after.
    vae = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD().state_dict(), dtype=torch.float32)
    vae.first_stage_model = model.eval()
    offload = comfy.model_management.vae_offload_device()
    vae.patcher = ModelPatcher(vae.first_stage_model, load_device=vae.device, offload_device=offload)
    vae.size = None
    return vae
