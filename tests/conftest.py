"""Makes the checkout importable as the package `layerfusion_pack`, as ComfyUI would load it; puts long test files first."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: OpenMP's spinning threads cost more than they give
sys.path.append(str(Path(__file__).resolve().parents[1]))

from devtools.pack import register_pack

register_pack()

LONG = (
    "test_evaluation_command.py", "test_compat_launch.py", "test_engine_reference.py", "test_engine_row_terms.py",
    "test_lockstep.py", "test_compat_conditioning.py", "test_server_viewer.py", "test_server_given_layers.py",
)  # fmt: skip
"""Files that take longest, by name."""


def pytest_collection_modifyitems(items) -> None:
    """The long files first, so that no process is left with one when the others have done."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))
