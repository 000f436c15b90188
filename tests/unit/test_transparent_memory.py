"""Decoding in bands: the same result, little memory, flat in the batch, and nothing with five dimensions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from layerfusion_pack.layerfusion_core.vae import bands
from layerfusion_pack.layerfusion_core.vae.decode import decode_transparent
from layerfusion_pack.layerfusion_core.vae.decoder import DecoderConfig, TransparentDecoder

CONFIG = DecoderConfig(widths=(8, 8, 16, 16, 16), attention=(False,) * 4 + (True,))
SIDE = 192
MAP = 4 * CONFIG.widths[0] * SIDE * SIDE
"""Bytes of a feature map of the first width at full size."""


@pytest.fixture(scope="module")
def network() -> TransparentDecoder:
    torch.manual_seed(0)
    network = TransparentDecoder(CONFIG).eval().requires_grad_(False)
    torch.nn.init.normal_(network.conv_out.weight, std=0.2)
    return network


@pytest.fixture
def small_bands(monkeypatch):
    """Bands as small beside the test's pictures as the real ones are beside 1024 x 1024."""
    monkeypatch.setattr(bands, "CPU_BAND", 2**14)


def sample(batch: int = 1, height: int = SIDE, width: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(batch, 3, height, width, generator=generator)
    return pixels, torch.randn(batch, 4, height // 8, width // 8, generator=generator)


def most_bytes(work: Callable[[], object]) -> int:
    """What `work` holds of tensors at its peak, beyond what was there before."""
    with torch.inference_mode(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        work()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("size", [(112, 208), (208, 80)], ids=str)
@pytest.mark.parametrize("band", [2**12, 2**14])
def test_bands_change_nothing(network, monkeypatch, size, band):
    pixels, latent = sample(1, *size)
    with torch.inference_mode():
        want = network(pixels, latent)
        monkeypatch.setattr(bands, "CPU_BAND", band)
        got = network(pixels, latent)
    assert want.std() > 0.1
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bands_take_their_statistics_in_fp32(monkeypatch, dtype):
    norm = torch.nn.GroupNorm(2, 8).to(dtype)
    x = (30 + torch.randn(1, 8, 64, 64, generator=torch.Generator().manual_seed(0))).to(dtype)
    monkeypatch.setattr(bands, "CPU_BAND", 2**12)
    with torch.inference_mode():
        got = bands.activated(norm, bands.rows_of(x)).whole()
        want = torch.nn.functional.silu(norm.float()(x.float()))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), want, rtol=0.01, atol=0.01)


def test_at_most_half_of_the_memory_of_the_published_network(network, small_bands):
    pytest.importorskip("diffusers", reason="DIFFUSERS IS MISSING: comparing memory with the published one did NOT run")
    sys.path.append(str(Path(__file__).parent))
    from published_unet1024 import PublishedUNet1024

    published = PublishedUNet1024(CONFIG.widths, CONFIG.attention).eval().requires_grad_(False)
    pixels, latent = sample()
    ours, theirs = most_bytes(lambda: network(pixels, latent)), most_bytes(lambda: published(pixels, latent))
    print(f"feature maps held at the peak: {ours / MAP:.2f}, published {theirs / MAP:.2f}")
    assert ours <= 0.4 * theirs


def test_memory_is_flat_in_the_batch(network, small_bands):
    one, four = sample(), sample(4)
    result = 4 * 4 * SIDE * SIDE  # bytes of one decoded picture
    single = most_bytes(lambda: decode_transparent(network, *one, ensemble=2))
    batch = most_bytes(lambda: decode_transparent(network, *four, ensemble=2))
    assert batch - single <= 3 * result + 4096  # the three more results, and nothing else


def test_the_ensemble_holds_a_running_set(network, small_bands):
    pixels, latent = sample()
    one, eight = (most_bytes(lambda n=n: decode_transparent(network, pixels, latent, n)) for n in (1, 8))
    assert eight - one <= 7 * 4 * 4 * SIDE * SIDE  # the 5 smallest, the turned input; eight passes stacked need more


def test_no_tensor_has_five_dimensions(network, small_bands):
    class Watch(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            found = [x.ndim for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]
            self.most = max(self.most, *found, 0)
            return out

    with torch.no_grad(), Watch() as watch:
        decode_transparent(network, *sample(2, 64, 80), ensemble=8)
    assert watch.most == 4
