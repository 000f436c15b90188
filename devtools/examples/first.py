"""The graphs to begin with: three layers from four prompts."""

from __future__ import annotations

from typing import Any

from ..sheet import Node, Sheet
from . import parts

DEMO_NOTE = """**Nothing to download: press Run.**

Three pictures come out of one sampling run: an object with real transparency, the scene without it, and both
together. **Match Layers** makes the layers add up to the last, with light and shadow as a layer of their own. The
**viewer** on the right shows them: keys 1 to 5, C compares.

The miniature model knows sixteen things (apple, ball, balloon, bottle, car, fish, flower, heart, house, lantern,
leaf, mug, mushroom, ring, star, tree) in six colours, eight of them also of *glass*, and sixteen places from *a
wooden table* to *a beach at sunset*.

In *Options*, **share** shows one scene in background and blended picture; try *adapt*, the paper's method, and the
others.

Right click on **Save Layers**: *Edit the layers* opens them in ComfyUI's own layer editor (ComfyUI 0.31 and later)."""

SDXL_NOTE = """**Files**

- **models/checkpoints**: an SDXL checkpoint, e.g.
[sd_xl_base_1.0](https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0). Photographic ones such as RealVisXL
suit LayerDiffuse well.
- **models/layer_model**: *layer_xl_transparent_attn* (743 MB) and *vae_transparent_decoder* (208 MB) from
[LayerDiffusion/layerdiffusion-v1](https://huggingface.co/LayerDiffusion/layerdiffusion-v1).

**Prompts**: name only the object in *foreground* and only the scene in *background*. Leave *blended* empty to join
the two.

*Options* holds the defaults; remove it if you never change them."""


def demo(sheet: Sheet) -> None:
    """The miniature models' three layers."""
    models, loaders = parts.demo_models(sheet)
    size = sheet.add("EmptyLatentImage", width=256, height=256)
    text = parts.prompts(sheet, models, "a red apple", "a wooden table")
    note = sheet.note(DEMO_NOTE, high=450)
    _three_layers(sheet, models, loaders, size, text, note, "layerfusion/demo", "fixed", **parts.DEMO)


def sdxl(sheet: Sheet) -> None:
    """The same with an SDXL checkpoint and LayerDiffuse's weights."""
    models, loaders = parts.sdxl_models(sheet)
    size = sheet.add("EmptyLatentImage", width=1024, height=1024)
    text = parts.prompts(sheet, models, *parts.BOTTLE)
    note = sheet.note(SDXL_NOTE, high=340)
    _three_layers(sheet, models, loaders, size, text, note, "layerfusion/layers", "randomize", **parts.FULL)


def _three_layers(sheet: Sheet, models: parts.Models, loaders: list[Node], size: Node, text: Node, note: Node, prefix: str,
                  after: str, **widgets: Any) -> None:
    options = sheet.add("LayerFusionOptions")
    run = parts.sampler(sheet, models, text, size["LATENT"], options=options["options"], seed=42, after=after, **widgets)
    titles = ("2  One prompt per layer", "4  Three layers")
    parts.four_groups(sheet, models, loaders, note, size, text, run, prefix, titles, options)
