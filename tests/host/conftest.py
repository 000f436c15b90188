"""Puts a ComfyUI checkout on the path (COMFYUI_PATH, the ComfyUI this checkout is installed in, ~/comfy/ComfyUI, ~/ComfyUI)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def find_host() -> Path | None:
    """The first ComfyUI checkout found, or None."""
    places = [
        os.environ.get("COMFYUI_PATH"),
        HERE.parents[3],
        Path.home() / "comfy" / "ComfyUI",
        Path.home() / "ComfyUI",
    ]
    return next((Path(p) for p in places if p and (Path(p) / "comfy" / "sd.py").is_file()), None)


HOST = find_host()
if HOST is not None:
    sys.path.insert(0, str(HOST))
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    args.disable_metadata = False

sys.path += [str(HERE), str(HERE.parent)]  # tests share tiny.py and runs.py, and compare with the package `reference`


def pytest_ignore_collect(collection_path: Path):
    """Without a host there is nothing in this folder to run; `test_host_present` says so."""
    absent = HOST is None and collection_path.name.startswith("test_") and collection_path.name != "test_host_present.py"
    return True if absent else None  # None leaves pytest's own --ignore in force


@pytest.fixture(scope="session")
def host() -> Path:
    """Folder of the ComfyUI under test."""
    return HOST


@pytest.fixture(autouse=True)
def _no_grad():
    """As the host runs nodes."""
    import torch

    with torch.inference_mode():
        yield
