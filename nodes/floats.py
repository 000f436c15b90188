"""Float inputs that take finite numbers alone, written in the graph or calculated by another node."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable

from comfy_api.latest import io


class _Lowest(float):
    """A lower limit that NaN is below: the host asks `value < min`, which NaN answers with no and so passes."""

    def __gt__(self, value: float) -> bool:  # asked first, as the right side's type is the left side's subclass
        return not value >= float(self)


def float_input(name: str, *, min: float, max: float, **options) -> io.Float.Input:
    """A float input whose range the host checks before anything runs, NaN and infinities included."""
    return io.Float.Input(name, min=_Lowest(min), max=max, **options)


def finite(execute: Callable) -> Callable:
    """Decorate a node's `execute` (under classmethod): ValueError for a float that is NaN or infinite.

    For numbers that come over a link, which the host does not look at.
    """
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def checked(*args, **inputs):
        for name, value in {**dict(zip(signature.parameters, args)), **inputs}.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"{name}: expected a finite number, got {value}; look at the node that is connected to {name}"
                )
        return execute(*args, **inputs)

    return checked
