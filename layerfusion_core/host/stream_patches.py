"""Attention patches of other nodes (IPAdapter and its like) that act on chosen streams only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy.model_patcher import ModelPatcher

from .engine import KEY, SITES, attend

STREAMS = ("foreground", "background", "blended")
_ROWS = "layerfusion_rows"  # in extra_options: whose rows an inner patch got


class StreamPatch:
    """A replace patch that runs `patch` on the rows of `streams` and `other` (None: plain attention) on the rest.

    In a run without LayerFusion there are no streams and `patch` acts on everything, as it would by itself.
    """

    def __init__(self, patch: Callable, other: Callable | None, streams: frozenset[str]):
        self.patch, self.other, self.streams = patch, other, streams

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
        forward = extra_options.get(KEY)
        names = extra_options.get(_ROWS, () if forward is None else tuple(name.split()[0] for name in forward.names))
        chosen = [i for i, name in enumerate(names) if name in self.streams]
        if len(chosen) == len(names):
            return self.patch(q, k, v, extra_options)
        rest = [i for i in range(len(names)) if i not in chosen]
        out = torch.empty_like(q)
        for run, rows in ((self.patch, chosen), (self.other or attend, rest)):
            if rows:
                picked = (x.unflatten(0, (-1, len(names)))[:, rows].flatten(0, 1) for x in (q, k, v))
                result = run(*picked, {**extra_options, _ROWS: tuple(names[i] for i in rows)})
                out.unflatten(0, (-1, len(names)))[:, rows] = result.unflatten(0, (-1, len(rows))).to(out.dtype)
        return out

    def __deepcopy__(self, memo: dict) -> StreamPatch:
        return self  # hosts before 0.14 copy patches, with the tensors they hold, whenever a model is cloned

    def to(self, target) -> StreamPatch:
        """Move what the patches hold, as the host asks before a run."""
        moved = (p.to(target) if hasattr(p, "to") else p for p in (self.patch, self.other))
        return StreamPatch(*moved, self.streams)

    def models(self) -> list[ModelPatcher]:
        """Models that the patches bring, for the host to load."""
        return [m for p in (self.patch, self.other) if hasattr(p, "models") for m in p.models()]


def limit_patches(patched: ModelPatcher, plain: ModelPatcher, streams: set[str]) -> ModelPatcher:
    """Return `plain` with the attention patches that only `patched` has, acting on `streams` (of `STREAMS`) alone.

    ValueError when the two are not one model before and after a node, or differ in more than attention replace patches.
    """
    if not patched.is_clone(plain):
        raise ValueError("patched_model and model do not share their weights: connect one model before and after the node")
    if patched.patches_uuid != plain.patches_uuid:
        raise ValueError(
            "patched_model has other weight patches (LoRAs) than model: connect model from right before the node whose "
            "patches are to be limited"
        )
    more = foreign_parts(patched) - foreign_parts(plain)
    others = sorted(name for name in more if name.split()[0] not in SITES)
    if others:
        raise ValueError(
            f"patched_model carries {', '.join(others)}, which cannot be limited to layers: only patches that replace "
            "attention (IPAdapter and its like) can"
        )
    found, theirs = _replace_patches(patched), _replace_patches(plain)
    different = {key: p for key, p in found.items() if theirs.get(key) is not p}
    if not different:
        raise ValueError("patched_model carries no attention patch that model lacks: connect it behind the node that patches")
    out = plain.clone()
    for (site, place), patch in different.items():
        limited = StreamPatch(patch, theirs.get((site, place)), frozenset(streams))
        out.set_model_patch_replace(limited, site, *place)
    return out


def _replace_patches(model: ModelPatcher) -> dict[tuple[str, tuple], Callable]:
    replace = model.model_options["transformer_options"].get("patches_replace", {})
    return {(site, place): p for site, patches in replace.items() for place, p in patches.items()}


def foreign_parts(model: ModelPatcher) -> set[str]:
    """Names of everything that nodes have put on a MODEL besides weight patches, each with its number or place."""
    options = model.model_options["transformer_options"]
    found = {f"{site} patch at {place}" for site, place in _replace_patches(model)}
    found |= {f"{name} number {i + 1}" for name, patches in options.get("patches", {}).items() for i in range(len(patches))}
    for key, value in model.model_options.items():
        if key != "transformer_options":
            numbered = value if isinstance(value, list) else [value]
            found |= {f"{key} number {i + 1}" for i in range(len(numbered))}
    for kind, wrappers in model.wrappers.items():
        found |= {f"{kind} wrapper {key}" for key, listed in wrappers.items() if listed}
    return found | {f"object patch {name}" for name in model.object_patches}


# What acts on the guider's side of the model, for all streams at once: wrappers by kind, and the starts of option names.
_GUIDANCE = ("outer_sample", "prepare_sampling", "sampler_sample", "predict_noise", "calc_cond_batch")
_GUIDANCE_OPTIONS = ("sampler_", "denoise_mask_function", "disable_cfg1_optimization")


def require_known_patches(base: ModelPatcher, foreground: ModelPatcher) -> None:
    """ValueError when other nodes have put something on `foreground` alone: one forward runs with the base model's."""
    alone = sorted(foreign_parts(foreground) - foreign_parts(base))
    if alone:
        raise ValueError(
            f"foreground_model carries {_first(alone)}, which base_model lacks and which "
            "would have no effect: put the node that adds it before Apply Foreground Weights, so that both models have it. "
            "Limit Patches to Layers keeps attention patches (IPAdapter) to the foreground"
        )


def require_own_patches(base: ModelPatcher, foreground: ModelPatcher) -> None:
    """ValueError when one of two models with weights of their own carries something that acts on the other's streams only.

    Each runs its streams with its own patches, and the guider runs with the base model's guidance.
    """
    alone = sorted(
        name
        for name in foreign_parts(foreground) - foreign_parts(base)
        if name.split()[0] in _GUIDANCE or name.startswith(_GUIDANCE_OPTIONS)
    )
    if alone:
        raise ValueError(
            f"foreground_model carries {_first(alone)}, which base_model lacks and which would have no effect: put the node "
            "that adds it on base_model, whose guidance is for all layers"
        )
    for what, model, others in (
        ("base_model", base, {"foreground"}),
        ("foreground_model", foreground, {"background", "blended"}),
    ):
        lost = sorted(others & {name for patch in _replace_patches(model).values() for name in _limits(patch)})
        if lost:
            raise ValueError(
                f"{what} carries a patch that Limit Patches to Layers keeps to {' and '.join(lost)}, which the other "
                "checkpoint draws: put the patch on that model, too, and choose there"
            )


def _limits(patch: Callable | None) -> frozenset[str]:
    """The streams that a chain of patches is limited to somewhere."""
    if not isinstance(patch, StreamPatch):
        return frozenset()
    return patch.streams | _limits(patch.patch) | _limits(patch.other)


def _first(parts: list[str]) -> str:
    return parts[0] + (" and more" if len(parts) > 1 else "")
