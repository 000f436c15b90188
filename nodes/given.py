"""Layers of the user's own as input: kept or redrawn in the run, and cut-outs put in their place."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..layerfusion_core.host.models.transparent_encode import straight_alpha
from ..layerfusion_core.host.sampling.foregrounds import (
    masks_of_foregrounds,
    of_each_picture,
    require_one,
    split_foregrounds,
)
from ..layerfusion_core.host.sampling.given_layers import given_latent
from ..layerfusion_core.host.sampling.stacked import require_layer
from ..layerfusion_core.layers.placing import place
from ..layerfusion_core.method.streams import Layers
from .floats import finite, float_input
from .notices import notice
from .pictures import check_effects, count_input, of_pictures, opaque_cutout
from .schema import node_schema


def _keep(layer: str) -> io.Float.Input:
    return float_input(
        f"keep_{layer}",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip=f"1: the {layer} comes out as it is. Below: it is redrawn with denoise = 1 - keep. 0: it only gives the "
        "start, as in a KSampler. Without such a layer it has no effect.",
    )


def _mask(layer: str) -> io.Mask.Input:
    return io.Mask.Input(
        f"mask_{layer}",
        optional=True,
        tooltip=f"Part of the {layer} to make anew, as in ComfyUI's inpainting: 1 (white) = anew, 0 = keep.",
    )


class LayerFusionGivenLayers(io.ComfyNode):
    """Hands layers of the user's own to the sampler, which generates the others around them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionGivenLayers",
            display_name="LayerFusion Given Layers",
            search_aliases=[
                "layer", "inpaint", "relight", "harmonize", "background removal", "background replace",
                "separate layers",
            ],
            description="Bring layers of your own: paint a scene around a cut-out, place an object in a picture, "
            "harmonise both, or (experimental) take a finished picture apart. For the sampler's latent_image.",
            inputs=[
                io.Latent.Input(
                    "foreground",
                    optional=True,
                    tooltip="A cut-out, from LayerFusion Encode or a run; or all foregrounds of a run.",
                ),
                io.Latent.Input("background", optional=True, tooltip="A scene, from VAE Encode or a run."),
                io.Latent.Input("blended", optional=True, tooltip="A whole picture, from VAE Encode or a run."),
                _keep("foreground"),
                _keep("background"),
                _keep("blended"),
                _mask("foreground"),
                _mask("background"),
                _mask("blended"),
                count_input(
                    "How many cut-outs of foreground belong to one picture, the rearmost first: for several of your own from "
                    "LayerFusion Encode. 0: as the latent says; those of a run say it."
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="For latent_image of LayerFusion KSampler, or for LayerFusion Stack Latents. Other nodes see one "
                    "picture in it: the blended, else the background, else the foreground.",
                )
            ],
        )

    @classmethod
    @finite
    def execute(
        cls,
        keep_foreground: float,
        keep_background: float,
        keep_blended: float,
        foreground: dict | None = None,
        background: dict | None = None,
        blended: dict | None = None,
        mask_foreground: torch.Tensor | None = None,
        mask_background: torch.Tensor | None = None,
        mask_blended: torch.Tensor | None = None,
        foregrounds_per_picture: int = 0,
    ) -> io.NodeOutput:
        for name, latent in (("foreground", foreground), ("background", background), ("blended", blended)):
            if latent is not None:
                require_layer(name, latent)
                if name != "foreground":
                    require_one(name, latent)
        foregrounds = (None,) if foreground is None else split_foregrounds(of_each_picture(foreground, foregrounds_per_picture))
        count = len(foregrounds)
        masks = masks_of_foregrounds(mask_foreground, foregrounds)
        latent = given_latent(
            Layers(foregrounds, blended, background),
            Layers((keep_foreground,) * count, keep_blended, keep_background),
            Layers(masks, mask_blended, mask_background),
        )
        return io.NodeOutput(latent)


class LayerFusionPlaceForeground(io.ComfyNode):
    """Puts a cut-out on a canvas, moved and scaled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionPlaceForeground",
            has_intermediate_output=True,  # its notices come again when it is cached
            display_name="Place Foreground",
            search_aliases=["layer", "cutout", "move", "scale", "transform", "rgba", "png"],
            description="Move and scale a cut-out on a transparent canvas before LayerFusion Encode: the next run then "
            "harmonises it at its new place.",
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="A picture with alpha (RGBA), or a picture whose mask is connected. Of several all move alike.",
                ),
                io.Int.Input("x", default=0, min=-16384, max=16384, tooltip="Pixels to the right; negative: left."),
                io.Int.Input("y", default=0, min=-16384, max=16384, tooltip="Pixels down; negative: up."),
                float_input(
                    "scale",
                    default=1.0,
                    min=0.01,
                    max=16.0,
                    step=0.01,
                    tooltip="Size of the object about its own centre, of several with effects about their common one. 1 leaves "
                    "every pixel as it is.",
                ),
                io.Int.Input(
                    "width", default=0, min=0, max=16384, step=8, tooltip="Of the canvas; 0: the picture's own."
                ),
                io.Int.Input(
                    "height", default=0, min=0, max=16384, step=8, tooltip="Of the canvas; 0: the picture's own."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What is transparent, the way ComfyUI has it: 1 = transparent, as Load Image gives it.",
                ),
                io.Image.Input(
                    "effects",
                    optional=True,
                    tooltip="Light and shadow (RGBA) from LayerFusion Match Layers, of the cut-out or of all cut-outs of a "
                    "picture, to move along.",
                ),
            ],
            outputs=[
                # Older hosts want ids that no input has.
                io.Image.Output("placed", display_name="image", tooltip="The canvas, RGBA with straight colour."),
                io.Mask.Output("placed_mask", display_name="mask", tooltip="1 = transparent, the way ComfyUI has it."),
                io.Image.Output(
                    "placed_effects",
                    display_name="effects",
                    tooltip="Light and shadow at the cut-out's new place, RGBA; empty where none are connected.",
                ),
            ],
        )

    @classmethod
    @finite
    def execute(
        cls,
        image: torch.Tensor,
        x: int,
        y: int,
        scale: float,
        width: int,
        height: int,
        mask: torch.Tensor | None = None,
        effects: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        rgb, own = straight_alpha(image, mask)
        size = (height or image.shape[1], width or image.shape[2])
        about, group, film = own, own, None
        if effects is not None:
            cutouts = of_pictures(own, len(effects))
            film = check_effects(effects, image[: len(effects)])
            group = torch.stack(cutouts).amax(dim=0)  # one film for all of a picture, so that they move and grow as one
            about = group.repeat_interleave(len(cutouts), dim=0)
        placed = moved(rgb, own, about, size, x, y, scale)
        light = torch.zeros_like(placed) if film is None else moved(film[..., :3], film[..., 3], group, size, x, y, scale)
        per_picture = 1 if effects is None else len(own) // len(effects)
        return io.NodeOutput(placed, 1.0 - placed[..., 3], light, ui=notice(opaque_cutout(own, per_picture)))


def moved(rgb: torch.Tensor, alpha: torch.Tensor, about: torch.Tensor, *where) -> torch.Tensor:
    """What `place` makes of colour (B, H, W, 3) and alpha (B, H, W), as RGBA; about, where: as it takes them."""
    color, cover = place(rgb, alpha, *where, about=about)
    return torch.cat([color, cover[..., None]], dim=-1)
