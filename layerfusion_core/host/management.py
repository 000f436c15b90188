"""Putting a network of ours under the host's model management."""

from __future__ import annotations

import comfy.model_patcher
import torch

_Patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)  # hosts since 0.12 have it


def managed(network: torch.nn.Module, load_device: torch.device, offload_device: torch.device):
    """Wrap a network so that the host loads, counts and offloads it like any model of its own."""
    return _Patcher(network, load_device=load_device, offload_device=offload_device)
