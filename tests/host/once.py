"""Runs that several tests compare with, made once per process."""

from __future__ import annotations

import hashlib
import inspect
from contextlib import suppress
from itertools import count
from types import FunctionType, MethodType

import runs
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import WeightAdapterBase
from torch.utils.weak import WeakIdKeyDictionary

SMALL = 1 << 16  # elements up to which a tensor is known by its values
PARTS = ("patches", "object_patches", "model_options", "weight_wrapper_patches", "hook_patches", "forced_hooks", "wrappers",
         "callbacks", "injections", "additional_models")  # fmt: skip
"""What a MODEL brings to a run besides its network."""

_kept: dict = {}
_numbers = WeakIdKeyDictionary()  # of objects that are known by who they are, each its own for good
_counter = count()


def once(run, *args, **kwargs):
    """What `run(*args, **kwargs)` gives (`runs.stock` or `runs.layered`), from memory when it ran with equal arguments before.

    For the expected side of a comparison. What a MODEL does after something happened to it (left as it was, the same
    twice) only a run itself can tell. A network with hooks or replaced methods is always run.
    """
    key = _key(run, args, kwargs)
    return _copy(_kept[key]) if key in _kept else again(run, *args, **kwargs)


def again(run, *args, **kwargs):
    """`run(*args, **kwargs)`, run for certain, and kept for `once`."""
    result, key = run(*args, **kwargs), _key(run, args, kwargs)
    if key is not None:
        _kept[key] = _copy(result)
    return result


def _key(run, args, kwargs):
    """Equal for equal runs; None where a test has got at a network."""
    arguments = inspect.signature(run).bind(*args, **kwargs)
    arguments.apply_defaults()
    if arguments.arguments.get("pair", ()) is None:
        arguments.arguments["pair"] = runs.models()
    models: list[ModelPatcher] = []
    key = run.__name__, _identity(arguments.arguments, models)
    return None if any(map(_worked_on, models)) else key


def _copy(value):
    """The value with tensors of its own, so that no test can change what the next one gets."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    return type(value)(map(_copy, value)) if isinstance(value, list | tuple) else value


def _identity(value, models: list[ModelPatcher]):
    """Something hashable that is equal for arguments that make equal runs; the MODELs met are added to `models`."""
    if value is None or isinstance(value, bool | int | float | str):
        return type(value), value
    if isinstance(value, dict):
        return "dict", tuple(sorted(((repr(key), _identity(item, models)) for key, item in value.items()), key=lambda i: i[0]))
    if isinstance(value, list | tuple):
        return "list", tuple(_identity(item, models) for item in value)
    if isinstance(value, torch.Tensor) and value.numel() <= SMALL:
        values = value.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        return "tensor", value.dtype, value.shape, hashlib.blake2b(values, digest_size=16).digest()
    if isinstance(value, WeightAdapterBase):
        return type(value), _identity(value.weights, models)
    if isinstance(value, ModelPatcher):
        models.append(value)
        return "model", _number(value.model), _identity([getattr(value, part, None) for part in PARTS], models)
    return "object", _number(value)


def _number(thing) -> int:
    """A number of this very object; of one that Python cannot keep track of, another number each time."""
    number = _numbers[thing] if thing in _numbers else next(_counter)
    with suppress(TypeError):
        _numbers[thing] = number
    return number


def _worked_on(model: ModelPatcher) -> bool:
    """Whether a test has got at the network itself."""
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or any(isinstance(part, FunctionType | MethodType) for part in vars(module).values())
        for module in model.model.modules()
    )
