"""What several example graphs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..sheet import BELOW, BLUE, GOLD, GREEN, PADDING, RED, Area, Node, Output, Sheet

LAYERS = ("foreground", "background", "blended")
PROMPTS = (*LAYERS, "negative")
WEIGHTS = "https://huggingface.co/LayerDiffusion/layerdiffusion-v1/resolve/main/"
SDXL = "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/"
CHECKPOINT, ATTENTION, DECODER = ("sd_xl_base_1.0.safetensors", "layer_xl_transparent_attn.safetensors",
                                  "vae_transparent_decoder.safetensors")  # fmt: skip
DEMO = {"steps": 20, "cfg": 4.5, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
FULL = {"steps": 25, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
BOTTLE = ("a glass bottle of orange lemonade, product photo",
          "a weathered wooden table in a sunny garden, shallow depth of field", "text, watermark, blurry, low quality")
"""Foreground, background and negative prompt of the SDXL graphs."""
NARROW, THIN = 285, 225  # columns of the graphs that have five of them, and of Decode and Match Layers in the widest
FIRST = 280  # columns of the first graphs, which are read on a small screen
WORDY = 293  # what Decode takes in Nodes 2.0 where the names of its layers are long: Spanish, French


def file_of(name: str, folder: str, source: str = WEIGHTS) -> dict[str, str]:
    """An entry of a node's ``models``, from which the editor offers the download."""
    return {"name": name, "url": source + name, "directory": folder}


def outputs(node: Node, names: Sequence[str]) -> dict[str, Any]:
    """Outputs of a node by name, as the inputs of the same names of another."""
    return {name: node[name] for name in names}


class Models(NamedTuple):
    """The outputs that the other nodes need."""

    base: Output
    foreground: Output
    clip: Output
    vae: Output
    transparent_vae: Output


def demo_models(sheet: Sheet) -> tuple[Models, list[Node]]:
    """The miniature models."""
    node = sheet.add("LayerFusionLoadDemo")
    return Models(*(Output(node, slot) for slot in range(5))), [node]


def sdxl_models(sheet: Sheet) -> tuple[Models, list[Node]]:
    """An SDXL checkpoint with LayerDiffuse's weights."""
    models = sheet.add("LayerFusionLoadModels", checkpoint=CHECKPOINT, foreground_weights=ATTENTION,
                       models=[file_of(CHECKPOINT, "checkpoints", SDXL), file_of(ATTENTION, "layer_model")])
    alpha = transparent_vae(sheet)
    return Models(*(Output(models, slot) for slot in range(4)), transparent_vae=Output(alpha, 0)), [models, alpha]


def transparent_vae(sheet: Sheet) -> Node:
    return sheet.add("LayerFusionLoadTransparentVAE", decoder=DECODER, models=[file_of(DECODER, "layer_model")])


def prompts(sheet: Sheet, models: Models, foreground: str, background: str, negative: str = "", **more: Any) -> Node:
    return sheet.add("LayerFusionTextEncode", clip=models.clip, foreground=foreground, background=background,
                     negative=negative, **more)


def sampler(sheet: Sheet, models: Models, text: Node, latent: Output, *, title: str | None = None, **widgets: Any) -> Node:
    """The all-in-one sampler with a text node's four prompts."""
    return sheet.add("LayerFusionKSampler", title=title, base_model=models.base, foreground_model=models.foreground,
                     latent_image=latent, **{**outputs(text, PROMPTS), **widgets})


def decode(sheet: Sheet, models: Models, latents: Node, title: str = "LayerFusion Decode", **more: Any) -> Node:
    """The three latents of a sampler as pictures. A shorter title than the node's own, so that it may be narrow."""
    return sheet.add("LayerFusionDecode", title=title, vae=models.vae, transparent_vae=models.transparent_vae,
                     **(outputs(latents, [name for name in LAYERS if name not in more]) | more))


def match(sheet: Sheet, pictures: Node, **more: Any) -> Node:
    """Layers that add up to the blended picture; a shorter title here, too."""
    return sheet.add("LayerFusionMatchLayers", title="Match Layers", **(outputs(pictures, LAYERS) | more))


def save(sheet: Sheet, pictures: Node, matched: Node, prefix: str, priors: Output | None, **more: Any) -> Node:
    """The files, and the viewer."""
    return sheet.add("LayerFusionSaveLayers", foreground=matched["foreground"], background=pictures["background"],
                     blended=pictures["blended"], effects=matched["effects"], priors=priors, filename_prefix=prefix, **more)


def result(sheet: Sheet, at: tuple[int, int], title: str, pictures: Node, matched: Node, saved: Node, high: int = 760) -> Area:
    """The last group: Decode above Match Layers, beside the viewer; wide enough for the names of all languages."""
    saved.wide, saved.high = 365, high
    return sheet.place(at, [pictures, matched], [saved], width=WORDY, title=title, color=GREEN)


def narrow_result(sheet: Sheet, at: tuple[int, int], title: str, pictures: Node, matched: Node, saved: Node) -> Area:
    """The same in less width: Decode beside Match Layers, above the viewer."""
    upper = sheet.place(at, [pictures], [matched], width=THIN, title=title, color=GREEN)
    lower = sheet.place((upper.x + PADDING, upper.y + upper.height - PADDING + BELOW), [saved], width=2 * THIN + PADDING)
    area = upper._replace(height=lower.y + lower.height + PADDING - upper.y)
    sheet.groups[-1]["bounding"] = list(area)
    return area


def four_groups(sheet: Sheet, models: Models, loaders: list[Node], note: Node, size: Node, text: Node, run: Node, prefix: str,
                titles: tuple[str, str], options: Node | None = None) -> None:
    """Lays out a whole graph around its run: models and note, prompts (and options), size and run, the layers.

    titles: of the second and the fourth group.
    """
    pictures = decode(sheet, models, run)
    matched = match(sheet, pictures)
    saved = save(sheet, pictures, matched, prefix, run["priors"])
    first = sheet.place((0, 0), loaders, width=FIRST, title="1  Models", color=BLUE)
    sheet.place(first.below, [note], width=first.width)
    second = sheet.place(first.right, [text], width=FIRST, title=titles[0], color=GOLD)
    if options is not None:
        sheet.place(second.below, [options], width=FIRST, title="Options (the defaults)", color=GOLD)
    third = sheet.place(second.right, [size, run], width=FIRST, title="3  Size and one sampling run", color=RED)
    result(sheet, third.right, titles[1], pictures, matched, saved, high=890)


def start(sheet: Sheet, models: list[Node], size: Node, text: Node, width: int = NARROW) -> Area:
    """The first column: models and size above the prompts; returns the whole."""
    upper = sheet.place((0, 0), [*models, size], width=width, title="1  Models and size", color=BLUE)
    lower = sheet.place(upper.below, [text], width=width, title="2  One prompt per layer", color=GOLD)
    return Area(0, 0, upper.width, lower.y + lower.height)
