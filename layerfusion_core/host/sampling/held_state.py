"""What a function of another node holds from one call to the next, found and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

_DEPTH = 3  # of objects within objects
_SKIPPED = (torch.nn.Module, ModelPatcher, ModuleType, type)


class HeldState:
    """The variables that a function closes over, and the lists, dicts and objects in them, as they are now.

    Models, modules and classes are left alone.
    """

    def __init__(self, function: Callable):
        self._function = function
        self._before = [(holder, _contents(holder)) for holder in _holders(function)]

    def restore(self) -> None:
        """Give every variable, list, dict and object the contents it had."""
        for holder, contents in self._before:
            if isinstance(holder, CellType):
                if contents:
                    holder.cell_contents = contents[0]
                elif _contents(holder):
                    del holder.cell_contents
            elif isinstance(holder, list):
                holder[:] = contents
            else:
                values = holder if isinstance(holder, dict) else vars(holder)
                values.clear()
                values.update(contents)

    def holds_tensors(self) -> bool:
        """Whether a tensor of more than one value is among what the function holds now."""
        for holder in _holders(self._function):
            contents = _contents(holder)
            values = contents.values() if isinstance(contents, dict) else contents
            if any(isinstance(x, torch.Tensor) and x.numel() > 1 for x in values):
                return True
        return False


def _contents(holder: Any) -> Any:
    """A copy of what a holder holds: a list for a cell (empty or one value) and a list, a dict for a dict and an object."""
    if isinstance(holder, CellType):
        try:
            return [holder.cell_contents]
        except ValueError:  # a variable without a value yet
            return []
    if isinstance(holder, list):
        return list(holder)
    return dict(holder) if isinstance(holder, dict) else dict(vars(holder))


def _holders(function: Callable) -> Iterator[Any]:
    """The cells, lists, dicts and objects within reach of a function, each once."""
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(function, 0)]
    while waiting:
        x, depth = waiting.pop()
        if id(x) in seen or isinstance(x, _SKIPPED) or depth > _DEPTH:
            continue
        seen.add(id(x))
        if isinstance(x, MethodType):
            inner = [x.__self__, x.__func__]
        elif isinstance(x, partial):
            inner = [x.func, *x.args, *x.keywords.values()]
        elif isinstance(x, FunctionType):
            inner = list(x.__closure__ or ())
        elif isinstance(x, tuple):
            inner = list(x)
        elif isinstance(x, (CellType, list, dict)) or (hasattr(x, "__dict__") and not isinstance(x, torch.Tensor)):
            yield x
            contents = _contents(x)
            inner = list(contents.values()) if isinstance(contents, dict) else contents
        else:
            continue
        waiting += [(item, depth + (not isinstance(x, CellType))) for item in inner]
