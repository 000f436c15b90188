"""Layers that add up to the blended picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..layerfusion_core.layers.compositing import difference_map
from ..layerfusion_core.layers.matching import CLEANLINESS, flattened, match_layers
from .floats import finite, float_input
from .pictures import check_pictures, picture_inputs
from .schema import node_schema


class LayerFusionMatchLayers(io.ComfyNode):
    """Puts the blended picture's light into the layers, so that laid over each other they show it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionMatchLayers",
            display_name="LayerFusion Match Layers",
            search_aliases=["layer", "shadow", "light", "relight", "harmonize", "decompose", "cutout"],
            description="Makes the layers add up to the blended picture: the foreground gets the colour it has there, and "
            "shadow, glow and reflection become a layer of their own between background and foreground.",
            inputs=[
                *picture_inputs("The blended picture from LayerFusion Decode: what is to be matched."),
                float_input(
                    "cleanliness",
                    default=CLEANLINESS,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How much of the differences from the background the effects leave out as noise. Lower: nearer to "
                    "the blended picture. Higher: cleaner. 0: exact, with all noise. 0.5: far from the object the "
                    "effects cover 0.6 % at most on average, and hold what is seen best. 1: no effects.",
                ),
                io.Combo.Input(
                    "light",
                    options=["sRGB", "linear"],
                    default="sRGB",
                    tooltip="How the layers will be laid over each other. sRGB: as most editors do it, and PSD and "
                    "OpenRaster files. linear: in linear light, as ComfyUI's own layer editor does it.",
                ),
                io.Boolean.Input(
                    "relight",
                    default=True,
                    tooltip="On: the foreground takes the colour it has in the blended picture. Off: it keeps its own, and "
                    "only the effects are made.",
                ),
            ],
            outputs=[
                # Older hosts want ids that no input has.
                io.Image.Output(
                    "matched",
                    display_name="foreground",
                    tooltip="The foreground, or foregrounds, in the scene's light, RGBA, same alpha.",
                ),
                io.Image.Output(
                    "effects",
                    display_name="effects",
                    tooltip="Light and shadow, RGBA: lies over the background and under the foreground. For Save Layers.",
                ),
                io.Image.Output("image", display_name="image", tooltip="All of them over each other, RGB."),
                io.Image.Output(
                    "difference",
                    display_name="difference",
                    tooltip="What is still missing to the blended picture, four times as bright.",
                ),
            ],
        )

    @classmethod
    @finite
    def execute(
        cls,
        foreground: torch.Tensor,
        background: torch.Tensor,
        blended: torch.Tensor,
        cleanliness: float,
        light: str,
        relight: bool,
    ) -> io.NodeOutput:
        if foreground.shape[-1] != 4:
            raise ValueError(
                f"The foreground has {foreground.shape[-1]} channels, so no transparency; connect the RGBA foreground "
                "of LayerFusion Decode, or put a mask into its alpha with Join Image with Alpha."
            )
        pictures = [x.float().clamp(0.0, 1.0) for x in check_pictures(foreground, background, blended)]
        rows = []
        for cutouts, scene, wanted in zip(*(x.split(1) for x in pictures)):  # memory does not grow with the batch
            matched = match_layers(cutouts.unbind(1), scene, wanted, cleanliness, light == "linear", relight)
            image = flattened(matched, scene, light == "linear")
            rows.append((torch.cat(matched.foregrounds), matched.effects, image, difference_map(image, wanted)))
        return io.NodeOutput(*(torch.cat(parts) for parts in zip(*rows)))
