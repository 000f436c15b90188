"""Every packaging of foreground weights, from its file to the layers; and LoRA kinds that only the stock KSampler takes."""

from __future__ import annotations

import comfy.lora
import comfy.utils
import pytest
import tiny
import torch
from compat import blends, has_effect, pair_of, streams_equal_stock
from runs import models, prompts, slow
from safetensors.torch import save_file

from layerfusion_pack.layerfusion_core.host.models.foreground import apply_foreground, load_foreground_weights
from layerfusion_pack.layerfusion_core.weights.formats import Packaging


def pairs(base) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{weight key: (up, down)} of every attention projection."""
    file = tiny.foreground_file(base)
    keys = [key.removesuffix("::lora::0") for key in file if key.endswith("::lora::0")]
    return {key: (file[f"{key}::lora::0"], file[f"{key}::lora::1"]) for key in keys}


def diffusers_names(base) -> dict[str, str]:
    table = comfy.utils.unet_to_diffusers(base.model.model_config.unet_config)
    return {f"diffusion_model.{ours}": theirs for theirs, ours in table.items()}


def layerdiffuse_attention(base):
    return tiny.foreground_file(base)


def layerdiffuse_conv(base):
    return {f"{key}::diff::0": delta for key, delta in tiny.deltas(base, tiny.in_conv_file).items()}


def diffusers_attention(base):
    return {diffusers_names(base)[key]: up @ down for key, (up, down) in pairs(base).items()}


def diffusers_conv(base):
    return {diffusers_names(base)[key]: delta for key, delta in tiny.deltas(base, tiny.in_conv_file).items()}


def diffusers_lora(base):
    file = {}
    for key, (up, down) in pairs(base).items():
        module = "unet." + diffusers_names(base)[key].removesuffix(".weight")
        file[f"{module}.lora_B.weight"], file[f"{module}.lora_A.weight"] = up, down
    return file


def kohya_lora(base):
    """On every Linear and convolution, with alpha."""
    file, rank, generator = {}, 3, torch.Generator().manual_seed(8)
    for key, weight in base.model.state_dict().items():
        if not key.startswith("diffusion_model.") or not key.endswith(".weight") or weight.ndim < 2:
            continue
        module = "lora_unet_" + key.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")
        down = torch.randn(rank, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
        up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator)
        file[f"{module}.lora_up.weight"], file[f"{module}.lora_down.weight"] = up, down
        file[f"{module}.alpha"] = torch.tensor(1.0)
    return file


FILES = {
    layerdiffuse_attention: Packaging.LAYERDIFFUSE,
    layerdiffuse_conv: Packaging.LAYERDIFFUSE,
    diffusers_attention: Packaging.DIFFUSERS,
    diffusers_conv: Packaging.DIFFUSERS,
    diffusers_lora: Packaging.LORA,
    kohya_lora: Packaging.LORA,
}


@pytest.mark.parametrize("strength", [*slow(1.0), 0.4])
@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_packaging(make, strength, tmp_path):
    base, _ = models()
    path = str(tmp_path / "weights.safetensors")
    save_file({key: tensor.clone().contiguous() for key, tensor in make(base).items()}, path)
    weights = load_foreground_weights(path)
    assert weights.packaging is FILES[make]
    foreground = apply_foreground(base, weights, strength)
    has_effect(foreground, prompts()[1])
    streams_equal_stock((base, foreground))
    if strength == 1.0:
        blends((base, foreground))


FEED_FORWARD = "diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2"
OTHER_KINDS = {
    "DoRA": {"lora_up.weight": (128, 2), "lora_down.weight": (2, 512), "dora_scale": (128, 1)},
    "loha": {"hada_w1_a": (128, 2), "hada_w1_b": (2, 512), "hada_w2_a": (128, 2), "hada_w2_b": (2, 512)},
    "lokr": {"lokr_w1": (16, 16), "lokr_w2": (8, 32)},
}


def other_kind(kind: str) -> dict:
    generator = torch.Generator().manual_seed(3)
    file = {
        f"{FEED_FORWARD}.{name}": torch.rand(shape, generator=generator) for name, shape in OTHER_KINDS[kind].items()
    }
    return comfy.lora.load_lora(file, {FEED_FORWARD: f"{FEED_FORWARD}.weight"})


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_lora_kinds_on_the_foreground_only(kind):
    base, foreground = pair_of()
    patches = other_kind(kind)
    foreground = foreground.clone()
    assert foreground.add_patches(patches)
    with pytest.raises(
        ValueError, match=f"patch of type {kind} on {FEED_FORWARD}.weight.*only plain LoRAs and full diff"
    ):
        streams_equal_stock((base, foreground))
    base = base.clone()  # on both, they are the host's business
    base.add_patches(patches)
    streams_equal_stock(pair_of(base))
