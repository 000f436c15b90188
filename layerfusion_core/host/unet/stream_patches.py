"""Attention patches of other nodes (IPAdapter and its like) that act on chosen streams only."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import FunctionType

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP

from .model_parts import (
    Place,
    alike,
    foreign_parts,
    kept_by_guidance,
    own_parts,
    patch_lists,
    replace_patches,
    whole_parts,
)
from .patch_state import kept_by
from .patches import SITES
from .per_stream import KEY, StreamPatch

STREAMS = ("foreground", "background", "blended")
_FOREGROUND = frozenset({"foreground"})


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
    more = own_parts(foreign_parts(patched), foreign_parts(plain))
    others = [name for name in more if name.split()[0] not in SITES]
    if others:
        raise ValueError(
            f"patched_model carries {', '.join(others)}, which cannot be limited to layers: only patches that replace "
            "attention (IPAdapter and its like) can"
        )
    found, theirs = replace_patches(patched), replace_patches(plain)
    different = {key: p for key, p in found.items() if theirs.get(key) is not p}
    if not different:
        raise ValueError(
            "patched_model carries no attention patch that model lacks: connect it behind the node that patches. A second "
            "IPAdapter changes the patches of the first where they are, so that the two MODELs are equal: put a Limit Patches "
            "to Layers right behind each of them"
        )
    out = plain.clone()
    out.remove_callbacks_with_key(CallbacksMP.ON_CLONE, KEY)
    out.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, _give_own)
    for (site, place), patch in different.items():
        limited = StreamPatch(patch, theirs.get((site, place)), frozenset(streams))
        out.set_model_patch_replace(limited, site, *place)
    return out


def _give_own(model: ModelPatcher, clone: ModelPatcher) -> None:
    """ON_CLONE callback: a clone gets `StreamPatch`es of its own, for IPAdapter stacks onto those it finds in place."""
    replace = clone.model_options["transformer_options"].get("patches_replace", {})
    for patches in replace.values():
        patches.update({place: copy.copy(p) for place, p in patches.items() if isinstance(p, StreamPatch)})


# What acts on the guider's side of the model, for all streams at once: wrappers by kind, and the starts of option names.
_GUIDANCE = ("outer_sample", "prepare_sampling", "sampler_sample", "predict_noise", "calc_cond_batch")
_GUIDANCE_OPTIONS = ("sampler_", "denoise_mask_function", "disable_cfg1_optimization")


def with_foreground_patches(base: ModelPatcher, foreground_model: ModelPatcher) -> ModelPatcher:
    """`base` for a forward of all streams, with each MODEL's own patches of attention and blocks acting on its own.

    Where only `base` carries something, it acts on the foreground, too. ValueError, with the part's name, for what
    `foreground_model` alone carries and what cannot act on some rows of a forward.
    """
    _require_same(own_parts(whole_parts(foreground_model), whole_parts(base)))
    replaced, lists = _own_replaced(base, foreground_model), _own_lists(base, foreground_model)
    if not replaced and not lists:
        return base
    out = base.clone()
    for (site, place), patch in replaced.items():
        out.set_model_patch_replace(patch, site, *place)
    out.model_options["transformer_options"].setdefault("patches", {}).update(lists)
    return out


def _own_replaced(base: ModelPatcher, foreground_model: ModelPatcher) -> dict[Place, StreamPatch]:
    """Patches for both where the foreground's attention is replaced by another than the base's."""
    ours, theirs = replace_patches(base), replace_patches(foreground_model)
    _require_same({f"{site} patch at {place}": "lacks" for site, place in theirs.keys() - ours.keys() if site not in SITES})
    kept = kept_by_guidance(base)
    found = {}
    for site, place in theirs.keys() | {key for key in ours if (key[0], key[1][:2]) in theirs}:
        if site not in SITES:
            continue
        # As the host looks it up: a patch of a whole block, with a place of two parts, holds where no other does.
        mine, other = (p.get((site, place), p.get((site, place[:2]))) for p in (theirs, ours))
        if mine is other or (isinstance(mine, FunctionType) and alike(mine, other)):
            continue
        if not kept_by(other).isdisjoint(kept):
            _require_same({f"{site} patch at {place}": "has another of, which belongs to its guidance"})
        found[site, place] = StreamPatch(mine, other, _FOREGROUND)
    return found


def _own_lists(base: ModelPatcher, foreground_model: ModelPatcher) -> dict[str, list]:
    """Lists of patches that differ, as one list for both: the order matters among patches of one stream only."""
    found = {}
    for name, theirs in patch_lists(foreground_model).items():
        ours = patch_lists(base).get(name, [])
        if theirs and not (len(ours) == len(theirs) and all(map(alike, ours, theirs))):
            found[name] = [StreamPatch(p, None, _FOREGROUND) for p in theirs]
            found[name] += [StreamPatch(None, p, _FOREGROUND) for p in ours]
    return found


def _require_same(own: dict[str, str]) -> None:
    """ValueError when the foreground's MODEL has parts of its own that the one forward of all streams cannot have."""
    if own:
        name, how = next(iter(own.items()))
        raise ValueError(
            f"foreground_model carries {_first(own)}, which base_model {how}: it cannot act on the foreground alone. Put the "
            f"node that adds it before Apply Foreground Weights, so that both models have it{_ADVICE.get(name.split()[0], '')}"
        )


_ADVICE = {"injection": ", or load a LoRA with Load LoRA instead of its bypass variant: that one can be the foreground's alone"}


def require_own_patches(base: ModelPatcher, foreground_model: ModelPatcher) -> None:
    """ValueError when one of two models with weights of their own carries something that acts on the other's streams only.

    Each runs its streams with its own patches, and the guider runs with the base model's guidance.
    """
    own = {
        name: how
        for name, how in own_parts(whole_parts(foreground_model), whole_parts(base)).items()
        if name.split()[0] in _GUIDANCE or name.startswith(_GUIDANCE_OPTIONS)
    }
    if own:
        raise ValueError(
            f"foreground_model carries {_first(own)}, which base_model {next(iter(own.values()))} and which would have no "
            "effect: put the node that adds it on base_model, whose guidance is for all layers"
        )
    for what, model, others in (
        ("base_model", base, {"foreground"}),
        ("foreground_model", foreground_model, {"background", "blended"}),
    ):
        lost = sorted(others & {name for patch in replace_patches(model).values() for name in _limits(patch)})
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


def _first(parts: dict[str, str]) -> str:
    return next(iter(parts)) + (" and more" if len(parts) > 1 else "")
