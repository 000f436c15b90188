"""What other nodes' patches keep between their calls, and which of them must therefore see all rows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from types import FunctionType, ModuleType

import torch
from comfy.model_patcher import ModelPatcher

from .per_stream import StreamPatch


def kept_by(function: object) -> set[int]:
    """Identities of what a function can keep from one call for another: the cells it closes over, objects it holds."""
    if isinstance(function, StreamPatch):
        return set().union(*map(kept_by, function.leaves()))
    function = getattr(function, "func", function)  # of functools.partial
    owner = getattr(function, "__self__", function)
    cells = getattr(getattr(function, "__func__", function), "__closure__", None) or ()
    held = [owner, *getattr(owner, "__dict__", {}).values(), *_contents(cells)]
    return {id(cell) for cell in cells} | {id(x) for x in held if _can_keep(x)}


def _contents(cells: Iterable) -> Iterator[object]:
    for cell in cells:
        try:
            yield cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue


def _can_keep(x: object) -> bool:
    if isinstance(x, (FunctionType, type, ModuleType, torch.nn.Module, ModelPatcher)):
        return False
    return isinstance(x, (list, dict)) or hasattr(x, "__dict__")


def pair_of(name: str) -> str:
    """The name of the patches before an attention, for those behind it, and the other way round."""
    if name.endswith("_output_patch"):
        return name.removesuffix("_output_patch") + "_patch"
    return name.removesuffix("_patch") + "_output_patch"


def sees_all(guidance: Set[int], pair: Sequence = ()) -> Callable[[Callable], bool]:
    """Whether a patch must get all rows at once: it keeps something for guidance, or for its `pair` around an attention.

    guidance: identities of what the functions that see all rows keep (`kept_by`).
    """
    kept, known = set(guidance).union(*map(kept_by, pair)), {}

    def test(patch: Callable) -> bool:
        if id(patch) not in known:  # asked at every attention
            known[id(patch)] = not kept_by(patch).isdisjoint(kept)
        return known[id(patch)]

    return test
