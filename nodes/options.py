"""Settings of the blending."""

from __future__ import annotations

from comfy_api.latest import io

from ..layerfusion_core.method.options import BackgroundMode, LayerFusionOptions, NoiseMode, PriorMode
from .floats import finite, float_input
from .per_layer import scale_inputs
from .schema import node_schema

Options = io.Custom("LAYERFUSION_OPTIONS")
Priors = io.Custom("LAYERFUSION_PRIORS")


class LayerFusionOptionsNode(io.ComfyNode):
    """Collects the choices of a run into one socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        default = LayerFusionOptions()
        return node_schema(
            node_id="LayerFusionOptions",
            display_name="LayerFusion Options",
            search_aliases=["layer", "settings", "blending"],
            description="How the layers exchange information while they are denoised. Without this node the defaults hold.",
            inputs=[
                io.Combo.Input(
                    "background_mode", options=[m.value for m in BackgroundMode], default=default.background_mode.value,
                    tooltip="share: away from the object, background and blended picture take the mean of their "
                    "attention: a clean background and one scene. "
                    "one_scene: far from it of their predictions, too: the most alike scenes, best before Match Layers, but "
                    "what the masks miss of the object fades. "
                    "adapt, the paper's: the scene follows the blended picture around the object (shadows, light), and keeps "
                    "traces of the object. "
                    "adapt_self: through self-attention only: fewer traces, but the scenes agree less. "
                    "literal: the paper's sentence as printed; pours the object into the background. "
                    "from_background: the blended picture copies the background instead. "
                    "off: the background ignores the others.",
                ),
                io.Combo.Input(
                    "prior_mode", options=[m.value for m in PriorMode], default=default.prior_mode.value,
                    tooltip="exact: masks from an extra pass of the foreground model at every step. "
                    "previous_step: masks from the step before; a third faster, and over 100 pairs of pictures nothing "
                    "changed by more than 0.2 dB or 2 %.",
                ),
                float_input(
                    "hardness", default=default.hardness, min=0.1, max=100.0, step=0.5,
                    tooltip="Sharpness d of the hard mask, sigmoid(d (soft - 0.5)). The paper uses 10.",
                ),
                float_input(
                    "strength", default=default.strength, min=0.0, max=1.0, step=0.01,
                    tooltip="How much of the blending is applied. 0 gives three independent pictures.",
                ),
                float_input(
                    "start_percent", default=default.start_percent, min=0.0, max=1.0, step=0.01,
                    tooltip="Where in the schedule the blending starts (0 = first step).",
                ),
                float_input(
                    "end_percent", default=default.end_percent, min=0.0, max=1.0, step=0.01,
                    tooltip="Where in the schedule the blending ends (1 = last step).",
                ),
                io.Combo.Input(
                    "noise", options=[m.value for m in NoiseMode], default=default.noise.value,
                    tooltip="shared: all layers start from the same noise, so that their layouts agree. "
                    "independent: each from its own.",
                ),
                io.Boolean.Input(
                    "blend_self_attention", default=default.self_attention, tooltip="Blend the outputs of self-attention."
                ),
                io.Boolean.Input(
                    "blend_cross_attention", default=default.cross_attention, tooltip="Blend the outputs of cross-attention."
                ),
                *scale_inputs("same as cfg"),
            ],
            outputs=[Options.Output(display_name="options", tooltip="For the LayerFusion KSampler.")],
        )  # fmt: skip

    @classmethod
    @finite
    def execute(cls, blend_self_attention: bool, blend_cross_attention: bool, **choices) -> io.NodeOutput:
        return io.NodeOutput(
            LayerFusionOptions(self_attention=blend_self_attention, cross_attention=blend_cross_attention, **choices)
        )
