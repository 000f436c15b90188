"""Loading nodes: an SDXL checkpoint with foreground weights, and foreground weights on any SDXL MODEL."""

from __future__ import annotations

import comfy.sd
import folder_paths
from comfy_api.latest import io

from ..layerfusion_core.host.models.families import require_sdxl
from ..layerfusion_core.host.models.folders import (
    check_layer_model,
    file_choices,
    file_identity,
    layer_model_files,
    layer_model_identity,
    layer_model_path,
)
from ..layerfusion_core.host.models.foreground import apply_foreground, load_foreground_weights
from ..layerfusion_core.weights.formats import PAGE, WANTED
from ..layerfusion_core.weights.header import read_header
from .floats import finite, float_input
from .schema import node_schema

SAME_AS_BASE = "same as base"
WEIGHTS = ("foreground weights", WANTED, PAGE)  # for messages about a missing file


class LayerFusionLoadModels(io.ComfyNode):
    """Loads a checkpoint once and gives it out twice: as it is, and with foreground weights on it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        checkpoints = folder_paths.get_filename_list("checkpoints")
        return node_schema(
            node_id="LayerFusionLoadModels",
            display_name="Load LayerFusion Models",
            search_aliases=["layerdiffuse", "transparent", "load checkpoint", "layer_xl_transparent_attn"],
            description=(
                "Loads an SDXL checkpoint and LayerDiffuse's foreground weights. The foreground model shares the "
                "checkpoint's memory, so this costs little more than loading the checkpoint alone. Foreground weights "
                f"belong into models/layer_model; get {WANTED} from {PAGE}."
            ),
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=file_choices(checkpoints),
                    tooltip="The SDXL checkpoint (models/checkpoints) for background and blended picture.",
                ),
                _weights_input(),
                io.Combo.Input(
                    "foreground_checkpoint",
                    options=[SAME_AS_BASE, *checkpoints],
                    default=SAME_AS_BASE,
                    tooltip="The checkpoint the foreground weights go onto. 'same as base' uses the checkpoint above "
                    "and shares its memory; another SDXL checkpoint is loaded beside it, and both run in lock step.",
                ),
            ],
            outputs=[
                io.Model.Output("base_model", display_name="base_model", tooltip="The checkpoint's model, unchanged."),
                io.Model.Output("foreground_model", display_name="foreground_model",
                                tooltip="The model with the foreground weights: draws the object on grey. An ordinary "
                                "MODEL; with a stock KSampler it gives what LayerDiffuse gives."),
                io.Clip.Output("clip", display_name="clip",
                               tooltip="The checkpoint's text encoders, for LayerFusion Text Encode."),
                io.Vae.Output("vae", display_name="vae",
                              tooltip="The checkpoint's ordinary VAE, for LayerFusion Decode."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, foreground_weights: str | None = None) -> bool | str:
        """Say before the run starts where a missing foreground weight file belongs."""
        return check_layer_model(foreground_weights, *WEIGHTS)

    @classmethod
    def fingerprint_inputs(cls, checkpoint=None, foreground_weights=None, foreground_checkpoint=None) -> list[str]:
        """Load again only when one of the files changed."""
        return [
            file_identity(_checkpoint_file(checkpoint)),
            layer_model_identity(foreground_weights),
            file_identity(_checkpoint_file(foreground_checkpoint)),
        ]

    @classmethod
    def execute(cls, checkpoint: str, foreground_weights: str, foreground_checkpoint: str) -> io.NodeOutput:
        path = layer_model_path(foreground_weights, *WEIGHTS)
        weights = load_foreground_weights(path)  # first: a wrong file is said before gigabytes are loaded
        base, clip, vae = load_checkpoint(checkpoint, "checkpoint")
        model = base
        if foreground_checkpoint not in (SAME_AS_BASE, checkpoint):
            model, _, _ = load_checkpoint(foreground_checkpoint, "foreground_checkpoint", model_only=True)
        return io.NodeOutput(base, apply_foreground(model, weights), clip, vae)


class LayerFusionApplyForeground(io.ComfyNode):
    """Puts foreground weights on an SDXL MODEL that is already on the graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionApplyForeground",
            display_name="Apply Foreground Weights (LayerDiffuse)",
            search_aliases=["layerdiffuse", "layer diffusion", "transparent", "layer_xl_transparent_attn"],
            description=(
                "Turns an SDXL model into a foreground model: it draws the object alone, on grey, ready for the "
                "transparent VAE. Put LoRAs that both streams should see before this node. Foreground weights belong "
                f"into models/layer_model; get {WANTED} from {PAGE}."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model: the one you connect as base_model, too."),
                _weights_input(),
                float_input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How strongly the weights act: 1 is LayerDiffuse, 0 leaves the model as it is.",
                ),
            ],
            outputs=[
                io.Model.Output("foreground_model", display_name="foreground_model",
                                tooltip="The model with the foreground weights; the input model stays unchanged and "
                                "they share memory."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, foreground_weights: str | None = None) -> bool | str:
        """Say before the run starts where a missing foreground weight file belongs."""
        return check_layer_model(foreground_weights, *WEIGHTS)

    @classmethod
    def fingerprint_inputs(cls, foreground_weights=None, strength=None, model=None) -> str:
        """Read the file again only when it changed."""
        return layer_model_identity(foreground_weights)

    @classmethod
    @finite
    def execute(cls, model, foreground_weights: str, strength: float) -> io.NodeOutput:
        require_sdxl(model, "model")  # before the file is read
        weights = load_foreground_weights(layer_model_path(foreground_weights, *WEIGHTS))
        return io.NodeOutput(apply_foreground(model, weights, strength))


def load_checkpoint(name: str, what: str, model_only: bool = False) -> tuple:
    """Return (MODEL, CLIP, VAE) of an SDXL checkpoint as the stock loader gives them; CLIP and VAE None if model_only.

    what: the input's name, for messages. ValueError for a missing, damaged or incomplete file, or another family.
    """
    path = _checkpoint_file(name)
    if path is None:
        came = f"'{name}' is not in the checkpoints folder" if name else "none is chosen"
        folder = folder_paths.get_folder_paths("checkpoints")[0]
        raise ValueError(
            f"Missing {what}: {came}. Put an SDXL checkpoint into {folder}, "
            f"then press R (Refresh Node Definitions) and choose it."
        )
    if path.lower().endswith((".safetensors", ".sft")):
        read_header(path)  # damaged downloads get our message instead of a stack trace
    try:
        model, clip, vae = comfy.sd.load_checkpoint_guess_config(
            path,
            output_vae=not model_only,
            output_clip=not model_only,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
        )[:3]
    except RuntimeError as error:
        if "detect model type" not in str(error):
            raise
        raise ValueError(f"{what} {name} holds no model that ComfyUI knows. Expected an SDXL checkpoint.") from error
    require_sdxl(model, f"{what} {name}")
    if not model_only and clip is None:
        raise ValueError(
            f"{what} {name} holds no text encoders: expected a full SDXL checkpoint. For separate files use "
            f"ComfyUI's own loaders and Apply Foreground Weights."
        )
    return model, clip, vae


def weight_files() -> list[str]:
    """Names in the layer_model folder for foreground weights: SDXL's attention weights first, decoders last."""

    def rank(name: str) -> tuple:
        lower = name.lower()
        return ("coder" in lower, "sd15" in lower, "transparent" not in lower and "sdxl" not in lower, lower)

    return sorted(layer_model_files(), key=rank)


def _weights_input() -> io.Combo.Input:
    return io.Combo.Input(
        "foreground_weights",
        options=file_choices(weight_files()),
        tooltip=f"LayerDiffuse's SDXL foreground weights from models/layer_model: {WANTED} (743 MB). Other packagings "
        "of them (conv, Diffusers, LoRA files) are recognised by their content.",
    )


def _checkpoint_file(name: str | None) -> str | None:
    return folder_paths.get_full_path("checkpoints", name) if name and name != SAME_AS_BASE else None
