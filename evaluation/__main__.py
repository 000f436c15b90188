"""Runs one part of the evaluation: `python evaluation [--host ~/comfy/ComfyUI] PART ...`, or `PART --help`.

`python dev.py evaluate` finds the host and the environment and runs what belongs together.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="evaluation", description=__doc__)
    parser.add_argument("--host", type=Path, help="folder of a ComfyUI; run, decode_truth and priors_figure need one")
    parser.add_argument("part", help="a module of this folder with a main: " + ", ".join(
        ("run", "report", "truth", "decode_truth", "priors_figure", "matching", "table1", "study", "several", "prompts"),
    ))  # fmt: skip
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    sys.path[0:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: the host has modules of the names of our folders
    from devtools.pack import PACK, register_pack, start_host

    logging.basicConfig(level=logging.INFO, format="%(message)s")  # before the host sets up its own
    if options.host:
        start_host(options.host)
    register_pack()
    return importlib.import_module(f"{PACK}.evaluation.{options.part}").main(options.rest)


if __name__ == "__main__":
    sys.exit(main())
