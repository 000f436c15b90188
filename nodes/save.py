"""Saving a run's layers."""

from __future__ import annotations

import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import io

from ..layerfusion_core.export import LayerSet, metadata_texts, png_set, save_set

CATEGORY = "LayerFusion"
Layers = io.Custom("LAYERS")
ENDINGS = ("foreground", "background", "blended")


class LayerFusionSaveLayers(io.ComfyNode):
    """Saves foreground, background and blended picture under one number and shows them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LayerFusionSaveLayers",
            display_name="Save Layers",
            category=CATEGORY,
            description=(
                "Saves the layers into ComfyUI's output folder: name_00001_foreground.png (with transparency), "
                "name_00001_background.png and name_00001_blended.png, with the workflow inside. Never overwrites."
            ),
            inputs=[
                io.Image.Input("foreground", tooltip="The foreground with alpha (RGBA) from LayerFusion Decode."),
                io.Image.Input("background", tooltip="The background from LayerFusion Decode."),
                io.Image.Input("blended", tooltip="The blended picture from LayerFusion Decode."),
                io.String.Input(
                    "filename_prefix",
                    default="LayerFusion",
                    tooltip="How the file names begin. Subfolders (a/b) and tokens such as %date:yyyy-MM-dd%, %year%, "
                    "%width% work as in Save Image.",
                ),
            ],
            outputs=[
                Layers.Output(
                    "layers",
                    display_name="layers",
                    tooltip="A layer document (Background, Foreground, Blended hidden on top) for ComfyUI's own layer "
                    "nodes: Add Layer, Create Layered Image (ComfyUI 0.31 and later).",
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, foreground: torch.Tensor, background: torch.Tensor, blended: torch.Tensor, filename_prefix: str
    ) -> io.NodeOutput:
        foreground, background, blended = check_pictures(foreground, background, blended)
        height, width = blended.shape[1:3]
        folder, stem, number, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        texts = {} if args.disable_metadata else metadata_texts(cls.hidden.prompt, cls.hidden.extra_pnginfo)

        images, sets = [], []
        for row in range(len(blended)):
            layers = LayerSet(*(x[row].float().cpu().numpy() for x in (foreground, background, blended)))
            name = stem.replace("%batch_num%", str(row))
            number, files = save_set(folder, name, number, png_set(layers, texts))
            saved = {
                ending: {"filename": files[f"{ending}.png"], "subfolder": subfolder, "type": "output"}
                for ending in ENDINGS
            }
            images += saved.values()
            sets.append(saved)
            number += 1
        document = layer_document(foreground, background, blended)
        return io.NodeOutput(document, ui={"images": images, "layerfusion_layers": sets})


def check_pictures(*pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three pictures as RGBA, RGB, RGB; ValueError unless they share batch and size. IMAGE: (B, H, W, 3 | 4)."""
    shapes = {name: tuple(picture.shape[:3]) for name, picture in zip(ENDINGS, pictures, strict=True)}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {count} x {width}x{height}" for name, (count, height, width) in shapes.items())
        raise ValueError(f"The layers must have the same number of pictures and the same size; got {listed}.")
    foreground, background, blended = pictures
    if foreground.shape[-1] == 3:  # an ordinary picture: opaque
        foreground = torch.cat([foreground, torch.ones_like(foreground[..., :1])], dim=-1)
    return foreground, background[..., :3], blended[..., :3]


def layer_document(foreground: torch.Tensor, background: torch.Tensor, blended: torch.Tensor) -> dict:
    """The host's LAYERS document, version 1: per sample Background, Foreground, and Blended hidden on top.

    Of a batch only the first sample is visible, so that the editor opens with one clean picture.
    """
    count, height, width = blended.shape[:3]
    layers = []
    for row in range(count):
        number = "" if count == 1 else f" {row + 1}"
        for name, picture in (("Background", background), ("Foreground", foreground), ("Blended", blended)):
            layers.append(
                {
                    "type": "raster",
                    "name": f"{name}{number}",
                    "image": picture[row : row + 1],
                    "x": 0,
                    "y": 0,
                    "w": width,
                    "h": height,
                    "opacity": 1.0,
                    "blend_mode": "normal",
                    "visible": row == 0 and name != "Blended",
                    "z_index": len(layers),
                }
            )
    return {"version": 1, "canvas": (width, height), "layers": layers}


NODES = [LayerFusionSaveLayers]
