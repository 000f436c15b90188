"""The shipped demonstration weights: size, metadata, key table, and what the autoencoder keeps of a drawn scene."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from layerfusion_pack.layerfusion_core.vae.demo_autoencoder import DemoAutoencoder
from layerfusion_pack.layerfusion_core.weights.changes import Delta, LowRank
from layerfusion_pack.layerfusion_core.weights.conditional import parse_conditional
from layerfusion_pack.layerfusion_core.weights.formats import lora_modules

DEMO = Path(__file__).resolve().parents[2] / "demo"
MODELS = DEMO / "models"
NAMES = ("unet", "text_encoders", "vae", "foreground_lora", "transparent_decoder")
safetensors = pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def demo(request):
    """Imports a module of the demo folder by name."""
    sys.path.insert(0, str(DEMO))
    request.addfinalizer(lambda: sys.path.remove(str(DEMO)))
    return importlib.import_module


def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safetensors.safe_open(str(MODELS / f"{name}.safetensors"), "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


def test_all_files_together_are_at_most_32_megabytes():
    assert sum((MODELS / f"{name}.safetensors").stat().st_size for name in NAMES) <= 32_000_000


@pytest.mark.parametrize("name", NAMES)
def test_files_are_fp16_and_say_what_they_are(name):
    tensors, metadata = read(name)
    assert metadata["format"] == f"layerfusion-demo/{name}/1"
    assert metadata["license"] == "GPL-3.0-or-later"
    assert metadata["recipe"] and metadata["seed"].isdigit() and isinstance(json.loads(metadata["config"]), dict)
    for key, tensor in tensors.items():
        assert tensor.dtype == (torch.int64 if key == "clip_l.used_ids" else torch.float16), key
        assert bool(torch.isfinite(tensor.float()).all()), key


def test_the_key_table_is_one_to_one_and_covers_the_file(demo):
    keys = demo("keys")
    table, inverse = keys.ldm_to_diffusers(), keys.diffusers_to_ldm()
    assert len(table) == len(inverse) == 620
    assert all(inverse[b] == a for a, b in table.items())
    assert {k.removeprefix(keys.PREFIX) for k in read("unet")[0]} == set(table)


def test_foreground_weights_change_every_attention_projection(demo):
    keys, (tensors, _), (base, _) = demo("keys"), read("foreground_lora"), read("unet")
    modules = keys.attention_projections()
    assert len(modules) == 136
    assert set(tensors) == {f"{keys.PREFIX}{m}.weight::lora::{slot}" for m in modules for slot in (0, 1)}
    for module in modules:
        name = f"{keys.PREFIX}{module}.weight"
        up, down = tensors[f"{name}::lora::0"], tensors[f"{name}::lora::1"]
        assert (up.shape[0], down.shape[1]) == tuple(base[name].shape) and up.shape[1] == down.shape[0]


@pytest.mark.parametrize(("kind", "channels"), [("fg2ble", 8), ("fgble2bg", 12)])
def test_layer_files_are_small_and_change_what_layerdiffuses_change(kind, channels, demo):
    """Every parameter but those of transformers and of the time and label embeddings; the first convolution widened."""
    path = DEMO / "layer_model" / f"demo_{kind}.safetensors"
    assert path.stat().st_size <= 1_500_000
    with safetensors.safe_open(str(path), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    assert all(t.dtype == torch.float16 and bool(torch.isfinite(t.float()).all()) for t in tensors.values())
    found = parse_conditional(tensors, path.name)
    assert found.kind.name == kind and found.kernel.shape == (48, channels - 4, 3, 3)
    base, keys = read("unet")[0], demo("keys")
    blocks = {name.partition(".transformer_blocks")[0] for name in keys.attention_projections()}
    changed = {key for key in base if not key.removeprefix(keys.PREFIX).startswith((*blocks, "time_embed", "label_emb"))}
    named = found.weights.tensors
    assert set(lora_modules(named)) == changed
    full = {key: Delta(named[f"{key}.diff"]) for key in changed if f"{key}.diff" in named}
    low = {key: LowRank(named[f"{key}.lora_up.weight"], named[f"{key}.lora_down.weight"]) for key in changed - full.keys()}
    assert all(change.shape == tuple(base[key].shape) for key, change in (full | low).items())


def test_the_network_that_layer_files_are_trained_on_is_the_merged_one(demo):
    """Random differences: the training network gives what the base gives with the exported file merged by hand."""
    unet, stage = demo("unet"), demo("stage_layers")
    settings = demo("common").Settings(device="cpu")
    network, _ = unet.load(settings)
    plain = {key: value.clone() for key, value in network.state_dict().items()}
    differences = stage.widen(network, 1)
    shapes = {key: stage.weight_of(network, key).shape for key in differences}
    with torch.no_grad():
        for difference in differences.values():
            for part in difference.parameters():
                part.add_(0.05 * torch.randn_like(part))
    exported, merged = stage.tensors(differences, shapes), unet.build()[0]
    merged.input_blocks[0][0] = unet.First(8, 48, 3, padding=1)
    for key in {name.partition("::")[0].removeprefix(unet.PREFIX) for name in exported}:
        parts = {kind: exported.get(f"{unet.PREFIX}{key}::{kind}") for kind in ("diff::0", "lora::0", "lora::1")}
        full = parts["diff::0"]
        added = full if full is not None else (parts["lora::0"].flatten(1) @ parts["lora::1"].flatten(1)).view(shapes[key])
        wide = torch.zeros(shapes[key])
        wide[tuple(slice(side) for side in plain[key].shape)] = plain[key]
        plain[key] = wide + added.detach()
    merged.load_state_dict(plain)
    x, context, label = torch.randn(2, 8, 8, 8), torch.randn(2, 77, 128), torch.randn(2, demo("keys").ADM_CHANNELS)
    with torch.no_grad():
        given, expected = (net.eval()(x, torch.tensor([10, 500]), context, label) for net in (network, merged))
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)


def test_text_encoders_store_the_rows_of_the_vocabulary(demo):
    vocabulary, (tensors, metadata) = demo("vocabulary"), read("text_encoders")
    used = tensors["clip_l.used_ids"].tolist()
    assert used == sorted(used) == vocabulary.USED_IDS and {0, 49406, 49407} <= set(used)
    for side in ("clip_l", "clip_g"):
        assert tensors[f"{side}.text_model.embeddings.token_embedding.weight"].shape == (len(used) + 1, 64)
    assert tensors["clip_g.text_projection.weight"].shape == (64, 64)
    words = json.loads(metadata["words"])
    assert words["checkerboard"] == [1113, 2352, 1972] and all(i in used for ids in words.values() for i in ids)


def test_tokenizer_of_the_demo_vocabulary(demo):
    vocabulary = demo("vocabulary")
    ids = vocabulary.tokenize("a red apple, blue checkerboard", pad=0)
    assert ids[:10] == [49406, 320, 736, 3055, 267, 1746, 1113, 2352, 1972, 49407] and ids[10:] == [0] * 67
    assert vocabulary.row_index([1]) == [len(vocabulary.USED_IDS)]


def test_autoencoder_round_trip_of_drawn_scenes(demo):
    scenes, (state, _) = demo("scenes"), read("vae")
    model = DemoAutoencoder.from_state_dict({k: v.float() for k, v in state.items()})
    drawn = scenes.draw_batch([scenes.random_scene(99_000_000 + i) for i in range(4)], 256)
    with torch.no_grad():
        latent = model.encode(torch.cat([drawn.on_grey, drawn.composite]) * 2 - 1)
        found = (model.decode(latent) + 1) / 2
    assert latent.shape == (8, 4, 32, 32)
    errors = (found - torch.cat([drawn.on_grey, drawn.composite])).square().mean((1, 2, 3))
    assert min(-10 * math.log10(error) for error in errors.tolist()) >= 28
    assert 0.6 < (latent * 0.13025).std().item() < 1.5


def test_the_training_network_is_diffusers_unet(demo):
    diffusers = pytest.importorskip("diffusers")
    keys, unet = demo("keys"), demo("unet")
    network, rows = unet.load(demo("common").Settings())
    other, table = diffusers.UNet2DConditionModel(**keys.DIFFUSERS_CONFIG).eval(), keys.ldm_to_diffusers()
    weights = {table[key.removeprefix(keys.PREFIX)]: value.float() for key, value in read("unet")[0].items()}
    other.load_state_dict(weights)
    draw = torch.Generator().manual_seed(0)
    x, context, pooled = (torch.randn(2, *shape, generator=draw) for shape in ((4, 16, 16), (77, 128), (64,)))
    t, ids = torch.tensor([40, 900]), torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(2, 6)
    with torch.no_grad():
        found = unet.predict(network, x, t, context, pooled, 128)
        added = {"text_embeds": pooled, "time_ids": ids}
        want = other(x, t, encoder_hidden_states=context, added_cond_kwargs=added, return_dict=False)[0]
        rows.count = 1
        foreground = unet.predict(network, x, t, context, pooled, 128)
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
    assert (foreground[0] - found[0]).abs().max() > 0.1 and torch.equal(foreground[1], found[1])


def test_autoencoder_names_bad_input(demo):
    model = DemoAutoencoder()
    with pytest.raises(ValueError, match="divisible by 8"):
        model.encode(torch.zeros(1, 3, 60, 64))
    with pytest.raises(ValueError, match="demo autoencoder"):
        DemoAutoencoder.from_state_dict({})
