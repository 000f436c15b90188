"""What nodes have put on a MODEL besides weight patches, and in what two MODELs differ there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from .patch_state import kept_by
from .per_stream import KEY

Place = tuple[str, tuple]  # of a replace patch: ("attn1" | "attn2" | ..., block as the patch names it)
_HOST_COPIES = not hasattr(comfy.utils, "deepcopy_list_dict")  # objects on a MODEL, not functions, whenever it is cloned
_OPTIONS = ("patches", "patches_replace")  # transformer_options that are listed patch by patch


def replace_patches(model: ModelPatcher) -> dict[Place, Callable]:
    """Patches that replace an attention or a block, by their place."""
    replace = model.model_options["transformer_options"].get("patches_replace", {})
    return {(site, place): p for site, patches in replace.items() for place, p in patches.items()}


def patch_lists(model: ModelPatcher) -> dict[str, list]:
    """Lists of patches that are called one after another, by name ("attn2_patch", "output_block_patch", ...)."""
    return model.model_options["transformer_options"].get("patches", {})


def foreign_parts(model: ModelPatcher) -> dict[str, object]:
    """Everything that nodes have put on a MODEL besides weight patches, by a name with its number or place."""
    found: dict[str, object] = {f"{site} patch at {place}": p for (site, place), p in replace_patches(model).items()}
    for name, listed in patch_lists(model).items():
        found |= {f"{name} number {i + 1}": p for i, p in enumerate(listed)}
    return found | whole_parts(model)


def whole_parts(model: ModelPatcher) -> dict[str, object]:
    """Those of `foreign_parts` that are no patches of attention or blocks: they act on all rows of a forward, or none."""
    found: dict[str, object] = {}
    for key, value in model.model_options.items():
        if key != "transformer_options":
            found |= {f"{key} number {i + 1}": part for i, part in enumerate(value if isinstance(value, list) else [value])}
    options = model.model_options["transformer_options"]
    found |= {
        f"transformer option {key}": value for key, value in options.items() if key not in _OPTIONS and not _is_empty(value)
    }
    for what, kinds in (("wrapper", model.wrappers), ("callback", model.callbacks)):
        for kind, by_key in kinds.items():
            found |= {f"{kind} {what} {key}": listed for key, listed in by_key.items() if listed and key != KEY}
    found |= {f"injection {key}": listed for key, listed in model.injections.items() if listed}
    found |= {f"additional model {key}": listed for key, listed in model.additional_models.items() if listed}
    found |= {f"weight wrapper {key}": listed for key, listed in model.weight_wrapper_patches.items() if listed}
    if model.hook_patches:
        found["hook patches"] = model.hook_patches
    return found | {f"object patch {name}": part for name, part in model.object_patches.items()}


def kept_by_guidance(model: ModelPatcher) -> set[int]:
    """What the functions on a model that see all rows at once can keep for its patches, or those for them."""
    parts = [part for name, part in whole_parts(model).items() if not name.startswith("object patch ")]
    functions = [f for part in parts for f in (part if isinstance(part, list) else [part])]
    return set().union(*map(kept_by, filter(callable, functions)))


def _is_empty(value: object) -> bool:
    return isinstance(value, (dict, list)) and not value


def own_parts(found: dict[str, object], other: dict[str, object]) -> dict[str, str]:
    """Of the parts of one MODEL those that the other lacks or has another of: {name: "lacks" | "has another of"}."""
    own = {name: "lacks" for name in found if name not in other}
    own |= {name: "has another of" for name, part in found.items() if name in other and not alike(part, other[name])}
    return dict(sorted(own.items()))


def alike(a: Any, b: Any, _seen: set | None = None) -> bool:
    """Whether two parts are one, or copies of one, or made alike by one node with the same settings.

    On hosts that copy the objects on a MODEL two of one type count as alike: what they keep may have changed since.
    """
    if a is b:
        return True
    if not _same_type(type(a), type(b)):
        return False
    seen = set() if _seen is None else _seen
    if (id(a), id(b)) in seen:  # compared already, or being compared: objects may hold each other
        return True
    seen.add((id(a), id(b)))
    same = partial(alike, _seen=seen)
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, FunctionType):
        return a.__code__ is b.__code__ and all(map(same, _held(a), _held(b)))
    if isinstance(a, MethodType):
        return same(a.__func__, b.__func__) and same(a.__self__, b.__self__)
    if isinstance(a, partial):
        return same((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    if isinstance(a, CellType):
        ours, theirs = _content(a), _content(b)
        # A function may keep a tensor there from call to call, or nothing yet: no setting of its node.
        return any(x is None or isinstance(x, torch.Tensor) for x in (ours, theirs)) or same(ours, theirs)
    if isinstance(a, ModelPatcher):
        return a.is_clone(b) and a.patches_uuid == b.patches_uuid
    if isinstance(a, (type, ModuleType, BuiltinFunctionType)):
        return False
    if hasattr(a, "__dict__"):
        return (_HOST_COPIES and not isinstance(a, torch.nn.Module)) or same(vars(a), vars(b))
    if type(a).__eq__ is object.__eq__:
        return True
    equal: Any = getattr(a, "shape", None) == getattr(b, "shape", None) and a == b
    return bool(equal.all()) if hasattr(equal, "all") else bool(equal)


def _same_type(a: type, b: type) -> bool:
    """One class, or one that a node defines anew each time it runs (the host's model samplings)."""
    if a is b:
        return True
    local = a.__module__ == b.__module__ and a.__qualname__ == b.__qualname__ and "<locals>" in a.__qualname__
    return local and len(a.__bases__) == len(b.__bases__) and all(map(_same_type, a.__bases__, b.__bases__))


def _held(function: FunctionType) -> tuple:
    return function.__defaults__, function.__kwdefaults__, function.__closure__


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has no value yet
        return None
