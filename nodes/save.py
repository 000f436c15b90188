"""Saving a run's layers, and laying them over each other."""

from __future__ import annotations

import json

import folder_paths
import torch
import torch.nn.functional as F
from comfy.cli_args import args
from comfy_api.latest import io

from ..layerfusion_core.host.output.prefixes import prefix_problem
from ..layerfusion_core.host.output.viewer import mask_files
from ..layerfusion_core.layers.compositing import alpha_over, difference_map
from ..layerfusion_core.layers.export import LayerSet, PartlySaved, foreground_endings, metadata_texts, save_set
from ..layerfusion_core.layers.export_formats import DEPTHS, NO_PSD_TOOLS, has_psd_tools, layer_order, writers
from ..layerfusion_core.method.prior_maps import PriorRecord
from ..layerfusion_core.vae.findings import opaque_finding
from .floats import finite, float_input
from .notices import notice
from .options import Priors
from .pictures import check_effects, check_pictures, count_input, of_pictures, picture_inputs
from .schema import node_schema, unknown_inputs

Layers = io.Custom("LAYERS")


def depth_problem(bit_depth: str) -> str | None:
    """What is wrong with a bit depth, None when nothing is: older hosts let every value of a list through."""
    depths = " or ".join(map(str, DEPTHS))
    return None if bit_depth in map(str, DEPTHS) else f"bit_depth must be {depths}, got {bit_depth!r}"


def _format(name: str, tooltip: str) -> io.Boolean.Input:
    return io.Boolean.Input(name, default=False, optional=True, tooltip=tooltip)


class LayerFusionSaveLayers(io.ComfyNode):
    """Saves foreground, background and blended picture under one number and shows them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionSaveLayers",
            display_name="Save Layers (PNG, PSD, RGBA)",
            search_aliases=[
                "layer", "transparent", "png", "rgba", "alpha", "psd", "photoshop", "openraster", "ora", "krita",
                "gimp", "webp", "save image",
            ],
            description=(
                "Saves the layers into ComfyUI's output folder: name_00001_foreground.png (with transparency), "
                "name_00001_background.png and name_00001_blended.png, with the workflow inside; several foregrounds as "
                "foreground_1 (the rearmost), foreground_2 ... Never overwrites."
            ),
            inputs=[
                *picture_inputs(),
                io.String.Input(
                    "filename_prefix",
                    default="LayerFusion",
                    tooltip="How the file names begin. Subfolders (a/b) and tokens such as %date:yyyy-MM-dd%, "
                    "%Node name.seed%, %width% work as in Save Image.",
                ),
                _format("psd", "A layered Photoshop file as well, ..._layers.psd. Needs the package psd-tools."),
                _format("ora", "A layered OpenRaster file for Krita and GIMP as well, ..._layers.ora."),
                _format("webp", "A lossless WebP file of each layer as well."),
                io.Combo.Input(
                    "bit_depth",
                    options=[str(depth) for depth in DEPTHS],
                    default=str(DEPTHS[0]),
                    optional=True,
                    tooltip="Bits per channel of PNG and PSD files; OpenRaster and WebP always have 8.",
                ),
                Priors.Input(
                    "priors",
                    optional=True,
                    tooltip="The priors of the LayerFusion KSampler: shows the masks of the run in the viewer. "
                    "Changes no file.",
                ),
                io.Image.Input(
                    "effects",
                    optional=True,
                    tooltip="Light and shadow (RGBA) from LayerFusion Match Layers: a file and a layer of its own, between "
                    "background and foreground.",
                ),
            ],
            outputs=[
                Layers.Output(
                    "layers",
                    display_name="layers",
                    tooltip="A layer document (Background, Light and shadow where there are effects, Foreground, Blended "
                    "hidden on top) for ComfyUI's own layer nodes: Add Layer, Create Layered Image (ComfyUI 0.31 and later).",
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls, filename_prefix: str | None = None, psd: bool | None = False, bit_depth: str | None = None
    ) -> bool | str:
        """Says before the run what would keep its pictures from being saved. None: the value comes from another node."""
        problem = None if filename_prefix is None else prefix_problem(filename_prefix)
        problem = problem or (None if bit_depth is None else depth_problem(bit_depth))
        return problem or (NO_PSD_TOOLS if psd and not has_psd_tools() else True)

    @classmethod
    def execute(
        cls,
        foreground: torch.Tensor,
        background: torch.Tensor,
        blended: torch.Tensor,
        filename_prefix: str,
        psd: bool = False,
        ora: bool = False,
        webp: bool = False,
        bit_depth: str = "8",
        priors: PriorRecord | None = None,
        effects: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        if problem := prefix_problem(filename_prefix) or depth_problem(bit_depth):  # one that came from another node
            raise ValueError(problem)
        pictures = layer_pictures(foreground, background, blended, effects)
        texts = {} if args.disable_metadata else metadata_texts(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        formats = {"psd": psd, "ora": ora, "webp": webp, "depth": int(bit_depth)}
        shown = written(pictures, priors, "output", filename_prefix, texts, **formats)
        said = notice(opaque(foreground, len(blended)), unknown_inputs(cls))
        return io.NodeOutput(layer_document(pictures), ui=shown | (said or {}))


def layer_pictures(
    foreground: torch.Tensor, background: torch.Tensor, blended: torch.Tensor, effects: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """The pictures of a run by layer, as RGBA and RGB, each of N samples; ValueError unless they belong together."""
    foregrounds, background, blended = check_pictures(foreground, background, blended)
    pictures = dict(zip(foreground_endings(foregrounds.shape[1]), foregrounds.unbind(1)))
    pictures |= {"background": background, "blended": blended}
    return pictures if effects is None else pictures | {"effects": check_effects(effects, blended)}


def opaque(foreground: torch.Tensor, pictures: int) -> str | None:
    """What to say of foregrounds (B, H, W, 3 | 4) of so many pictures without transparency, None when all have some."""
    if foreground.shape[-1] == 3:
        return (
            "Foreground is opaque: it has no alpha channel. VAE Decode gives such pictures; connect the foreground of LayerFusion "
            "Decode, which cuts the object out."
        )
    found = opaque_finding(foreground[..., 3], len(foreground) // pictures)
    causes = "Where the object fills the picture, nothing is wrong; otherwise LayerFusion Decode says what the likely causes are."
    return found and f"{found} {causes}"


def written(
    pictures: dict[str, torch.Tensor], priors: PriorRecord | None, kind: str, prefix: str, texts: dict, **formats
) -> dict:
    """Writes the layers of every sample into the host's folder `kind` (output, temp); returns what the page shows of them.

    ValueError at the end, when all that can be saved is, for what could not.
    """
    height, width = pictures["blended"].shape[1:3]
    count = len(pictures["blended"])
    masks = [{}] * count if priors is None else mask_files(priors, count)
    folder, stem, number, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_directory_by_type(kind), width, height
    )
    shown = sorted(pictures, key=lambda layer: layer != "blended")  # the host shows the first picture largest
    images, sets, problems = [], [], []
    for row in range(count):
        layers = LayerSet.of({layer: x[row].float().cpu().numpy() for layer, x in pictures.items()})
        name = stem.replace("%batch_num%", str(row))
        try:
            number, files = save_set(folder, name, number, writers(layers, texts, **formats))
            saved = {
                layer: {"filename": files[f"{layer}.png"], "subfolder": subfolder, "type": kind} for layer in pictures
            }
            images += [saved[layer] for layer in shown]
            sets.append(saved | masks[row])
        except PartlySaved as partly:
            number = partly.number
            problems.append(f"{name}_{number:05} as {partly}")
        number += 1
    if problems:
        raise ValueError(f"Could not save {'; '.join(problems)}. All other files are complete in {folder}.")
    # As text: the host's lists of outputs would count every file again.
    return {"images": images, "layerfusion_layers": [json.dumps(one) for one in sets]}


def layer_document(pictures: dict[str, torch.Tensor]) -> dict:
    """The host's LAYERS document, version 1: per sample Background, effects, Foreground(s), and Blended hidden on top.

    pictures: (B, H, W, 3 | 4) by the ending of their files.

    Of a batch only the first sample is visible, so that the editor opens with one clean picture. All have z_index 0, as
    the host's own Add Layer gives it, so that a layer added later lies on top.
    """
    count, height, width = pictures["blended"].shape[:3]
    layers = []
    for row in range(count):
        number = "" if count == 1 else f" {row + 1}" if "foreground" in pictures else f", picture {row + 1}"
        for name, ending in layer_order(pictures):
            layers.append(
                {
                    "type": "raster",
                    "name": f"{name}{number}",
                    "image": pictures[ending][row : row + 1],
                    "x": 0,
                    "y": 0,
                    "w": width,
                    "h": height,
                    "opacity": 1.0,
                    "blend_mode": "normal",
                    "visible": row == 0 and ending != "blended",
                    "z_index": 0,
                }
            )
    return {"version": 1, "canvas": (width, height), "layers": layers}


class LayerFusionComposite(io.ComfyNode):
    """Lays a foreground over a background and shows where the result differs from the blended picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="LayerFusionComposite",
            display_name="Composite Layers",
            search_aliases=["layer", "alpha over", "blend images", "paste", "rgba"],
            description=(
                "Lays the transparent foreground, or several, over a background (any background of the same size), and shows "
                "where that differs from the blended picture: shadows, reflections, light."
            ),
            inputs=[
                io.Image.Input(
                    "foreground", tooltip="A foreground, or foregrounds, with alpha (RGBA), e.g. from LayerFusion Decode."
                ),
                io.Image.Input("background", tooltip="The background; another size is scaled to the foreground's."),
                io.Combo.Input(
                    "light",
                    options=["sRGB", "linear"],
                    default="sRGB",
                    tooltip="How soft edges mix. sRGB: as most editors do. linear: in linear light, as ComfyUI's own "
                    "layer editor does.",
                ),
                io.Image.Input(
                    "blended", optional=True, tooltip="The blended picture to compare with; may be left unconnected."
                ),
                float_input(
                    "gain",
                    default=4.0,
                    min=1.0,
                    max=32.0,
                    step=0.5,
                    optional=True,
                    tooltip="How strongly the difference is brightened.",
                ),
                io.Image.Input(
                    "effects",
                    optional=True,
                    tooltip="Light and shadow (RGBA) from LayerFusion Match Layers, laid over the background first.",
                ),
                count_input(
                    "How many foregrounds lie over each other in one picture, the rearmost first. 0: as many as there are for "
                    "each blended picture or effects, or for each of several backgrounds; else one.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The foregrounds over the background, RGB."),
                io.Image.Output(
                    "difference",
                    display_name="difference",
                    tooltip="Brightened difference to the blended picture; black where they agree.",
                ),
            ],
        )

    @classmethod
    @finite
    def execute(
        cls,
        foreground: torch.Tensor,
        background: torch.Tensor,
        light: str,
        blended: torch.Tensor | None = None,
        gain: float = 4.0,
        effects: torch.Tensor | None = None,
        foregrounds_per_picture: int = 0,
    ) -> io.NodeOutput:
        if foreground.shape[-1] != 4:
            raise ValueError(
                f"The foreground has {foreground.shape[-1]} channels, so no transparency; connect the RGBA foreground "
                "of LayerFusion Decode, or put a mask into its alpha with Join Image with Alpha."
            )
        cutouts = of_pictures(foreground, picture_count(foreground, background, blended, effects, foregrounds_per_picture))
        image = fitted(background, cutouts[0])
        layers = cutouts if effects is None else (check_effects(effects, cutouts[0]), *cutouts)
        for layer in layers:
            image = alpha_over(layer, image, light == "linear")
        reference = image if blended is None else fitted(blended, cutouts[0])
        return io.NodeOutput(image, difference_map(image, reference, gain))


def picture_count(
    foreground: torch.Tensor, background: torch.Tensor, blended: torch.Tensor | None, effects: torch.Tensor | None,
    per_picture: int,
) -> int:  # fmt: skip
    """How many pictures the foregrounds are of: as many as are blended, or have effects, or as there are several backgrounds."""
    if per_picture:
        if len(foreground) % per_picture:
            raise ValueError(f"foregrounds_per_picture: got {per_picture}, and {len(foreground)} foreground(s), no multiple of it.")
        return len(foreground) // per_picture
    of_a_run = [len(pictures) for pictures in (blended, effects) if pictures is not None]
    several = [len(background)] if len(background) > 1 else []  # a single one may serve all
    return max(of_a_run + several, default=len(foreground))


def fitted(picture: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """RGB of `picture`, scaled to the size of `like`; ValueError unless one picture or as many. (B, H, W, C) both."""
    if len(picture) not in (1, len(like)):
        raise ValueError(f"Cannot lay {len(like)} foreground(s) over {len(picture)} picture(s); give one, or as many.")
    picture = picture[..., :3].to(like.device)
    if picture.shape[1:3] == like.shape[1:3]:
        return picture
    scaled = F.interpolate(picture.movedim(-1, 1), size=like.shape[1:3], mode="bilinear", antialias=True)
    return scaled.movedim(1, -1).clamp(0.0, 1.0)
