"""``dev.py bench``: the engine's time per step beside the stock sampler's, on this machine."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from .console import Problem


def add_to(commands) -> None:
    """Register the command with dev.py's argument parser."""
    parser = commands.add_parser("bench", help="time the engine beside the stock sampler, as ratios")
    parser.add_argument(
        "--shape",
        choices=["demo", "sdxl"],
        default="demo",
        help="demo models, or SDXL's full shape with random weights (default: %(default)s)",
    )
    parser.add_argument("--size", type=int, metavar="PIXELS", help="default: 128 for demo, 1024 for sdxl")
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--repeats", type=int, metavar="N", help="counted rounds after a warm-up; 0: one cold round")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"])
    parser.add_argument(
        "--two-checkpoints", action="store_true", help="time lock step, too: the foreground as a checkpoint of its own"
    )


def run(checkout: Path, host: Path | None, options: argparse.Namespace) -> int:
    """Run benchmarks/engine.py in a process of its own; gives back its exit code."""
    if host is None:
        raise Problem("bench needs a ComfyUI: put one at ~/comfy/ComfyUI or set COMFYUI_PATH to it.")
    command = [sys.executable, str(checkout / "benchmarks" / "engine.py"), "--host", str(host)]
    for name in ("shape", "size", "steps", "repeats", "dtype"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    if options.two_checkpoints:
        command.append("--two-checkpoints")
    default = (
        {} if options.shape == "sdxl" else {"OMP_NUM_THREADS": "1"}
    )  # threads cost tiny models more than they give
    return subprocess.run(command, env={**default, **os.environ}).returncode
