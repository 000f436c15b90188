"""Prompts as users write them, through the host's CheckpointLoaderSimple and CLIP nodes on a tiny SDXL checkpoint file."""

from __future__ import annotations

import comfy.supported_models
import folder_paths
import pytest
import tiny
import tiny_checkpoint
import torch
from compat import blends, core, different, node, streams_equal_stock
from once import once
from runs import layered, stock
from safetensors.torch import save_file

from layerfusion_pack.nodes.conditioning import LayerFusionTextEncode

LONG = ", ".join(f"a red clay pot number {i} with a green lid" for i in range(16))  # three chunks of 75 tokens


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """((base, foreground), clip, vae) of CheckpointLoaderSimple; the folder has a textual inversion `blot`."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(4)
    vectors = {key: torch.randn(2, 32, generator=generator) for key in ("clip_l", "clip_g")}
    save_file(vectors, str(folder / "blot.safetensors"))
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        for name in ("checkpoints", "embeddings"):
            patch.setitem(folder_paths.folder_names_and_paths, name, ([str(folder)], {".safetensors"}))
        patch.setattr(folder_paths, "filename_list_cache", {})
        known = comfy.supported_models.models
        patch.setattr(comfy.supported_models, "models", [*known, tiny_checkpoint.TinySDXLFile])
        tiny_checkpoint.write_checkpoint(folder / "tiny.safetensors")
        base, clip, vae = core("CheckpointLoaderSimple", "tiny.safetensors")
        yield (base, tiny.with_foreground(base, tiny.foreground_file(base))), clip, vae


def encode(clip, foreground: str, background: str = "a beach", negative: str = "blurry") -> tuple[list[list], list]:
    """([foreground, blended, background], negative) of LayerFusion Text Encode."""
    first, back, blended, none = node(LayerFusionTextEncode, clip, foreground, background, "", negative)
    return [first, blended, back], none


PROMPTS = {
    "plain": "a red pot",
    "weights": "a (red:1.4) [pot] with a (lid:0.6)",
    "several chunks": LONG,
    "embedding": "a embedding:blot pot",
    "embedding with a weight": "a (embedding:blot:1.3) pot",
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts(loaded, prompt):
    pair, clip, vae = loaded
    streams, negative = encode(clip, PROMPTS[prompt], negative="" if prompt == "plain" else PROMPTS[prompt])
    plain = core("CLIPTextEncode", clip, PROMPTS[prompt])
    assert torch.equal(streams[0][0][0], plain[0][0]), "LayerFusion Text Encode differs from CLIP Text Encode"
    if prompt != "plain":
        pot = core("CLIPTextEncode", clip, "a pot")
        assert different(*(once(stock, pair[0], each, steps=2) for each in (plain, pot)))
    streams_equal_stock(pair, streams, negative)
    blends(pair, streams)


def test_tokens_of_an_embedding_move_the_end_of_the_prompt(loaded):
    """The <EOS> whose attention is the content confidence: behind the two vectors of the embedding."""
    _, clip, _ = loaded

    def end(text: str) -> int:
        return encode(clip, text)[0][0][0][1]["layerfusion_eos"][0]

    assert end("a embedding:blot pot") == end("a pot") + 2 == end("a (embedding:blot:1.3) pot")
    assert end("a (red:1.3) pot") == end("a red pot")
    assert 2 * 77 < end(LONG) < 3 * 77


def test_prompts_of_the_hosts_text_encode(loaded):
    """Without token positions the masks come from all columns of the prompt."""
    pair, clip, _ = loaded
    streams = [core("CLIPTextEncode", clip, text) for text in ("a pot", "a pot on a beach", "a beach")]
    streams_equal_stock(pair, streams)
    blends(pair, streams)


def test_a_whole_graph_of_the_hosts_nodes(loaded):
    """CheckpointLoaderSimple to VAEDecode, with sizes and crops from CLIPTextEncodeSDXL."""
    pair, clip, vae = loaded
    from comfy_extras.nodes_clip_sdxl import CLIPTextEncodeSDXL

    streams, negative = encode(clip, "a pot")
    streams[2] = node(CLIPTextEncodeSDXL, clip, 1024, 1024, 0, 0, 512, 512, "a beach", "a sandy beach")
    latent = core("EmptyLatentImage", 128, 128, 2)
    streams_equal_stock(pair, streams, negative, latent=latent)
    layers, _ = layered(pair, streams, latent, negative=negative, steps=2)
    for layer in layers:
        picture = core("VAEDecode", vae, {"samples": layer})
        assert picture.shape == (2, 128, 128, 3) and picture.isfinite().all()
