"""Transparent VAE nodes: load it, and decode a run's three latents into layers."""

from __future__ import annotations

import comfy.utils
import torch
from comfy_api.latest import io

from ..layerfusion_core.host.models.folders import (
    check_layer_model,
    file_choices,
    layer_model_files,
    layer_model_identity,
)
from ..layerfusion_core.host.models.transparent_encode import encode_transparent, join_alpha
from ..layerfusion_core.host.models.transparent_vae import (
    DECODER,
    ENCODER,
    NO_ENCODER,
    TransparentVAE,
    load_transparent_vae,
)
from ..layerfusion_core.host.sampling.foregrounds import emptied, empty_pixels, foreground_count, per_foreground
from ..layerfusion_core.host.sampling.given_layers import given_picture
from ..layerfusion_core.host.sampling.stacked import LAYER_KEY, require_layer
from ..layerfusion_core.layers.keep import paste_pixels
from ..layerfusion_core.vae.decode import ENSEMBLES
from ..layerfusion_core.vae.encode import OFFSET_SCALE
from ..layerfusion_core.vae.findings import effect_warning
from .floats import finite, float_input
from .notices import notice
from .pictures import opaque_cutout
from .schema import node_schema

TransparentVae = io.Custom("LAYERFUSION_TRANSPARENT_VAE")


class LayerFusionLoadTransparentVAE(io.ComfyNode):
    """Loads LayerDiffuse's transparent VAE from the layer_model folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        decoders, encoders = transparent_files()
        return node_schema(
            node_id="LayerFusionLoadTransparentVAE",
            display_name="Load Transparent VAE",
            search_aliases=["layerdiffuse", "transparent", "alpha", "rgba", "vae_transparent_decoder"],
            description=(
                "Loads the network that turns a foreground latent into colour and alpha. The files belong into "
                "models/layer_model; they come from LayerDiffusion/layerdiffusion-v1 on Hugging Face."
            ),
            inputs=[
                io.Combo.Input(
                    "decoder",
                    options=file_choices(decoders),
                    tooltip="The transparent decoder: vae_transparent_decoder.safetensors (208 MB) for SDXL, "
                    "layer_sd15_vae_transparent_decoder.safetensors for SD 1.5.",
                ),
                io.Combo.Input(
                    "encoder",
                    options=[NO_ENCODER, *encoders],
                    default=NO_ENCODER,
                    tooltip="The transparent encoder (vae_transparent_encoder.safetensors, 2 MB). Only needed to "
                    "encode your own pictures with alpha; none is fine for everything else.",
                ),
            ],
            outputs=[
                TransparentVae.Output(
                    "transparent_vae", display_name="transparent_vae", tooltip="For LayerFusion Decode and Encode."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, decoder: str | None = None, encoder: str | None = None) -> bool | str:
        """Say before the run starts where a missing file belongs."""
        found = check_layer_model(decoder, *DECODER)
        return found if found is not True or encoder == NO_ENCODER else check_layer_model(encoder, *ENCODER)

    @classmethod
    def fingerprint_inputs(cls, decoder=None, encoder=None) -> list[str]:
        """Load again only when one of the files changed."""
        return [layer_model_identity(name) for name in (decoder, encoder)]

    @classmethod
    def execute(cls, decoder: str, encoder: str) -> io.NodeOutput:
        return io.NodeOutput(load_transparent_vae(decoder, encoder))


def _given(layer: str, what: str) -> io.Image.Input:
    return io.Image.Input(
        f"given_{layer}",
        optional=True,
        tooltip=f"Only after LayerFusion Given Layers: the {layer} picture {what}. Where it was kept in full (keep 1), its own "
        "pixels come out, without what the VAE loses.",
    )


class LayerFusionDecode(io.ComfyNode):
    """Decodes the three latents of a run: transparent foreground, background and blended picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionDecode",
            has_intermediate_output=True,  # its notices come again when it is cached
            display_name="LayerFusion Decode (RGBA, Alpha)",
            search_aliases=[
                "layerdiffuse decode", "transparent", "rgba", "alpha", "cutout", "vae decode",
                "png",
            ],
            description=(
                "Turns the sampler's latents into pictures: the foreground with real transparency (straight colour), "
                "its alpha, the background and the blended picture. Warns when the foreground came out opaque."
            ),
            inputs=[
                io.Latent.Input("foreground", tooltip="The foreground latent, or latents, of the LayerFusion sampler."),
                io.Latent.Input("background", tooltip="The background latent of the LayerFusion sampler."),
                io.Latent.Input("blended", tooltip="The blended latent of the LayerFusion sampler."),
                io.Vae.Input("vae", tooltip="The checkpoint's ordinary VAE."),
                TransparentVae.Input("transparent_vae", tooltip="From Load Transparent VAE or Load Demo Models."),
                io.Combo.Input(
                    "ensemble",
                    options=[str(count) for count in ENSEMBLES],
                    default="8",
                    tooltip="How often the alpha decoder looks at the picture, flipped and turned; the median counts. "
                    "8 is the published setting, 1 is eight times faster and a little noisier.",
                ),
                io.Int.Input(
                    "tile_size",
                    default=0,
                    min=0,
                    max=8192,
                    step=64,
                    optional=True,
                    tooltip="0: the alpha decoder takes the picture in one piece, and tiles only when memory "
                    "is short. Otherwise the side of its tiles in pixels: less memory, less exact alpha.",
                ),
                _given("foreground", "with alpha (RGBA)"),
                _given("background", "that VAE Encode got"),
                _given("blended", "that VAE Encode got"),
            ],
            outputs=[
                # Older hosts want ids that no input has, so the pictures' ids say that they are pictures.
                io.Image.Output(
                    "foreground_image",
                    display_name="foreground",
                    tooltip="RGBA with straight (not premultiplied) colour. Of several foregrounds as many per picture, the "
                    "rearmost first.",
                ),
                io.Mask.Output(
                    "alpha",
                    display_name="alpha",
                    tooltip="The foreground's mask, the way ComfyUI has it: 1 = transparent.",
                ),
                io.Image.Output("background_image", display_name="background", tooltip="The background, RGB."),
                io.Image.Output("blended_image", display_name="blended", tooltip="The layers together, RGB."),
            ],
        )

    @classmethod
    def execute(
        cls,
        foreground: dict,
        background: dict,
        blended: dict,
        vae,
        transparent_vae: TransparentVAE,
        ensemble: str,
        tile_size: int = 0,
        given_foreground: torch.Tensor | None = None,
        given_background: torch.Tensor | None = None,
        given_blended: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        samples = {"foreground": foreground, "background": background, "blended": blended}
        for name, latent in samples.items():
            check_latent(name, latent)
        check_layers(samples)
        pictures_given = {"foreground": given_foreground, "background": given_background, "blended": given_blended}
        given = {
            name: given_picture(name, per_foreground(picture, samples[name]), samples[name], 4 if name == "foreground" else 3)
            for name, picture in pictures_given.items()
            if picture is not None
        }
        pictures = {name: decode_pixels(vae, latent["samples"]) for name, latent in samples.items()}

        rows, passes = len(pictures["foreground"]), int(ensemble)
        bar = comfy.utils.ProgressBar(rows * passes)
        rgb, alpha = transparent_vae.decode(
            pictures["foreground"],
            foreground["samples"],
            passes,
            lambda done, total: bar.update_absolute(done, total),
            tile_size,
        )

        decoded, empty = pictures["foreground"].movedim(-1, 1), empty_pixels(alpha, foreground)
        alpha = emptied(alpha, foreground)
        pictures["foreground"] = torch.cat([rgb, alpha[..., None]], dim=-1)  # (B, H, W, 4)
        for name, (picture, keep) in given.items():
            pictures[name] = paste_pixels(pictures[name], picture, keep)
        rgba = pictures["foreground"]
        region = None if empty is None else ~empty
        message = effect_warning(decoded, rgba[..., 3], foreground_count(foreground), region)
        return io.NodeOutput(rgba, 1.0 - rgba[..., 3], pictures["background"], pictures["blended"], ui=notice(message))


def transparent_files() -> tuple[list[str], list[str]]:
    """Names in the layer_model folder for the decoder and the encoder input, the likely ones first."""
    names = layer_model_files()

    def likely_first(word: str) -> list[str]:
        return sorted(names, key=lambda name: (word not in name.lower(), "sd15" in name.lower()))

    return likely_first("transparent_decoder"), likely_first("transparent_encoder")


def check_latent(name: str, latent: dict) -> None:
    """Raises ValueError unless a LATENT holds (batch, 4, height, width), as SDXL's and SD 1.5's do."""
    shape = tuple(latent["samples"].shape)
    if len(shape) != 4 or shape[1] != 4:
        raise ValueError(
            f"The {name} latent has shape {shape}; LayerFusion Decode expects (batch, 4, height, width), the latents "
            "of an SDXL (or SD 1.5) model. Connect the LayerFusion sampler's outputs."
        )


def check_layers(latents: dict[str, dict]) -> None:
    """Raises ValueError when latents of a run came in at each other's inputs: the cut-out would be opaque, a scene grey.

    A background for the blended picture, too, or the other way, is no fault as long as the two are not exchanged.
    """
    for name, latent in latents.items():
        require_layer(name, latent)
    layers = {name: latent.get(LAYER_KEY, name) for name, latent in latents.items()}
    swapped = layers["background"] == "blended" and layers["blended"] == "background"
    for name, layer in layers.items():
        cutout = layer.startswith("foreground")
        if cutout != (name == "foreground") or (swapped and not cutout):
            raise ValueError(
                f"{name}: expected the {name} latent, got the {layer} latent of a LayerFusion run; connect the sampler's (or "
                f"Split Latents') {name} output"
            )


def decode_pixels(vae, samples: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) fp32 pixels in [0, 1] of (B, 4, h, w) latents."""
    return vae.decode(samples).float()[..., :3]


class LayerFusionEncode(io.ComfyNode):
    """Encodes a picture with alpha as a foreground latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionEncode",
            has_intermediate_output=True,  # its notices come again when it is cached
            display_name="LayerFusion Encode (Cutout)",
            search_aliases=["layerdiffuse encode", "transparent", "rgba", "alpha", "cutout", "vae encode", "png"],
            description=(
                "Turns a picture with transparency into a foreground latent: colour is padded under the transparent "
                "parts, laid over mid-grey and encoded, the way foreground models paint it."
            ),
            inputs=[
                io.Image.Input("image", tooltip="A picture with alpha (RGBA), or a picture whose mask is connected."),
                io.Vae.Input("vae", tooltip="The checkpoint's ordinary VAE."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What is transparent, the way ComfyUI has it: 1 = transparent, as Load Image gives it.",
                ),
                TransparentVae.Input(
                    "transparent_vae",
                    optional=True,
                    tooltip="When it was loaded with an encoder, the latent is shifted so that it carries the alpha.",
                ),
                float_input(
                    "offset_scale",
                    default=OFFSET_SCALE,
                    min=0.0,
                    max=1000.0,
                    step=1.0,
                    optional=True,
                    tooltip="Strength of the encoder's shift; 300 as published, 0 leaves it out. Without an encoder it "
                    "has no effect.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", display_name="foreground", tooltip="The foreground latent, for a sampler or Decode."
                )
            ],
        )

    @classmethod
    @finite
    def execute(
        cls,
        image: torch.Tensor,
        vae,
        mask: torch.Tensor | None = None,
        transparent_vae: TransparentVAE | None = None,
        offset_scale: float = OFFSET_SCALE,
    ) -> io.NodeOutput:
        rgb, alpha = join_alpha(image, mask)
        latent = {"samples": encode_transparent(vae, rgb, alpha, transparent_vae, offset_scale)}
        return io.NodeOutput(latent, ui=notice(opaque_cutout(alpha)))
