"""One node to start with: the three-layer graphs as subgraph blueprints, which newer hosts list among their nodes."""

from __future__ import annotations

from typing import Any

from ..graph import Graph
from ..sheet import BLUE, GOLD, RED, Node, Sheet
from . import parts

WORDS = ["LayerFusion", "layers", "transparent", "rgba", "alpha", "cutout", "psd", "foreground", "background removal"]
DESCRIPTION = ("An object with real transparency, the scene without it, and both together, from one sampling run in one node. The "
               "pictures are saved and shown. {}")
DEMO_USE = "With the miniature models: nothing to download."
SDXL_USE = ("Needs an SDXL checkpoint, and LayerDiffuse's layer_xl_transparent_attn and vae_transparent_decoder in "
            "models/layer_model.")


def demo(sheet: Sheet, name: str) -> Graph:
    """With the miniature models."""
    models, loaders = parts.demo_models(sheet)
    size = sheet.add("EmptyLatentImage", width=256, height=256)
    text = parts.prompts(sheet, models, "a red apple", "a wooden table")
    return _blueprint(sheet, name, models, loaders, size, text, "layerfusion/demo", {}, DEMO_USE, **parts.DEMO)


def sdxl(sheet: Sheet, name: str) -> Graph:
    """With an SDXL checkpoint and LayerDiffuse's weights."""
    models, loaders = parts.sdxl_models(sheet)
    size = sheet.add("EmptyLatentImage", width=1024, height=1024)
    text = parts.prompts(sheet, models, *parts.BOTTLE)
    checkpoint = {"checkpoint": (loaders[0], "checkpoint")}
    return _blueprint(sheet, name, models, loaders, size, text, "layerfusion/layers", checkpoint, SDXL_USE, **parts.FULL)


def _blueprint(sheet: Sheet, name: str, models: parts.Models, loaders: list[Node], size: Node, text: Node, prefix: str,
               more: dict[str, tuple[Node, str]], use: str, **widgets: Any) -> Graph:
    run = parts.sampler(sheet, models, text, size["LATENT"], seed=42, after="randomize", **widgets)
    pictures = parts.decode(sheet, models, run)
    matched = parts.match(sheet, pictures)
    saved = parts.save(sheet, pictures, matched, prefix, run["priors"])
    area = sheet.place((0, 0), [*loaders, size], width=320, title="Models and size", color=BLUE)
    area = sheet.place(area.right, [text], width=360, title="One prompt per layer", color=GOLD)
    area = sheet.place(area.right, [run], width=320, title="One sampling run", color=RED)
    parts.result(sheet, area.right, "Three layers", pictures, matched, saved)
    inputs = {**{layer: (text, layer) for layer in parts.PROMPTS}, "width": (size, "width"), "height": (size, "height"),
              "seed": (run, "seed"), "steps": (run, "steps"), **more}
    outputs = {layer: pictures[layer] for layer in (*parts.LAYERS, "alpha")}
    return sheet.blueprint(name, DESCRIPTION.format(use), WORDS, inputs, outputs, [saved])
