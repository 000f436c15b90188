"""The host's patches as changes of weights, and the weights' shapes: told apart here alone."""

from __future__ import annotations

from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter

from ...weights.changes import Delta, LowRank


def change_of(patch: Any) -> LowRank | Delta | None:
    """What a patch of a MODEL changes: a plain LoRA, with a middle part or without, or a full difference.

    None for what is not additive or is known to the host alone (DoRA, LoHa, LoKr, reshaped weights, set, ...).
    """
    if isinstance(patch, tuple):  # of a difference, the second part only lets the host pad a weight of another shape
        return Delta(patch[1][0]) if patch[0] == "diff" else None
    if isinstance(patch, LoRAAdapter):
        up, down, alpha, mid, dora, reshape = patch.weights
        if dora is None and reshape is None:
            return LowRank(up, down, alpha, mid)
    return None


def kind_of(patch: Any) -> str:
    """What a patch is, in the words of those who make such files."""
    if isinstance(patch, LoRAAdapter):
        return "DoRA" if patch.weights[4] is not None else "LoRA" if patch.weights[5] is None else "LoRA with reshape"
    return str(patch[0] if isinstance(patch, tuple) else getattr(patch, "name", type(patch).__name__))


def weight_shape(module: Any, key: str) -> tuple[int, ...]:
    """Shape that the parameter `key` of a module has in the forward: quantised weights are stored in others."""
    name = key.rpartition(".")[2]
    if name == "weight" and hasattr(module, "in_features"):
        return module.out_features, module.in_features
    if name == "weight" and isinstance(module, torch.nn.Conv2d):
        return module.out_channels, module.in_channels // module.groups, *module.kernel_size
    return tuple(getattr(module, name).shape)
