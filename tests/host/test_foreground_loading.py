"""Foreground weights on the host: what they do to the weights, to the output, and what is refused."""

from __future__ import annotations

import comfy.sample
import comfy.supported_models
import pytest
import tiny
import torch
from comfy.weight_adapter import LoRAAdapter
from safetensors.torch import save_file

from layerfusion_pack.layerfusion_core.host.models.families import family_name, require_sdxl
from layerfusion_pack.layerfusion_core.host.models.foreground import (
    ATTACHMENT,
    apply_foreground,
    load_foreground_weights,
)
from layerfusion_pack.layerfusion_core.weights.formats import Packaging, parse

NAME = "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_sdxl()


@pytest.fixture(scope="module")
def file(model):
    return tiny.foreground_file(model)


def merged(model) -> dict[str, torch.Tensor]:
    """Weights as the host merges them for sampling, copied; the model is left unpatched."""
    model.patch_model(device_to=torch.device("cpu"))
    weights = {key: value.clone() for key, value in model.model.state_dict().items()}
    model.unpatch_model(device_to=torch.device("cpu"))
    return weights


def sample(model, seed=3):
    latent = torch.zeros(1, 4, 8, 8)
    noise = comfy.sample.prepare_noise(latent, seed)
    positive, negative = tiny.conditioning(1), tiny.conditioning(2)
    return comfy.sample.sample(
        model, noise, 2, 4.0, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=seed
    )


@pytest.mark.parametrize("strength", [1.0, 0.5, 2.0])
def test_merged_weights_are_by_hand(model, file, strength):
    base = merged(model)
    after = merged(apply_foreground(model, parse(file), strength))
    changed = {key for key in base if not torch.equal(base[key], after[key])}
    assert changed == {name + ".weight" for name in tiny.attention_weights(model)}
    for key in changed:
        expected = base[key] + strength * (file[f"{key}::lora::0"] @ file[f"{key}::lora::1"])
        torch.testing.assert_close(after[key], expected, atol=1e-6, rtol=1e-5)


def test_alpha_scales(model, file):
    rank = file[f"{NAME}::lora::1"].shape[0]
    with_alpha = {**file, f"{NAME}::lora::2": torch.tensor(rank / 4)}
    base, after = merged(model), merged(apply_foreground(model, parse(with_alpha)))
    expected = base[NAME] + 0.25 * (file[f"{NAME}::lora::0"] @ file[f"{NAME}::lora::1"])
    torch.testing.assert_close(after[NAME], expected, atol=1e-6, rtol=1e-5)


def test_entries_are_low_rank_adapters_with_the_strength(model, file):
    clone = apply_foreground(model, parse(file), 0.75)
    assert set(clone.patches) == {name + ".weight" for name in tiny.attention_weights(model)}
    for key, [(strength, patch, strength_model, offset, function)] in clone.patches.items():
        assert isinstance(patch, LoRAAdapter)
        assert (strength, strength_model, offset, function) == (0.75, 1.0, None, None)
        assert patch.weights[0] is file[f"{key}::lora::0"] and patch.weights[1] is file[f"{key}::lora::1"]
    applied = clone.get_attachment(ATTACHMENT)
    assert (applied.bound, applied.strength, applied.packaging) == (len(clone.patches), 0.75, Packaging.LAYERDIFFUSE)


def test_stock_output_changes_and_the_input_model_does_not(model, file):
    before = sample(model)
    foreground = apply_foreground(model, parse(file))
    assert foreground is not model and foreground.is_clone(model)
    after = sample(foreground)
    assert (after - before).abs().mean() > 1e-2
    assert model.patches == {} and model.get_attachment(ATTACHMENT) is None
    assert torch.equal(sample(model), before)
    reference = sample(tiny.with_foreground(model, file))
    torch.testing.assert_close(after, reference, atol=1e-5, rtol=1e-5)


def test_strength_zero_is_the_base_bit_for_bit(model, file):
    zero = apply_foreground(model, parse(file), 0.0)
    assert torch.equal(sample(zero), sample(model))
    with pytest.raises(ValueError, match="finite"):
        apply_foreground(model, parse(file), float("nan"))


def test_patches_already_there_stay(model, file):
    lora = model.clone()
    lora.add_patches({NAME: ("diff", (torch.ones_like(model.model.state_dict()[NAME]),))}, 0.1)
    clone = apply_foreground(lora, parse(file))
    assert len(clone.patches[NAME]) == 2 and clone.patches[NAME][0] is lora.patches[NAME][0]
    assert len(lora.patches) == 1 and len(lora.patches[NAME]) == 1


def test_applying_twice_is_warned_of(model, file, caplog):
    apply_foreground(apply_foreground(model, parse(file, "one")), parse(file, "two"))
    assert "already carries foreground weights (one" in caplog.text


def test_half_precision(file):
    model = tiny.tiny_sdxl(dtype=torch.float16)
    half = {key: tensor.half() for key, tensor in file.items()}
    base, after = merged(model), merged(apply_foreground(model, parse(half)))
    expected = base[NAME].float() + half[f"{NAME}::lora::0"].float() @ half[f"{NAME}::lora::1"].float()
    torch.testing.assert_close(after[NAME].float(), expected, atol=1e-3, rtol=1e-3)


# --- what does not fit


def test_fewer_keys_bound_is_an_error(model, file):
    deeper = tiny.foreground_file(tiny.tiny_sdxl(depth=tiny.REAL))
    total, fit = len(deeper) // 2, len(file) // 2
    with pytest.raises(ValueError, match=f"deep.safetensors: only {fit} of {total} .*First that do not: diff"):
        apply_foreground(model, parse(deeper, "deep.safetensors"))


def test_smaller_sdxl_relative_is_named(file):
    class SSD1B(tiny.TinySDXL):
        pass

    shorter = tiny.tiny_sdxl(depth=([0, 0, 1, 1, 1, 1], 1, [0, 0, 0, 1, 1, 1, 1, 1, 1]))
    shorter.model.model_config.__class__ = SSD1B
    with pytest.raises(ValueError, match="the model is SSD-1B"):
        apply_foreground(shorter, parse(file))


def test_other_shapes_name_the_family(model, file):
    wide = dict(file)
    for key in file:
        if "attn2.to_k" in key and key.endswith("::1"):
            wide[key] = torch.randn(file[key].shape[0], 768)
    bad = sum("attn2.to_k" in key and key.endswith("::1") for key in file)
    total = len(file) // 2
    with pytest.raises(ValueError, match=rf"only {total - bad} of {total}.*shape .*768\).*Stable Diffusion 1.5"):
        apply_foreground(model, parse(wide))


@pytest.mark.parametrize(
    "config, name",
    [
        ("SD15", "Stable Diffusion 1.5"),
        ("SD20", "Stable Diffusion 2"),
        ("SD3", "Stable Diffusion 3"),
        ("Flux", "Flux"),
        ("SDXLRefiner", "the SDXL refiner"),
        ("SDXL_instructpix2pix", "InstructPix2Pix"),
        ("SD15_instructpix2pix", "InstructPix2Pix"),
        ("AuraFlow", "AuraFlow"),
    ],
)
def test_other_families_are_refused_by_name(file, config, name):
    model = tiny.tiny_sdxl()
    other = object.__new__(getattr(comfy.supported_models, config))
    model.model.model_config = other
    with pytest.raises(ValueError, match=f"base_model is {name}.*Expected an SDXL checkpoint"):
        require_sdxl(model, "base_model")
    with pytest.raises(ValueError, match=name):
        apply_foreground(model, parse(file))


def test_sdxl_and_relatives_are_accepted(model):
    require_sdxl(model, "base_model")
    assert family_name(model) == "SDXL"
    for config, name in (("SSD1B", "SSD-1B"), ("Segmind_Vega", "Segmind Vega"), ("KOALA_1B", "KOALA 1B")):
        relative = tiny.tiny_sdxl()
        relative.model.model_config = object.__new__(getattr(comfy.supported_models, config))
        require_sdxl(relative, "base_model")
        assert family_name(relative) == name
    no_attention = tiny.tiny_sdxl()
    for block in no_attention.model.diffusion_model.output_blocks:
        for layer in block:
            if hasattr(layer, "transformer_blocks"):
                layer.transformer_blocks = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="lacks SDXL's attention blocks"):
        require_sdxl(no_attention, "base_model")


def test_weights_that_change_nothing(model, file):
    off = {key.replace("::lora::0", "::lora::2"): torch.tensor(0.0) for key in file if key.endswith("::lora::0")}
    for nothing in ({key: tensor * 0 for key, tensor in file.items()}, {**file, **off}):
        with pytest.raises(ValueError, match=rf"zero.safetensors changes nothing: all its {len(off)} entries are zero"):
            apply_foreground(model, parse(nothing, "zero.safetensors"))
    key = f"{NAME}::lora::2"
    base, after = merged(model), merged(apply_foreground(model, parse({**file, key: off[key]})))
    assert {name for name in base if torch.equal(base[name], after[name])} >= {NAME}  # one that is switched off is as it says
    assert sum(not torch.equal(base[name], after[name]) for name in base) == len(off) - 1


def test_halves_of_a_lora_file_that_do_not_fit_together(model):
    module = "lora_unet_" + NAME.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")
    out, into = model.model.state_dict()[NAME].shape
    for up, down in (((out, 2), (3, into)), ((out, 0), (0, into)), ((out, 2, 3), (2, into))):
        halves = {f"{module}.lora_up.weight": torch.ones(up), f"{module}.lora_down.weight": torch.ones(down)}
        with pytest.raises(ValueError, match="only 0 of 1 .*its halves do not fit together"):
            apply_foreground(model, parse(halves))


def test_a_host_that_ignores_patches_is_an_error(model, file, monkeypatch):
    import comfy.lora

    monkeypatch.setattr(comfy.lora, "calculate_weight", lambda patches, weight, key, **_: weight)
    with pytest.raises(RuntimeError, match="ignores the foreground patch"):
        apply_foreground(model, parse(file))


def test_host_reader_that_does_not_know_the_names_is_an_error(model, file, monkeypatch):
    import comfy.lora

    monkeypatch.setattr(comfy.lora, "load_lora", lambda lora, to_load, log_missing=True: {})
    with pytest.raises(ValueError, match="only 0 of .*not understood by this ComfyUI"):
        apply_foreground(model, parse(file))


# --- files


def test_file_round_trip(model, file, tmp_path):
    path = str(tmp_path / "named_anything.safetensors")
    save_file(file, path)
    weights = load_foreground_weights(path)
    assert weights.packaging is Packaging.LAYERDIFFUSE and weights.name == "named_anything.safetensors"
    assert torch.equal(weights.tensors[f"{NAME}.lora_up.weight"], file[f"{NAME}::lora::0"])
    assert torch.equal(sample(apply_foreground(model, weights)), sample(apply_foreground(model, parse(file))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_not_finite(file, tmp_path, dtype, value):
    path = str(tmp_path / "x.safetensors")
    clean = {key: tensor.to(dtype) for key, tensor in file.items() if key.startswith(NAME)}
    save_file(clean, path)
    load_foreground_weights(path)
    bad = clean[f"{NAME}::lora::0"].to(torch.float32, copy=True)
    bad[-1, -1] = float(value)
    path = str(tmp_path / "y.safetensors")
    save_file({**clean, f"{NAME}::lora::0": bad.to(dtype)}, path)
    if dtype is torch.float8_e4m3fn and "inf" in value:
        return  # this type has no infinity
    with pytest.raises(ValueError, match=f"{NAME}::lora::0' holds values that are not finite"):
        load_foreground_weights(path)


def test_bad_files(file, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(file, str(path))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="end is missing. Delete it and download it again"):
        load_foreground_weights(str(path))
    lying = b'{"%s::lora::0": {"dtype": "F32", "shape": [9, 9], "data_offsets": [0, 16]}}' % NAME.encode()
    path.write_bytes(len(lying).to_bytes(8, "little") + lying + bytes(16))
    with pytest.raises(ValueError, match="x.safetensors is damaged .*download it again"):
        load_foreground_weights(str(path))
    save_file({"latent_conv_in.weight": torch.zeros(64, 4, 1, 1)}, str(path))
    with pytest.raises(ValueError, match="transparent decoder"):
        load_foreground_weights(str(path))
    torch.save(file, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="pickle"):
        load_foreground_weights(str(tmp_path / "x.pt"))
    save_file({key: tensor.to(torch.int8) for key, tensor in file.items()}, str(path))
    with pytest.raises(ValueError, match="x.safetensors: expected tensors in fp16, bf16 or fp32, got int8 .*quantised"):
        load_foreground_weights(str(path))
