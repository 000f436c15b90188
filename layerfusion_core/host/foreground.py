"""Foreground weights on the host: read from disk with the host's loader, bound to a model as ordinary patches.

The patches are the host's own kinds (a LoRA adapter, or a full difference), so the stock KSampler merges them as
LayerDiffuse does, and the engine reads the foreground rows' deltas off the same entries. LayerDiffuse's historical
patch tuples ("lora", [...]) are no longer understood by hosts since April 2025 and silently do nothing.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from dataclasses import dataclass

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError

from ..foreground_weights import (
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
from ..safetensors_header import read_header
from .families import family_name, require_sdxl
from .folders import file_identity

log = logging.getLogger(__name__)

ATTACHMENT = "layerfusion_foreground"


@dataclass(frozen=True)
class AppliedForeground:
    """What Apply Foreground Weights put on a MODEL, found again as its attachment `layerfusion_foreground`."""

    name: str
    packaging: Packaging
    bound: int
    strength: float


def load_foreground_weights(path: str) -> ForegroundWeights:
    """Read a foreground weight file, refusing wrong content from its header before any tensor is loaded.

    The tensors stay backed by the file (the host's loader maps it), so no second copy is made, and the last files are
    remembered: another strength does not read them again, a replaced file is. ValueError as `read_header`, `recognise`
    and `parse`, and for values that are not finite. Progress is shown after one second.
    """
    return _read_file(path, file_identity(path))


@functools.lru_cache(maxsize=2)
def _read_file(path: str, identity: str) -> ForegroundWeights:
    name = os.path.basename(path)
    header = read_header(path)
    recognise({key: info.shape for key, info in header.items()}, name)
    if not path.lower().endswith((".safetensors", ".sft")):
        raise ValueError(f"{name} is a safetensors file under another ending: rename it to end in .safetensors.")
    try:
        tensors = comfy.utils.load_torch_file(path, safe_load=True)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{name} is damaged ({error}). Delete it and download it again.") from error
    _require_finite(tensors, name)
    return parse(tensors, name)


def _require_finite(tensors: dict[str, torch.Tensor], name: str) -> None:
    total = sum(tensor.nbytes for tensor in tensors.values())
    progress, done, start = None, 0, time.monotonic()
    for key, tensor in tensors.items():
        comfy.model_management.throw_exception_if_processing_interrupted()
        if not _is_finite(tensor):
            raise ValueError(f"{name} is damaged: '{key}' holds values that are not finite. Download it again.")
        done += tensor.nbytes
        if progress is None and time.monotonic() - start > 1.0:
            progress = comfy.utils.ProgressBar(total)
        if progress is not None:
            progress.update_absolute(done, total)


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # fp8 has no minimum on the CPU
        tensor = tensor.to(torch.float32)
    # NaN propagates through minimum and maximum, which read a gigabyte in a tenth of a second and allocate nothing.
    return all(math.isfinite(value) for value in torch.aminmax(tensor))


def apply_foreground(model: ModelPatcher, weights: ForegroundWeights, strength: float = 1.0) -> ModelPatcher:
    """Return a clone of an SDXL MODEL with foreground weights on it; the model itself stays untouched.

    strength s: every weight becomes W + s * delta. 0 gives a plain clone (bit-equal to the model), 1 is LayerDiffuse.
    ValueError when the model is not SDXL, s is not finite, or any entry of the weights does not fit the model.
    """
    require_sdxl(model, "the model for the foreground weights")
    if not math.isfinite(strength):
        raise ValueError(f"strength: expected a finite number (1 is LayerDiffuse), got {strength}")
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


def host_patches(model: ModelPatcher, weights: ForegroundWeights) -> dict[str, object]:
    """Return {model parameter key: host patch} for every entry of the weights.

    ValueError, with counts, the first keys and the likely cause, when any entry does not fit the model.
    """
    if weights.packaging is Packaging.LORA:
        bound, unbound = _read_lora(model, weights)
        shapes = {key: tuple(tensor.shape) for key, tensor in weights.tensors.items()}
    else:
        bound, unbound = _read_entries(model, weights)
        shapes = {key: entry.shape for key, entry in weights.entries.items()}
    if unbound:
        total = len(bound) + len(unbound)
        raise ValueError(unbound_message(weights.name, total, unbound, family_name(model), likely_family(shapes)))
    _require_effect(bound)
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


def _require_effect(patches: dict[str, object]) -> None:
    """Raise when this ComfyUI would ignore a kind of patch: neighbours died of 560 patches dropped with a log line."""
    smallest: dict[type, tuple[str, object, LowRank | Delta]] = {}
    for key, patch in patches.items():
        entry = _as_entry(patch)
        if entry is None:
            continue
        known = smallest.get(type(entry))
        if known is None or math.prod(entry.shape) < math.prod(known[2].shape):
            smallest[type(entry)] = (key, patch, entry)
    for key, patch, entry in smallest.values():
        parts = (entry.weight,) if isinstance(entry, Delta) else (entry.up, entry.down)
        if not all(bool(part.any()) for part in parts):
            continue  # an all-zero change has no effect by right
        merged = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], torch.zeros(entry.shape), key)
        if not merged.any():
            raise RuntimeError(
                f"This ComfyUI ignores the foreground patch on {key}, so the foreground would come out opaque. "
                f"Update the LayerFusion node pack, or use a ComfyUI version it lists as supported."
            )
