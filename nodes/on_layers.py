"""LayerDiffuse's own way: one layer after another, each in a stock sampler, conditioned on those that are there."""

from __future__ import annotations

from comfy_api.latest import io

from ..layerfusion_core.host.models.families import require_sdxl
from ..layerfusion_core.host.models.folders import (
    check_layer_model,
    file_choices,
    layer_model_files,
    layer_model_identity,
    layer_model_path,
)
from ..layerfusion_core.host.sampling.on_layers import condition_on_layers, load_conditional_weights
from ..layerfusion_core.weights.conditional import AUTO, FILE, FILES, KINDS
from ..layerfusion_core.weights.formats import PAGE
from .floats import finite, float_input
from .schema import node_schema

WEIGHTS = ("conditional weights", FILE, PAGE)  # for messages about a missing file


class LayerFusionConditionOnLayers(io.ComfyNode):
    """Conditions an SDXL MODEL on layers that are there already, with LayerDiffuse's weights for it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionConditionOnLayers",
            display_name="LayerFusion Condition on Layers",
            search_aliases=["layerdiffuse", "layer diffusion", "fg2ble", "bg2ble", "fgble2bg", "bgble2fg", "layer"],
            description="LayerDiffuse's own steps, for the stock KSampler: a blended picture around a foreground or in a "
            "background, then the layer that is missing. The weights belong into models/layer_model; get "
            f"{FILES} from {PAGE}.",
            inputs=[
                io.Model.Input("model", tooltip="The SDXL checkpoint's model, with LoRAs if you like; no foreground weights."),
                io.Combo.Input(
                    "weights",
                    options=file_choices(conditional_files()),
                    tooltip="From models/layer_model (702 MB each, bgble2fg 3.6 GB), also as converted for Diffusers. Each "
                    "takes other layers: fg2ble the foreground, bg2ble the background, fgble2bg foreground and blended, "
                    "bgble2fg background and blended.",
                ),
                io.Combo.Input(
                    "kind",
                    options=[AUTO, *KINDS],
                    default=AUTO,
                    tooltip="Which of the four the file is. auto: by its content and name; fg2ble and bg2ble hold the same "
                    "tensors, so a renamed file must be told.",
                ),
                float_input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How strongly weights and given layers act: 1 is LayerDiffuse, 0 leaves the model as it is.",
                ),
                io.Latent.Input(
                    "foreground",
                    optional=True,
                    tooltip="The object on grey: LayerFusion Encode without transparent_vae, as LayerDiffuse does it, or the "
                    "latent of the sampler that made it.",
                ),
                io.Latent.Input("background", optional=True, tooltip="The scene: VAE Encode, or the sampler that made it."),
                io.Latent.Input(
                    "blended", optional=True, tooltip="The whole picture: VAE Encode, or the sampler that made it."
                ),
            ],
            outputs=[
                # Older hosts want ids that no input has.
                io.Model.Output("conditioned", display_name="model",
                                tooltip="For the stock KSampler, or any sampler of one picture; the input model stays as it is."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, weights: str | None = None) -> bool | str:
        """Say before the run starts where a missing file belongs."""
        return check_layer_model(weights, *WEIGHTS)

    @classmethod
    def fingerprint_inputs(cls, weights=None, **inputs) -> str:
        """Read the file again only when it changed."""
        return layer_model_identity(weights)

    @classmethod
    @finite
    def execute(
        cls,
        model,
        weights: str,
        kind: str,
        strength: float,
        foreground: dict | None = None,
        background: dict | None = None,
        blended: dict | None = None,
    ) -> io.NodeOutput:
        require_sdxl(model, "model")  # before the file is read
        read = load_conditional_weights(layer_model_path(weights, *WEIGHTS), kind)
        given = {"foreground": foreground, "background": background, "blended": blended}
        return io.NodeOutput(condition_on_layers(model, read, given, strength))


def conditional_files() -> list[str]:
    """Names in the layer_model folder, those that are named like one of the four files first."""
    return sorted(layer_model_files(), key=lambda name: (not any(kind in name.lower() for kind in KINDS), name.lower()))
