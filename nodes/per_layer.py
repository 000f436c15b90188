"""Inputs that come once for each layer, shared by the samplers' nodes."""

from __future__ import annotations

from comfy_api.latest import io

from ..layerfusion_core.method.options import AS_CFG
from .floats import float_input

LAYERS = {"foreground": "foreground", "background": "background", "blended": "blended picture"}


def negative_inputs() -> list[io.Conditioning.Input]:
    """negative_foreground, negative_background, negative_blended: optional, None for the common negative."""
    return [
        io.Conditioning.Input(
            f"negative_{layer}", optional=True, tooltip=f"The {name}'s own negative, instead of the common one."
        )
        for layer, name in LAYERS.items()
    ]


def scale_inputs(otherwise: str) -> list[io.Float.Input]:
    """cfg_foreground, cfg_background, cfg_blended: optional, -1 for what `otherwise` says in the tooltip."""
    return [
        float_input(
            f"cfg_{layer}", default=AS_CFG, min=AS_CFG, max=100.0, step=0.1, round=0.01, optional=True,
            tooltip=f"Guidance scale of the {name}; -1: {otherwise}.",
        )
        for layer, name in LAYERS.items()
    ]  # fmt: skip
