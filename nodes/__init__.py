"""The pack's nodes: thin wrappers, one file per user task."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..layerfusion_core.host.models.folders import layer_model_folder
from ..layerfusion_core.host.output.psd_route import add_route
from . import (
    conditioning,
    custom_sampling,
    demo,
    foregrounds,
    given,
    loading,
    matching,
    on_layers,
    options,
    patches,
    preview,
    priors,
    sampling,
    save,
    transparent,
)

NODES: dict[str, type[io.ComfyNode]] = {
    "LayerFusionLoadModels": loading.LayerFusionLoadModels,
    "LayerFusionApplyForeground": loading.LayerFusionApplyForeground,
    "LayerFusionLoadDemo": demo.LayerFusionLoadDemo,
    "LayerFusionTextEncode": conditioning.LayerFusionTextEncode,
    "LayerFusionTextEncodeSeveral": foregrounds.LayerFusionTextEncodeSeveral,
    "LayerFusionAddForeground": foregrounds.LayerFusionAddForeground,
    "LayerFusionOptions": options.LayerFusionOptionsNode,
    "LayerFusionGivenLayers": given.LayerFusionGivenLayers,
    "LayerFusionPlaceForeground": given.LayerFusionPlaceForeground,
    "LayerFusionKSampler": sampling.LayerFusionKSampler,
    "LayerFusionKSamplerAdvanced": sampling.LayerFusionKSamplerAdvanced,
    "LayerFusionGuider": custom_sampling.LayerFusionGuiderNode,
    "LayerFusionStackLatents": custom_sampling.LayerFusionStackLatents,
    "LayerFusionSplitLatents": custom_sampling.LayerFusionSplitLatents,
    "LayerFusionConditionOnLayers": on_layers.LayerFusionConditionOnLayers,
    "LayerFusionExtractPriors": priors.LayerFusionExtractPriors,
    "LayerFusionPreviewPriors": priors.LayerFusionPreviewPriors,
    "LayerFusionLoadTransparentVAE": transparent.LayerFusionLoadTransparentVAE,
    "LayerFusionDecode": transparent.LayerFusionDecode,
    "LayerFusionEncode": transparent.LayerFusionEncode,
    "LayerFusionMatchLayers": matching.LayerFusionMatchLayers,
    "LayerFusionSaveLayers": save.LayerFusionSaveLayers,
    "LayerFusionComposite": save.LayerFusionComposite,
    "LayerFusionPreviewLayers": preview.LayerFusionPreviewLayers,
    "LayerFusionLimitPatches": patches.LayerFusionLimitPatches,
}
"""Every public node by its ID, in menu order. Saved graphs name the IDs, so they never change."""


class LayerFusionExtension(ComfyExtension):
    """Lists the nodes for ComfyUI, makes the `layer_model` folder known to it, and answers the viewer's page."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return every node class of the pack, in menu order."""
        layer_model_folder()
        add_route()  # here, as older hosts never call on_load
        return list(NODES.values())
