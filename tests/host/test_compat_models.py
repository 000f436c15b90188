"""Nodes of the host that change a MODEL, put on it before the foreground weights: they act on every stream as on a stock run."""

from __future__ import annotations

import importlib

import folder_paths
import pytest
import tiny
import torch
from compat import TWO_STEPS, blends, core, different, has_effect, node, pair_of, streams_equal_stock
from once import once
from runs import close, empty_latent, layered, models, prompts, slow, stock
from safetensors.torch import save_file


def extra(module: str, name: str, *args):
    """Run a node of `comfy_extras` on the base model."""
    return node(getattr(importlib.import_module(f"comfy_extras.nodes_{module}"), name), *args)


def base_model():
    return models()[0].clone()


@pytest.fixture
def lora(tmp_path, monkeypatch):
    """A function: a LoRA file for the host's loader, kohya style; everywhere, or on attention only."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})

    def write(everywhere: bool, seed: int = 40) -> str:
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for key, weight in base_model().model.diffusion_model.state_dict().items():
            name = key[: -len(".weight")]
            chosen = "transformer_blocks" in key and (everywhere or ".attn" in key)
            if key.endswith(".weight") and weight.ndim == 2 and chosen:
                kohya = "lora_unet_" + name.replace(".", "_")
                tensors[f"{kohya}.lora_up.weight"] = torch.randn(weight.shape[0], 2, generator=generator) * 0.2
                tensors[f"{kohya}.lora_down.weight"] = torch.randn(2, weight.shape[1], generator=generator) * 0.2
                tensors[f"{kohya}.alpha"] = torch.tensor(1.0)
        save_file(tensors, str(tmp_path / f"user{seed}.safetensors"))
        return f"user{seed}.safetensors"

    return write


def test_lora_on_the_base(lora):
    base = core("LoraLoaderModelOnly", base_model(), lora(everywhere=True), 0.8)
    has_effect(base)
    streams_equal_stock(pair_of(base))
    blends(pair_of(base))


@pytest.mark.parametrize("everywhere", [False, True], ids=["attention", "everywhere"])
def test_lora_on_the_foreground_only(lora, everywhere):
    base, foreground = models()
    with_lora = core("LoraLoaderModelOnly", foreground, lora(everywhere), 0.8)
    assert different(*(once(stock, model, prompts()[0], steps=2) for model in (with_lora, foreground)))
    streams_equal_stock((base, with_lora))
    blends((base, with_lora))


def test_model_merge_simple():
    base = extra("model_merging", "ModelMergeSimple", base_model(), tiny.tiny_sdxl(seed=5), 0.4)
    has_effect(base)
    streams_equal_stock(pair_of(base))


@pytest.mark.parametrize(
    ("sampling", "zsnr", "sampler"),
    [("v_prediction", False, "euler"), ("v_prediction", True, "euler"), ("eps", True, "euler"), ("lcm", False, "lcm"),
     ("x0", False, "euler")],
)  # fmt: skip
def test_model_sampling_discrete(sampling, zsnr, sampler):
    base = extra("model_advanced", "ModelSamplingDiscrete", base_model(), sampling, zsnr)
    has_effect(base, sampler=sampler)
    streams_equal_stock(pair_of(base), sampler=sampler, tolerance=2e-3 if zsnr else 1e-4)  # sigmas up to 4500
    layers, record = layered(pair_of(base), sampler=sampler, steps=TWO_STEPS)
    assert len(record.maps) == TWO_STEPS and all(layer.isfinite().all() for layer in layers)


def test_rescale_cfg():
    base = extra("model_advanced", "RescaleCFG", base_model(), 0.7)
    has_effect(base)
    streams_equal_stock(pair_of(base))
    streams_equal_stock(pair_of(base), cfgs=(7.0, 3.0, 5.0))


def test_freeu_v2():
    base = extra("freelunch", "FreeU_V2", base_model(), 1.3, 1.4, 0.9, 0.2)
    has_effect(base)
    streams_equal_stock(pair_of(base), tolerance=1e-3)
    blends(pair_of(base))


def test_deep_shrink():
    """The token grids of the inner blocks change in mid-run, where previous_step has the maps of the step before."""
    base = extra("model_downscale", "PatchModelAddDownscale", base_model(), 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")
    run = {"latent": empty_latent(2, 16, 24), "steps": 3, "scheduler": "karras"}
    streams_equal_stock(pair_of(base), **run)
    layers, record = layered(pair_of(base), prior_mode="previous_step", **run)
    exact, _ = layered(pair_of(base), **run)
    assert all(a.isfinite().all() and not torch.equal(a, b) for a, b in zip(layers, exact))
    grids = [maps.grids["output", 1, 0] for maps in record.maps]
    assert grids[0] == (2, 3) and grids[-1] == (4, 6), "the grid does not change; the test would prove nothing"


@pytest.mark.parametrize("cfg", [5.0, *slow(1.0)])
def test_perturbed_attention_guidance(cfg):
    base = extra("pag", "PerturbedAttentionGuidance", base_model(), 3.0)
    has_effect(base, cfg=cfg)
    streams_equal_stock(pair_of(base), cfg=cfg)
    blends(pair_of(base), cfg=cfg)


@pytest.mark.parametrize("cfg", [5.0, *slow(1.0)])
def test_self_attention_guidance(cfg):
    base = extra("sag", "SelfAttentionGuidance", base_model(), 0.5, 2.0)
    has_effect(base, cfg=cfg)
    streams_equal_stock(pair_of(base), cfg=cfg)
    blends(pair_of(base), cfg=cfg)


def test_guidance_nodes_with_a_scale_for_each_stream():
    base = extra("pag", "PerturbedAttentionGuidance", base_model(), 3.0)
    base = extra("sag", "SelfAttentionGuidance", base, 0.5, 2.0)
    streams_equal_stock(pair_of(base), cfgs=(7.0, 3.0, 1.0))


def test_hyper_tile_is_refused():
    base = extra("hypertile", "HyperTile", base_model(), 32, 2, 1, False)
    with pytest.raises(ValueError, match="HyperTile, token merging"):
        layered(pair_of(base))


def test_the_hosts_token_merging_finds_nothing_to_merge():
    """It merges where attention has a token for each latent cell, and SDXL's never has."""
    base = extra("tomesd", "TomePatchModel", base_model(), 0.5)
    assert torch.equal(stock(base, prompts()[1], steps=1), stock(models()[0], prompts()[1], steps=1))
    streams_equal_stock(pair_of(base), steps=1)


def test_differential_diffusion():
    base = extra("differential_diffusion", "DifferentialDiffusion", base_model())
    ramp = torch.linspace(0, 1, 128).expand(1, 128, 128)
    content = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    latent = {"samples": content, "noise_mask": ramp}
    has_effect(base, latent=latent)
    streams_equal_stock(pair_of(base), latent=latent)
    blends(pair_of(base), latent=latent)


@pytest.mark.slow
def test_torch_compile_model():
    """After a stock run has compiled the UNet: on newer hosts that code never looks at patches again."""
    base = extra("torch_compile", "TorchCompileModel", base_model(), "eager")
    assert close(stock(base, prompts()[1], steps=1, cfg=1.0), stock(models()[0], prompts()[1], steps=1, cfg=1.0))
    compiled, _ = layered(pair_of(base), steps=1, cfg=1.0)
    plain, _ = layered(steps=1, cfg=1.0)
    assert all(close(a, b) for a, b in zip(compiled, plain))
