"""The sampler: three layers in one run."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..layerfusion_core.host.sampling.foregrounds import gathered, join_foregrounds
from ..layerfusion_core.host.sampling.ksampler import sample_layers
from ..layerfusion_core.method.options import LayerFusionOptions
from ..layerfusion_core.method.streams import Layers
from .floats import finite, float_input
from .foregrounds import foreground_inputs
from .options import Options
from .per_layer import negative_inputs
from .schema import node_schema

Priors = io.Custom("LAYERFUSION_PRIORS")


class LayerFusionKSampler(io.ComfyNode):
    """Denoises foreground, blended and background together, blending them inside the attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionKSampler",
            display_name="LayerFusion KSampler",
            category="LayerFusion",
            search_aliases=["layer", "transparent", "rgba", "alpha", "cutout", "layerdiffuse"],
            description="Generate a transparent foreground, a clean background and a blended picture in one sampling run.",
            inputs=[
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
                io.Latent.Input(
                    "latent_image",
                    tooltip="Size and batch of the layers: an Empty Latent Image, or LayerFusion Given Layers.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True,
                    tooltip="Seed of the noise. The foreground gets the noise that a KSampler gives it for this seed.",
                ),
                io.Int.Input("steps", default=25, min=1, max=10000, tooltip="Denoising steps."),
                float_input(
                    "cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01,
                    tooltip="Guidance scale, for all layers. 1 skips the negative prompt.",
                ),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="dpmpp_2m", tooltip="The sampling algorithm."
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="karras",
                    tooltip="How noise is removed over the steps.",
                ),
                float_input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Below 1, start from latent_image with this share of the noise (all layers alike).",
                ),
                Options.Input("options", optional=True, tooltip="LayerFusion Options; the defaults without."),
                *negative_inputs(),
                *foreground_inputs(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="foreground",
                    tooltip="The object on grey; LayerFusion Decode cuts it out. Several: all of them, the rearmost first.",
                ),
                io.Latent.Output(display_name="background", tooltip="The scene without the object."),
                io.Latent.Output(display_name="blended", tooltip="The whole picture."),
                Priors.Output(display_name="priors", tooltip="Masks of the run, for Preview Priors."),
            ],
        )  # fmt: skip

    @classmethod
    @finite
    def execute(
        cls, base_model, foreground_model, foreground, background, blended, negative, latent_image,
        seed, steps, cfg, sampler_name, scheduler, denoise, options=None,
        negative_foreground=None, negative_background=None, negative_blended=None,
        foregrounds=None, region=None, vae=None,
    ) -> io.NodeOutput:  # fmt: skip
        conditionings, regions, own = gathered(foreground, region, foregrounds, vae)
        layers, priors = sample_layers(
            base_model, foreground_model, Layers(conditionings, blended, background), negative, latent_image,
            seed, steps, cfg, sampler_name, scheduler, denoise, options or LayerFusionOptions(),
            Layers((negative_foreground,) * len(conditionings), negative_blended, negative_background),
            regions=regions, own=own,
        )  # fmt: skip
        return io.NodeOutput(join_foregrounds(layers.foregrounds), layers.background, layers.blended, priors)
