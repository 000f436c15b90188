"""Makes the checkout importable as the package `layerfusion_pack`, as ComfyUI would load it, whatever its folder is called."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: OpenMP's spinning threads cost more than they give
sys.path.append(str(Path(__file__).resolve().parents[1]))

from devtools.pack import register_pack

register_pack()
