"""Graphs with several foregrounds in one run."""

from __future__ import annotations

from typing import Any

from ..sheet import Node, Sheet
from . import parts

DEMO_NOTE = """**Nothing to download: press Run.**

Two objects in one run, each a cut-out and a layer of its own. In **foregrounds** every line is an object, the rearmost
first: *prompt | region*. A region is *left*, *right*, *top*, *bottom* or x, y, width, height as shares of the canvas;
outside it the object's canvas stays empty.

The miniature models draw an object small enough for its half when the prompt says *on the left* or *on the right*.
They know two objects, no more."""
SDXL_NOTE = """**Files** as in *Three layers (SDXL)*.

Every line of **foregrounds** is an object and a layer of its own, the rearmost first: *prompt | x, y, width, height* in
shares of the canvas. Give each region about the shape of its object, with some room; regions may overlap.

**blended** is left empty: all objects and the background, joined. A run of two objects costs as much as a batch of four
pictures. More objects: more lines. Regions of any shape: **LayerFusion Add Foreground**."""


def demo(sheet: Sheet) -> None:
    """Two objects of the miniature models, side by side."""
    models, loaders = parts.demo_models(sheet)
    size = sheet.add("EmptyLatentImage", width=256, height=256)
    text = _prompts(sheet, models, "a green leaf on the left | left\na yellow house on the right | right", "a desert")
    _several(sheet, models, loaders, size, text, sheet.note(DEMO_NOTE, high=400), "layerfusion/two_foregrounds", "fixed",
             **parts.DEMO)  # fmt: skip


def sdxl(sheet: Sheet) -> None:
    """Two objects with an SDXL checkpoint and LayerDiffuse's weights."""
    models, loaders = parts.sdxl_models(sheet)
    size = sheet.add("EmptyLatentImage", width=1216, height=832)
    _, scene, negative = parts.BOTTLE
    objects = "a glass bottle of lemonade | 0, 0, 0.45, 1\na basket of lemons | 0.45, 0.35, 0.55, 0.65"
    text = _prompts(sheet, models, objects, scene, negative)
    _several(sheet, models, loaders, size, text, sheet.note(SDXL_NOTE, high=330), "layerfusion/two_foregrounds", "randomize",
             **parts.FULL)  # fmt: skip


def _prompts(sheet: Sheet, models: parts.Models, foregrounds: str, background: str, negative: str = "") -> Node:
    return sheet.add("LayerFusionTextEncodeSeveral", high=560, clip=models.clip, foregrounds=foregrounds,
                     background=background, negative=negative)  # fmt: skip


def _several(sheet: Sheet, models: parts.Models, loaders: list[Node], size: Node, text: Node, note: Node, prefix: str,
             after: str, **widgets: Any) -> None:  # fmt: skip
    several = {"foregrounds": text["foregrounds"], "region": text["region"], "vae": models.vae}
    run = parts.sampler(sheet, models, text, size["LATENT"], seed=42, after=after, **several, **widgets)
    titles = ("2  A line per object, with its place", "4  Background, both objects, blended picture")
    parts.four_groups(sheet, models, loaders, note, size, text, run, prefix, titles)
