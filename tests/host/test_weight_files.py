"""Weight files and the process: read and looked at once, not held longer than their models, and free to be cut short."""

from __future__ import annotations

import gc
import os
import sys
import types
from pathlib import Path

import comfy.utils
import pytest
import tiny
import torch
from runs import empty_latent, layered, models, slow
from safetensors.torch import save_file

from layerfusion_pack.layerfusion_core.host.models import weight_files
from layerfusion_pack.layerfusion_core.host.models.folders import file_identity
from layerfusion_pack.layerfusion_core.host.models.foreground import apply_foreground, load_foreground_weights
from layerfusion_pack.layerfusion_core.host.models.management import keep_in_memory
from layerfusion_pack.layerfusion_core.host.models.transparent_vae import TransparentVAE, read_weights
from layerfusion_pack.layerfusion_core.host.unet.delta import foreground_delta
from layerfusion_pack.layerfusion_core.vae.checkpoint import decoder_config, encoder_config
from layerfusion_pack.layerfusion_core.vae.decoder import DecoderConfig, TransparentDecoder
from layerfusion_pack.layerfusion_core.vae.encode import EncoderConfig, OffsetEncoder

SMALL = DecoderConfig(widths=(8, 8, 16, 16, 16), attention=(False,) * 4 + (True,))
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/maps says what is mapped")


@pytest.fixture
def foreground_path(tmp_path) -> Path:
    path = tmp_path / "foreground.safetensors"
    save_file(tiny.foreground_file(models()[0]), str(path))
    return path


def mapped(path: Path) -> list[range]:
    """Where in this process's memory a file is mapped."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]


def decoder_file(seed: int = 0) -> dict[str, torch.Tensor]:
    with torch.inference_mode(False):
        torch.manual_seed(seed)
        return {key: value.clone() for key, value in TransparentDecoder(SMALL).state_dict().items()}


# --- how long a file is used


@linux
def test_the_run_reads_no_file_and_a_freed_model_keeps_none(foreground_path):
    base = models()[0]
    foreground = apply_foreground(base, load_foreground_weights(str(foreground_path)))
    assert mapped(foreground_path)  # the patches: nothing is copied before a run
    terms = list(foreground_delta(base, foreground).model.parameters())
    ranges = mapped(foreground_path)
    assert terms and not [t for t in terms if any(t.data_ptr() in places for places in ranges)]

    before = layered((base, foreground), latent=empty_latent(1, 8, 8), steps=1)[0]
    os.truncate(foreground_path, 100)  # downloaded again while the model is there: reading the file now ends the process
    after = layered((base, foreground), latent=empty_latent(1, 8, 8), steps=1)[0]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))

    del foreground, terms
    gc.collect()
    assert mapped(foreground_path) == []


@linux
def test_the_transparent_vae_keeps_no_file(tmp_path):
    path = tmp_path / "decoder.safetensors"
    save_file(decoder_file(), str(path))
    vae = TransparentVAE(read_weights(str(path), decoder_config))
    gc.collect()
    assert mapped(path) == []
    os.truncate(path, 100)
    assert vae.decode(torch.rand(1, 16, 16, 3), torch.randn(1, 4, 2, 2), 1)[1].isfinite().all()


def test_hosts_that_give_no_views_or_keep_all_weights_in_files(monkeypatch):
    dynamic = types.SimpleNamespace(aimdo_enabled=True)
    monkeypatch.setattr("comfy.memory_management", dynamic, raising=False)
    layer = torch.nn.Linear(2, 2)
    weight = layer.weight.data_ptr()
    keep_in_memory(layer, [layer.weight])
    dynamic.aimdo_enabled = False
    monkeypatch.setattr(comfy.utils, "DISABLE_MMAP", True)
    keep_in_memory(layer, [layer.weight])
    assert layer.weight.data_ptr() == weight
    monkeypatch.setattr(comfy.utils, "DISABLE_MMAP", False)
    keep_in_memory(layer, [layer.bias])
    assert layer.weight.data_ptr() == weight  # it has memory of its own already
    keep_in_memory(layer, [layer.weight])
    assert layer.weight.data_ptr() != weight


def test_the_numbers_of_a_file_are_looked_at_once(foreground_path, monkeypatch):
    looked = []
    check = weight_files._is_finite
    monkeypatch.setattr(weight_files, "_is_finite", lambda tensor: looked.append(1) or check(tensor))
    first = load_foreground_weights(str(foreground_path))
    count = len(looked)
    assert count > 10
    load_foreground_weights(str(foreground_path))
    assert len(looked) == count  # another strength
    name = next(iter(first.tensors))
    up = first.tensors[name].clone()
    save_file({key: tensor * 2 for key, tensor in tiny.foreground_file(models()[0]).items()}, str(foreground_path))
    os.utime(foreground_path, (1, 1))  # within one tick of the clock the time of change may stay
    assert torch.equal(load_foreground_weights(str(foreground_path)).tensors[name], up * 2)
    assert len(looked) == 2 * count


def test_identity_follows_the_content(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"a")
    first = file_identity(str(path))
    assert first == file_identity(str(path))
    path.write_bytes(b"ab")
    assert file_identity(str(path)) != first
    assert file_identity(None) == file_identity(str(tmp_path / "none")) == "missing"


def test_progress_only_when_it_takes_long(foreground_path, monkeypatch):
    reports = []

    class Bar:
        def __init__(self, total):
            self.total = total

        def update_absolute(self, value, total):
            reports.append((value, total))

    monkeypatch.setattr(comfy.utils, "ProgressBar", Bar)
    load_foreground_weights(str(foreground_path))
    assert reports == []
    os.utime(foreground_path, (1, 1))  # to be looked at again
    clock = iter(range(10_000))
    monkeypatch.setattr(weight_files, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    load_foreground_weights(str(foreground_path))
    assert reports[-1][0] == reports[-1][1] and len(reports) > 10


# --- transparent VAE files


def load(path: Path, tensors: dict[str, torch.Tensor], config=decoder_config) -> dict[str, torch.Tensor]:
    save_file(tensors, str(path)) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return read_weights(str(path), config)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", [torch.int8, *slow(torch.int64, torch.bool)])
def test_types_that_are_no_weights(tmp_path, ending, dtype):
    weights = {key: (8 * value).to(dtype) for key, value in decoder_file().items()}
    with pytest.raises(ValueError, match=f"^x{ending}: expected tensors in fp16, bf16 or fp32, got {str(dtype)[6:]} "):
        load(tmp_path / f"x{ending}", weights)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_numbers_that_are_not_finite(tmp_path, value):
    encoder = OffsetEncoder(EncoderConfig((4,) * 9)).state_dict()
    for tensors, key, config in ((encoder, "blocks.8.bias", encoder_config), (decoder_file(), "conv_out.bias", decoder_config)):
        tensors = {**tensors, key: torch.tensor([0.0, 0.0, 0.0, value])}
        with pytest.raises(ValueError, match=f"^x.safetensors is damaged: '{key}' holds values that are not finite"):
            load(tmp_path / "x.safetensors", tensors, config)


def test_mixed_types_keep_their_numbers(tmp_path):
    """The first tensor's type was used for all: with one tensor in fp8, every weight was rounded to three bits."""
    weights = decoder_file()
    first = min(weights)
    weights[first] = weights[first].to(torch.float8_e4m3fn)
    half = next(key for key in weights if key.startswith("up_blocks.2") and key.endswith("conv1.weight"))
    weights[half] = weights[half].bfloat16()
    network = TransparentVAE(load(tmp_path / "x.safetensors", weights)).decoder.model
    assert all(torch.equal(value, weights[key].float()) for key, value in network.state_dict().items())


class Unsafe:
    """What a pickle may hold: an object whose making runs code."""

    def __reduce__(self):
        return (print, ("code in a pickle was run",))


def test_pickles(tmp_path, capsys):
    path = tmp_path / "x.pt"
    weights = decoder_file()
    assert load(path, {"state_dict": weights}).keys() == weights.keys()
    for content, words in (
        ({**weights, "more": Unsafe()}, "x.pt is refused: it is a pickle that holds more than tensors.*safetensors version"),
        ({**weights, "conv_out.bias": torch.zeros(1).expand(10**13)}, "claims 40,000,000,000,000 bytes that the file does not"),
        ({**weights, "conv_out.bias": torch.zeros(4, device="meta")}, "'conv_out.bias' is no plain tensor"),
        ({**weights, "epoch": 3}, "'epoch' is no plain tensor"),
        ({1: torch.zeros(1), 2: torch.zeros(1)}, "holds a dict; expected a flat table of named tensors"),
        (torch.zeros(1), "x.pt "),
    ):
        with pytest.raises(ValueError, match=words) as error:
            load(path, content)
        assert "weights_only" not in str(error.value) and "code in a pickle" not in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="x.pt cannot be read: the file is damaged, cut short"):
        read_weights(str(path), decoder_config)
    (tmp_path / "x.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"x.safetensors \(.* bytes\) is a pickle .*download that version"):
        read_weights(str(tmp_path / "x.safetensors"), decoder_config)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_pointers_and_pages_under_a_decoders_name(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    for content, words in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a git-lfs pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"Entry not found", "a text"),
        (b"", "empty .0 bytes."),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_weights(str(path), decoder_config)
