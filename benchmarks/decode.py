"""Time and peak memory of the transparent decoder beside the same network built from diffusers' blocks.

    python benchmarks/decode.py [--size PIXELS] [--ensemble N] [--repeats N] [--batch N]

Full size, random weights that both share, CPU, fp32, one process, in turn, so that ratios hold when the machine's speed
drifts; medians are printed. Ratios are of CPU time, which other work on the machine disturbs least.
Memory is what a decode adds to the process at its peak (Linux only). The plain implementation does what LayerDiffuse's
published code does: passes one after the other, stacked, `torch.median`.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path += [str(CHECKOUT), str(CHECKOUT / "tests" / "unit")]

import torch  # noqa: E402
from published_unet1024 import PublishedUNet1024  # noqa: E402

from layerfusion_core.vae.decode import ENSEMBLES, decode_transparent  # noqa: E402
from layerfusion_core.vae.decoder import DecoderConfig, TransparentDecoder  # noqa: E402

MIB = 2**20


def random_weights(network: torch.nn.Module) -> None:
    """Weights that keep activations in range, from one block of noise repeated."""
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0))
    for p in network.parameters():
        values = noise.repeat(-(-p.numel() // noise.numel()))[: p.numel()].view(p.shape)
        p.data.copy_(values * (0.5 / p[0].numel() ** 0.5) + (p.ndim == 1) * 0.5)


def published_decode(network: torch.nn.Module, pixels: torch.Tensor, latent: torch.Tensor, ensemble: int):
    """The published ensemble over the published network, one picture at a time: (B, 4, H, W) A, R, G, B."""
    pictures = []
    for row in range(len(pixels)):
        passes = []
        for flip, turns in ENSEMBLES[ensemble]:
            image, code = (x[row : row + 1].flip(-1) if flip else x[row : row + 1] for x in (pixels, latent))
            out = network(image.rot90(turns, (-2, -1)), code.rot90(turns, (-2, -1))).clamp(0, 1).rot90(-turns, (-2, -1))
            passes.append(out.flip(-1) if flip else out)
        pictures.append(torch.stack(passes).median(dim=0).values)
    return torch.cat(pictures)


def peak(work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float, float, float]:
    """(result, seconds by the clock, seconds of CPU, MiB that the process grew by at its peak or nan where unknown)."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(name: str) -> float:
        return next(float(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(name))

    known = reset.exists()
    if known:
        ctypes.CDLL(None).malloc_trim(0)
        reset.write_text("5")  # sets the high-water mark to what is held now
        before = read("VmRSS")
    start, started = time.perf_counter(), time.process_time()
    result = work()
    seconds, busy = time.perf_counter() - start, time.process_time() - started
    return result, seconds, busy, read("VmHWM") - before if known else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--ensemble", type=int, choices=list(ENSEMBLES), default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()

    config = DecoderConfig()
    theirs = PublishedUNet1024(config.widths, config.attention).eval().requires_grad_(False)
    random_weights(theirs)
    with torch.device("meta"):
        ours = TransparentDecoder(config).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(options.batch, 3, options.size, options.size, generator=generator)
    latent = torch.randn(options.batch, 4, options.size // 8, options.size // 8, generator=generator)

    def decode_ours() -> torch.Tensor:
        rgb, alpha = decode_transparent(ours, pixels, latent, options.ensemble)
        return torch.cat([alpha, rgb], dim=1)

    works = {"ours": decode_ours, "diffusers": lambda: published_decode(theirs, pixels, latent, options.ensemble)}
    times: dict[str, list[float]] = {name: [] for name in works}
    processor: dict[str, list[float]] = {name: [] for name in works}
    memory: dict[str, list[float]] = {name: [] for name in works}
    results = {}
    with torch.inference_mode():
        for _ in range(options.repeats):
            for name, work in works.items():
                results[name], seconds, busy, grown = peak(work)
                times[name].append(seconds)
                processor[name].append(busy)
                memory[name].append(grown)
    weights = sum(p.numel() * p.element_size() for p in theirs.parameters()) / MIB
    sys.stdout.write(
        f"{options.batch} x {options.size} x {options.size}, ensemble {options.ensemble}, fp32, CPU, "
        f"{torch.get_num_threads()} threads, weights {weights:.0f} MiB\n"
    )
    for name in works:
        grown = statistics.median(memory[name])
        clock, busy = statistics.median(times[name]), statistics.median(processor[name])
        sys.stdout.write(
            f"{name:10s} {clock:7.2f} s, CPU {busy:7.2f} s   "
            f"peak {grown:6.0f} MiB, with weights {grown + weights:6.0f} MiB\n"
        )
    ratio = statistics.median(a / b for a, b in zip(processor["ours"], processor["diffusers"]))
    grown = statistics.median(a / b for a, b in zip(memory["ours"], memory["diffusers"]))
    both = statistics.median((a + weights) / (b + weights) for a, b in zip(memory["ours"], memory["diffusers"]))
    difference = (results["ours"] - results["diffusers"]).abs().max()
    sys.stdout.write(
        f"ours / diffusers: CPU time {ratio:.2f}, peak {grown:.2f}, with weights {both:.2f}; "
        f"largest difference {difference:.1e}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
