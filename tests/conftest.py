"""Makes the checkout importable as the package `layerfusion_pack`, as ComfyUI would load it, whatever its folder is called."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: OpenMP's spinning threads cost more than they give

ROOT = Path(__file__).resolve().parent.parent
PACK = "layerfusion_pack"


def _register_pack() -> None:
    if PACK in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


_register_pack()
