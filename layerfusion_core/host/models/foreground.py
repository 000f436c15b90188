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
import comfy.lora_convert
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...weights.formats import (
    PAGE,
    WANTED,
    Delta,
    ForegroundWeights,
    LowRank,
    Packaging,
    likely_family,
    lora_modules,
    parse,
    recognise,
    unbound_message,
)
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


def require_in_order(base: ModelPatcher, foreground: ModelPatcher) -> None:
    """ValueError when base_model is what Apply Foreground Weights made and foreground_model is not: they are swapped."""
    applied = base.get_attachment(ATTACHMENT)
    if applied is not None and applied.strength != 0 and foreground.get_attachment(ATTACHMENT) is None:
        raise ValueError(
            f"base_model carries foreground weights ({applied.name}) and foreground_model does not: the two are swapped; "
            "connect the model with the foreground weights to foreground_model"
        )


def host_patches(model: ModelPatcher, weights: ForegroundWeights) -> dict[str, object]:
    """Return {model parameter key: host patch} for every entry of the weights.

    ValueError, with counts, the first keys and the likely cause, when any entry does not fit the model, and when all
    entries are zero.
    """
    if weights.packaging is Packaging.LORA:
        bound, unbound = _read_lora(model, weights)
        shapes = {key: tuple(tensor.shape) for key, tensor in weights.tensors.items()}
    else:
        bound, unbound = _read_entries(model, weights)
        shapes = {key: entry.shape for key, entry in weights.entries.items()}
    if unbound:
        total = len(bound) + len(unbound)
        family, made_for = family_name(model), likely_family(shapes)
        raise ValueError(
            unbound_message(weights.name, total, unbound, family, made_for, weights.title, weights.expected)
        )
    _require_effect(bound, weights.name)
    return bound


def _read_entries(model: ModelPatcher, weights: ForegroundWeights) -> tuple[dict[str, object], list[str]]:
    names = {}
    if weights.packaging is Packaging.DIFFUSERS:
        table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
        names = {key: "diffusion_model." + target for key, target in table.items()}
    parameters = model.model.state_dict()
    fitting: dict[str, LowRank | Delta] = {}
    unbound = []
    for name, entry in weights.entries.items():
        key = names.get(name, name)
        if key not in parameters:
            unbound.append(name)
            continue
        shape = _parameter_shape(model, key, parameters[key])
        if not _fits(entry, shape):
            unbound.append(f"{name} (shape {entry.shape}, the model's is {shape})")
            continue
        fitting[key] = entry
    # The host builds its own LoRA objects from the kohya names, so no private class is needed here.
    lora, targets = {}, {}
    for key, entry in fitting.items():
        if isinstance(entry, LowRank):
            lora[f"{key}.lora_up.weight"], lora[f"{key}.lora_down.weight"] = entry.up, entry.down
            if entry.alpha is not None:
                lora[f"{key}.alpha"] = torch.tensor(entry.alpha)
            targets[key] = key
    bound = comfy.lora.load_lora(lora, targets)
    bound.update({key: ("diff", (entry.weight,)) for key, entry in fitting.items() if isinstance(entry, Delta)})
    unbound += [f"{key} (not understood by this ComfyUI)" for key in fitting if key not in bound]
    return bound, unbound


def _read_lora(model: ModelPatcher, weights: ForegroundWeights) -> tuple[dict[str, object], list[str]]:
    tensors = comfy.lora_convert.convert_lora(dict(weights.tensors))
    targets = comfy.lora.model_lora_keys_unet(model.model, {})
    for key, target in comfy.utils.unet_to_diffusers(model.model.model_config.unet_config).items():
        # PEFT's names of the UNet's modules, which the host's table lacks (it has those of diffusers' old processors).
        module = key.removesuffix(".weight")
        for prefix in ("", "unet.", "base_model.model.", "unet.base_model.model."):
            targets.setdefault(prefix + module, "diffusion_model." + target)
    patches = comfy.lora.load_lora(tensors, targets, log_missing=False)
    parameters = model.model.state_dict()
    bound, unbound = {}, []
    for module in lora_modules(tensors):
        key = targets.get(module)
        patch = patches.get(key)
        if patch is None or key not in parameters:
            unbound.append(module)
            continue
        shape = _parameter_shape(model, key, parameters[key])
        entry = _as_entry(patch)
        if isinstance(entry, LowRank) and not entry.fits_together:
            halves = f"{tuple(entry.up.shape)} and {tuple(entry.down.shape)}"
            unbound.append(f"{module} (its halves do not fit together: {halves})")
            continue
        if entry is not None and not _fits(entry, shape):
            unbound.append(f"{module} (shape {entry.shape}, the model's is {shape})")
            continue
        bound[key] = patch
    return bound, unbound


def _as_entry(patch: object) -> LowRank | Delta | None:
    """View a plain LoRA adapter (no mid, DoRA or reshape) or a full difference as an entry.

    None for other adapters, which only the host can check.
    """
    if isinstance(patch, tuple) and patch[0] == "diff":
        return Delta(patch[1][0])
    if getattr(patch, "name", None) == "lora" and patch.weights[3:] == (None, None, None):
        return LowRank(patch.weights[0], patch.weights[1], patch.weights[2])
    return None


def _parameter_shape(model: ModelPatcher, key: str, parameter: torch.Tensor) -> tuple[int, ...]:
    """Shape a weight has in the forward; from its module, because quantised parameters are stored in other shapes."""
    name, _, kind = key.rpartition(".")
    module = comfy.utils.get_attr(model.model, name)
    if kind == "weight" and hasattr(module, "in_features"):
        return (module.out_features, module.in_features)
    return tuple(parameter.shape)


def _fits(entry: LowRank | Delta, shape: tuple[int, ...]) -> bool:
    if isinstance(entry, Delta):
        return entry.shape == shape
    return entry.shape[0] == shape[0] and math.prod(entry.shape[1:]) == math.prod(shape[1:])


def _require_effect(patches: dict[str, object], name: str) -> None:
    """Raise when nothing would change: zeros in the file, or a kind of patch that this ComfyUI ignores with a log line."""
    entries = [_as_entry(patch) for patch in patches.values()]
    if not any(entry is None or entry.changes for entry in entries):  # true of a sound file's first entry
        raise ValueError(
            f"{name} changes nothing: all its {len(entries)} entries are zero, or have an alpha of 0, so the foreground would "
            f"come out opaque. Expected {WANTED} from {PAGE}: download it again."
        )
    smallest: dict[type, tuple[str, object, LowRank | Delta]] = {}
    for key, patch in patches.items():
        entry = _as_entry(patch)
        if entry is None:
            continue
        known = smallest.get(type(entry))
        if known is None or math.prod(entry.shape) < math.prod(known[2].shape):
            smallest[type(entry)] = (key, patch, entry)
    for key, patch, entry in smallest.values():
        if not entry.changes:
            continue  # zeros have no effect by right
        merged = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], torch.zeros(entry.shape), key)
        if not merged.any():
            raise RuntimeError(
                f"This ComfyUI ignores the foreground patch on {key}, so the foreground would come out opaque. "
                f"Update the LayerFusion node pack, or use a ComfyUI version it lists as supported."
            )
