"""The host's launch options: a process for each set, in which the layers are compared with the stock KSampler's."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import comfy
import pytest
from runs import slow

HERE = Path(__file__).resolve().parent


@cache
def launched(*options: str) -> dict:
    """Report of launch_probe.py under these options."""
    host = Path(comfy.__path__[0]).parent
    done = subprocess.run(
        [sys.executable, HERE / "launch_probe.py", host, *options], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def equal_to_stock(report: dict, foreground: float, others: float) -> None:
    for pair in ("one checkpoint", "two checkpoints"):
        found = report[pair]
        assert found["gaps"][0] <= foreground and max(found["gaps"][1:]) <= others, pair
        assert found["maps"] == 2 and all(0.001 < share < 10 for share in found["blended"])
        assert found["foreground"] > 3 * found["gaps"][0], "the foreground is no nearer to its own model than to the base"


@pytest.mark.parametrize(
    ("option", "function"),
    [("--use-split-cross-attention", "attention_split"),
     *slow(("--use-quad-cross-attention", "attention_sub_quad"), ("--use-pytorch-cross-attention", "attention_pytorch"))],
)  # fmt: skip
def test_attention_backends(option, function):
    memory = {"--use-split-cross-attention": ["--lowvram"], "--use-quad-cross-attention": ["--novram", "--async-offload"]}
    report = launched(option, *memory.get(option, []))
    assert report["attention"] == function
    equal_to_stock(report, 1e-4, 1e-4)


@pytest.mark.parametrize(
    "options",
    [("--use-split-cross-attention", "--lowvram"), *slow((("--use-quad-cross-attention", "--novram", "--async-offload"),))],
)
def test_weights_offloaded(options):
    """Offloading forced on a CPU: weights stay where they are stored and are patched and cast when they are used."""
    report = launched(*options)
    assert report["one checkpoint"]["offloaded"] and report["two checkpoints"]["offloaded"]
    equal_to_stock(report, 1e-4, 1e-4)


def test_fp8_weights():
    """A stock run rounds the merged foreground weights to fp8, too; LayerFusion adds them to the base's unrounded."""
    report = launched("--fp8_e4m3fn-unet")
    assert report["dtype"] == "float8_e4m3fn"
    equal_to_stock(report, 0.25, 1e-4)


@pytest.mark.slow
def test_half_precision():
    report = launched("--force-fp16")
    assert report["dtype"] == "float16"
    equal_to_stock(report, 5e-3, 1e-4)
