"""Inputs that the samplers' nodes share: models, prompts, and what comes once for each layer."""

from __future__ import annotations

from comfy_api.latest import io

from ..layerfusion_core.host.sampling.foregrounds import join_foregrounds
from ..layerfusion_core.method.options import AS_CFG
from ..layerfusion_core.method.streams import Layers
from .floats import float_input

LAYERS = {"foreground": "foreground", "background": "background", "blended": "blended picture"}


def run_inputs() -> list[io.Input]:
    """base_model, foreground_model, and the prompts foreground, background, blended, negative."""
    return [
        io.Model.Input(
            "base_model",
            tooltip="Any SDXL model; denoises background and blended picture. On one checkpoint a node on it alone "
            "(FreeU, RescaleCFG, a sampling) acts on the foreground, too.",
        ),
        io.Model.Input(
            "foreground_model",
            tooltip="The same model with foreground weights on top (Apply Foreground Weights), or another checkpoint "
            "with them: then both run in lock step.",
        ),
        io.Conditioning.Input("foreground", tooltip="The object alone, without a scene."),
        io.Conditioning.Input("background", tooltip="The scene without the object."),
        io.Conditioning.Input("blended", tooltip="The whole picture."),
        io.Conditioning.Input("negative", tooltip="What no layer should show."),
    ]


def layer_outputs() -> list[io.Output]:
    """foreground, background, blended: the layers' latents."""
    return [
        io.Latent.Output(
            display_name="foreground",
            tooltip="The object on grey; LayerFusion Decode cuts it out. Several: all of them, the rearmost first.",
        ),
        io.Latent.Output(display_name="background", tooltip="The scene without the object."),
        io.Latent.Output(display_name="blended", tooltip="The whole picture."),
    ]


def layer_results(layers: Layers) -> tuple[dict, dict, dict]:
    """The layers' latents for the sockets of `layer_outputs`."""
    return join_foregrounds(layers.foregrounds), layers.background, layers.blended


def own_negatives(count: int, foreground: list | None, background: list | None, blended: list | None) -> Layers:
    """What came in by `negative_inputs`, for a run of `count` foregrounds, which share theirs."""
    return Layers((foreground,) * count, blended, background)


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
