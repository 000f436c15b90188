"""Putting a network of ours under the host's model management."""

from __future__ import annotations

from collections.abc import Iterable

import comfy.model_patcher
import comfy.utils
import torch

_Patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)  # hosts since 0.12 have it


def managed(network: torch.nn.Module, load_device: torch.device, offload_device: torch.device):
    """Wrap a network so that the host loads, counts and offloads it like any model of its own."""
    return _Patcher(network, load_device=load_device, offload_device=offload_device)


def keep_in_memory(module: torch.nn.Module, given: Iterable[torch.Tensor]) -> None:
    """Give the weights of a module, which a run reads at every step, memory of their own where they are views of `given`.

    The host's loader gives views of the file, and to read one whose file was cut short meanwhile (downloaded again, say)
    ends the process. Hosts started with --disable-mmap give none; hosts with dynamic memory keep the weights of all
    models in their files: there these stay, too.
    """
    if comfy.utils.DISABLE_MMAP or getattr(getattr(comfy, "memory_management", None), "aimdo_enabled", False):
        return
    views = {tensor.untyped_storage().data_ptr() for tensor in given}
    for layer in module.modules():
        for name, weight in list(layer.named_parameters(recurse=False)):
            if weight.untyped_storage().data_ptr() in views:
                setattr(layer, name, torch.nn.Parameter(weight.detach().clone(), requires_grad=False))
