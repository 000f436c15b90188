"""The sampler: three layers in one run."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..layerfusion_core.host.sampling.foregrounds import gathered
from ..layerfusion_core.host.sampling.guider import LayerFusionGuider
from ..layerfusion_core.host.sampling.ksampler import Part, sample_layers, sample_part
from ..layerfusion_core.host.sampling.stacked import split_latent
from ..layerfusion_core.method.options import LayerFusionOptions
from ..layerfusion_core.method.streams import Layers
from .floats import finite, float_input
from .foregrounds import foreground_inputs
from .options import Options, Priors
from .per_layer import layer_outputs, layer_results, negative_inputs, own_negatives, run_inputs
from .schema import node_schema

SWITCH = ["enable", "disable"]


def schedule_inputs() -> list[io.Input]:
    """steps, cfg, sampler_name, scheduler."""
    return [
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
    ]  # fmt: skip


class LayerFusionKSampler(io.ComfyNode):
    """Denoises foreground, blended and background together, blending them inside the attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionKSampler",
            display_name="LayerFusion KSampler",
            search_aliases=["layer", "transparent", "rgba", "alpha", "cutout", "layerdiffuse"],
            description="Generate a transparent foreground, a clean background and a blended picture in one sampling run.",
            inputs=[
                *run_inputs(),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Size and batch of the layers: an Empty Latent Image, or LayerFusion Given Layers.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True,
                    tooltip="Seed of the noise. The foreground gets the noise that a KSampler gives it for this seed.",
                ),
                *schedule_inputs(),
                float_input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Below 1, start from latent_image with this share of the noise (all layers alike).",
                ),
                Options.Input("options", optional=True, tooltip="LayerFusion Options; the defaults without."),
                *negative_inputs(),
                *foreground_inputs(),
            ],
            outputs=[
                *layer_outputs(),
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
            own_negatives(len(conditionings), negative_foreground, negative_background, negative_blended),
            regions=regions, own=own,
        )  # fmt: skip
        return io.NodeOutput(*layer_results(layers), priors)


class LayerFusionKSamplerAdvanced(io.ComfyNode):
    """The sampler with a choice of steps and noise, as KSampler (Advanced) has it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionKSamplerAdvanced",
            display_name="LayerFusion KSampler (Advanced)",
            search_aliases=["layer", "transparent", "refiner", "start_at_step", "leftover noise", "two passes"],
            description="LayerFusion KSampler for a part of the steps, as KSampler (Advanced): a run may go on in another one, "
            "with other models, prompts or options.",
            inputs=[
                *run_inputs(),
                io.Latent.Input(
                    "latent_image",
                    tooltip="An Empty Latent Image, LayerFusion Given Layers, or the latent of the part before.",
                ),
                io.Combo.Input(
                    "add_noise", options=SWITCH, default="enable",
                    tooltip="enable: the layers get the first step's noise. disable: they have it from the part before.",
                ),
                io.Int.Input(
                    "noise_seed", default=0, min=0, max=2**64 - 1, control_after_generate=True,
                    tooltip="Seed of the noise. The foreground gets the noise that a KSampler gives it for this seed.",
                ),
                *schedule_inputs(),
                io.Int.Input("start_at_step", default=0, min=0, max=10000, tooltip="The first of the steps to do."),
                io.Int.Input(
                    "end_at_step", default=10000, min=0, max=10000, tooltip="The step to stop before; above steps: to the end."
                ),
                io.Combo.Input(
                    "return_with_leftover_noise", options=SWITCH, default="disable",
                    tooltip="enable: a run that ends early leaves noise in for the next part. disable: its last step "
                    "takes all noise away.",
                ),
                Options.Input("options", optional=True, tooltip="LayerFusion Options; the defaults without."),
                *negative_inputs(),
                *foreground_inputs(),
            ],
            outputs=[
                *layer_outputs(),
                Priors.Output(display_name="priors", tooltip="Masks of this part of the run, for Preview Priors."),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="All layers, for latent_image of the next part: a row for each layer of each picture.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    @finite
    def execute(
        cls, base_model, foreground_model, foreground, background, blended, negative, latent_image, add_noise, noise_seed,
        steps, cfg, sampler_name, scheduler, start_at_step, end_at_step, return_with_leftover_noise, options=None,
        negative_foreground=None, negative_background=None, negative_blended=None,
        foregrounds=None, region=None, vae=None,
    ) -> io.NodeOutput:  # fmt: skip
        conditionings, regions, own = gathered(foreground, region, foregrounds, vae)
        guider = LayerFusionGuider(
            base_model, foreground_model, Layers(conditionings, blended, background), negative, cfg,
            options or LayerFusionOptions(),
            own_negatives(len(conditionings), negative_foreground, negative_background, negative_blended),
        )  # fmt: skip
        part = Part(start_at_step, end_at_step, add_noise == "enable", return_with_leftover_noise == "enable")
        latent, priors = sample_part(guider, latent_image, noise_seed, steps, sampler_name, scheduler, part, regions, own)
        return io.NodeOutput(*layer_results(split_latent(latent)), priors, latent)
