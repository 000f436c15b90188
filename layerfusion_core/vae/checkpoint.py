"""The files of a transparent VAE: recognised by the names and shapes of their tensors, before anything is allocated.

The networks' widths, depth and attention are read from there, so what a damaged or made-up file says is bounded here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from .decoder import LATENT_LEVEL, DecoderConfig, TransparentDecoder
from .encode import EncoderConfig, OffsetEncoder

MAX_LEVELS, MAX_LAYERS, MAX_WIDTH = 10, 8, 8192
"""Levels, residual blocks per level and channels of the largest network built; the published have 7, 2 and 512."""

ENCODER_LAYERS = 9


def decoder_config(state_dict: Mapping[str, Any]) -> DecoderConfig:
    """Reads the shape of a transparent decoder from its state dict, or from what stands for it: named things with shapes.

    Nothing is allocated, whatever the names and shapes say. ValueError says what else the file looks like, or which
    tensor is missing, too much, or of another shape than the others want.
    """

    def fail(reason: str) -> ValueError:
        return ValueError(
            f"This is not a LayerDiffuse transparent decoder: {reason}. Expected the content of "
            "vae_transparent_decoder.safetensors (SDXL) or layer_sd15_vae_transparent_decoder.safetensors (SD 1.5)."
        )

    if not state_dict:
        raise fail("the file holds no tensors")
    keys = list(state_dict)
    if any(not isinstance(key, str) for key in keys) or not all(hasattr(v, "shape") for v in state_dict.values()):
        raise fail("the file is not a flat table of named tensors")
    if "blocks.0.weight" in state_dict and "conv_in.weight" not in state_dict:
        raise fail("it is the transparent encoder (give it to the encoder input instead)")
    if any("::" in key or key.startswith("diffusion_model.") for key in keys):
        raise fail("it holds foreground weights of a diffusion model")
    needed = ("conv_in.weight", "latent_conv_in.weight", "conv_norm_out.weight", "conv_out.weight",
              "down_blocks.0.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.weight")  # fmt: skip
    missing = [key for key in needed if key not in state_dict]
    if missing:
        raise fail(f"{missing[0]} is missing among its {len(keys)} tensors (first: {', '.join(sorted(keys)[:3])})")

    indices = {int(m.group(1)) for key in keys if (m := re.match(r"down_blocks\.([0-9]{1,9})\.", key))}
    levels = len(indices)
    firsts = [f"down_blocks.{i}.resnets.0.conv1.weight" for i in range(levels)]
    absent = [i for i, key in enumerate(firsts) if key not in state_dict]
    if absent or max(indices) >= levels:
        gap = absent[0] if absent else next(i for i in range(levels) if i not in indices)
        raise fail(f"down_blocks.{gap} of {max(indices) + 1} is missing, the file is damaged")
    if not LATENT_LEVEL < levels <= MAX_LEVELS:
        raise fail(f"it has {levels} levels, expected {LATENT_LEVEL + 1} to {MAX_LEVELS}")
    layers = sum(bool(re.fullmatch(r"down_blocks\.0\.resnets\.[0-9]+\.conv1\.weight", key)) for key in keys)
    if layers > MAX_LAYERS:
        raise fail(f"it has {layers} residual blocks in its first level, expected 1 to {MAX_LAYERS}")

    odd = [key for key in (*firsts, *needed[:2], "conv_out.weight") if len(state_dict[key].shape) != 4]
    if odd:
        raise fail(f"{odd[0]} has shape {tuple(state_dict[odd[0]].shape)}, expected four dimensions")
    latent_channels = state_dict["latent_conv_in.weight"].shape[1]
    if latent_channels != 4:
        raise fail(f"it was made for latents of {latent_channels} channels (another model family), SDXL's have 4")
    in_channels, out_channels = state_dict["conv_in.weight"].shape[1], state_dict["conv_out.weight"].shape[0]
    if (in_channels, out_channels) != (3, 4):
        raise fail(f"it maps {in_channels} to {out_channels} channels instead of 3 to 4 (RGB to ARGB)")
    config = DecoderConfig(
        widths=tuple(state_dict[key].shape[0] for key in firsts),
        attention=tuple(f"down_blocks.{i}.attentions.0.to_q.weight" in state_dict for i in range(levels)),
        layers_per_block=layers,
        mid_attention="mid_block.attentions.0.to_q.weight" in state_dict,
    )
    if any(width % config.groups or not 0 < width <= MAX_WIDTH for width in config.widths):
        raise fail(f"its levels are {config.widths} channels wide, expected multiples of {config.groups} up to {MAX_WIDTH}")
    misfit = _misfit(TransparentDecoder(config, device="meta"), state_dict)
    if misfit is not None:
        raise fail(f"it does not fit together: {misfit}. Download it again")
    return config


def encoder_config(state_dict: Mapping[str, Any]) -> EncoderConfig:
    """Reads the widths of a transparent encoder from its state dict, or from what stands for it: named things with shapes.

    Nothing is allocated. ValueError says what else the file looks like, or which tensor does not fit the others.
    """

    def fail(reason: str) -> ValueError:
        return ValueError(
            f"This is not a LayerDiffuse transparent encoder: {reason}. Expected the content of "
            "vae_transparent_encoder.safetensors, or choose none: the encoder is only needed to encode pictures."
        )

    if "latent_conv_in.weight" in state_dict:
        raise fail("it is the transparent decoder (give it to the decoder input instead)")
    weights: list[Any] = [state_dict.get(f"blocks.{2 * i}.weight") for i in range(ENCODER_LAYERS)]
    if any(len(getattr(weight, "shape", ())) != 4 for weight in weights):
        names = ", ".join(sorted(map(str, state_dict))[:3]) or "none"
        last = f"blocks.{2 * ENCODER_LAYERS - 2}.weight"
        raise fail(f"it lacks some of blocks.0.weight to {last}, of four dimensions (first tensors: {names})")
    config = EncoderConfig(tuple(weight.shape[0] for weight in weights), weights[0].shape[1])
    if (config.in_channels, config.channels[-1]) != (4, 4):
        raise fail(
            f"it maps {config.in_channels} to {config.channels[-1]} channels instead of 4 to 4 (ARGB to an SDXL latent)"
        )
    if not all(0 < channels <= MAX_WIDTH for channels in config.channels):
        raise fail(f"its layers are {config.channels} channels wide, expected 1 to {MAX_WIDTH}")
    misfit = _misfit(OffsetEncoder(config, device="meta"), state_dict)
    if misfit is not None:
        raise fail(f"it does not fit together: {misfit}. Download it again")
    return config


def _misfit(network: nn.Module, found: Mapping[str, Any]) -> str | None:
    """Say how named things with shapes differ from a network's tensors (which may be on "meta"); None when they do not."""
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    if missing or unknown:
        return (
            f"{len(missing)} tensors are missing (first: {missing[0] if missing else 'none'}) and {len(unknown)} are not "
            f"known (first: {unknown[0] if unknown else 'none'})"
        )
    for key, shape in expected.items():
        if tuple(found[key].shape) != shape:
            return f"{key} has shape {tuple(found[key].shape)}, expected {shape}"
    return None
