"""All packagings of the foreground weights, recognised by content, give the same merged model."""

from __future__ import annotations

import re

import comfy.utils
import pytest
import tiny
import torch

from layerfusion_pack.layerfusion_core.host.models.foreground import apply_foreground
from layerfusion_pack.layerfusion_core.weights.formats import Packaging, parse

RANK = 4


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_sdxl()


@pytest.fixture(scope="module")
def pairs(model) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{module name with `diffusion_model.`: (up, down)} of every attention projection."""
    file = tiny.foreground_file(model, rank=RANK)
    names = tiny.attention_weights(model)
    return {n: (file[f"{n}.weight::lora::0"], file[f"{n}.weight::lora::1"]) for n in names}


@pytest.fixture(scope="module")
def diffusers_name(model) -> dict[str, str]:
    """{model parameter key: diffusers' name of it}."""
    table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    return {f"diffusion_model.{ours}": theirs for theirs, ours in table.items()}


def merged(model) -> dict[str, torch.Tensor]:
    model.patch_model(device_to=torch.device("cpu"))
    weights = {key: value.clone() for key, value in model.model.state_dict().items()}
    model.unpatch_model(device_to=torch.device("cpu"))
    return weights


def diffusers_module(diffusers_name, name: str) -> str:
    return diffusers_name[f"{name}.weight"].removesuffix(".weight")


def lora_file(pairs, rename, up=".lora_up.weight", down=".lora_down.weight", alpha=True) -> dict[str, torch.Tensor]:
    found = {}
    for name, halves in pairs.items():
        module = rename(name)
        found[module + up], found[module + down] = halves
        if alpha:
            found[module + ".alpha"] = torch.tensor(float(RANK))
    return found


def packagings(pairs, diffusers_name):
    def theirs(name):
        return diffusers_module(diffusers_name, name)

    def processor(name):  # diffusers before PEFT: attn1.processor.to_q_lora.up.weight, to_out without its index
        return "unet." + re.sub(r"\.to_out\.0$", ".to_out", theirs(name)).replace(".to_", ".processor.to_")

    def kohya(name):
        return "lora_unet_" + name.removeprefix("diffusion_model.").replace(".", "_")

    peft = {"up": ".lora_B.weight", "down": ".lora_A.weight", "alpha": False}
    linear = {"up": ".lora_linear_layer.up.weight", "down": ".lora_linear_layer.down.weight", "alpha": False}
    return {
        "kohya, LDM names": lora_file(pairs, kohya),
        "kohya, diffusers names": lora_file(pairs, lambda n: "lora_unet_" + theirs(n).replace(".", "_")),
        "plain model keys": lora_file(pairs, lambda n: n),
        "PEFT, unet prefix": lora_file(pairs, lambda n: "unet." + theirs(n), **peft),
        "PEFT, no prefix": lora_file(pairs, theirs, **peft),
        "PEFT, base_model": lora_file(pairs, lambda n: "base_model.model." + theirs(n), **peft),
        "diffusers, linear layers": lora_file(pairs, lambda n: "unet." + theirs(n), **linear),
        "diffusers, processors": lora_file(pairs, processor, "_lora.up.weight", "_lora.down.weight", False),
    }


NAMES = [
    "kohya, LDM names", "kohya, diffusers names", "plain model keys", "PEFT, unet prefix", "PEFT, no prefix",
    "PEFT, base_model", "diffusers, linear layers", "diffusers, processors",
]  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_lora_packagings_equal_layerdiffuse(model, pairs, diffusers_name, kind):
    original = apply_foreground(model, parse(tiny.foreground_file(model, rank=RANK)), 0.5)
    weights = parse(packagings(pairs, diffusers_name)[kind])
    assert weights.packaging is Packaging.LORA
    repackaged = apply_foreground(model, weights, 0.5)
    assert set(repackaged.patches) == set(original.patches)
    expected = merged(original)
    for key, value in merged(repackaged).items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=1e-5)


def test_diffusers_deltas_equal_layerdiffuse(model, pairs, diffusers_name):
    file = {diffusers_name[f"{name}.weight"]: up @ down for name, (up, down) in pairs.items()}
    weights = parse(file)
    assert weights.packaging is Packaging.DIFFUSERS
    clone = apply_foreground(model, weights)
    assert all(entry[1] == ("diff", (entry[1][1][0],)) for [entry] in clone.patches.values())
    expected = merged(apply_foreground(model, parse(tiny.foreground_file(model, rank=RANK))))
    for key, value in merged(clone).items():
        torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grammar", [Packaging.LAYERDIFFUSE, Packaging.DIFFUSERS])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_conv_weights(model, diffusers_name, grammar, strength):
    deltas = tiny.deltas(model, tiny.in_conv_file)
    assert any(v.ndim == 4 for v in deltas.values()) and any(v.ndim == 1 for v in deltas.values())
    ours = grammar is Packaging.LAYERDIFFUSE
    file = {f"{key}::diff::0" if ours else diffusers_name[key]: value for key, value in deltas.items()}
    weights = parse(file)
    assert weights.packaging is grammar
    base, after = merged(model), merged(apply_foreground(model, weights, strength))
    for key, value in after.items():
        expected = base[key] + strength * deltas[key] if key in deltas else base[key]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)


def test_full_size_layout_binds_all_560_weights():
    """SDXL's own 70 blocks at small widths: the count of the published attention file."""
    model = tiny.tiny_sdxl(depth=tiny.REAL)
    file = tiny.foreground_file(model, rank=1)
    assert len(file) == 1120
    assert len(apply_foreground(model, parse(file)).patches) == 560
    assert len(tiny.deltas(model, tiny.in_conv_file)) == 1252


def test_text_encoder_parts_are_refused(model, pairs, diffusers_name):
    file = packagings(pairs, diffusers_name)["kohya, LDM names"]
    module = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    file[f"{module}.lora_up.weight"], file[f"{module}.lora_down.weight"] = torch.ones(8, 2), torch.ones(2, 8)
    total = len(pairs) + 1
    with pytest.raises(ValueError, match=rf"only {total - 1} of {total} entries.*{module}.*text encoders"):
        apply_foreground(model, parse(file))


def test_sd15_lora_is_refused_with_its_family(model):
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    file = {f"{module}.lora_up.weight": torch.ones(320, 2), f"{module}.lora_down.weight": torch.ones(2, 768)}
    with pytest.raises(ValueError, match="only 0 of 1 .*made for Stable Diffusion 1.5"):
        apply_foreground(model, parse(file))


def test_wrong_delta_shapes_are_refused(model, diffusers_name):
    deltas = tiny.deltas(model, tiny.in_conv_file)
    key = "diffusion_model.out.0.weight"
    deltas[key] = torch.randn(len(deltas[key]) + 1)
    with pytest.raises(ValueError, match=rf"only {len(deltas) - 1} of {len(deltas)} .*{key} \(shape"):
        apply_foreground(model, parse({f"{k}::diff::0": v for k, v in deltas.items()}))


def test_biases_that_a_lora_file_brings_along(model):
    """Such as full fine-tunes turned to LoRA files have: the host's reader makes them patches of their own."""
    deltas = tiny.deltas(model, lambda key: "diffusion_model.out.0." in key)
    weight, bias = deltas["diffusion_model.out.0.weight"], deltas["diffusion_model.out.0.bias"]
    for names in (("diff", "diff_b"), ("w_norm", "b_norm")):
        file = dict(zip((f"diffusion_model.out.0.{name}" for name in names), (weight, bias)))
        clone = apply_foreground(model, parse(file))
        assert clone.patches.keys() == deltas.keys()
        base, after = merged(model), merged(clone)
        assert all(torch.allclose(after[key], base[key] + delta) for key, delta in deltas.items())
        file[f"diffusion_model.out.0.{names[1]}"] = bias[:-1]
        with pytest.raises(ValueError, match=r"only 0 of 1 .*diffusion_model.out.0 \(shape"):
            apply_foreground(model, parse(file))
