"""Memory of decoding alpha: no more than the published network's, flat in the batch, and nothing with five dimensions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


def test_no_more_memory_than_the_published_network(network):
    pytest.importorskip("diffusers", reason="DIFFUSERS IS MISSING: comparing memory with the published one did NOT run")
    sys.path.append(str(Path(__file__).parent))
    from published_unet1024 import PublishedUNet1024

    published = PublishedUNet1024(CONFIG.widths, CONFIG.attention).eval().requires_grad_(False)
    pixels, latent = sample()
    ours, theirs = most_bytes(lambda: network(pixels, latent)), most_bytes(lambda: published(pixels, latent))
    print(f"feature maps held at the peak: {ours / MAP:.2f}, published {theirs / MAP:.2f}")
    assert ours <= theirs


def test_memory_is_flat_in_the_batch(network):
    one, four = sample(), sample(4)
    result = 4 * 4 * SIDE * SIDE  # bytes of one decoded picture
    single = most_bytes(lambda: decode_transparent(network, *one, ensemble=2))
    batch = most_bytes(lambda: decode_transparent(network, *four, ensemble=2))
    assert batch - single <= 3 * result + 4096  # the three more results, and nothing else


def test_the_ensemble_holds_a_running_set(network):
    pixels, latent = sample()
    one, eight = (most_bytes(lambda n=n: decode_transparent(network, pixels, latent, n)) for n in (1, 8))
    assert eight - one <= 7 * 4 * 4 * SIDE * SIDE  # the 5 smallest, the turned input; eight passes stacked need more


def test_no_tensor_has_five_dimensions(network):
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
