"""Inputs that come once for each layer, shared by the samplers' nodes."""

from __future__ import annotations

from comfy_api.latest import io

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
    """cfg_foreground, cfg_background, cfg_blended: optional, 0 for what `otherwise` says in the tooltip."""
    return [
        float_input(
            f"cfg_{layer}", default=0.0, min=0.0, max=100.0, step=0.1, round=0.01, optional=True,
            tooltip=f"Guidance scale of the {name}; 0: {otherwise}.",
        )
        for layer, name in LAYERS.items()
    ]  # fmt: skip
