"""The example graphs, and the one-node blueprints: drawn by code, so that nobody edits their JSON by hand.

``python -m devtools.examples URL`` writes workflows/*.json and subgraphs/*.json from a running server, for example
http://127.0.0.1:8188 of ``dev.py serve``. `GRAPHS` names them in the order in which they are offered; their pictures are
made by ``dev.py pictures thumbnails``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..graph import Graph
from ..sheet import Sheet
from . import blueprints, first, given, layerdiffuse, more, several

FOLDER = "workflows"
GRAPHS: dict[str, tuple[str, Callable[[Sheet], None]]] = {
    "demo": ("Three layers (demo, no download)", first.demo),
    "sdxl": ("Three layers (SDXL)", first.sdxl),
    "given_foreground": ("Scene around a cut-out (demo)", given.given_foreground),
    "given_background": ("Object in a picture (demo)", given.given_background),
    "harmonise": ("Object moved and harmonised (demo)", given.harmonise),
    "second_pass": ("Second pass at a larger size (demo)", more.second_pass),
    "lora_controlnet": ("LoRA and ControlNet (SDXL)", more.lora_controlnet),
    "custom_sampling": ("SamplerCustomAdvanced (demo)", more.custom_sampling),
    "priors": ("Priors and masks (demo)", more.priors),
    "around": ("LayerDiffuse, scene around a cut-out (SDXL)", layerdiffuse.around),
    "behind": ("LayerDiffuse, background of a picture (SDXL)", layerdiffuse.behind),
    "into": ("LayerDiffuse, object into a picture (SDXL)", layerdiffuse.into),
    "three_or_one": ("LayerDiffuse and LayerFusion (SDXL)", layerdiffuse.both),
    "two_foregrounds": ("Two foregrounds (demo)", several.demo),
    "two_foregrounds_sdxl": ("Two foregrounds (SDXL)", several.sdxl),
    "layer_editor": ("Layer editor (demo, ComfyUI 0.31 and newer)", more.layer_editor),
}
"""Key that the code uses -> name without its number, and the function that draws it. New ones go to the end."""
NEWER = {"layer_editor": "ImageCompositor"}
"""Graphs that the oldest host opens without a node of theirs, and that node."""

BLUEPRINTS: dict[str, Callable[[Sheet, str], Graph]] = {
    "Three layers (SDXL)": blueprints.sdxl,
    "Three layers (demo)": blueprints.demo,
}
"""Name -> the function that draws it as one node; their files lie in ``subgraphs``, where newer hosts look for them."""


def name(key: str) -> str:
    """What an example graph is called, with its number."""
    return f"{[*GRAPHS].index(key) + 1} {GRAPHS[key][0]}"


def file(checkout: Path, key: str, ending: str = "json") -> Path:
    """The file of an example graph, or its picture (``jpg``)."""
    return checkout / FOLDER / f"{name(key)}.{ending}"


def load(checkout: Path, key: str) -> Graph:
    """An example graph as it is in the checkout."""
    return json.loads(file(checkout, key).read_text(encoding="utf-8"))


def complete(key: str, object_info: dict[str, Any]) -> bool:
    """Whether a server has all nodes of an example graph."""
    return key not in NEWER or NEWER[key] in object_info


def draw(key: str, object_info: dict[str, Any]) -> Graph:
    """An example graph as its code draws it."""
    sheet = Sheet(object_info)
    GRAPHS[key][1](sheet)
    return sheet.graph()


def text(graph: Graph) -> str:
    """The file's content of a graph: a node, link or group per line, so that changes can be read."""
    def line(item: Any) -> str:
        return json.dumps(item, ensure_ascii=False)

    rows = [f"{line(key)}: [\n" + ",\n".join(map(line, value)) + "\n]" if key in ("nodes", "links", "groups") and value
            else f"{line(key)}: {line(value)}" for key, value in graph.items()]
    return "{\n" + ",\n".join(rows) + "\n}\n"
