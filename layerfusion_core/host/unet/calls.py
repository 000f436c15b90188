"""Whether a run's UNet is called as the engine needs it: through our wrapper, for every conditioning, on whole pictures.

Nodes can replace the UNet's forward, run its blocks themselves, answer from a cache, or show it crops. Without a look at
what was really called such a run would end in a picture without foreground weights, or with masks of another part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from .model_parts import whole_parts
from .run import PASS, Pass

_EASYCACHE = "easycache"  # the host's, in transformer_options and as the key of its wrappers
_CALLERS = (
    "model_function_wrapper", "sampler_calc_cond", "sampler_pre_cfg", "sampler_post_cfg", "object patch diffusion_model",
    "outer_sample", "predict_noise", "calc_cond_batch", "apply_model", "diffusion_model",
)  # fmt: skip


def callers(model: ModelPatcher) -> str:
    """What on a MODEL can decide how its UNet is called, in words for a message; "" when there is nothing."""
    found = {name: part for name, part in whole_parts(model).items() if name.startswith(_CALLERS)}
    words = [f"{name.removesuffix(' number 1')} of {_origin(part)}" for name, part in found.items()]
    if "forward" in vars(model.model.diffusion_model):
        words.append(f"forward of {_origin(model.model.diffusion_model.forward)}")
    return ", ".join(words)


def _origin(part: Any) -> str:
    """Class or function that made a part, and its file."""
    if isinstance(part, list):
        part = part[0]
    made = part if hasattr(part, "__qualname__") else type(part)
    return f"{made.__qualname__.removesuffix('.<lambda>').split('.<locals>')[0]} ({made.__module__.rpartition('.')[-1]})"


def found_on_model(names: str) -> str:
    """What to do about the `callers` of a model, for the end of a message."""
    return f"on the model are {names}; remove the node" if names else "remove the node"


def require_whole(shown: torch.Size, cells: tuple[int, int], names: str) -> None:
    """ValueError when the UNet is shown (..., h, w) of another size than the run's: its masks are of the whole picture."""
    if tuple(shown[-2:]) != tuple(cells):
        raise ValueError(
            f"a node shows the UNet {shown[-2]} x {shown[-1]} cells of the latent's {cells[0]} x {cells[1]}, and LayerFusion's "
            "masks are of the whole picture (Tiled Diffusion with several tiles, Sliding Window Guidance, context windows): "
            + found_on_model(names)
        )


def options_in(model_options: dict, this: Pass) -> dict:
    """model_options with which every call of the UNet belongs to `this` pass.

    EasyCache does not take a prior pass for a step, nor spare it.
    """
    options = model_options["transformer_options"]
    if this.prior:
        wrappers = {
            kind: {key: listed for key, listed in by_key.items() if key != _EASYCACHE}
            for kind, by_key in options.get("wrappers", {}).items()
        }
        options = {**options, "wrappers": wrappers}
    return {**model_options, "transformer_options": {**options, PASS: this}}


@contextmanager
def watched(this: Pass, conds: Sequence[dict], transformer_options: dict) -> Iterator[None]:
    """ValueError unless our wrapper runs for every conditioning of a pass, or the host's EasyCache spares it the UNet."""
    names = this.settings.callers
    try:
        yield
    except RuntimeError as error:
        # DeepCache's blocks meet what they kept of another run, for example.
        if this.called or "model_function_wrapper" not in names or isinstance(error, torch.OutOfMemoryError):
            raise
        raise not_called(names) from error
    cache = transformer_options.get(_EASYCACHE)
    if not getattr(cache, "skip_current_step", False) and not all(entry["uuid"] in this.called for entry in conds):
        raise not_called(names)


def not_called(names: str) -> ValueError:
    """The error for a pass in which the UNet was not called through our wrapper."""
    return ValueError(
        "a node answers for the UNet, replaces its forward or runs its blocks itself (DeepCache and its like), so that "
        "foreground weights and blending would be left out: " + found_on_model(names)
    )


def require_cache_of_rows(model: ModelPatcher) -> None:
    """ValueError for an EasyCache that mixes conditionings up: older hosts add what they kept of one to all rows."""
    cache = model.model_options["transformer_options"].get(_EASYCACHE)
    if not hasattr(cache, "uuid_cache_diffs"):  # none, or LazyCache, which keeps whole evaluations
        return
    probe = cache.clone()
    probe.uuid_cache_diffs = {i: torch.full((2, 1, 1, 1), float(i)) for i in range(2)}
    try:
        found = probe.apply_cache_diff(torch.zeros(4, 1, 1, 1), [0, 1]).flatten().tolist()
    except RuntimeError:
        found = None
    if found != [0, 0, 1, 1]:
        raise ValueError(
            "base_model carries EasyCache, which in this version of ComfyUI adds what it kept of one conditioning to the rows "
            "of all: use LazyCache in its stead, or update ComfyUI"
        )
