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

NODE_FILES = (
    loading, demo, conditioning, foregrounds, options, given, sampling, custom_sampling, on_layers, priors, transparent,
    matching, save, preview, patches,
)  # fmt: skip


class LayerFusionExtension(ComfyExtension):
    """Lists the nodes for ComfyUI, makes the `layer_model` folder known to it, and answers the viewer's page."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return every node class of the pack, in menu order."""
        layer_model_folder()
        add_route()  # here, as older hosts never call on_load
        return [node for file in NODE_FILES for node in file.NODES]
