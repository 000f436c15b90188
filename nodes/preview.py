"""Looking at a run's layers without keeping them."""

from __future__ import annotations

import uuid

import torch
from comfy_api.latest import io

from ..layerfusion_core.method.prior_maps import PriorRecord
from .notices import notice
from .options import Priors
from .pictures import picture_inputs
from .save import Layers, layer_document, layer_pictures, opaque, written
from .schema import node_schema


class LayerFusionPreviewLayers(io.ComfyNode):
    """Shows foreground, background and blended picture in the viewer; its files go with the session."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionPreviewLayers",
            display_name="Preview Layers",
            search_aliases=["layer", "transparent", "rgba", "preview image"],
            description="Shows the layers as Save Layers does, and keeps nothing: for trials. Its files are temporary.",
            inputs=[
                *picture_inputs(),
                Priors.Input(
                    "priors",
                    optional=True,
                    tooltip="The priors of the LayerFusion KSampler: shows the masks of the run in the viewer.",
                ),
                io.Image.Input(
                    "effects", optional=True, tooltip="Light and shadow (RGBA) from LayerFusion Match Layers."
                ),
            ],
            outputs=[
                Layers.Output(
                    "layers",
                    display_name="layers",
                    tooltip="A layer document for ComfyUI's own layer nodes, as Save Layers gives it.",
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        foreground: torch.Tensor,
        background: torch.Tensor,
        blended: torch.Tensor,
        priors: PriorRecord | None = None,
        effects: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        pictures = layer_pictures(foreground, background, blended, effects)
        prefix = f"LayerFusion_{uuid.uuid4().hex[:8]}"  # numbers start anew in each session, pages cache by name
        shown = written(pictures, priors, "temp", prefix, {})
        return io.NodeOutput(layer_document(pictures), ui=shown | (notice(opaque(foreground, len(blended))) or {}))
