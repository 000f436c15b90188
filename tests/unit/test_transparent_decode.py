"""Decoding alpha: any size, ensembles, and the warning when nothing was cut out."""

from __future__ import annotations

import pytest
import torch

from layerfusion_pack.layerfusion_core.vae.decode import (
    ENSEMBLES,
    decode_transparent,
    keep_smallest,
    pad_to_multiple,
)
from layerfusion_pack.layerfusion_core.vae.decoder import DecoderConfig, TransparentDecoder


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = TransparentDecoder(DecoderConfig(widths=(8, 8, 16, 16, 16), attention=(False,) * 4 + (True,))).eval()
    torch.nn.init.normal_(network.conv_out.weight, std=0.2)
    return network.requires_grad_(False)


def sample(height: int, width: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    pixels = torch.rand(batch, 3, height, width, generator=generator)
    return pixels, torch.randn(batch, 4, height // 8, width // 8, generator=generator)


def argb(result: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.cat([result[1], result[0]], dim=1)


def test_one_pass_is_the_network_itself(network):
    pixels, latent = sample(48, 32)
    want = network(pixels, latent).clamp(0, 1)
    assert want.std() > 0.1
    assert torch.equal(argb(decode_transparent(network, pixels, latent, ensemble=1)), want)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_the_median_is_exact_and_symmetric(network, ensemble):
    pixels, latent = sample(32, 48)
    passes = []
    for flip, turns in ENSEMBLES[ensemble]:
        turned = [torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1)) for x in (pixels, latent)]
        back = torch.rot90(network(*turned).clamp(0, 1), -turns, (-2, -1))
        passes.append(back.flip(-1) if flip else back)
    ordered = torch.stack(passes).sort(dim=0).values
    want = (ordered[(ensemble - 1) // 2] + ordered[ensemble // 2]) / 2
    torch.testing.assert_close(argb(decode_transparent(network, pixels, latent, ensemble)), want)


@pytest.mark.parametrize(("ensemble", "turns"), [(2, ["flip"]), (4, ["flip", 2]), (8, ["flip", 1, 2, 3])])
def test_turning_the_input_turns_the_result(network, ensemble, turns):
    pixels, latent = sample(48, 32)
    want = argb(decode_transparent(network, pixels, latent, ensemble))
    for turn in turns:
        move = (lambda x: x.flip(-1)) if turn == "flip" else (lambda x, k=turn: torch.rot90(x, k, (-2, -1)))
        got = argb(decode_transparent(network, move(pixels), move(latent), ensemble))
        torch.testing.assert_close(got, move(want))


def test_any_multiple_of_eight_is_padded_and_cropped(network):
    pixels, latent = sample(40, 56)
    rgb, alpha = decode_transparent(network, pixels, latent, ensemble=8)
    assert rgb.shape == (1, 3, 40, 56) and alpha.shape == (1, 1, 40, 56)
    padded = pad_to_multiple(pixels, latent, 16)
    assert padded[0].shape[-2:] == (48, 64) and padded[1].shape[-2:] == (6, 8)
    assert torch.equal(padded[0][..., -1], padded[0][..., 55])  # the edge is repeated
    assert torch.equal(argb(decode_transparent(network, *padded, 8))[..., :40, :56], torch.cat([alpha, rgb], 1))


def test_sizes_that_fit_are_left_alone():
    pixels, latent = sample(64, 128)
    assert pad_to_multiple(pixels, latent, 64) == (pixels, latent)


def test_batch_equals_singles_and_the_network_sees_one_at_a_time(network):
    pixels, latent = sample(32, 32, batch=3)
    seen, steps = [], []

    def decode(image, code):
        seen.append(len(image))
        return network(image, code)

    got = argb(decode_transparent(decode, pixels, latent, 2, lambda done, total: steps.append((done, total)), 16))
    singles = [argb(decode_transparent(network, pixels[i : i + 1], latent[i : i + 1], 2)) for i in range(3)]
    assert torch.equal(got, torch.cat(singles))
    assert seen == [1] * 6 and steps == [(i + 1, 6) for i in range(6)]


def test_progress_can_stop_the_work(network):
    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        decode_transparent(network, *sample(32, 32), 8, stop)


def test_keep_smallest_sorts_elementwise():
    values = torch.stack([torch.randperm(8) for _ in range(3)], dim=1).float()  # 8 pictures of 3 values
    kept = torch.full((5, 3), torch.inf)
    for value in values:
        keep_smallest(kept, value)
    assert kept.tolist() == [[float(rank)] * 3 for rank in range(5)]


@pytest.mark.parametrize(
    ("pixels", "latent", "words"),
    [
        ((1, 3, 64, 64), (1, 4, 16, 16), "1 picture.s. of 64x64 and 1 latent.s. of 16x16"),
        ((1, 3, 60, 64), (1, 4, 7, 8), "64x60"),
        ((2, 3, 64, 64), (1, 4, 8, 8), "2 picture"),
        ((1, 3, 64, 64), (1, 16, 8, 8), "SDXL and SD 1.5"),
        ((1, 4, 64, 64), (1, 4, 8, 8), "decoded pixels"),
    ],
)
def test_sizes_that_do_not_belong_together(network, pixels, latent, words):
    with pytest.raises(ValueError, match=words):
        decode_transparent(network, torch.zeros(pixels), torch.zeros(latent))
    with pytest.raises(ValueError, match="one of 1, 2, 4, 8"):
        decode_transparent(network, *sample(32, 32), ensemble=3)
