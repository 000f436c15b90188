"""Foreground weight files are recognised by content, and wrong ones are refused by name."""

from __future__ import annotations

import json
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from layerfusion_pack.layerfusion_core.weights.changes import Delta, LowRank
from layerfusion_pack.layerfusion_core.weights.formats import (
    Packaging,
    likely_family,
    lora_modules,
    parse,
    recognise,
    unbound_message,
)
from layerfusion_pack.layerfusion_core.weights.header import is_pickle, read_header

Q = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
DIFFUSERS_Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def pair(out=6, rank=2, into=4):
    return torch.randn(out, rank), torch.randn(rank, into)


def test_layerdiffuse_low_rank_and_alpha():
    up, down = pair()
    weights = parse({f"{Q}::lora::0": up, f"{Q}::lora::1": down, f"{Q}::lora::2": torch.tensor(1.0)}, "a.safetensors")
    assert weights.packaging is Packaging.LAYERDIFFUSE and lora_modules(weights.tensors) == [Q]
    found = {name.removeprefix(f"{Q}."): tensor for name, tensor in weights.tensors.items()}
    assert found.keys() == {"lora_up.weight", "lora_down.weight", "alpha"}
    assert found["lora_up.weight"] is up and found["lora_down.weight"] is down  # nothing copied
    change = LowRank(up, down, found["alpha"].item())
    assert change.shape == (6, 4)
    assert change.scale == 0.5
    assert LowRank(up, down).scale == 1.0


def test_layerdiffuse_delta():
    delta = torch.randn(8, 4, 3, 3)
    weights = parse({"diffusion_model.input_blocks.0.0.weight::diff::0": delta})
    assert weights.tensors.keys() == {"diffusion_model.input_blocks.0.0.weight.diff"}
    assert next(iter(weights.tensors.values())) is delta


def test_diffusers_deltas():
    weights = parse({f"{DIFFUSERS_Q}.weight": torch.randn(6, 4), "mid_block.resnets.0.norm1.bias": torch.randn(6)})
    assert weights.packaging is Packaging.DIFFUSERS
    assert weights.tensors["mid_block.resnets.0.norm1.bias.diff"].shape == (6,)
    assert lora_modules(weights.tensors) == [f"{DIFFUSERS_Q}.weight", "mid_block.resnets.0.norm1.bias"]


LORA_SPELLINGS = [
    ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", ".lora_up.weight", ".lora_down.weight"),
    (f"unet.{DIFFUSERS_Q}", ".lora_B.weight", ".lora_A.weight"),
    (f"base_model.model.{DIFFUSERS_Q}", ".lora_B.default.weight", ".lora_A.default.weight"),
    (f"unet.{DIFFUSERS_Q.replace('.to_q', '.processor.to_q')}", "_lora.up.weight", "_lora.down.weight"),
    (f"unet.{DIFFUSERS_Q}", ".lora.up.weight", ".lora.down.weight"),
    (f"unet.{DIFFUSERS_Q}", ".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
]


@pytest.mark.parametrize("module, up_name, down_name", LORA_SPELLINGS)
def test_lora_spellings(module, up_name, down_name):
    up, down = pair()
    tensors = {module + up_name: up, module + down_name: down, module + ".alpha": torch.tensor(2.0)}
    weights = parse(tensors)
    assert weights.packaging is Packaging.LORA
    assert lora_modules(weights.tensors) == [module]
    with pytest.raises(ValueError, match="down half"):
        parse({module + up_name: up})
    with pytest.raises(ValueError, match="up half"):
        parse({module + down_name: down})


@pytest.mark.parametrize("missing, half", [(0, "up"), (1, "down")])
def test_missing_half(missing, half):
    halves = {f"{Q}::lora::{i}": tensor for i, tensor in enumerate(pair()) if i != missing}
    with pytest.raises(ValueError, match=f"part.safetensors: the {half} half .*Download it again"):
        parse(halves, "part.safetensors")


def test_halves_of_different_rank():
    with pytest.raises(ValueError, match=r"do not fit: expected up \(out, rank\).*\(6, 3\) and \(2, 4\)"):
        parse({f"{Q}::lora::0": torch.randn(6, 3), f"{Q}::lora::1": torch.randn(2, 4)})


@pytest.mark.parametrize("up, down", [((6, 2, 3), (2, 4)), ((6, 0), (0, 4)), ((6,), (2, 4)), ((6, 2), (2,))])
def test_halves_of_another_shape_or_of_rank_0(up, down):
    with pytest.raises(ValueError, match="do not fit: expected up .* of rank 1 or more"):
        parse({f"{Q}::lora::0": torch.zeros(up), f"{Q}::lora::1": torch.zeros(down), f"{Q}::lora::2": torch.tensor(1.0)})
    assert not LowRank(torch.zeros(up), torch.zeros(down)).fits_together
    assert LowRank(torch.zeros(6, 2, 1, 1), torch.zeros(2, 4, 3, 3)).fits_together


def test_an_alpha_is_one_number():
    up, down = pair()
    for halves in ({f"{Q}::lora::0": up, f"{Q}::lora::1": down, f"{Q}::lora::2": torch.ones(2)},
                   {"a.lora_up.weight": up, "a.lora_down.weight": down, "a.alpha": torch.ones(2)}):  # fmt: skip
        with pytest.raises(ValueError, match=r"is an alpha, expected one number, got the shape \(2,\)"):
            parse(halves)


def test_a_low_rank_and_a_full_difference_of_one_weight():
    up, down = pair()
    for halves in ({f"{Q}::lora::0": up, f"{Q}::lora::1": down, f"{Q}::diff::0": up @ down},
                   {"a.lora_up.weight": up, "a.lora_down.weight": down, "a.diff": up @ down}):  # fmt: skip
        with pytest.raises(ValueError, match="is given both as lora and as diff; expected one"):
            parse(halves)


def test_what_changes_something():
    up, down = pair()
    assert LowRank(up, down).changes and Delta(up).changes
    assert not LowRank(up, down, alpha=0.0).changes and not LowRank(up * 0, down).changes and not Delta(up * 0).changes


def test_unknown_patch_type():
    up, down = pair()
    halves = {f"{Q}::lora::0": up, f"{Q}::lora::1": down}
    for patch in ({f"{Q}::loha::0": up}, {f"{Q}::diff::1": up}, {**halves, f"{Q}::lora::3": up}):
        with pytest.raises(ValueError, match="unknown patch"):
            parse(patch)
    for key in ("::lora", "::lora::\u00b2", "::lora::-1", "::lora::" + "1" * 5000):
        with pytest.raises(ValueError, match="expected '<model key>::"):
            parse({f"{Q}{key}": up})


WRONG_FILES = {
    "hookers.layers.0.to_q_lora.0.down.weight": "SD1.5",
    "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": "Flux",
    "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": "Flux",
    "latent_conv_in.weight": "transparent decoder",
    "blocks.0.weight": "transparent encoder",
    "first_stage_model.encoder.conv_in.weight": "a VAE",
    "decoder.up_blocks.0.resnets.0.conv1.weight": "a VAE",
    "model.diffusion_model.input_blocks.0.0.weight": "a whole checkpoint",
    "time_embedding.linear_1.weight": "a whole diffusion model",
    "diffusion_model.time_embed.0.weight": "a whole diffusion model",
    "something.else": "holds no foreground weights",
}


@pytest.mark.parametrize("key, words", WRONG_FILES.items())
def test_wrong_file(key, words):
    with pytest.raises(ValueError, match=f"(?s)^wrong.safetensors.*{words}.*layer_xl_transparent_attn") as error:
        recognise({key: (4, 4)}, "wrong.safetensors")
    assert "huggingface.co/LayerDiffusion/layerdiffusion-v1" in str(error.value)


@pytest.mark.parametrize("key", ["diffusion_model.input_blocks.0.0.weight::diff::0", "conv_in.weight"])
@pytest.mark.parametrize("channels", [8, 12])
def test_conditional_models_are_refused(key, channels):
    with pytest.raises(ValueError, match=f"fg2ble.*takes {channels} channels, expected 4"):
        recognise({key: (320, channels, 3, 3), "up_blocks.0.x": (1,)}, "layer_xl_fg2ble.safetensors")


@pytest.mark.parametrize(
    "key, shape, family",
    [
        ("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", (640, 768), "Stable Diffusion 1.5"),
        ("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", (640, 1024), "Stable Diffusion 2"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight", (320, 320), "Stable Diffusion 1.5 or 2"),
        ("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", (640, 2048), None),
    ],
)
def test_likely_family(key, shape, family):
    assert likely_family({key: shape}) == family


def test_unbound_message_says_counts_keys_and_cause():
    keys = [f"k{i}" for i in range(5)]
    text = unbound_message("a.safetensors", 560, keys, "SSD-1B", None)
    assert "only 555 of 560" in text and "k0, k1, k2, ..." in text and "the model is SSD-1B" in text
    assert "Stable Diffusion 1.5" in unbound_message("a", 10, keys, "SDXL", "Stable Diffusion 1.5")
    assert "text encoders" in unbound_message("a", 10, ["lora_te1_x"], "SDXL", None)


def write(path, header: dict | bytes, data: bytes = b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return str(path)


def test_header_equals_the_file(tmp_path):
    path = str(tmp_path / "x.safetensors")
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float16)}, path, metadata={"m": "n"})
    header = read_header(path)
    assert {k: (v.dtype, v.shape) for k, v in header.items()} == {"a": ("F32", (2, 3)), "b": ("F16", (4,))}


def test_header_length_may_look_like_a_pickle(tmp_path):
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    raw = json.dumps(header).encode().ljust(0x80)
    assert read_header(write(tmp_path / "x.safetensors", raw, b"\0" * 4))["a"].shape == (1,)


def test_truncated_files(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(200, 30)}, str(path))
    whole = path.read_bytes()
    for keep in (4, 20, 60, 1000, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=f"x.safetensors \\({keep:,} bytes\\) is damaged or incomplete.*again"):
            read_header(str(path))


def test_other_formats(tmp_path):
    path = tmp_path / "x.safetensors"
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="pickle.*safetensors"):
        read_header(str(path))
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="pickle"):
        read_header(str(path))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="0 bytes"):
        read_header(str(path))
    path.write_bytes(b"<!DOCTYPE html><html>" + b" " * 100)
    with pytest.raises(ValueError, match="web page"):
        read_header(str(path))
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
    with pytest.raises(ValueError, match="git-lfs"):
        read_header(str(path))
    no_end = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}'
    for header in (b"not json", b"[1, 2]", b'{"a": {"dtype": "F32"}}', no_end):
        with pytest.raises(ValueError, match="header cannot be read"):
            read_header(write(path, header, b"\0" * 64))
    with pytest.raises(ValueError, match="no tensors"):
        read_header(write(path, {"__metadata__": {}}))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"<html><head>", "a web page"),
        (b"\xef\xbb\xbf\n <?xml version", "a web page"),
        (b"<!-- cached -->", "a web page"),
        (b"Entry not found", "a text.*begins with 'Entry not found'.*log in"),
        (b'{"error": "gated"}', "a text"),
        (b"no", "a text"),
        (b"\x1f\x8b\x08\x00" + bytes(60), "a gzip archive"),
    ],
)
def test_what_servers_send_in_place_of_weights(content, words, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content + b" " * 30)
    for read in (read_header, is_pickle):
        with pytest.raises(ValueError, match=rf"^x.safetensors \({len(content) + 30} bytes\) is {words}"):
            read(str(path))


def test_what_a_header_may_ask_for_is_bounded(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="header cannot be read"):
        read_header(write(path, b'{"a":' * 100_000 + b"1" + b"}" * 100_000))
    with pytest.raises(ValueError, match="header cannot be read"):
        read_header(write(path, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))
    started = time.process_time()
    with pytest.raises(ValueError, match="no model's weight file: its header has 1,000,005 entries, expected at most"):
        read_header(write(path, b'{"a": {"shape": [' + b"1," * 1_000_001 + b'1], "dtype": 1}}'))
    assert time.process_time() - started < 0.5  # it is not parsed: that takes a second, and memory for all of it


def test_safetensors_under_another_ending(tmp_path):
    save_file({"a": torch.zeros(2)}, str(tmp_path / "x.pt"))
    assert not is_pickle(str(tmp_path / "x.pt"))
    with pytest.raises(ValueError, match="rename it to end in .safetensors"):
        read_header(str(tmp_path / "x.pt"))
