"""Guidance that nodes have put on the model, called for each layer as a run of that layer alone calls it.

Such functions (the mix of cond and uncond, what comes before and after it) were written for the pictures of one run. Some
take one picture or one scale at a time (RenormCFG, Temporal Score Rescaling, dynamic thresholding), some measure the
whole batch (Mahiro) and would mix layers. Those that evaluate the model (PAG, SAG) or keep tensors from call to call
(momentum, samplers of the CFG++ kind) get the rows of all layers at once.
"""

from __future__ import annotations

from collections.abc import Callable

import comfy.samplers
import torch
from comfy.model_management import OOM_EXCEPTION
from comfy.patcher_extension import WrappersMP

from ...method.streams import StreamLayout, interleave
from .held_state import HeldState

_LISTS = ("sampler_pre_cfg_function", "sampler_post_cfg_function")
_ONE = "sampler_cfg_function"
_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError)


class _NeedsAllRows(Exception):
    """A guidance function keeps tensors, or evaluates the model, which holds the layers of a sample together."""


class LayerGuidance:
    """Calls the guidance functions of one run; which way each is called is found once and kept."""

    def __init__(self, layout: StreamLayout):
        self.layout = layout
        self._ways: dict[int, tuple[Callable, str]] = {}  # by id of the function, which is kept so that the id stays its

    def options(self, model_options: dict, scales: tuple[float, ...]) -> dict:
        """A copy of model_options whose guidance functions are called by layer; scales: of the streams."""
        out = dict(model_options)
        for key in _LISTS:
            out[key] = [self._called(function, model_options, scales) for function in model_options.get(key, [])]
        if _ONE in out:
            out[_ONE] = self._called(out[_ONE], model_options, scales)
        return out

    def _called(self, function: Callable, model_options: dict, scales: tuple[float, ...]) -> Callable:
        def call(args: dict):
            args = {**args, "model_options": model_options}
            _, way = self._ways.get(id(function), (function, "layers"))
            failure = None
            for attempt in ("layers", "pictures") if way != "all" else ():
                try:
                    out = self._parts(function, args, scales, attempt)
                    self._ways[id(function)] = function, "parts"
                    return out
                except _NeedsAllRows:
                    break
                except OOM_EXCEPTION:
                    raise
                except _ERRORS as error:
                    failure = failure or error
            self._ways[id(function)] = function, "all"
            return self._all(function, args, scales, failure)

        return call

    def _parts(self, function: Callable, args: dict, scales: tuple[float, ...], unit: str):
        """The function's values of all rows, from a call for each layer, or for each of its pictures."""
        rows, streams = args["input"].shape[0], self.layout.count
        parts = [slice(s, rows, streams) for s in range(streams)]
        if unit == "pictures":
            parts = [slice(row, row + 1) for row in range(rows)]
        alone = {**args, "model_options": _without_model(args["model_options"])}
        state = HeldState(function)
        if state.holds_tensors():
            raise _NeedsAllRows
        found = []
        for part in parts:
            state.restore()  # every layer finds it as a run of its own does
            try:
                found.append(function(_own(alone, part, rows, scales[part.start % streams])))
            except BaseException:
                state.restore()
                raise
            if state.holds_tensors():
                state.restore()
                raise _NeedsAllRows
        join = interleave if unit == "layers" else torch.cat
        return [join(list(values)) for values in zip(*found)] if isinstance(found[0], (list, tuple)) else join(found)

    def _all(self, function: Callable, args: dict, scales: tuple[float, ...], failure: Exception | None):
        """The function's values from one call with all rows; ValueError that names it where nothing works."""
        if isinstance(args["cond_scale"], torch.Tensor):
            args = {**args, "cond_scale": args["cond_scale"].clone()}  # some compute in place
        try:
            return function(args)
        except OOM_EXCEPTION:
            raise
        except (RuntimeError, TypeError) as error:
            one_scale = len(set(scales)) == 1
            if one_scale and failure is None:
                raise
            advice = "" if one_scale else ", or give all layers one cfg"
            raise ValueError(
                f"a guidance node on base_model ({_name(function)}) works neither for each layer nor for all at once "
                f"({failure or error}): remove it for LayerFusion{advice}"
            ) from (failure or error)


def _own(args: dict, part: slice, rows: int, scale: float) -> dict:
    """A function's arguments for some of the rows, at their layer's scale."""

    def own(x):
        if isinstance(x, torch.Tensor) and x.ndim > 0 and x.shape[0] == rows:
            return x[part].contiguous()
        return [own(item) for item in x] if isinstance(x, (list, tuple)) else x

    return {**{key: own(value) for key, value in args.items()}, "cond_scale": scale}


def _without_model(model_options: dict) -> dict:
    """model_options with which an evaluation of the model ends before it begins."""

    def refuse(*args, **kwargs):
        raise _NeedsAllRows

    options = model_options.get("transformer_options", {})
    wrappers = options.get("wrappers", {})
    kind = WrappersMP.CALC_COND_BATCH
    first = {kind: {"layerfusion": [refuse], **wrappers.get(kind, {})}}
    return {
        **model_options,
        "model_function_wrapper": refuse,
        "transformer_options": {**options, "wrappers": {**wrappers, **first}},
    }


def _name(function: Callable) -> str:
    function = getattr(function, "func", function)
    name = getattr(function, "__qualname__", type(function).__qualname__).replace(".<locals>", "")
    return f"{name} of {getattr(function, '__module__', '?').rsplit('.', 1)[-1]}"


def guide_rows(
    model, x: torch.Tensor, timestep: torch.Tensor, conds: dict, scales: torch.Tensor, model_options: dict
) -> torch.Tensor:
    """`comfy.samplers.sampling_function` with a guidance scale per row, (rows, 1, 1, 1)."""
    positive, negative = conds["positive"], conds["negative"]
    both = [positive, negative]
    common = {"conds": both, "input": x, "sigma": timestep, "model": model, "model_options": model_options}
    if "sampler_calc_cond_batch_function" in model_options:
        out = model_options["sampler_calc_cond_batch_function"](common)
    else:
        out = comfy.samplers.calc_cond_batch(model, both, x, timestep, model_options)
    for function in model_options.get("sampler_pre_cfg_function", []):
        out = function({**common, "conds_out": out, "cond_scale": scales, "timestep": timestep})
    return comfy.samplers.cfg_function(
        model, out[0], out[1], scales, x, timestep, model_options=model_options, cond=positive, uncond=negative
    )
