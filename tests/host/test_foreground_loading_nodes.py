"""Load LayerFusion Models and Apply Foreground Weights as the host calls them, on files in a models folder."""

from __future__ import annotations

import comfy.sample
import comfy.supported_models
import folder_paths
import pytest
import tiny
import tiny_checkpoint
import torch
from safetensors.torch import save_file

import nodes as host_nodes
from layerfusion_pack.layerfusion_core.host.models import folders
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.nodes import conditioning, loading, sampling

WEIGHTS = "layer_xl_transparent_attn.safetensors"
PAGE = "https://huggingface.co/LayerDiffusion/layerdiffusion-v1"
Load, Apply = loading.LayerFusionLoadModels, loading.LayerFusionApplyForeground


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Empty models folders; the tiny configuration is known to the host."""
    exts = folder_paths.supported_pt_extensions
    found = dict(folder_paths.folder_names_and_paths)
    for name in ("checkpoints", "layer_model"):
        (tmp_path / name).mkdir()
        found[name] = ([str(tmp_path / name)], exts)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", found)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    known = comfy.supported_models.models
    monkeypatch.setattr(comfy.supported_models, "models", [*known, tiny_checkpoint.TinySDXLFile])
    return tmp_path


@pytest.fixture
def checkpoint(models):
    tiny_checkpoint.write_checkpoint(models / "checkpoints" / "tiny.safetensors")
    save_file(tiny.foreground_file(tiny.tiny_sdxl()), str(models / "layer_model" / WEIGHTS))
    return models


def sample(model, positive=None, negative=None):
    latent = torch.zeros(1, 4, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 3)
    positive, negative = positive or tiny.conditioning(1), negative or tiny.conditioning(2)
    return comfy.sample.sample(
        model, noise, 2, 4.0, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=3
    )


def test_frozen_inputs_and_outputs(models):
    load, apply = Load.define_schema(), Apply.define_schema()
    assert [i.id for i in load.inputs] == ["checkpoint", "foreground_weights", "foreground_checkpoint"]
    assert [o.id for o in load.outputs] == ["base_model", "foreground_model", "clip", "vae"]
    assert [i.id for i in apply.inputs] == ["model", "foreground_weights", "strength"]
    assert [o.id for o in apply.outputs] == ["foreground_model"]
    for schema in (load, apply):
        assert schema.description and all(i.tooltip for i in schema.inputs) and all(o.tooltip for o in schema.outputs)


def test_with_no_files_the_nodes_still_load(models):
    inputs = Load.INPUT_TYPES()["required"]
    assert inputs["checkpoint"][1]["options"] == [""]
    assert inputs["foreground_weights"][1]["options"] == [""]
    assert inputs["foreground_checkpoint"][1]["options"] == [loading.SAME_AS_BASE]


def test_files_are_offered_foreground_weights_first(models):
    for name in ("a_vae_transparent_decoder.safetensors", "a_sd15_transparent.safetensors", WEIGHTS, "notes.txt"):
        (models / "layer_model" / name).write_bytes(b"")
    options = Apply.INPUT_TYPES()["required"]["foreground_weights"][1]["options"]
    assert options == [WEIGHTS, "a_sd15_transparent.safetensors", "a_vae_transparent_decoder.safetensors"]


@pytest.mark.parametrize("name", ["", "gone.safetensors"])
def test_missing_weights_say_where_and_from_where(models, name):
    for node in (Load, Apply):
        message = node.validate_inputs(foreground_weights=name)
        assert PAGE in message and str(models / "layer_model") in message and WEIGHTS in message
    with pytest.raises(ValueError, match="Missing foreground weights"):
        Load.execute("x.safetensors", name, loading.SAME_AS_BASE)
    with pytest.raises(ValueError, match="Missing foreground weights"):
        Apply.execute(tiny.tiny_sdxl(), name, 1.0)
    assert Apply.validate_inputs() is True  # a link: not known yet


def test_missing_checkpoint(checkpoint):
    with pytest.raises(ValueError, match=r"Missing checkpoint: 'no.safetensors'.*checkpoints"):
        Load.execute("no.safetensors", WEIGHTS, loading.SAME_AS_BASE)
    with pytest.raises(ValueError, match="Missing checkpoint: none is chosen"):
        Load.execute("", WEIGHTS, loading.SAME_AS_BASE)
    with pytest.raises(ValueError, match="Missing foreground_checkpoint"):
        Load.execute("tiny.safetensors", WEIGHTS, "no.safetensors")


def test_load_models_equals_the_stock_loader(checkpoint):
    assert Load.validate_inputs(foreground_weights=WEIGHTS) is True
    base, foreground, clip, vae = Load.execute("tiny.safetensors", WEIGHTS, loading.SAME_AS_BASE).args
    stock, stock_clip, _ = host_nodes.CheckpointLoaderSimple().load_checkpoint("tiny.safetensors")
    assert foreground.is_clone(base) and base.patches == {}
    before = sample(stock)
    assert torch.equal(sample(base), before)
    after = sample(foreground)
    assert (after - before).abs().mean() > 1e-2
    by_hand = tiny.with_foreground(stock, tiny.foreground_file(tiny.tiny_sdxl()))
    torch.testing.assert_close(after, sample(by_hand), atol=1e-5, rtol=1e-5)
    encode = host_nodes.CLIPTextEncode().encode
    assert torch.equal(encode(clip, "a cat")[0][0][0], encode(stock_clip, "a cat")[0][0][0])
    assert vae.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 64, 64, 3)


def test_another_foreground_checkpoint(checkpoint):
    tiny_checkpoint.write_checkpoint(checkpoint / "checkpoints" / "other.safetensors", seed=5, clip=False)
    base, foreground, *_ = Load.execute("tiny.safetensors", WEIGHTS, "other.safetensors").args
    assert not foreground.is_clone(base)
    key = "diffusion_model.input_blocks.0.0.weight"
    assert torch.equal(foreground.model.state_dict()[key], tiny.tiny_sdxl(5).model.state_dict()[key])
    assert len(foreground.patches) == len(tiny.attention_weights(base))
    same, again, *_ = Load.execute("tiny.safetensors", WEIGHTS, "tiny.safetensors").args
    assert again.is_clone(same)  # the same file by name is not loaded twice


def test_two_checkpoints_from_file_to_layers(checkpoint):
    """The nodes of a graph with another foreground_checkpoint: without blending, each layer is its model's stock run."""
    tiny_checkpoint.write_checkpoint(checkpoint / "checkpoints" / "other.safetensors", seed=5, clip=False)
    base, foreground, clip, _ = Load.execute("tiny.safetensors", WEIGHTS, "other.safetensors").args
    texts = conditioning.LayerFusionTextEncode.execute(clip, "a red apple", "blue stripes", "", "blurry").args
    given = dict(zip(("foreground", "background", "blended", "negative"), texts))
    for strength in (0.0, 1.0):
        layers = sampling.LayerFusionKSampler.execute(
            base, foreground, **given, latent_image={"samples": torch.zeros(1, 4, 8, 8)}, seed=3, steps=2, cfg=4.0,
            sampler_name="euler", scheduler="normal", denoise=1.0, options=LayerFusionOptions(strength=strength),
        ).args  # fmt: skip
        stock = [
            sample(model, given[name], given["negative"])
            for model, name in ((foreground, "foreground"), (base, "background"), (base, "blended"))
        ]
        same = [(layer["samples"] - run).abs().max() < 1e-4 * run.std() for layer, run in zip(layers, stock)]
        assert same == [strength == 0.0] * 3


def test_checkpoint_without_text_encoders(checkpoint):
    tiny_checkpoint.write_checkpoint(checkpoint / "checkpoints" / "unet.safetensors", clip=False)
    with pytest.raises(ValueError, match="unet.safetensors holds no text encoders"):
        Load.execute("unet.safetensors", WEIGHTS, loading.SAME_AS_BASE)


def test_wrong_and_damaged_checkpoints(checkpoint):
    path = checkpoint / "checkpoints" / "bad.safetensors"
    save_file({"a.weight": torch.zeros(3)}, str(path))
    with pytest.raises(ValueError, match="bad.safetensors holds no model that ComfyUI knows. Expected an SDXL"):
        Load.execute("bad.safetensors", WEIGHTS, loading.SAME_AS_BASE)
    path.write_bytes((checkpoint / "checkpoints" / "tiny.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="bad.safetensors .*end is missing. Delete it and download it again"):
        Load.execute("bad.safetensors", WEIGHTS, loading.SAME_AS_BASE)


def test_checkpoint_of_another_family(checkpoint, monkeypatch):
    class TinyRefiner(comfy.supported_models.SDXLRefiner):
        unet_config = tiny_checkpoint.TinySDXLFile.unet_config
        unet_extra_config = tiny_checkpoint.TinySDXLFile.unet_extra_config
        clip_target = tiny_checkpoint.TinySDXLFile.clip_target

    monkeypatch.setattr(comfy.supported_models, "models", [TinyRefiner])
    with pytest.raises(ValueError, match="checkpoint tiny.safetensors is the SDXL refiner. Expected an SDXL"):
        Load.execute("tiny.safetensors", WEIGHTS, loading.SAME_AS_BASE)


def test_checkpoint_given_as_weights_and_the_reverse(checkpoint):
    (checkpoint / "layer_model" / "ckpt.safetensors").symlink_to(checkpoint / "checkpoints" / "tiny.safetensors")
    with pytest.raises(ValueError, match="ckpt.safetensors is a whole checkpoint"):
        Apply.execute(tiny.tiny_sdxl(), "ckpt.safetensors", 1.0)


def test_apply_node(checkpoint):
    model = tiny.tiny_sdxl()
    (foreground,) = Apply.execute(model, WEIGHTS, 0.5).args
    assert {entry[0] for [entry] in foreground.patches.values()} == {0.5} and model.patches == {}
    (zero,) = Apply.execute(model, WEIGHTS, 0.0).args
    assert torch.equal(sample(zero), sample(model))


def test_fingerprint_follows_the_files(checkpoint):
    arguments = ("tiny.safetensors", WEIGHTS, loading.SAME_AS_BASE)
    first = Load.fingerprint_inputs(*arguments)
    assert first == Load.fingerprint_inputs(*arguments)
    applied = Apply.fingerprint_inputs(foreground_weights=WEIGHTS, strength=1.0)
    path = checkpoint / "layer_model" / WEIGHTS
    path.write_bytes(path.read_bytes() + b" ")
    assert Load.fingerprint_inputs(*arguments) != first
    assert Apply.fingerprint_inputs(foreground_weights=WEIGHTS, strength=1.0) != applied


def test_folder_registration_keeps_what_users_set(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    default = str(tmp_path / "layer_model")
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
    assert folders.layer_model_folder() == [default] == folders.layer_model_folder()
    own = str(tmp_path / "elsewhere")
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {"layer_model": ([own], set())})
    assert folders.layer_model_folder() == [own, default] == folders.layer_model_folder()
