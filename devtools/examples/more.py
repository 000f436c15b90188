"""Graphs for those who know the first ones."""

from __future__ import annotations

from typing import Any

from ..sheet import BLUE, GOLD, GREEN, RED, VIOLET, Sheet
from . import parts

SECOND_NOTE = """**Nothing to download: press Run.**

A hires fix of all three layers at once: the first run's latents, enlarged, go through **Given Layers** with every
*keep* at **0**, so each is only the start, and the second sampler has **denoise 0.4**. The layers are redrawn together
and still belong to each other.

With SDXL: 1024 pixels first, then 1.5 times that."""
LORA_NOTE = """**A LoRA for all layers** goes before *Apply Foreground Weights*. One for the object alone goes behind it
(plain LoRAs only).

**The ControlNet** acts on the layers whose conditioning went through *Apply ControlNet*: here the object's edges
guide foreground and blended picture, and the background stays free. One *negative* serves all: each layer's gets that
layer's own.

Load a picture of an object on a plain ground."""
CUSTOM_NOTE = """**Nothing to download: press Run.**

Sampled by ComfyUI's own **SamplerCustomAdvanced**: any noise, sampler and sigmas,
Split Sigmas included. **Stack Latents** before it makes room for three layers, **Split Latents** behind it takes them
apart. The noise is that of the LayerFusion KSampler: same seed, same pictures."""
PRIORS_NOTE = """**Nothing to download: press Run.**

What the layers are joined with. *Structure*: where the object's attention is concentrated. *Content*: how much of it
the prompt's words explain. Their product is the *soft* mask, a steep curve on it (hardness) the *hard* one. Blue is
0, red is 1.

Set another *step* or *block* in **Preview Priors** and run again: the sampler does not. The masks form early, look at
steps 2 and 15. **Extract Priors** reads them from a finished foreground."""
EDITOR_NOTE = """**Nothing to download: press Run, then Open Compositor.**

Background, Light and shadow and Foreground lie there as layers, the blended picture hidden on top: move, scale, mask,
blend, save as PSD.

The editor, *Create Layered Image*, comes with **ComfyUI 0.31** and newer and opens in **Nodes 2.0** only (the switch is
in ComfyUI's menu, under the logo). Elsewhere remove the node: the rest runs.

It mixes in linear light, so *light* of Match Layers is **linear** here. For Photoshop, Krita and GIMP it is sRGB."""
LORA, CONTROL = "sd_xl_offset_example-lora_1.0.safetensors", "diffusers_xl_canny_mid.safetensors"
CONTROL_SOURCE = "https://huggingface.co/lllyasviel/sd_control_collection/resolve/main/"
LARGER = 1.33  # from 192 to 256 pixels, which the miniature models know


def second_pass(sheet: Sheet) -> None:
    """All layers enlarged and redrawn together."""
    models, loaders = parts.demo_models(sheet)
    size = sheet.add("EmptyLatentImage", width=192, height=192)
    text = parts.prompts(sheet, models, "a red apple", "a beach at sunset")
    note = sheet.note(SECOND_NOTE, high=225)
    first = parts.sampler(sheet, models, text, size["LATENT"], title="LayerFusion KSampler: first pass", seed=42, **parts.DEMO)
    larger = {name: sheet.add("LatentUpscaleBy", title=f"Upscale Latent By: {name}", samples=first[name],
                              upscale_method="bicubic", scale_by=LARGER) for name in parts.LAYERS}
    keep: dict[str, Any] = {f"keep_{name}": 0.0 for name in parts.LAYERS}
    given = sheet.add("LayerFusionGivenLayers", **{name: node["LATENT"] for name, node in larger.items()}, **keep)
    run = parts.sampler(sheet, models, text, given["latent"], title="LayerFusion KSampler: second pass", seed=42,
                        denoise=0.4, **parts.DEMO)
    pictures = parts.decode(sheet, models, run)
    matched = parts.match(sheet, pictures)
    saved = parts.save(sheet, pictures, matched, "layerfusion/second_pass", run["priors"])
    width = 277
    area = sheet.place((0, 0), loaders, width=width, title="1  Models", color=BLUE)
    lower = sheet.place(area.below, [text], width=width, title="2  One prompt per layer", color=GOLD)
    sheet.place(lower.below, [note], width=area.width)
    area = sheet.place(area.right, [size, first], width=width, title="3  Size and first pass", color=VIOLET)
    area = sheet.place(area.right, [*larger.values(), given], width=width, title="4  All layers, enlarged", color=BLUE)
    area = sheet.place(area.right, [run], width=width, title="5  Second pass", color=RED)
    parts.narrow_result(sheet, area.right, "6  Three layers", pictures, matched, saved)


def lora_controlnet(sheet: Sheet) -> None:
    """A LoRA for all layers, and edges that guide foreground and blended picture."""
    checkpoint = sheet.add("CheckpointLoaderSimple", ckpt_name=parts.CHECKPOINT,
                           models=[parts.file_of(parts.CHECKPOINT, "checkpoints", parts.SDXL)])
    lora = sheet.add("LoraLoader", model=checkpoint["MODEL"], clip=checkpoint["CLIP"], lora_name=LORA, strength_model=0.8,
                     models=[parts.file_of(LORA, "loras", parts.SDXL)])
    weights = sheet.add("LayerFusionApplyForeground", title="Apply Foreground Weights", model=lora["MODEL"],
                        foreground_weights=parts.ATTENTION, models=[parts.file_of(parts.ATTENTION, "layer_model")])
    alpha = parts.transparent_vae(sheet)
    models = parts.Models(lora["MODEL"], weights["foreground_model"], lora["CLIP"], checkpoint["VAE"], alpha["transparent_vae"])
    size = sheet.add("EmptyLatentImage", width=1024, height=1024)
    text = parts.prompts(sheet, models, "a ceramic teapot, product photo", "a stone kitchen counter, morning light",
                         "text, watermark, blurry, low quality")
    picture = sheet.add("LoadImage", image="example.png")
    edges = sheet.add("Canny", image=picture["IMAGE"])
    control = sheet.add("ControlNetLoader", control_net_name=CONTROL, models=[parts.file_of(CONTROL, "controlnet", CONTROL_SOURCE)])
    guided = {name: sheet.add("ControlNetApplyAdvanced", title=f"Apply ControlNet: {name}", positive=text[name],
                              negative=text["negative"], control_net=control["CONTROL_NET"], image=edges["IMAGE"],
                              strength=0.7, end_percent=0.6) for name in ("foreground", "blended")}
    run = parts.sampler(sheet, models, text, size["LATENT"], foreground=guided["foreground"]["positive"],
                        blended=guided["blended"]["positive"], negative=guided["blended"]["negative"], seed=42,
                        after="randomize", **parts.FULL)
    pictures = parts.decode(sheet, models, run)
    matched = parts.match(sheet, pictures)
    saved = parts.save(sheet, pictures, matched, "layerfusion/lora_controlnet", run["priors"])
    note = sheet.note(LORA_NOTE, high=225)
    area = sheet.place((0, 0), [checkpoint, lora, weights, alpha], width=269, title="1  Models, with a LoRA", color=BLUE)
    sheet.place(area.below, [note], width=area.width)
    area = sheet.place(area.right, [size, text], width=300, title="2  Size and prompts", color=GOLD)
    sheet.place(area.below, [picture], width=300, title="A picture with the shape", color=VIOLET)
    area = sheet.place(area.right, [edges, control, *guided.values()], width=269, title="3  Edges guide two layers",
                       color=VIOLET)
    area = sheet.place(area.right, [run], width=269, title="4  One sampling run", color=RED)
    parts.narrow_result(sheet, area.right, "5  Three layers", pictures, matched, saved)


def custom_sampling(sheet: Sheet) -> None:
    """The guider under SamplerCustomAdvanced."""
    models, loaders = parts.demo_models(sheet)
    size = sheet.add("EmptyLatentImage", width=256, height=256)
    text = parts.prompts(sheet, models, "a purple mushroom", "a forest")
    note = sheet.note(CUSTOM_NOTE, high=190)
    guider = sheet.add("LayerFusionGuider", base_model=models.base, foreground_model=models.foreground, cfg=4.5,
                       **parts.outputs(text, parts.PROMPTS))
    noise = sheet.add("RandomNoise", noise_seed=42)
    algorithm = sheet.add("KSamplerSelect", sampler_name="dpmpp_2m")
    sigmas = sheet.add("BasicScheduler", model=models.base, scheduler="karras", steps=20)
    stack = sheet.add("LayerFusionStackLatents", latent=size["LATENT"])
    run = sheet.add("SamplerCustomAdvanced", noise=noise["NOISE"], guider=guider["guider"], sampler=algorithm["SAMPLER"],
                    sigmas=sigmas["SIGMAS"], latent_image=stack["latent"])
    split = sheet.add("LayerFusionSplitLatents", latent=run["output"])
    pictures = parts.decode(sheet, models, split)
    matched = parts.match(sheet, pictures)
    saved = parts.save(sheet, pictures, matched, "layerfusion/custom_sampling", None)
    area = parts.start(sheet, loaders, size, text, 390)
    sheet.place(area.below, [note], width=area.width)
    area = sheet.place(area.right, [guider, noise, algorithm, sigmas], width=parts.NARROW, title="3  What samples", color=VIOLET)
    area = sheet.place(area.right, [stack, run, split], width=parts.NARROW, title="4  One sampling run", color=RED)
    parts.result(sheet, area.right, "5  Three layers", pictures, matched, saved)


def priors(sheet: Sheet) -> None:
    """Masks of the run at a step, and those of the finished foreground."""
    models, loaders = parts.demo_models(sheet)
    size = sheet.add("EmptyLatentImage", width=256, height=256)
    text = parts.prompts(sheet, models, "a red apple", "a wooden table")
    options = sheet.add("LayerFusionOptions")
    note = sheet.note(PRIORS_NOTE, high=215)
    run = parts.sampler(sheet, models, text, size["LATENT"], options=options["options"], seed=42, **parts.DEMO)
    pictures = parts.decode(sheet, models, run)
    saved = sheet.add("LayerFusionSaveLayers", priors=run["priors"], filename_prefix="layerfusion/priors",
                      **parts.outputs(pictures, parts.LAYERS))
    strip = sheet.add("LayerFusionPreviewPriors", priors=run["priors"])
    shown = sheet.add("PreviewImage", title="Structure | content | soft mask | hard mask", images=strip["image"])
    read = sheet.add("LayerFusionExtractPriors", foreground_model=models.foreground, foreground=text["foreground"],
                     latent_image=run["foreground"], seed=42)
    soft = sheet.add("MaskPreview", title="Soft mask, foreground", mask=read["soft"])
    soft.wide, shown.wide, saved.wide, saved.high = parts.THIN, 535, 465, 590
    area = sheet.place((0, 0), loaders, width=parts.NARROW, title="1  Models", color=BLUE)
    area = sheet.place(area.below, [options], width=parts.NARROW, title="Options (the defaults)", color=GOLD)
    sheet.place(area.below, [note], width=area.width)
    area = sheet.place((area.right[0], 0), [text], width=parts.NARROW, title="2  One prompt per layer", color=GOLD)
    under = sheet.place(area.below, [strip, read], width=parts.NARROW, title="Masks, of the run and of a layer", color=VIOLET)
    area = sheet.place((under.right[0], 0), [size, run], width=parts.NARROW, title="3  Size and one sampling run", color=RED)
    area = sheet.place(area.right, [pictures], [saved], width=parts.WORDY, title="4  Three layers, and masks (5)", color=GREEN)
    sheet.place(area.below, [shown], [soft], width=parts.THIN, title="What the run blended with", color=VIOLET)


def layer_editor(sheet: Sheet) -> None:
    """The layers in ComfyUI's own editor."""
    models, loaders = parts.demo_models(sheet)
    size = sheet.add("EmptyLatentImage", width=256, height=256)
    text = parts.prompts(sheet, models, "a green mug", "a wooden table")
    note = sheet.note(EDITOR_NOTE, high=280)
    run = parts.sampler(sheet, models, text, size["LATENT"], seed=42, **parts.DEMO)
    pictures = parts.decode(sheet, models, run)
    matched = parts.match(sheet, pictures, light="linear")
    saved = parts.save(sheet, pictures, matched, "layerfusion/editor", run["priors"])
    editor = sheet.add("ImageCompositor", layers=saved["layers"])
    area = parts.start(sheet, loaders, size, text, parts.FIRST)
    area = sheet.place(area.right, [run], width=parts.FIRST, title="3  One sampling run", color=RED)
    area = parts.result(sheet, area.right, "4  Three layers", pictures, matched, saved)
    area = sheet.place(area.right, [editor], width=parts.FIRST, title="5  ComfyUI's layer editor", color=VIOLET)
    sheet.place(area.below, [note], width=area.width)
