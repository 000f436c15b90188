"""Foreground weights on the host: read from disk with the host's loader, bound to a model as ordinary patches.

The patches are the host's own kinds (a LoRA adapter, or a full difference), so the stock KSampler merges them as
LayerDiffuse does, and the engine reads the foreground rows' deltas off the same entries. LayerDiffuse's historical
patch tuples ("lora", [...]) are no longer understood by hosts since April 2025 and silently do nothing.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass

import comfy.lora
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...weights.changes import Delta, LowRank
from ...weights.formats import (
    PAGE,
    WANTED,
    ForegroundWeights,
    Packaging,
    likely_family,
    lora_modules,
    parse,
    recognise,
    unbound_message,
)
from .adapters import change_of, weight_shape
from .families import family_name, require_sdxl
from .weight_files import read_weight_file

log = logging.getLogger(__name__)

ATTACHMENT = "layerfusion_foreground"
ON_LAYERS = "layerfusion_on_layers"  # attachment of what LayerFusion Condition on Layers puts on a MODEL


@dataclass(frozen=True)
class AppliedForeground:
    """What Apply Foreground Weights put on a MODEL, found again as its attachment `layerfusion_foreground`."""

    name: str
    packaging: Packaging
    bound: int
    strength: float


def load_foreground_weights(path: str) -> ForegroundWeights:
    """Read a foreground weight file, refusing wrong content from its header before any tensor is loaded.

    ValueError as `read_weight_file`, `recognise` and `parse`. Nothing is copied: the tensors are as the host's loader
    maps them, as long as a MODEL holds them.
    """
    name = os.path.basename(path)
    tensors = read_weight_file(path, lambda header: recognise({key: info.shape for key, info in header.items()}, name))
    return parse(tensors, name)


def apply_foreground(model: ModelPatcher, weights: ForegroundWeights, strength: float = 1.0) -> ModelPatcher:
    """Return a clone of an SDXL MODEL with foreground weights on it; the model itself stays untouched.

    strength s: every weight becomes W + s * delta. 0 gives a plain clone (bit-equal to the model), 1 is LayerDiffuse.
    ValueError when the model is not SDXL, s is not finite, or any entry of the weights does not fit the model.
    """
    require_sdxl(model, "the model for the foreground weights")
    if not math.isfinite(strength):
        raise ValueError(f"strength: expected a finite number (1 is LayerDiffuse), got {strength}")
    require_unconditioned(model, "the model for the foreground weights")
    before = model.get_attachment(ATTACHMENT)
    if before is not None and before.strength != 0:
        log.warning(
            "The model already carries foreground weights (%s, strength %g); %s is added to them. "
            "Connect the base model to use only one.",
            before.name,
            before.strength,
            weights.name,
        )
    patches = host_patches(model, weights)
    clone = model.clone()
    if strength != 0:
        bound = clone.add_patches(patches, strength)
        if len(bound) != len(patches):  # cannot be after host_patches; a changed host must not fail in silence
            raise ValueError(f"ComfyUI took only {len(bound)} of the {len(patches)} patches of {weights.name}")
    clone.set_attachments(ATTACHMENT, AppliedForeground(weights.name, weights.packaging, len(patches), strength))
    log.info(
        "Foreground weights %s: %d of %d entries bound, strength %g", weights.name, len(patches), len(patches), strength
    )
    return clone


def require_unconditioned(model: ModelPatcher, what: str) -> None:
    """ValueError when a MODEL is LayerFusion Condition on Layers' output, which makes one layer in a stock sampler."""
    applied = model.get_attachment(ON_LAYERS)
    if applied is not None and applied.strength != 0:
        raise ValueError(
            f"{what} carries {applied.name} of LayerFusion Condition on Layers, which {applied.kind.task} in ComfyUI's own "
            "KSampler: connect it there, and the checkpoint's own model here"
        )


def require_in_order(base: ModelPatcher, foreground_model: ModelPatcher) -> None:
    """ValueError when base_model is what Apply Foreground Weights made, for it paints scenes: whatever else either carries."""
    applied, other = (model.get_attachment(ATTACHMENT) for model in (base, foreground_model))
    if applied is None or applied.strength == 0:
        return
    if other is None or other.strength == 0:
        raise ValueError(
            f"base_model carries foreground weights ({applied.name}) and foreground_model does not: the two are swapped; "
            "connect the model with the foreground weights to foreground_model"
        )
    raise ValueError(
        f"base_model carries foreground weights ({applied.name}), as foreground_model does, so background and blended picture "
        "would be painted as cut-outs, too: connect to base_model the model that went into Apply Foreground Weights, or the "
        "base_model output of the loader"
    )


def host_patches(model: ModelPatcher, weights: ForegroundWeights) -> dict[str, object]:
    """Return {model parameter key: host patch} for everything the weights change, made by the host's own reader.

    ValueError, with counts, the first names and the likely cause, when anything does not fit the model, and when all is zero.
    """
    modules = lora_modules(weights.tensors)
    targets = _targets(model)
    targets = {module: targets[module] for module in modules if module in targets}
    patches = comfy.lora.load_lora(weights.tensors, targets, log_missing=False)
    parameters, named = model.model.state_dict(), set(targets.values())
    bound, unbound = {}, []
    for module in modules:
        key = targets.get(module)
        if key is None or key not in parameters:
            unbound.append(module)
            continue
        bias = f"{key.rpartition('.')[0]}.bias"  # a LoRA file's module may bring it along
        own = [k for k in dict.fromkeys((key, bias)) if k in patches and (k == key or k not in named)]
        misfits = [_misfit(model, k, patches[k]) for k in own] or ["not understood by this ComfyUI"]
        unbound += [f"{module} ({misfit})" for misfit in misfits if misfit]
        bound |= {k: patches[k] for k in own}
    if unbound:
        family = family_name(model)
        made_for = likely_family({key: tuple(tensor.shape) for key, tensor in weights.tensors.items()})
        raise ValueError(
            unbound_message(weights.name, len(modules), unbound, family, made_for, weights.title, weights.expected)
        )
    _require_effect(bound, weights.name)
    return bound


def _targets(model: ModelPatcher) -> dict[str, str]:
    """{what a weight file may call a module or a parameter of the UNet: the parameter's key in the model}."""
    targets = comfy.lora.model_lora_keys_unet(model.model, {})
    for key, target in comfy.utils.unet_to_diffusers(model.model.model_config.unet_config).items():
        target = "diffusion_model." + target
        targets[key] = target
        # PEFT's names of the UNet's modules, which the host's table lacks (it has those of diffusers' old processors).
        for prefix in ("", "unet.", "base_model.model.", "unet.base_model.model."):
            targets.setdefault(prefix + key.removesuffix(".weight"), target)
    return targets | {key: key for key in model.model.state_dict()}


def _misfit(model: ModelPatcher, key: str, patch: object) -> str | None:
    """Say how a patch does not fit the parameter `key`; None when it does, or only the host can tell (DoRA and its like)."""
    change, module = change_of(patch), comfy.utils.get_attr(model.model, key.rpartition(".")[0])
    if isinstance(change, LowRank) and not change.fits_together:
        return f"its halves do not fit together: {tuple(change.up.shape)} and {tuple(change.down.shape)}"
    shape = weight_shape(module, key)
    return None if change is None or change.fits(shape) else f"shape {change.shape}, the model's is {shape}"


def _require_effect(patches: dict[str, object], name: str) -> None:
    """Raise when nothing would change: zeros in the file, or a kind of patch that this ComfyUI ignores with a log line."""
    changes = {key: change_of(patch) for key, patch in patches.items()}
    if not any(change is None or change.changes for change in changes.values()):  # true of a sound file's first one
        raise ValueError(
            f"{name} changes nothing: all its {len(changes)} entries are zero, or have an alpha of 0, so the foreground would "
            f"come out opaque. Expected {WANTED} from {PAGE}: download it again."
        )
    for kind in (LowRank, Delta):
        found = {key: change for key, change in changes.items() if isinstance(change, kind)}
        key = min(found, key=lambda key, own=found: math.prod(own[key].shape), default="")  # merging the smallest takes no time
        if not key or not found[key].changes:  # zeros have no effect by right
            continue
        merged = comfy.lora.calculate_weight([(1.0, patches[key], 1.0, None, None)], torch.zeros(found[key].shape), key)
        if not merged.any():
            raise RuntimeError(
                f"This ComfyUI ignores the foreground patch on {key}, so the foreground would come out opaque. "
                f"Update the LayerFusion node pack, or use a ComfyUI version it lists as supported."
            )
