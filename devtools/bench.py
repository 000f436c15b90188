"""``dev.py bench``: the engine beside the stock sampler, or the alpha decoder beside diffusers' blocks, on this machine."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from .console import Problem


def add_to(commands) -> None:
    """Register the command with dev.py's argument parser."""
    parser = commands.add_parser("bench", help="time engine or alpha decoder beside the ordinary thing, as ratios")
    parser.add_argument(
        "what",
        nargs="?",
        choices=["engine", "decode"],
        default="engine",
        help="engine: a step beside the stock sampler; decode: the full-size alpha decoder beside diffusers' blocks, on "
        "the CPU (size, repeats and ensemble count; default: %(default)s)",
    )
    parser.add_argument(
        "--shape",
        choices=["demo", "sdxl"],
        default="demo",
        help="demo models, or SDXL's full shape with random weights (default: %(default)s)",
    )
    parser.add_argument(
        "--depth", type=int, nargs="?", const=64, metavar="CHANNELS", help="SDXL's 70 blocks at fewer channels (64), random weights"
    )
    parser.add_argument(
        "--size", type=int, nargs="+", metavar="PIXELS", help="one or several; default: 1024 for sdxl, else 256"
    )
    parser.add_argument("--batch", type=int, nargs="+", metavar="N", help="pictures, each of three layers (default: 1)")
    parser.add_argument(
        "--foregrounds", type=int, metavar="K", help="of each picture (default: 1); the stock batch has K + 2 rows then"
    )
    parser.add_argument("--count", action="store_true", help="count kernels and bytes of an evaluation instead of timing it")
    parser.add_argument("--setup", action="store_true", help="time what a queue does before its first evaluation instead")
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--repeats", type=int, metavar="N", help="counted rounds after a warm-up; 0: one cold round")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"])
    parser.add_argument("--clock", choices=["wall", "cpu"], help="cpu: processor time, for a busy machine without a GPU")
    parser.add_argument(
        "--two-checkpoints", action="store_true", help="time lock step, too: the foreground as a checkpoint of its own"
    )
    parser.add_argument("--profile", action="store_true", help="on a GPU: the kernels of each setting, too")
    parser.add_argument("--ensemble", type=int, choices=[1, 2, 4, 8], help="passes of the alpha decoder")


def run(checkout: Path, host: Path | None, options: argparse.Namespace) -> int:
    """Run one of the benchmarks in a process of its own; gives back its exit code."""
    if options.what == "decode":
        names, environment = ("size", "repeats", "ensemble"), {}
        arguments = [str(checkout / "benchmarks" / "decode.py")]
    else:
        if host is None:
            raise Problem("bench needs a ComfyUI: put one at ~/comfy/ComfyUI or set COMFYUI_PATH to it.")
        names = ("shape", "depth", "size", "batch", "foregrounds", "steps", "repeats", "dtype", "clock")
        environment = {} if options.shape == "sdxl" else {"OMP_NUM_THREADS": "1"}  # threads cost tiny models more
        arguments = [str(checkout / "benchmarks" / "engine.py"), "--host", str(host)]
        switches = ("two_checkpoints", "profile", "count", "setup")
        arguments += [f"--{name.replace('_', '-')}" for name in switches if getattr(options, name)]
    for name in names:
        value = getattr(options, name)
        if value is not None:
            arguments += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return subprocess.run([sys.executable, *arguments], env={**environment, **os.environ}).returncode
