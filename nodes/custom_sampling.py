"""The same engine under SamplerCustomAdvanced, with any sampler and sigmas."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..layerfusion_core.host.sampling.foregrounds import conditionings, gathered
from ..layerfusion_core.host.sampling.guider import LayerFusionGuider, run_record
from ..layerfusion_core.host.sampling.stacked import split_latent, stack_latent
from ..layerfusion_core.method.options import AS_CFG, LayerFusionOptions
from ..layerfusion_core.method.streams import Layers
from .floats import finite, float_input
from .foregrounds import foreground_inputs
from .options import Options, Priors
from .per_layer import layer_outputs, layer_results, negative_inputs, own_negatives, run_inputs, scale_inputs
from .schema import node_schema


class LayerFusionGuiderNode(io.ComfyNode):
    """A GUIDER that denoises the three layers together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionGuider",
            display_name="LayerFusion Guider",
            search_aliases=["layer", "transparent", "custom sampler", "cfg guider"],
            description="Guider for SamplerCustomAdvanced. Its latent must come from LayerFusion Stack Latents; Split Latents "
            "takes the result apart.",
            inputs=[
                *run_inputs(),
                float_input(
                    "cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance scale, for all layers."
                ),
                Options.Input("options", optional=True, tooltip="LayerFusion Options; the defaults without."),
                *negative_inputs(),
                *scale_inputs("as in the options, or else same as cfg"),
                foreground_inputs()[0],
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    @finite
    def execute(
        cls, base_model, foreground_model, foreground, background, blended, negative, cfg, options=None,
        negative_foreground=None, negative_background=None, negative_blended=None,
        cfg_foreground=AS_CFG, cfg_background=AS_CFG, cfg_blended=AS_CFG, foregrounds=None,
    ) -> io.NodeOutput:  # fmt: skip
        streams = Layers(conditionings(foreground, foregrounds), blended, background)
        count = streams.layout.foreground_count
        negatives = own_negatives(count, negative_foreground, negative_background, negative_blended)
        scales = {"cfg_foreground": cfg_foreground, "cfg_background": cfg_background, "cfg_blended": cfg_blended}
        own = {name: scale for name, scale in scales.items() if scale != AS_CFG}
        options = replace(options or LayerFusionOptions(), **own)
        guider = LayerFusionGuider(base_model, foreground_model, streams, negative, cfg, options, negatives)
        return io.NodeOutput(guider)


class LayerFusionStackLatents(io.ComfyNode):
    """Prepares a latent for the layers of a guider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionStackLatents",
            display_name="LayerFusion Stack Latents",
            search_aliases=["layer", "latent batch"],
            description="Prepare a latent for a LayerFusion Guider: one noise for foreground, blended and background. Several "
            "foregrounds, and regions, are connected here as well. The last node before the sampler.",
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="Size and batch of the layers: an Empty Latent Image, or LayerFusion Given Layers."
                ),
                *foreground_inputs(),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="For SamplerCustomAdvanced; it gives a row per layer.")
            ],
        )

    @classmethod
    def execute(cls, latent, foregrounds=None, region=None, vae=None) -> io.NodeOutput:
        found = gathered([], region, foregrounds, vae)
        return io.NodeOutput(stack_latent(latent, len(found.conditionings), found.regions, found.own))


class LayerFusionSplitLatents(io.ComfyNode):
    """Takes the layers out of the latent batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionSplitLatents",
            display_name="LayerFusion Split Latents",
            search_aliases=["layer", "latent from batch"],
            description="Take the layers out of what SamplerCustomAdvanced made of stacked latents.",
            inputs=[
                io.Latent.Input("latent", tooltip="Output of SamplerCustomAdvanced with a LayerFusion Guider."),
                io.Guider.Input(
                    "guider",
                    optional=True,
                    tooltip="The LayerFusion Guider of that sampler: gives the masks of its last run as priors.",
                ),
            ],
            outputs=[
                *layer_outputs(),
                Priors.Output(display_name="priors", tooltip="Masks of the guider's run, for Preview Priors; needs the guider."),
            ],
        )

    @classmethod
    def execute(cls, latent, guider=None) -> io.NodeOutput:
        priors = None if guider is None else run_record(guider)
        return io.NodeOutput(*layer_results(split_latent(latent)), priors)
