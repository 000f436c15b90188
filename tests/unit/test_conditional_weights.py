"""The four files that are conditioned on layers are told apart by content, name and the user's word."""

from __future__ import annotations

import pytest
import torch

from layerfusion_pack.layerfusion_core.weights.changes import LowRank
from layerfusion_pack.layerfusion_core.weights.conditional import KINDS, parse_conditional, recognise_conditional
from layerfusion_pack.layerfusion_core.weights.formats import Packaging, lora_modules, recognise

FIRST = "diffusion_model.input_blocks.0.0.weight::diff::0"
RESNET = "diffusion_model.input_blocks.1.0.in_layers.2.weight::diff::0"
ATTENTION = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0.weight::diff::0"


def shapes(channels: int, attention: bool = False) -> dict[str, tuple[int, ...]]:
    return {FIRST: (8, channels, 3, 3), RESNET: (8, 8, 3, 3)} | ({ATTENTION: (8, 8)} if attention else {})


def diffusers(channels: int) -> dict[str, tuple[int, ...]]:
    return {"conv_in.weight": (8, channels, 3, 3), "down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3)}


@pytest.mark.parametrize(
    ("found", "name", "kind", "expected"),
    [
        (shapes(8), "layer_xl_fg2ble.safetensors", "auto", "fg2ble"),
        (shapes(8), "LAYER_XL_BG2BLE.safetensors", "auto", "bg2ble"),
        (diffusers(8), "diffuser_layer_xl_bg2ble.safetensors", "auto", "bg2ble"),
        (shapes(12), "renamed.safetensors", "auto", "fgble2bg"),
        (shapes(12, attention=True), "renamed.safetensors", "auto", "bgble2fg"),
        (diffusers(12), "diffuser_layer_xl_fgble2bg.safetensors", "auto", "fgble2bg"),
        (shapes(8), "renamed.safetensors", "bg2ble", "bg2ble"),
        (shapes(8), "layer_xl_fg2ble.safetensors", "bg2ble", "bg2ble"),
    ],
)
def test_kinds(found, name, kind, expected):
    assert recognise_conditional(found, name, kind) is KINDS[expected]


@pytest.mark.parametrize(
    ("found", "name", "kind", "said"),
    [
        (shapes(8), "renamed.safetensors", "auto", "may be fg2ble or bg2ble.* the same tensors: choose its kind"),
        (shapes(8), "a.safetensors", "fgble2bg", "chosen as fgble2bg, which has 12 .* has 8, as fg2ble and bg2ble"),
        (shapes(12), "layer_xl_fg2ble.safetensors", "auto", "named as fg2ble, which has 8 .* has 12, as fgble2bg"),
        (shapes(4), "layer_xl_transparent_conv.safetensors", "auto", "takes no layers.*Apply Foreground Weights"),
        (shapes(9), "a.safetensors", "auto", r"shape \(8, 9, 3, 3\); expected 8 or 12 channels"),
        ({ATTENTION: (8, 8)}, "a.safetensors", "auto", "does not change SDXL's first convolution"),
        ({"hookers.layers.0.to_q_lora.0.down": (1, 1)}, "layer_sd15_fg2bg.safetensors", "auto",
         "is LayerDiffuse for SD1.5.*layer_xl_fg2ble.*coming-from-layerdiffuse.md"),
        ({"latent_conv_in.weight": (64, 4, 1, 1)}, "a.safetensors", "auto", "transparent decoder"),
    ],
)  # fmt: skip
def test_refused(found, name, kind, said):
    with pytest.raises(ValueError, match=said):
        recognise_conditional(found, name, kind)


def test_parts_of_the_first_convolution():
    wide, bias = torch.randn(8, 12, 3, 3), torch.randn(8)
    up, down = torch.randn(8, 2, 1, 1), torch.randn(2, 8, 3, 3)
    key = RESNET.removesuffix("::diff::0")
    found = parse_conditional(
        {FIRST: wide, FIRST.replace("weight", "bias"): bias, f"{key}::lora::0": up, f"{key}::lora::1": down}, "fgble2bg"
    )
    named = found.weights.tensors
    assert found.weights.packaging is Packaging.LAYERDIFFUSE and found.kind.given == ("foreground", "blended")
    assert torch.equal(named[f'{FIRST.removesuffix("::diff::0")}.diff'], wide[:, :4]) and torch.equal(found.kernel, wide[:, 4:])
    change = LowRank(named[f"{key}.lora_up.weight"], named[f"{key}.lora_down.weight"])
    assert change.fits_together and change.shape == (8, 8, 3, 3)
    assert found.kernel.untyped_storage().data_ptr() == wide.untyped_storage().data_ptr()  # nothing copied
    tensors = {"conv_in.weight": wide, "down_blocks.0.resnets.0.conv1.weight": down}
    theirs = parse_conditional(tensors, "fgble2bg")
    assert theirs.weights.packaging is Packaging.DIFFUSERS and lora_modules(theirs.weights.tensors) == list(tensors)


def test_as_foreground_weights_they_are_sent_to_their_node():
    with pytest.raises(ValueError, match="conditional models.*LayerFusion Condition on Layers"):
        recognise(shapes(8), "layer_xl_fg2ble.safetensors")
