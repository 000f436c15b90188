"""LayerDiffuse's own steps, one layer after another, and its three runs beside LayerFusion's one."""

from __future__ import annotations

from typing import Any

from ..sheet import BLUE, GOLD, GREEN, RED, VIOLET, Area, Node, Output, Sheet
from . import parts

THIN = 250  # columns of the graph that has six
NEGATIVE = "text, watermark, blurry, low quality"
AROUND_NOTE = """**LayerDiffuse's fg2ble**, in a stock KSampler: a scene around a cut-out of yours.

**Load Image** with transparency → **LayerFusion Encode** lays it on grey, as LayerDiffuse does it → *foreground*. The
blended picture is prompted with object and scene. Load the cut-out at the size that is sampled."""
BEHIND_NOTE = """**LayerDiffuse's fgble2bg**: the scene behind the object of a finished picture, from the cut-out and the
picture.

Its authors stop it half way (the first sampler, steps 0 to 12) and let the checkpoint finish (the second), where the
background need not be the same. For the whole way with the weights use one KSampler."""
INTO_NOTE = """**LayerDiffuse's bg2ble, then bgble2fg**: an object into a picture of yours, and then the object alone,
with its transparency.

Load a picture of the size that is sampled (**Upscale Image** with crop *center* brings it there)."""
BOTH_NOTE = """**The same trio in two ways**, same seed and prompts.

**LayerDiffuse** (3 to 5): the object, the picture around it (fg2ble), the scene behind it (fgble2bg). Three runs, each
with weights of its own.

**LayerFusion** (6): one run, with the foreground weights alone."""


def around(sheet: Sheet) -> None:
    """A blended picture around a cut-out."""
    checkpoint, size, texts, note = _start(sheet, AROUND_NOTE, "a ceramic teapot on a stone kitchen counter, morning light")
    picture = sheet.add("LoadImage", image="example.png")
    encoded = sheet.add("LayerFusionEncode", title="LayerFusion Encode", image=picture["IMAGE"], mask=picture["MASK"],
                        vae=checkpoint["VAE"])
    conditioned = _conditioned(sheet, "fg2ble", checkpoint["MODEL"], foreground=encoded["foreground"])
    run = _sampler(sheet, conditioned["model"], texts, size, "the blended picture")
    shown = _shown(sheet, run["LATENT"], checkpoint, "Blended")
    area = _first_column(sheet, [checkpoint, size], texts, note)
    area = sheet.place(area.right, [picture, encoded], width=parts.NARROW, title="3  The cut-out", color=VIOLET)
    area = sheet.place(area.right, [conditioned, run], width=parts.NARROW, title="4  A scene around it", color=RED)
    sheet.place(area.right, shown, width=parts.NARROW, title="5  Picture", color=GREEN)


def behind(sheet: Sheet) -> None:
    """The background of a blended picture."""
    checkpoint, size, texts, note = _start(sheet, BEHIND_NOTE, "a stone kitchen counter, morning light")
    cut_out = sheet.add("LoadImage", title="Load Image: the cut-out", image="example.png")
    whole = sheet.add("LoadImage", title="Load Image: the blended picture", image="example.png")
    encoded = sheet.add("LayerFusionEncode", title="LayerFusion Encode", image=cut_out["IMAGE"], mask=cut_out["MASK"],
                        vae=checkpoint["VAE"])
    blended = sheet.add("VAEEncode", pixels=whole["IMAGE"], vae=checkpoint["VAE"])
    conditioned = _conditioned(sheet, "fgble2bg", checkpoint["MODEL"], foreground=encoded["foreground"],
                               blended=blended["LATENT"])
    half = parts.FULL["steps"] // 2
    common = {"positive": texts[0]["CONDITIONING"], "negative": texts[1]["CONDITIONING"], "noise_seed": 42, **parts.FULL}
    first = sheet.add("KSamplerAdvanced", title="KSampler (Advanced): first half", model=conditioned["model"],
                      latent_image=size["LATENT"], end_at_step=half, return_with_leftover_noise="enable", **common)
    second = sheet.add("KSamplerAdvanced", title="KSampler (Advanced): the rest", model=checkpoint["MODEL"],
                       latent_image=first["LATENT"], add_noise="disable", start_at_step=half, **common)
    shown = _shown(sheet, second["LATENT"], checkpoint, "Background")
    area = _first_column(sheet, [checkpoint, size], texts, note)
    area = sheet.place(area.right, [cut_out, whole, encoded, blended], width=parts.NARROW, title="3  Layers that are there",
                       color=VIOLET)
    area = sheet.place(area.right, [conditioned, first], width=parts.NARROW, title="4  Conditioned on them", color=RED)
    area = sheet.place(area.right, [second], width=parts.NARROW, title="5  By the checkpoint", color=RED)
    sheet.place(area.right, shown, width=parts.NARROW, title="6  Background", color=GREEN)


def into(sheet: Sheet) -> None:
    """An object into a background, then alone."""
    checkpoint, size, texts, note = _start(sheet, INTO_NOTE, "a ceramic teapot on a stone kitchen counter, morning light")
    alpha = parts.transparent_vae(sheet)
    picture = sheet.add("LoadImage", image="example.png")
    scene = sheet.add("VAEEncode", pixels=picture["IMAGE"], vae=checkpoint["VAE"])
    placed = _conditioned(sheet, "bg2ble", checkpoint["MODEL"], background=scene["LATENT"])
    run = _sampler(sheet, placed["model"], texts, size, "the blended picture")
    shown = _shown(sheet, run["LATENT"], checkpoint, "Blended")
    alone = _conditioned(sheet, "bgble2fg", checkpoint["MODEL"], background=scene["LATENT"], blended=run["LATENT"])
    words = sheet.add("CLIPTextEncode", title="The object", clip=checkpoint["CLIP"], text="a ceramic teapot", high=110)
    cut = _sampler(sheet, alone["model"], (words, texts[1]), size, "the object")
    layers = sheet.add("LayerFusionDecode", vae=checkpoint["VAE"], transparent_vae=alpha["transparent_vae"],
                       foreground=cut["LATENT"], background=scene["LATENT"], blended=run["LATENT"])
    object_shown = sheet.add("PreviewImage", title="The object", images=layers["foreground"])
    area = _first_column(sheet, [checkpoint, size], texts, note)
    area = sheet.place(area.right, [picture, scene, *shown], width=parts.NARROW, title="3  The scene", color=VIOLET)
    area = sheet.place(area.right, [placed, run], width=parts.NARROW, title="4  An object in it", color=RED)
    area = sheet.place(area.right, [alone, words, cut], width=parts.NARROW, title="5  The object alone", color=RED)
    sheet.place(area.right, [alpha, layers, object_shown], width=parts.NARROW, title="6  With transparency", color=GREEN)


def _start(sheet: Sheet, note: str, text: str) -> tuple[Node, Node, tuple[Node, Node], Node]:
    """Checkpoint, size, positive and negative prompt, note."""
    checkpoint = sheet.add("CheckpointLoaderSimple", ckpt_name=parts.CHECKPOINT,
                           models=[parts.file_of(parts.CHECKPOINT, "checkpoints", parts.SDXL)])
    size = sheet.add("EmptyLatentImage", width=1024, height=1024)
    positive, negative = (sheet.add("CLIPTextEncode", title=title, clip=checkpoint["CLIP"], text=words, high=110)
                          for title, words in (("Positive", text), ("Negative", NEGATIVE)))
    return checkpoint, size, (positive, negative), sheet.note(note, high=225)


def _first_column(sheet: Sheet, loaders: list[Node], texts: tuple[Node, Node], note: Node) -> Area:
    area = sheet.place((0, 0), loaders, width=parts.NARROW, title="1  Checkpoint and size", color=BLUE)
    below = sheet.place(area.below, list(texts), width=parts.NARROW, title="2  Prompts", color=GOLD)
    sheet.place(below.below, [note], width=area.width)
    return area


def _conditioned(sheet: Sheet, kind: str, model: Output, **given: Any) -> Node:
    weights = f"layer_xl_{kind}.safetensors"
    return sheet.add("LayerFusionConditionOnLayers", title=f"Condition on Layers: {kind}", model=model, weights=weights,
                     models=[parts.file_of(weights, "layer_model")], **given)


def _sampler(sheet: Sheet, model: Output, texts: tuple[Node, Node], size: Node, makes: str) -> Node:
    positive, negative = (text["CONDITIONING"] for text in texts)
    return sheet.add("KSampler", title=f"KSampler: {makes}", model=model, positive=positive, negative=negative,
                     latent_image=size["LATENT"], seed=42, **parts.FULL)


def _shown(sheet: Sheet, latent: Output, checkpoint: Node, title: str) -> list[Node]:
    picture = sheet.add("VAEDecode", samples=latent, vae=checkpoint["VAE"])
    return [picture, sheet.add("PreviewImage", title=title, images=picture["IMAGE"])]


def both(sheet: Sheet) -> None:
    """Three runs and one run, same seed and prompts."""
    models, loaders = parts.sdxl_models(sheet)
    size = sheet.add("EmptyLatentImage", width=1024, height=1024)
    text = parts.prompts(sheet, models, "a glass bottle of lemonade", "a wooden table in a garden", NEGATIVE)
    note = sheet.note(BOTH_NOTE, high=250)
    common = {"negative": text["negative"], "latent_image": size["LATENT"], "seed": 42, **parts.FULL}
    cut_out = sheet.add("KSampler", title="KSampler: foreground", model=models.foreground, positive=text["foreground"], **common)
    to_blended = _conditioned(sheet, "fg2ble", models.base, foreground=cut_out["LATENT"])
    blended = sheet.add("KSampler", title="KSampler: blended", model=to_blended["model"], positive=text["blended"], **common)
    to_background = _conditioned(sheet, "fgble2bg", models.base, foreground=cut_out["LATENT"], blended=blended["LATENT"])
    background = sheet.add("KSampler", title="KSampler: background", model=to_background["model"], positive=text["background"],
                           **common)
    theirs = parts.decode(sheet, models, cut_out, title="Decode: three runs", foreground=cut_out["LATENT"],
                          background=background["LATENT"], blended=blended["LATENT"])
    ours = parts.sampler(sheet, models, text, size["LATENT"], seed=42, **parts.FULL)
    pictures = parts.decode(sheet, models, ours, title="Decode: one run")
    shown = []
    for layer in ("blended", "background"):
        pair = sheet.add("ImageBatch", title=f"Batch Images: {layer}", image1=theirs[layer], image2=pictures[layer])
        shown += [pair, sheet.add("PreviewImage", title=f"{layer.capitalize()}: both", images=pair["IMAGE"])]
    area = parts.start(sheet, loaders, size, text, THIN)
    area = sheet.place(area.right, [cut_out, to_blended], width=THIN, title="3  LayerDiffuse", color=VIOLET)
    sheet.place(area.below, [note], width=area.width)
    area = sheet.place(area.right, [blended, to_background], width=THIN, title="4  ... its second run", color=VIOLET)
    area = sheet.place(area.right, [background, theirs], width=THIN, title="5  ... its third", color=VIOLET)
    area = sheet.place(area.right, [ours, pictures], width=THIN, title="6  LayerFusion: one run", color=RED)
    sheet.place(area.right, shown, width=THIN, title="7  Three runs, one run", color=GREEN)
