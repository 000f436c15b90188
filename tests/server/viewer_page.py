"""The page of a running server with a graph in it, and what a person sees and does there with the viewer of Save Layers."""

from __future__ import annotations

import io
import json
import uuid
from pathlib import Path

import numpy
from host_page import open_page, require_widgets
from PIL import Image

from layerfusion_pack.devtools import browser

VIEWER = "document.querySelector('.layerfusion-viewer')"
NODE = "app.graph.nodes.find((node) => node.type === 'LayerFusionSaveLayers')"
LAYERS = ("blended", "foreground", "effects", "background")
LIKE = 10.0  # mean difference of levels between a picture and its view on the page; another layer differs by far more


class Page:
    """The page with a graph in it."""

    def __init__(self, window: browser.Browser, server) -> None:
        self.window, self.server = window, server
        self.failed = False  # the run of the graph; the other tests need not wait for it again
        self.run, self.wait, self.key = window.run, window.wait, window.key

    def rectangle(self, selector: str) -> dict[str, float]:
        """Where an element of the viewer lies in the window."""
        return self.run(f"{VIEWER}.querySelector('{selector}').getBoundingClientRect().toJSON()")

    def middle(self, selector: str) -> tuple[float, float]:
        box = self.rectangle(selector)
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def start(self) -> None:
        """Run the graph, as Ctrl-Enter does anywhere on the page."""
        self.run("document.activeElement.blur()")
        self.key("Enter", control=True)

    def press(self, *keys: str) -> None:
        """Press keys in the viewer."""
        self.run(f"{VIEWER}.focus()")
        for key in keys:
            self.key(key)

    def click(self, selector: str) -> None:
        self.window.click(*self.middle(selector))

    def pressed(self) -> list[str]:
        """Names of the buttons that are pressed."""
        return self.run(f"[...{VIEWER}.querySelectorAll('[aria-pressed=true]')].map((x) => x.className)")

    def caption(self) -> str:
        return self.run(f"{VIEWER}.querySelector('.caption').value")

    def files(self, row: int) -> dict[str, numpy.ndarray]:
        """The saved layers of one picture of the batch, as floats in 0..255."""
        saved = json.loads(self.run(f"app.nodeOutputs[{NODE}.id].layerfusion_layers")[row])
        return {name: self.picture(saved[name]) for name in LAYERS}

    def picture(self, file: dict[str, str]) -> numpy.ndarray:
        query = "&".join(f"{key}={value}" for key, value in file.items())
        return numpy.asarray(Image.open(io.BytesIO(self.server.get(f"/view?{query}"))), dtype=float)

    def seen(self) -> numpy.ndarray:
        """What the page really draws where the picture lies, (32, 32, 3)."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        box = self.rectangle(".sheet")
        return small(Image.open(io.BytesIO(self.window.screenshot(box))).convert("RGB"))

    def looks_like(self, picture: numpy.ndarray) -> bool:
        return abs(self.seen() - small(Image.fromarray(picture.round().astype("uint8")).convert("RGB"))).mean() < LIKE


def small(picture: Image.Image) -> numpy.ndarray:
    return numpy.asarray(picture.resize((32, 32), Image.Resampling.BOX), dtype=float)


def over(foreground: numpy.ndarray, behind) -> numpy.ndarray:
    alpha = foreground[..., 3:] / 255
    return foreground[..., :3] * alpha + behind * (1 - alpha)


def opened(window: browser.Browser, server, file, renderer: str) -> Page:
    """The page after the drop of the graph, with Save Layers in the middle of the window; skips where it shows no widgets."""
    page = Page(window, server)
    open_page(window, server, renderer)
    window.drop(file, 800, 500)
    page.wait(NODE, 30)
    page.run(f"""(() => {{
        const node = {NODE}, view = app.canvas.ds;
        node.setSize([node.size[0], 700]); // all of it lies in the window
        view.scale = 1;
        view.offset = [150 - node.pos[0], 200 - node.pos[1]];
        app.canvas.setDirty(true, true);
    }})()""")
    require_widgets(window, renderer)
    return page


def renewed(file: Path) -> Path:
    """The file of a graph under an id of its own: else the page shows its last run again."""
    workflow = json.loads(file.read_text(encoding="utf-8")) | {"id": str(uuid.uuid4())}
    file.write_text(json.dumps(workflow), encoding="utf-8")
    return file
