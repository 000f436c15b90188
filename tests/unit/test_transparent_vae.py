"""The transparent decoder is the published network, at every width."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from layerfusion_pack.layerfusion_core.vae.checkpoint import decoder_config, encoder_config
from layerfusion_pack.layerfusion_core.vae.decoder import DecoderConfig, TransparentDecoder
from layerfusion_pack.layerfusion_core.vae.encode import EncoderConfig, OffsetEncoder

SMALL = DecoderConfig(widths=(16, 16, 32, 48, 64), attention=(False, False, False, True, True))


def randomize(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(
                torch.randn(p.shape, generator=generator) * (0.5 / max(1, p[0].numel()) ** 0.5) + (p.ndim == 1) * 0.5
            )
    return network.eval()


def published(config: DecoderConfig):
    pytest.importorskip("diffusers", reason="DIFFUSERS IS MISSING: comparing with the published network did NOT run")
    sys.path.append(str(Path(__file__).parent))
    from published_unet1024 import PublishedUNet1024

    return PublishedUNet1024(config.widths, config.attention, config.layers_per_block)


@pytest.mark.parametrize(
    "config",
    [SMALL, DecoderConfig(widths=(8, 8, 16, 16, 24, 32, 32), layers_per_block=1)],
    ids=["5-levels", "7-levels"],
)
def test_equals_diffusers_blocks_with_the_same_weights(config):
    theirs = randomize(published(config), 0)
    ours = TransparentDecoder(config).eval()
    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(1)
    pixels, latent = torch.rand(2, 3, 128, 64, generator=generator), torch.randn(2, 4, 16, 8, generator=generator)
    with torch.no_grad():
        want, got = theirs(pixels, latent), ours(pixels, latent)
    assert want.std() > 0.1
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_full_size_has_the_published_tensors_and_shapes():
    with torch.device("meta"):
        ours, theirs = TransparentDecoder(DecoderConfig()).state_dict(), published(DecoderConfig()).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_full_size_parameter_count_matches_the_published_file():
    with torch.device("meta"):
        weights = TransparentDecoder(DecoderConfig()).state_dict()
        encoder = OffsetEncoder(EncoderConfig()).state_dict()
    assert (len(weights), sum(w.numel() for w in weights.values())) == (538, 104_104_804)
    assert sum(w.numel() for w in encoder.values()) == 1_181_764
    assert decoder_config(weights) == DecoderConfig() and DecoderConfig().multiple == 64
    assert encoder_config(encoder) == EncoderConfig()


def test_shape_is_read_from_the_file():
    assert decoder_config(TransparentDecoder(SMALL).state_dict()) == SMALL
    assert SMALL.multiple == 16


def test_the_latent_matters_and_gradients_flow():
    network = randomize(TransparentDecoder(SMALL), 0)
    pixels, latent = torch.rand(1, 3, 32, 32), torch.randn(1, 4, 4, 4, requires_grad=True)
    network(pixels, latent).sum().backward()
    assert latent.grad.abs().min() > 0
    assert all(p.grad is not None for p in network.parameters())


def decoder_like(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    weights = TransparentDecoder(SMALL).state_dict() | changes
    return {key: value for key, value in weights.items() if value is not None}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "no tensors"),
        ({"blocks.0.weight": torch.zeros(32, 4, 3, 3)}, "it is the transparent encoder"),
        ({"diffusion_model.x.weight::lora::0": torch.zeros(1)}, "foreground weights"),
        ({"encoder.conv_in.weight": torch.zeros(1)}, "conv_in.weight is missing"),
        ({"module": torch.nn.Identity()}, "not a flat table"),
        (decoder_like(**{"latent_conv_in.weight": torch.zeros(32, 16, 1, 1)}), "16 channels"),
        (decoder_like(**{"conv_out.weight": torch.zeros(3, 16, 3, 3)}), "3 to 3 channels"),
        (decoder_like(**{"down_blocks.2.resnets.0.conv1.weight": None}), "down_blocks.2 of 5 is missing"),
        (decoder_like(**{"down_blocks.99999999.x": torch.zeros(1)}), "down_blocks.5 of 100000000 is missing"),
        (decoder_like(**{"down_blocks.99999999999.x": torch.zeros(1)}), "1 are not known (first: down_blocks.9999"),
        (decoder_like(**{"mid_block.attentions.0.to_v.bias": None}), "1 tensors are missing (first: mid_block.attentions.0"),
        (decoder_like(**{f"down_blocks.0.resnets.{i}.conv1.weight": torch.zeros(1) for i in range(9)}), "9 residual blocks"),
        (decoder_like(**{f"down_blocks.{i}.resnets.0.conv1.weight": torch.zeros(1) for i in range(5, 11)}), "has 11 levels"),
        (decoder_like(**{"latent_conv_in.weight": torch.zeros(())}), "latent_conv_in.weight has shape (), expected four"),
        (decoder_like(**{"down_blocks.1.resnets.0.conv1.weight": torch.zeros(10**9, 0, 3, 3)}), "1000000000"),
        (decoder_like(**{"down_blocks.1.resnets.0.conv1.weight": torch.zeros(18, 16, 3, 3)}), "multiples of 4 up to 8192"),
        (decoder_like(**{"down_blocks.1.resnets.0.conv2.bias": torch.zeros(4)}), "has shape (4,), expected (16,)"),
    ],
    ids=["empty", "encoder", "lora", "foreign", "module", "flux", "rgb", "damaged", "gap", "huge", "lacking", "layers", "levels",
         "scalar", "wide", "groups", "shape"],
)
def test_foreign_files_are_named(weights, words):
    with pytest.raises(ValueError, match="not a LayerDiffuse transparent decoder") as error:
        decoder_config(weights)
    assert words in str(error.value) and "vae_transparent_decoder.safetensors" in str(error.value)


def test_the_encoder_input_refuses_a_decoder():
    with pytest.raises(ValueError, match="decoder input instead"):
        encoder_config(decoder_like())
    with pytest.raises(ValueError, match="blocks.0.weight"):
        encoder_config({"x": torch.zeros(1)})
    encoder = OffsetEncoder(EncoderConfig((4,) * 9)).state_dict()
    for changes, words in (
        ({"blocks.4.weight": torch.zeros(10**9, 0, 3, 3)}, "channels wide, expected 1 to 8192"),
        ({"blocks.4.weight": torch.zeros(0, 4, 3, 3)}, "channels wide, expected 1 to 8192"),
        ({"blocks.4.weight": torch.zeros(4, 4, 5, 5)}, "blocks.4.weight has shape .*, expected .4, 4, 3, 3."),
        ({"blocks.18.weight": torch.zeros(4, 4, 3, 3)}, "1 are not known .first: blocks.18.weight"),
        ({"blocks.4.weight": torch.zeros(())}, "of four dimensions"),
    ):
        with pytest.raises(ValueError, match=f"not a LayerDiffuse transparent encoder.*{words}"):
            encoder_config({**encoder, **changes})
    with pytest.raises(ValueError, match="at least 4 levels"):
        TransparentDecoder(DecoderConfig(widths=(8, 8, 8), attention=(False,) * 3))
