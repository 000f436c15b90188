"""Other nodes' attention patches on chosen layers."""

from __future__ import annotations

from comfy_api.latest import io

from ..layerfusion_core.host.unet.stream_patches import STREAMS, limit_patches
from .schema import node_schema


class LayerFusionLimitPatches(io.ComfyNode):
    """Lets an IPAdapter, or another node that replaces attention, act on chosen layers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionLimitPatches",
            display_name="Limit Patches to Layers",
            search_aliases=["ipadapter", "attention mask", "layer"],
            description="Make what a node like IPAdapter does to attention act on chosen layers of a LayerFusion run.",
            inputs=[
                io.Model.Input("model", tooltip="The model before the node whose patches are to be limited."),
                io.Model.Input("patched_model", tooltip="The model behind that node (IPAdapter Advanced, for example)."),
                io.Boolean.Input("foreground", default=True, tooltip="Whether the patches act on the foreground."),
                io.Boolean.Input("background", default=False, tooltip="Whether the patches act on the background."),
                io.Boolean.Input("blended", default=True, tooltip="Whether the patches act on the blended picture."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For Apply Foreground Weights and the sampler.")],
        )

    @classmethod
    def execute(cls, model, patched_model, **chosen) -> io.NodeOutput:
        return io.NodeOutput(limit_patches(patched_model, model, {name for name in STREAMS if chosen[name]}))
