"""Looking at the priors and masks."""

from __future__ import annotations

from comfy_api.latest import io

from ..layerfusion_core.host.sampling.extract import extract_priors
from ..layerfusion_core.method.map_colors import enlarge, prior_strip
from .floats import finite, float_input
from .options import Priors
from .schema import node_schema

LAST = "last self-attention"
SDXL_BLOCKS = ["input 4", "input 5", "input 7", "input 8", "middle 0", *(f"output {n}" for n in range(6))]


class LayerFusionExtractPriors(io.ComfyNode):
    """The paper's Fig. 2 for a foreground of your own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionExtractPriors",
            display_name="Extract Priors",
            search_aliases=["layer", "attention map", "mask", "saliency"],
            description="Structure and content confidence prior of a foreground latent at one noise level, and their masks.",
            inputs=[
                io.Model.Input("foreground_model", tooltip="A model with foreground weights."),
                io.Conditioning.Input("foreground", tooltip="The prompt of the object."),
                io.Latent.Input("latent_image", tooltip="A finished foreground latent."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True,
                    tooltip="Seed of the noise added to the latent.",
                ),
                float_input(
                    "noise_percent", default=0.8, min=0.01, max=1.0, step=0.01,
                    tooltip="Timestep at which the priors are read, as a share of all timesteps; 0.8 as in the paper's figure.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="structure", tooltip="Structure prior s': bright where attention is concentrated."),
                io.Image.Output(display_name="content", tooltip="Content confidence c of the last block, stretched for display."),
                io.Mask.Output(display_name="soft", tooltip="Soft mask norm(s' c)."),
                io.Mask.Output(display_name="hard", tooltip="Hard mask sigmoid(10 (soft - 0.5))."),
            ],
        )  # fmt: skip

    @classmethod
    @finite
    def execute(cls, foreground_model, foreground, latent_image, seed: int, noise_percent: float) -> io.NodeOutput:
        record = extract_priors(foreground_model, foreground, latent_image, seed, noise_percent)
        maps = {name: enlarge(x, record.image_size) for name, x in record.images(0).items()}
        grey = [maps[name].unsqueeze(-1).repeat(1, 1, 1, 3) for name in ("structure", "content")]
        return io.NodeOutput(*grey, maps["soft"], maps["hard"])


class LayerFusionPreviewPriors(io.ComfyNode):
    """Shows what the sampler blended with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionPreviewPriors",
            display_name="Preview Priors",
            search_aliases=["layer", "attention map", "mask", "heatmap"],
            description="Structure | content | soft mask | hard mask of one step of a LayerFusion KSampler run, blue = 0, red = 1.",
            inputs=[
                Priors.Input("priors", tooltip="From the LayerFusion KSampler."),
                io.Combo.Input(
                    "block", options=[LAST, *SDXL_BLOCKS], default=LAST,
                    tooltip="Which attention block's content prior and masks; the last of its transformer layers is shown.",
                ),
                io.Int.Input(
                    "step", default=5, min=1, max=10000, tooltip="Which blended step, from 1; past the end shows the last one."
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The four maps side by side.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, priors, block: str, step: int) -> io.NodeOutput:
        if priors is None:
            raise ValueError("priors: got none; connect the guider of the run to LayerFusion Split Latents as well")
        if not priors.maps:  # no error: that would end the run before the layers are saved
            return io.NodeOutput(
                None,  # the host forgets to block an output that has no value
                block_execution="Preview Priors has nothing to show: the run blended nothing (strength 0, or no step between "
                "start_percent and end_percent)"
            )
        chosen = None
        if block != LAST:
            side, number = block.split()
            layers = [b for b in priors.blocks if b[:2] == (side, int(number))]
            chosen = layers[-1] if layers else (side, int(number), 0)
        return io.NodeOutput(prior_strip(priors, max(0, min(step, len(priors.maps)) - 1), chosen))
