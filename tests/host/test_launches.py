"""Kernels beside the model's own: an upper bound, counted on SDXL's 70 blocks, so that nobody adds one unnoticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import comfy.sample
import pytest
import torch

from layerfusion_pack.layerfusion_core.host.sampling.ksampler import sample_layers
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.layerfusion_core.method.streams import Layers

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CONTEXT, POOLED = 64, 32


def benchmark(name: str):
    """A module of the benchmarks, which are no package."""
    spec = importlib.util.spec_from_file_location(f"layerfusion_benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


counting = benchmark("counting")


@pytest.fixture(scope="module")
def models():
    return benchmark("engine").random_sdxl(torch.float32, 64, CONTEXT, POOLED, 4)


@pytest.fixture(scope="module")
def prompts():
    texts = torch.randn(4, 1, 77, CONTEXT, generator=torch.Generator().manual_seed(0))
    return [[[text, {"pooled_output": torch.zeros(1, POOLED), "layerfusion_eos": [9]}]] for text in texts]


@pytest.fixture(scope="module")
def stock(models, prompts) -> int:
    """Launches of an evaluation of three pictures with guidance."""
    three = torch.zeros(3, 4, 8, 8)

    def sample(steps: int) -> None:
        noise = comfy.sample.prepare_noise(three, 1)
        comfy.sample.sample(
            models[0], noise, steps, 7.0, "euler", "normal", prompts[1], prompts[3], three, disable_pbar=True, seed=1
        )

    with torch.inference_mode():
        return counting.per_evaluation(sample)[0]


@pytest.mark.parametrize(
    "options, bound",
    [({"strength": 0.0}, 1.36), ({"prior_mode": "previous_step"}, 1.70), ({"prior_mode": "exact"}, 2.86)],
    ids=["strength 0", "previous_step", "exact"],
)
def test_kernels_of_an_evaluation(models, prompts, stock, options, bound):
    """In multiples of a stock evaluation; what is measured stands in docs/performance.md."""

    def sample(steps: int) -> None:
        sample_layers(
            *models, Layers.of(prompts[:3]), prompts[3], {"samples": torch.zeros(1, 4, 8, 8)}, 1, steps, 7.0, "euler", "normal",
            1.0, LayerFusionOptions(**options),
        )  # fmt: skip

    launches = counting.per_evaluation(sample)[0]
    assert stock < launches <= bound * stock, f"{launches} launches, {launches / stock:.3f} times the stock {stock}"


def test_what_counts_as_a_launch():
    """Views and allocations do not; what writes does, in place or not."""
    a, b = torch.ones(4, 4), torch.ones(4, 4)
    with counting.Count() as count:
        a.view(16).unsqueeze(0).expand(3, 16)
        torch.empty_like(a)
    assert count.launches == 0
    with counting.Count() as count:
        a.add_(b)
        torch.mul(a, b, out=b)
        a @ b
    assert count.launches == 3 and count.moved >= 3 * 3 * a.numel() * 4 - a.numel() * 4
