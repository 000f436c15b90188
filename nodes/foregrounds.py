"""Several foregrounds in one run: their prompts, and where each may be."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..layerfusion_core.host.sampling.conditioning import encode_prompt
from ..layerfusion_core.host.sampling.foregrounds import Foreground
from ..layerfusion_core.layers.regions import box_mask, joined, parse_parts
from .conditioning import prompt_input
from .floats import finite, float_input
from .schema import node_schema

Foregrounds = io.Custom("LAYERFUSION_FOREGROUNDS")
EXAMPLE = "a red apple | left\na blue star | right"


def foreground_inputs() -> list[io.Input]:
    """foregrounds, region, vae: optional, for the nodes that prepare a run."""
    return [
        Foregrounds.Input(
            "foregrounds",
            optional=True,
            tooltip="Further foregrounds, from LayerFusion Add Foreground or LayerFusion Text Encode (several).",
        ),
        io.Mask.Input(
            "region",
            optional=True,
            tooltip="Where the first foreground may be: 1 (white) inside. Outside, its canvas stays empty.",
        ),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="The checkpoint's VAE, needed where a foreground has a region: it says what an empty canvas is.",
        ),
    ]


def _share(name: str, default: float, tooltip: str) -> io.Float.Input:
    return float_input(name, default=default, min=0.0, max=1.0, step=0.01, round=0.0001, tooltip=tooltip)


class LayerFusionAddForeground(io.ComfyNode):
    """Adds one more foreground to a run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionAddForeground",
            display_name="LayerFusion Add Foreground",
            search_aliases=["several objects", "region", "regional", "layer"],
            description="One more foreground for the same run, a layer of its own. A region keeps each object at its own place; "
            "without regions all objects tend to the middle. Chain several nodes for more.",
            inputs=[
                io.Conditioning.Input("foreground", tooltip="This object alone, without a scene."),
                _share("x", 0.0, "Left edge of its region, as a share of the width."),
                _share("y", 0.0, "Upper edge of its region, as a share of the height."),
                _share("width", 1.0, "Width of its region; 1 with height 1: the whole canvas."),
                _share("height", 1.0, "Height of its region."),
                io.Int.Input(
                    "order", default=1, min=-100, max=100,
                    tooltip="Larger lies in front; the sampler's own foreground has 0, and equal ones lie as they are chained.",
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="A region of any shape in place of the box: 1 (white) where the object may be.",
                ),
                Foregrounds.Input("foregrounds", optional=True, tooltip="The foregrounds before this one."),
            ],
            outputs=[
                Foregrounds.Output(
                    display_name="foregrounds",
                    tooltip="For LayerFusion KSampler, or LayerFusion Guider and Stack Latents, or the next Add Foreground.",
                )
            ],
        )  # fmt: skip

    @classmethod
    @finite
    def execute(
        cls, foreground, x: float, y: float, width: float, height: float, order: int,
        region: torch.Tensor | None = None, foregrounds: tuple[Foreground, ...] | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        whole = (x, y, width, height) == (0.0, 0.0, 1.0, 1.0)
        if region is not None and not whole:
            raise ValueError(
                "LayerFusion Add Foreground: got a region and a box; disconnect the region, or set x and y to 0, width and "
                "height to 1"
            )
        if region is None and not whole:
            region = box_mask(x, y, width, height, "LayerFusion Add Foreground")
        return io.NodeOutput((*(foregrounds or ()), Foreground(foreground, region, order)))


class LayerFusionTextEncodeSeveral(io.ComfyNode):
    """Encodes the prompts of a run with several foregrounds, each in a region of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionTextEncodeSeveral",
            display_name="LayerFusion Text Encode (several)",
            search_aliases=["several objects", "regional prompts", "layer prompts"],
            description="Encode the prompts of several foregrounds with their regions, and of the other layers.",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the SDXL checkpoint."),
                prompt_input(
                    "foregrounds",
                    "One object per line, the rearmost first: prompt | region. The region is left, right, top, bottom, or "
                    "x, y, width, height as shares of the canvas: a red apple | 0, 0.2, 0.5, 0.8",
                    EXAMPLE,
                ),
                prompt_input("background", "The scene without the objects, e.g. 'a wooden table by a window'."),
                prompt_input("blended", "The whole picture. Leave empty for all foregrounds and the background, joined.", ""),
                prompt_input("negative", "What no layer should show.", ""),
            ],
            outputs=[
                io.Conditioning.Output(display_name="foreground", tooltip="For the first, rearmost foreground."),
                io.Conditioning.Output(display_name="background", tooltip="For the clean background."),
                io.Conditioning.Output(display_name="blended", tooltip="For the blended picture."),
                io.Conditioning.Output(display_name="negative", tooltip="For all layers."),
                io.Mask.Output(
                    "region", display_name="region", tooltip="Region of the first foreground; all white for none."
                ),
                Foregrounds.Output(
                    "others", display_name="foregrounds", tooltip="The other foregrounds, with their regions."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, foregrounds: str | None = None) -> bool | str:
        """Says before the run which line cannot be read. None: the text comes from another node."""
        try:
            parse_parts(foregrounds) if foregrounds is not None else None
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, clip, foregrounds: str, background: str, blended: str, negative: str) -> io.NodeOutput:
        parts = parse_parts(foregrounds)
        blended = blended.strip() or joined([part.text for part in parts], background)
        first, *others = (
            Foreground(encode_prompt(clip, part.text), None if part.box is None else box_mask(*part.box)) for part in parts
        )
        region = torch.ones(1, 64, 64) if first.region is None else first.region
        texts = (encode_prompt(clip, text) for text in (background, blended, negative))
        return io.NodeOutput(first.conditioning, *texts, region, tuple(others))
