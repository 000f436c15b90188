"""Which model family a MODEL is, in the words users know, and a clear refusal of those that are not SDXL."""

from __future__ import annotations

from comfy import supported_models
from comfy.model_patcher import ModelPatcher

# Class names, not classes: hosts differ in which families they have.
_FAMILY_NAMES = {
    "SD15_instructpix2pix": "InstructPix2Pix (SD1.5)",
    "SDXL_instructpix2pix": "InstructPix2Pix (SDXL)",
    "SSD1B": "SSD-1B",
    "Segmind_Vega": "Segmind Vega",
    "KOALA_700M": "KOALA 700M",
    "KOALA_1B": "KOALA 1B",
    "SDXLRefiner": "the SDXL refiner",
    "SDXL": "SDXL",
    "SD15": "Stable Diffusion 1.5",
    "Stable_Zero123": "Stable Zero123",
    "SVD_img2vid": "Stable Video Diffusion",
    "SD_X4Upscaler": "the SD x4 upscaler",
    "SD20": "Stable Diffusion 2",
    "Stable_Cascade_C": "Stable Cascade",
    "SD3": "Stable Diffusion 3",
    "FluxSchnell": "Flux schnell",
    "FluxInpaint": "Flux Fill",
    "Flux2": "Flux 2",
    "Flux": "Flux",
    "Chroma": "Chroma",
    "ZImage": "Z-Image",
    "Lumina2": "Lumina 2",
    "PixArtAlpha": "PixArt",
    "HunyuanDiT": "Hunyuan DiT",
    "HunyuanVideo": "Hunyuan",
    "WAN21_T2V": "Wan",
    "QwenImage": "Qwen-Image",
    "HiDream": "HiDream",
    "AuraFlow": "AuraFlow",
    "LTXV": "LTX-Video",
}


def family_name(model: ModelPatcher) -> str:
    """Return the family of a MODEL as users know it ("SDXL", "SSD-1B", "Flux", ...), else its config class's name."""
    config = getattr(model.model, "model_config", None)
    for cls in type(config).__mro__:
        if cls.__name__ in _FAMILY_NAMES:
            return _FAMILY_NAMES[cls.__name__]
    return type(config if config is not None else model.model).__name__


def require_sdxl(model: ModelPatcher, what: str) -> None:
    """Raise a ValueError unless the MODEL is SDXL or a relative with its block layout (Pony, SSD-1B, Vega, KOALA, ...).

    what: which model this is, for the message ("base_model", "checkpoint dreamshaper.safetensors").
    """
    config = getattr(model.model, "model_config", None)
    family = family_name(model)
    refused = None
    if not isinstance(config, supported_models.SDXL):
        refused = f"{what} is {family}"
    elif "instructpix2pix" in type(config).__name__.lower():
        refused = f"{what} is {family}, whose UNet takes an image beside the latent"
    elif not _has_attention(model):
        refused = f"{what} is {family}, but its UNet lacks SDXL's attention blocks"
    if refused is not None:
        raise ValueError(
            f"{refused}. Expected an SDXL checkpoint (SDXL base, or a model made from it such as Pony, Illustrious "
            f"or a Lightning merge): LayerFusion and its foreground weights exist for SDXL only."
        )


def _has_attention(model: ModelPatcher) -> bool:
    unet = model.model.diffusion_model
    blocks = getattr(unet, "output_blocks", None)
    return blocks is not None and any(
        len(getattr(layer, "transformer_blocks", ())) > 0 for block in blocks for layer in block
    )
