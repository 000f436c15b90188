"""Kernels that a piece of work launches, and the bytes they move: counted, not timed, and so the same on any machine.

Every operation of torch's that is no view counts as one launch, its tensors in and out as bytes. On a fast GPU small
kernels cost their launch, so the count says what the clock of a slow CPU cannot.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALLOCATIONS = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}


class Count(TorchDispatchMode):
    """Counts `launches` and `moved` bytes of everything that runs within it."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.moved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        given, made = ([x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)] for tree in ((args, kwargs), out))
        known = {x.untyped_storage().data_ptr() for x in given}
        writes = name.endswith("_") or "out" in kwargs
        view = not writes and all(x.untyped_storage().data_ptr() in known for x in made)
        if made and not view and name not in ALLOCATIONS:
            self.launches += 1
            self.moved += sum(x.numel() * x.element_size() for x in given + made)
        return out


def per_evaluation(sample: Callable[[int], object]) -> tuple[int, int]:
    """(launches, bytes) of one evaluation of `sample(steps)`: what a run of two steps has more than one of one step."""
    sample(1)  # what is done once only: loading, casting
    counts = []
    for steps in (1, 2):
        with Count() as count:
            sample(steps)
        counts.append(count)
    one, two = counts
    return two.launches - one.launches, two.moved - one.moved
