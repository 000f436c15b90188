"""The checkout as the package `layerfusion_pack`, and a ComfyUI beside it in one process, for tests and measurements."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PACK = "layerfusion_pack"


def register_pack() -> None:
    """Make the checkout importable, whatever its folder is called; its parts import relatively, as under ComfyUI."""
    if PACK in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        PACK, CHECKOUT / "__init__.py", submodule_search_locations=[str(CHECKOUT)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{CHECKOUT} is no package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


def start_host(folder: Path) -> None:
    """Put a ComfyUI on the path, on the CPU where there is no accelerator."""
    sys.path.insert(0, str(folder))
    import torch
    from comfy.cli_args import args

    args.cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
