"""Runs that cannot go through code made by torch.compile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def uncompiled(executor: Callable, *args, **kwargs) -> Any:
    """Run executor(*args, **kwargs) with everything torch.compile has compiled as it was written; for use as a wrapper.

    Compiled code does not look at hooks that came after it was made, nor at their going, and newer hosts have it not look
    at patches either: it would give wrong pictures; and a forward that waits for another at every attention output leaves
    nothing to compile. ValueError before torch 2.6 in a process in which torch.compile was used.
    """
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled
        return executor(*args, **kwargs)
    import torch.compiler

    if not hasattr(torch.compiler, "set_stance"):
        raise ValueError(
            "torch.compile was used in this process, whose code leaves out what LayerFusion adds: remove TorchCompileModel "
            "and restart ComfyUI, or update to torch 2.6"
        )
    with torch.compiler.set_stance("force_eager"):
        return executor(*args, **kwargs)
