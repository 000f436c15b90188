"""A graph of ComfyUI's own nodes around ours, on a tiny SDXL checkpoint file that a test-only extension makes known."""

from __future__ import annotations

import io
from pathlib import Path

import numpy
import pytest
from PIL import Image

from layerfusion_pack.devtools import hosts
from layerfusion_pack.devtools.client import Client
from layerfusion_pack.devtools.server import ComfyServer

CHECKOUT = Path(__file__).resolve().parents[2]
WEIGHTS = "layer_xl_transparent_attn.safetensors"
LAYERS = ("foreground", "background", "blended")
EXTENSION = f"""
import sys
from pathlib import Path

sys.path.append({str(CHECKOUT / "tests" / "host")!r})

import comfy.supported_models
import tiny
import tiny_checkpoint
from safetensors.torch import save_file

models = Path(__file__).parents[2] / "models"
comfy.supported_models.models.append(tiny_checkpoint.TinySDXLFile)
tiny_checkpoint.write_checkpoint(models / "checkpoints" / "tiny.safetensors")
save_file(tiny.foreground_file(tiny.tiny_sdxl()), str(models / "layer_model" / {WEIGHTS!r}))
NODE_CLASS_MAPPINGS = {{}}
"""


def prepare(base: Path) -> None:
    folder = base / "custom_nodes" / "tiny_sdxl"
    folder.mkdir()
    (folder / "__init__.py").write_text(EXTENSION, encoding="utf-8")


@pytest.fixture(scope="module")
def tiny_server():
    host = hosts.find(CHECKOUT)
    if host is None:
        pytest.skip("NO COMFYUI FOUND: put one at ~/comfy/ComfyUI or set COMFYUI_PATH to run the server tests")
    with ComfyServer(host, CHECKOUT, prepare=prepare) as running:
        yield running


def test_checkpoint_loader_to_pictures(tiny_server):
    """CheckpointLoaderSimple, PAG, Apply Foreground Weights, prompts, sampler, VAEDecode, SaveImage."""
    api = {
        "load": ("CheckpointLoaderSimple", {"ckpt_name": "tiny.safetensors"}),
        "guide": ("PerturbedAttentionGuidance", {"model": ["load", 0], "scale": 2.0}),
        "weights": ("LayerFusionApplyForeground", {"model": ["guide", 0], "foreground_weights": WEIGHTS, "strength": 1.0}),
        "prompts": ("LayerFusionTextEncode", {"clip": ["load", 1], "foreground": "a (red:1.2) pot", "background": "a beach",
                                              "blended": "", "negative": "blurry"}),
        "size": ("EmptyLatentImage", {"width": 128, "height": 192, "batch_size": 2}),
        "sample": ("LayerFusionKSampler", {
            "base_model": ["guide", 0], "foreground_model": ["weights", 0], "foreground": ["prompts", 0],
            "background": ["prompts", 1], "blended": ["prompts", 2], "negative": ["prompts", 3], "latent_image": ["size", 0],
            "seed": 5, "steps": 2, "cfg": 5.0, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0,
        }),
    }  # fmt: skip
    for slot, layer in enumerate(LAYERS):
        api[f"decode {layer}"] = ("VAEDecode", {"samples": ["sample", slot], "vae": ["load", 2]})
        api[layer] = ("SaveImage", {"images": [f"decode {layer}", 0], "filename_prefix": layer})
    graph = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in api.items()}
    with Client(tiny_server) as client:
        run = client.follow(client.queue(graph))
        assert run.status == "success", run.error
        pictures = {layer: [client.fetch(image) for image in run.images(layer)] for layer in LAYERS}
    for layer, files in pictures.items():
        assert len(files) == 2, layer
        for file in files:
            pixels = numpy.asarray(Image.open(io.BytesIO(file)))
            assert pixels.shape == (192, 128, 3) and pixels.std() > 1, layer
