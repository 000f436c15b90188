"""Weight files read with the host's loader: what they are is told before any tensor is loaded, their numbers after."""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from safetensors import SafetensorError
from torch import Tensor

from ...weights.header import is_pickle, read_header
from .folders import file_identity

_sound: set[str] = set()  # identities of files whose numbers were looked at: another strength does not read them all again


def read_weight_file(path: str, check: Callable[[Mapping[str, Any]], object], pickles: bool = False) -> dict[str, Tensor]:
    """The tensors of a weight file, as the host's loader gives them: mapped, so that nothing is copied.

    check: called with {name: something that has a shape} before anything is loaded; raises ValueError for a file that
    is something else. pickles: whether .pt and its like are taken, read without the power to run code.

    ValueError, with the file's name and what to do, also as `read_header`, and for quantised, NaN or infinite values.
    Progress is shown after one second; an interrupt stops it.
    """
    name = os.path.basename(path)
    if pickles and is_pickle(path) and not path.lower().endswith((".safetensors", ".sft")):
        tensors = _read_pickle(path, name)
        check(tensors)
    else:
        check(read_header(path))
        try:
            tensors = comfy.utils.load_torch_file(path, safe_load=True)
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f"{name} is damaged ({error}). Delete it and download it again.") from error
    identity = file_identity(path)
    if identity not in _sound:
        _require_sound(tensors, name)
        _sound.add(identity)
    return tensors


def _read_pickle(path: str, name: str) -> dict[str, Tensor]:
    try:
        tensors = comfy.utils.load_torch_file(path, safe_load=True)
    except pickle.UnpicklingError as error:  # torch's own text says how to open it all the same
        raise ValueError(
            f"{name} is refused: it is a pickle that holds more than tensors, and such a file can run code when it is "
            "opened. Download the .safetensors version of it."
        ) from error
    except Exception as error:  # the readers of every format raise types of their own
        raise ValueError(
            f"{name} cannot be read: the file is damaged, cut short or no table of tensors. Download it again and compare "
            "its size with the download page."
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(key, str) for key in tensors):
        raise ValueError(f"{name} holds a {type(tensors).__name__}; expected a flat table of named tensors.")
    for key, value in tensors.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise ValueError(f"{name}: '{key}' is no plain tensor; expected a flat table of named tensors.")
        if value.nbytes > value.untyped_storage().nbytes():
            raise ValueError(f"{name} is damaged: '{key}' claims {value.nbytes:,} bytes that the file does not hold.")
    return dict(tensors)


def _require_sound(tensors: Mapping[str, Tensor], name: str) -> None:
    total = sum(tensor.nbytes for tensor in tensors.values())
    progress, done, start = None, 0, time.monotonic()
    for key, tensor in tensors.items():
        comfy.model_management.throw_exception_if_processing_interrupted()
        if not tensor.is_floating_point() and tensor.numel() > 1 and not key.endswith(".reshape_weight"):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{name}: expected tensors in fp16, bf16 or fp32, got {kind} ('{key}'): the file is quantised, and its scales "
                "are not known here. Get it in one of these types."
            )
        if not _is_finite(tensor):
            raise ValueError(f"{name} is damaged: '{key}' holds values that are not finite. Download it again.")
        done += tensor.nbytes
        if progress is None and time.monotonic() - start > 1.0:
            progress = comfy.utils.ProgressBar(total)
        if progress is not None:
            progress.update_absolute(done, total)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # fp8 has no minimum on the CPU
        tensor = tensor.to(torch.float32)
    # NaN propagates through minimum and maximum, which read a gigabyte in a tenth of a second and allocate nothing.
    return all(math.isfinite(value) for value in torch.aminmax(tensor))
