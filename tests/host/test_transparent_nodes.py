"""Transparent VAE on the host: loading, decoding, mask convention, warning, fp32 retry, messages."""

from __future__ import annotations

import json

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from layerfusion_pack.layerfusion_core.host.models.transparent_vae import TransparentVAE, load_transparent_vae
from layerfusion_pack.layerfusion_core.host.sampling.foregrounds import (
    CANVAS_KEY,
    FOREGROUNDS_KEY,
    join_foregrounds,
)
from layerfusion_pack.layerfusion_core.host.sampling.stacked import split_latent, stack_latent
from layerfusion_pack.layerfusion_core.vae.decode import decode_transparent
from layerfusion_pack.layerfusion_core.vae.decoder import DecoderConfig, TransparentDecoder
from layerfusion_pack.layerfusion_core.vae.encode import EncoderConfig, OffsetEncoder

SMALL = DecoderConfig(widths=(8, 8, 16, 16, 16), attention=(False,) * 4 + (True,))


def small_decoder() -> TransparentDecoder:
    with torch.inference_mode(False):
        torch.manual_seed(0)
        network = TransparentDecoder(SMALL).eval().requires_grad_(False)
        torch.nn.init.normal_(network.conv_out.weight, std=0.2)
    return network


def state(network: torch.nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {key: value.to(dtype) for key, value in network.state_dict().items()}


class GreyVAE:
    """Stands in for the host's VAE: mid-grey with a square whose brightness is the latent's mean."""

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        pixels = torch.full((len(samples), 8 * samples.shape[-2], 8 * samples.shape[-1], 3), 0.5)
        pixels[:, 8:-8, 8:-8] = samples.mean(dim=(1, 2, 3))[:, None, None, None].sigmoid()
        return pixels


def latent(batch: int = 1, height: int = 6, width: int = 5, seed: int = 0) -> dict:
    return {"samples": torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(seed))}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    places = dict(folder_paths.folder_names_and_paths)
    places["layer_model"] = ([str(tmp_path)], {".safetensors", ".pth", ".pt"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", places)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture
def nodes():
    from layerfusion_pack.nodes import transparent

    return transparent


def run(node, *args, **kwargs):
    """Runs a node as the host does, with hidden values in place."""
    return node.PREPARE_CLASS_CLONE({"hidden_inputs": {}, "schema": node.GET_SCHEMA()}).execute(*args, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_managed_decoder_equals_the_plain_one(dtype):
    network = small_decoder()
    vae = TransparentVAE(state(network, dtype))
    network.load_state_dict(state(network, dtype))
    pixels, code = torch.rand(2, 48, 40, 3), latent(2)["samples"]
    rgb, alpha = vae.decode(pixels, code, ensemble=2)
    want_rgb, want_alpha = decode_transparent(network, pixels.movedim(-1, 1), code, 2)
    assert rgb.shape == (2, 48, 40, 3) and alpha.shape == (2, 48, 40)
    torch.testing.assert_close(rgb, want_rgb.movedim(1, -1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alpha, want_alpha[:, 0], atol=1e-5, rtol=1e-5)


def test_weights_are_under_the_hosts_model_management():
    import comfy.model_management as mm

    vae = TransparentVAE(state(small_decoder()))
    vae.decode(torch.rand(1, 16, 16, 3), torch.randn(1, 4, 2, 2), 1)
    assert any(loaded.model is vae.decoder for loaded in mm.current_loaded_models)


def test_load_from_the_folder_and_decode(folder, nodes):
    network = small_decoder()
    save_file(state(network, torch.float16), folder / "vae_transparent_decoder.safetensors")
    (vae,) = run(nodes.LayerFusionLoadTransparentVAE, "vae_transparent_decoder.safetensors", "none").result
    assert vae.encoder is None and vae.config == SMALL

    layers = {name: latent(2, seed=i) for i, name in enumerate(("foreground", "background", "blended"))}
    out = run(nodes.LayerFusionDecode, **layers, vae=GreyVAE(), transparent_vae=vae, ensemble="4")
    foreground, mask, background, blended = out.result
    assert foreground.shape == (2, 48, 40, 4) and background.shape == blended.shape == (2, 48, 40, 3)
    assert mask.shape == (2, 48, 40) and torch.equal(mask, 1.0 - foreground[..., 3])  # 1 = transparent
    assert foreground.min() >= 0 and foreground.max() <= 1 and foreground[..., 3].std() > 0.01
    assert torch.equal(background, GreyVAE().decode(layers["background"]["samples"]))


def test_the_encoder_is_kept_when_given(folder):
    config = EncoderConfig((4, 4, 4, 4, 4, 4, 4, 4, 4))
    save_file(state(small_decoder()), folder / "decoder.safetensors")
    save_file(state(OffsetEncoder(config)), folder / "encoder.safetensors")
    vae = load_transparent_vae("decoder.safetensors", "encoder.safetensors")
    assert vae.encoder.model.config == config


class Constant:
    """A transparent VAE whose alpha is the same everywhere in a picture, one for all or one for each."""

    def __init__(self, *alpha: float) -> None:
        self.alpha = torch.tensor(alpha)[:, None, None]

    def decode(self, pixels, samples, ensemble, progress, tile):
        progress(1, 1)
        return pixels, self.alpha.expand(pixels.shape[:3])


def test_the_effect_check_is_logged_and_shown(nodes, caplog):
    layers = {name: latent() for name in ("foreground", "background", "blended")}
    opaque = run(nodes.LayerFusionDecode, **layers, vae=GreyVAE(), transparent_vae=Constant(1.0), ensemble="1")
    (shown,) = (json.loads(text) for text in opaque.ui["layerfusion_notices"])
    assert shown["line"] == "Foreground is opaque: 100.0 % of it"
    assert shown["text"].startswith(shown["line"]) and "foreground model is not connected" in shown["text"]
    assert caplog.messages == [shown["text"]]
    caplog.clear()
    fine = run(nodes.LayerFusionDecode, **layers, vae=GreyVAE(), transparent_vae=Constant(0.4), ensemble="1")
    assert fine.ui is None and caplog.text == ""


def test_the_effect_check_looks_at_every_foreground_and_within_its_region(nodes):
    """Two pictures of two foregrounds: the last one is opaque, but for the part of its canvas that lies outside its region."""
    scenes = {name: latent(2) for name in ("background", "blended")}
    foreground = latent(4) | {FOREGROUNDS_KEY: (2, 2), CANVAS_KEY: torch.zeros(1, 4, 1, 1)}
    foreground["samples"][3, :, :, :2] = 0.0
    decode = {"vae": GreyVAE(), "ensemble": "1"}
    found = run(nodes.LayerFusionDecode, foreground, **scenes, **decode, transparent_vae=Constant(0.1, 0.2, 0.3, 1.0))
    (shown,) = (json.loads(text) for text in found.ui["layerfusion_notices"])
    assert shown["line"] == "Foreground is opaque: foreground 2 of picture 2, 100.0 % of its region"
    assert not found.result[0][3, :, :16, 3].any()
    given = torch.zeros(4, 48, 40, 4)  # kept in full, its own pixels with their alpha come out
    kept = {"layerfusion_keep": torch.ones(4, 1, 6, 5), "layerfusion_kept": foreground["samples"]}
    found = run(nodes.LayerFusionDecode, foreground | kept, **scenes, **decode, transparent_vae=Constant(1.0),
                given_foreground=given)  # fmt: skip
    assert found.ui is None


def test_nan_is_decoded_again_in_fp32(caplog):
    weights = state(small_decoder())
    weights["conv_in.weight"] = weights["conv_in.weight"] * 1e6  # overflows fp16, not fp32
    vae = TransparentVAE(weights)
    vae.dtype = torch.float16
    pixels, code = torch.rand(1, 32, 32, 3), torch.randn(1, 4, 4, 4)
    rgb, alpha = vae.decode(pixels, code, 1)
    assert rgb.isfinite().all() and alpha.isfinite().all()
    assert vae.dtype == torch.float32 and "again in fp32" in caplog.text
    code[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="even in fp32"):
        vae.decode(pixels, code, 1)


def test_tiles_when_asked_for_and_when_memory_is_short(monkeypatch, caplog):
    vae = TransparentVAE(state(small_decoder()))
    once, sizes = vae._decode_once, []

    def decode(pixels, code):
        sizes.append(max(pixels.shape[-2:]))
        if sizes[-1] > 512:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return once(pixels, code)

    monkeypatch.setattr(vae, "_decode_once", decode)
    pixels, code = torch.rand(1, 32, 640, 3), torch.randn(1, 4, 4, 80)
    rgb, alpha = vae.decode(pixels, code, 1)
    assert sizes == [640, 512, 512] and alpha.shape == (1, 32, 640) and "tiles of 512" in caplog.text
    sizes.clear()
    vae.decode(pixels, code, 1, None, 256)
    assert sizes == [256] * 3

    def fail(pixels, code):
        raise RuntimeError("something else")

    monkeypatch.setattr(vae, "_decode_once", fail)
    with pytest.raises(RuntimeError, match="something else"):
        vae.decode(pixels, code, 1)


def test_an_interrupt_stops_between_passes():
    import comfy.model_management as mm

    vae = TransparentVAE(state(small_decoder()))

    def stop(done, total):
        mm.interrupt_current_processing(True)

    with pytest.raises(mm.InterruptProcessingException):
        vae.decode(torch.rand(1, 16, 16, 3), torch.randn(1, 4, 2, 2), 8, stop)
    mm.interrupt_current_processing(False)


def test_messages_name_file_folder_and_page(folder, nodes):
    for missing in ("vae_transparent_decoder.safetensors", ""):
        with pytest.raises(ValueError) as error:
            run(nodes.LayerFusionLoadTransparentVAE, missing, "none")
        for word in ("vae_transparent_decoder.safetensors", str(folder), "LayerDiffusion/layerdiffusion-v1"):
            assert word in str(error.value)
    save_file(state(small_decoder()), folder / "decoder.safetensors")
    save_file(state(OffsetEncoder(EncoderConfig((4,) * 9))), folder / "encoder.safetensors")
    for decoder, encoder, words in (
        ("encoder.safetensors", "none", "^encoder.safetensors: .* it is the transparent encoder"),
        ("decoder.safetensors", "decoder.safetensors", "it is the transparent decoder"),
        ("decoder.safetensors", "gone.safetensors", "'gone.safetensors' is not in the layer_model folder"),
    ):
        with pytest.raises(ValueError, match=words):
            load_transparent_vae(decoder, encoder)


def test_damaged_files(folder):
    save_file(state(small_decoder()), folder / "whole.safetensors")
    data = (folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(data[: len(data) // 2])
    (folder / "text.safetensors").write_text("<html>404</html>")
    weights = state(small_decoder())
    torch.save({"state_dict": weights}, folder / "pickle.pth")
    lacking = {key: value for key, value in weights.items() if "up_blocks.1.resnets.0" not in key}
    save_file(lacking, folder / "lacking.safetensors")
    assert load_transparent_vae("pickle.pth").config == SMALL
    for name, words in (("cut", "end is missing"), ("text", "a web page"), ("lacking", "tensors are missing")):
        with pytest.raises(ValueError, match=words):
            load_transparent_vae(f"{name}.safetensors")


def test_latents_of_other_models_and_sizes(nodes):
    good, flux = latent(), {"samples": torch.zeros(1, 16, 6, 5)}
    with pytest.raises(ValueError, match="foreground latent has shape .1, 16, 6, 5."):
        run(nodes.LayerFusionDecode, flux, good, good, GreyVAE(), Constant(0.5), "1")

    class Upscaling(GreyVAE):
        def decode(self, samples):
            return super().decode(samples).repeat_interleave(2, 1).repeat_interleave(2, 2)

    with pytest.raises(ValueError, match="do not belong together"):
        run(nodes.LayerFusionDecode, good, good, good, Upscaling(), TransparentVAE(state(small_decoder())), "1")


def test_the_list_puts_likely_files_first(folder, nodes):
    for name in ("a_lora", "layer_sd15_vae_transparent_decoder", "vae_transparent_decoder", "vae_transparent_encoder"):
        (folder / f"{name}.safetensors").write_bytes(b"")
    decoders, encoders = nodes.transparent_files()
    assert decoders[0] == "vae_transparent_decoder.safetensors" and len(decoders) == 4
    assert encoders[0] == "vae_transparent_encoder.safetensors"


def test_latents_of_other_layers_are_refused(nodes):
    """Swapped wires at the decoder: the run would end with an opaque cut-out, or the pictures under each other's names."""
    rows = stack_latent(latent(), 2)
    layers = split_latent({**rows, "samples": rows["samples"].repeat_interleave(4, dim=0)})
    found = {"foreground": join_foregrounds(layers.foregrounds), "background": layers.background, "blended": layers.blended}
    decode = {"vae": GreyVAE(), "transparent_vae": Constant(0.4), "ensemble": "1"}
    for taken in (("background", "foreground", "blended"), ("blended", "background", "foreground"),
                  ("foreground", "blended", "background"), ("blended", "foreground", "background")):  # fmt: skip
        swapped = {name: found[other] for name, other in zip(found, taken)}
        with pytest.raises(ValueError, match="expected the (.*) latent, got the (?!\\1).* latent of a LayerFusion run; connect"):
            run(nodes.LayerFusionDecode, **swapped, **decode)
    run(nodes.LayerFusionDecode, **found | {"blended": found["background"]}, **decode)
