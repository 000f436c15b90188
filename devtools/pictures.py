"""``dev.py pictures``: remakes the pictures of README and templates page from runs of the example graphs.

A thumbnail shows its own graph, run as it is saved, and carries that graph's `fingerprint`; those of SDXL graphs show the
first one in their place and say so. docs/given.jpg shows the runs with given layers, docs/demo.jpg the first graph with the
prompts and seeds of `SHOWN`, docs/graph.jpg that graph on the page after a run, docs/viewer.jpg its Save Layers.
`help_pictures` makes those of help pages, `option_pictures` the strips of docs/options.md.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import browser, demo, examples, graph, help_pictures, option_pictures
from .client import Client, Run
from .console import Problem, say
from .server import ComfyServer

if TYPE_CHECKING:
    from PIL.Image import Image

NAMES = ("thumbnails", "demo", "given", "graph", "viewer", "help", "options")
"""What can be asked for; one of the last two alone as help-decode, option-noise."""
BOTTLE = ("a glass blue bottle", "a wooden table", 7)
SHOWN = (BOTTLE, ("a yellow lantern", "a night street", 7), ("a red balloon", "a meadow", 7))
"""Foreground, background and seed of the rows of docs/demo.jpg, below that of the demo graph as it is saved."""
GIVEN = ("given_foreground", "given_background", "harmonise")
FIRST = {**dict.fromkeys(GIVEN, "given"), "priors": "soft mask"}
"""What the first tile of a thumbnail shows; else light and shadow."""
STAND_INS = {
    "sdxl": BOTTLE,
    "lora_controlnet": ("a yellow mug", "a brick wall", 7),
    "around": ("a green mug", "a forest", 7),
    "behind": ("an orange mushroom", "a meadow", 7),
    "into": ("a purple car", "a desert", 7),
    "three_or_one": ("a red glass bottle", "a wooden table", 7),
}
"""Graphs that need downloads, and what their thumbnails show instead."""
SHOWN_BY = {"two_foregrounds_sdxl": "two_foregrounds"}
"""The same where another example graph shows it."""
NOTE = "Drawn by the miniature models.\nPictures of real SDXL weights look otherwise."
SIDE, NOTE_HEIGHT = 256, 64
LARGEST, LARGEST_THUMBNAIL = 200_000, 30_000  # bytes of a file
VIEWER = "document.querySelector('.layerfusion-viewer')"
SAVE_NODE = "LayerFusionSaveLayers"
NODE = f"app.graph.nodes.find((node) => node.type === '{SAVE_NODE}')"
NODE_SIZE = (420, 560)
GRAPH_SCALE, GRAPH_AT = 0.75, (110, 100)  # of docs/graph.jpg: zoom, and where it lies beside the page's own bars
GRAPH_BOX = """(() => {
  const boxes = [...app.graph.nodes, ...app.graph.groups].map(({ boundingRect }) => boundingRect);
  const [x, y] = [0, 1].map((axis) => Math.min(...boxes.map((box) => box[axis])));
  const [right, bottom] = [0, 1].map((axis) => Math.max(...boxes.map((box) => box[axis] + box[axis + 2])));
  return { x, y, width: right - x, height: bottom - y };
})()"""
EDGE = 8  # pixels of the node around its viewer
PATIENCE = 300  # seconds that the page may take, on a busy machine too
VIEWS = ("1", "2", "c", "5")
"""Keys of the viewer: blended picture, foreground, slider (leaves with the next view), masks."""


def add_to(commands) -> None:
    """Register the command with dev.py's argument parser."""
    parser = commands.add_parser("pictures", help="remake the pictures of README and templates page; ten minutes")
    parser.add_argument("names", nargs="*", metavar=" | ".join(NAMES), help="which of them (default: all)")


def run(checkout: Path, host: Path | None, options: argparse.Namespace) -> int:
    """Make the chosen pictures and write them over those in docs and workflows."""
    if host is None:
        raise Problem("pictures needs a ComfyUI: put one at ~/comfy/ComfyUI or set COMFYUI_PATH to it.")
    groups = {"help": [f"help-{name}" for name in help_pictures.MAKERS],
              "options": [f"option-{name}" for name in option_pictures.MAKERS]}
    asked = [one for name in options.names or NAMES for one in groups.get(name, [name])]
    unknown = set(asked) - {*NAMES, *groups["help"], *groups["options"]}
    if unknown:
        raise Problem(f"No picture is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}.")
    say("Starting ComfyUI")
    with (ComfyServer(host, checkout, prepare=lambda base: help_pictures.lend_files(base, checkout)) as server,
          Client(server) as client):
        made: dict[str, dict[str, Image]] = {}  # layers by fingerprint: some graphs are shown more than once
        for name in asked:
            if name == "thumbnails":
                thumbnails(checkout, client, made)
                continue
            kind, _, one = name.partition("-")
            maker = {"help": help_pictures.make, "option": option_pictures.make}.get(kind) if one else None
            for file, picture in (maker(one, client) if maker else MAKERS[name](checkout, client, made)).items():
                (help_pictures.save if file.endswith(".webp") else save)(picture, checkout / file)
                say(f"  {file}")
    return 0


def save(picture: Image, file: Path, comment: str = "", largest: int = LARGEST) -> None:
    """Write a JPEG file of at most so many bytes, as good as that allows; Problem where it is too large at any quality."""
    for quality in (92, 88, 84, 80, 75, 70):
        data = io.BytesIO()
        shared = 2 if largest < LARGEST else 0  # four pixels share a colour in small files, which a thumbnail does not show
        picture.save(data, format="JPEG", quality=quality, subsampling=shared, comment=comment)
        if data.tell() <= largest:
            file.write_bytes(data.getvalue())
            return
    raise Problem(f"{file.name} takes {data.tell()} bytes at quality {quality}, more than {largest}; show fewer pictures in it.")


def fingerprint(api: graph.Graph, object_info: dict[str, Any]) -> str:
    """A word that changes with what a graph sets or links; not with an input that a node gets later and the graph leaves alone."""
    nodes = {}
    for key, node in sorted(api.items()):
        defaults = dict(graph.widgets_of(object_info[node["class_type"]]))
        set_here = {name: value for name, value in node["inputs"].items() if name not in defaults or value != defaults[name]}
        nodes[key] = (node["class_type"], set_here)
    return hashlib.sha256(json.dumps(nodes, sort_keys=True).encode()).hexdigest()[:16]


def thumbnail_graph(checkout: Path, key: str, object_info: dict[str, Any]) -> tuple[graph.Graph, bool]:
    """The graph whose run an example graph's thumbnail shows, and whether that is another one in its place."""
    if key in STAND_INS:
        return _asked(object_info, examples.load(checkout, "demo"), *STAND_INS[key]), True
    return examples.load(checkout, SHOWN_BY.get(key, key)), key in SHOWN_BY


def thumbnails(checkout: Path, client: Client, made: dict[str, dict[str, Image]]) -> None:
    """Write the picture of each example graph that has none of the graph as it is."""
    from PIL import Image

    info = client.server.json("/object_info")
    for key in examples.GRAPHS:
        if not examples.complete(key, info):
            say(f"  {examples.name(key)}: needs a newer ComfyUI, its thumbnail stays")
            continue
        shown, stands_in = thumbnail_graph(checkout, key, info)
        mark, file = fingerprint(graph.to_api(shown, info), info), examples.file(checkout, key, "jpg")
        if file.exists():
            with Image.open(file) as before:
                if before.info.get("comment") == mark.encode():
                    continue
        picture = _tiles(_layers(client, shown, made), FIRST.get(key, "effects"))
        save(_noted(picture, NOTE) if stands_in else picture, file, mark, LARGEST_THUMBNAIL)
        say(f"  {file.relative_to(checkout)}")


def _demo(checkout: Path, client: Client, made: dict[str, dict[str, Image]]) -> dict[str, Image]:
    workflow, info = examples.load(checkout, "demo"), client.server.json("/object_info")
    rows = [_layers(client, one, made) for one in (workflow, *(_asked(info, workflow, *asked) for asked in SHOWN))]
    return {"docs/demo.jpg": _rows([[(name, layers[name]) for name in (*demo.STREAMS, "soft mask")] for layers in rows])}


def _given(checkout: Path, client: Client, made: dict[str, dict[str, Image]]) -> dict[str, Image]:
    rows = []
    for key in GIVEN:
        layers = _layers(client, examples.load(checkout, key), made)
        label = "given, pasted" if key == "harmonise" else "given"
        rows.append([(label, layers["given"]), *((stream, layers[stream]) for stream in demo.STREAMS)])
    return {"docs/given.jpg": _rows(rows)}


@contextlib.contextmanager
def _page(client: Client, workflow: graph.Graph) -> Iterator[browser.Browser]:
    """The page with a graph on it after its run; the graph's Save Layers shows the layers."""
    shown = _run(client, workflow)[0].outputs[str(next(n["id"] for n in workflow["nodes"] if n["type"] == SAVE_NODE))]
    with browser.Browser() as window, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "demo.json"
        file.write_text(json.dumps(workflow), encoding="utf-8")
        settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False, "Comfy.Minimap.Visible": False,
                    "Comfy.Graph.CanvasInfo": False}
        client.server.post("/settings", settings)
        window.open(f"http://{client.server.address}/")
        window.wait("window.app?.vueAppReady && app.extensionManager.spinner === false", PATIENCE)
        window.wait("document.elementFromPoint(800, 500)?.closest('canvas, [data-node-id]')", PATIENCE)  # the curtain is up
        window.drop(file, 800, 500)
        window.wait(NODE, PATIENCE)
        window.wait(f"{VIEWER}?.getBoundingClientRect().height > 100", PATIENCE)
        window.run(f"{NODE}.onExecuted({json.dumps(shown)})")  # what the page does when the node has run
        window.wait(f"{VIEWER}.querySelector('.sheet img')?.naturalWidth && "
                    f"[...{VIEWER}.querySelectorAll('img')].every((x) => x.naturalWidth)", PATIENCE)
        yield window


def _shot(window: browser.Browser, box: dict[str, float]) -> Image:
    """What is drawn in a rectangle of the window."""
    from PIL import Image

    window.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return Image.open(io.BytesIO(window.screenshot(box))).convert("RGB")


def _graph(checkout: Path, client: Client, made: dict[str, dict[str, Image]]) -> dict[str, Image]:
    """The first example graph with its pictures, and nothing of the page around it."""
    with _page(client, examples.load(checkout, "demo")) as window:
        box = window.run(GRAPH_BOX)
        at = [EDGE + place / GRAPH_SCALE - box[axis] for place, axis in zip(GRAPH_AT, "xy")]
        window.run(f"""(() => {{
            app.canvas.ds.scale = {GRAPH_SCALE};
            app.canvas.ds.offset = {json.dumps(at)};
            app.canvas.setDirty(true, true);
        }})()""")
        corner = window.run("app.canvas.canvas.getBoundingClientRect().toJSON()")
        sides = {side: (box[side] + 2 * EDGE) * GRAPH_SCALE for side in ("width", "height")}
        window.run("new Promise((done) => setTimeout(done, 1000))")  # what lies over the canvas follows it
        return {"docs/graph.jpg": _shot(window, {"x": corner["x"] + GRAPH_AT[0], "y": corner["y"] + GRAPH_AT[1], **sides})}


def _viewer(checkout: Path, client: Client, made: dict[str, dict[str, Image]]) -> dict[str, Image]:
    """The viewer's element in each of `VIEWS`, side by side."""
    from PIL import Image

    workflow = _asked(client.server.json("/object_info"), examples.load(checkout, "demo"), *BOTTLE)
    views = []
    with _page(client, workflow) as window:
        window.run(f"""(() => {{
            const node = {NODE}, view = app.canvas.ds;
            node.setSize([{NODE_SIZE[0]}, {NODE_SIZE[1]}]);
            view.scale = 1;
            view.offset = [150 - node.pos[0], 200 - node.pos[1]];
            app.canvas.setDirty(true, true);
        }})()""")
        for key in VIEWS:
            window.run(f"{VIEWER}.focus()")
            window.key(key)
            window.run(f"{VIEWER}.blur()")
            box = window.run(f"{VIEWER}.getBoundingClientRect().toJSON()")
            views.append(_shot(window, {"x": box["x"] - EDGE, "y": box["y"] - EDGE,
                                        "width": box["width"] + 2 * EDGE, "height": box["height"] + 2 * EDGE}))
    whole = Image.new("RGB", (sum(view.width for view in views) + 8 * (len(views) - 1), views[0].height), "white")
    for index, view in enumerate(views):
        whole.paste(view, (index * (view.width + 8), 0))
    slider = views[VIEWS.index("c")]
    small = slider.resize((help_pictures.WIDTH, slider.height * help_pictures.WIDTH // slider.width), Image.Resampling.LANCZOS)
    return {"docs/viewer.jpg": whole, f"{help_pictures.FOLDER}/viewer.webp": small}


def _asked(object_info: dict[str, Any], workflow: graph.Graph, foreground: str, background: str, seed: int) -> graph.Graph:
    """The demo graph with other prompts and seed."""
    texts = {"foreground": foreground, "background": background}
    workflow = graph.with_widgets(workflow, object_info, "LayerFusionTextEncode", **texts)
    return graph.with_widgets(workflow, object_info, "LayerFusionKSampler", seed=seed)


def _run(client: Client, workflow: graph.Graph) -> tuple[Run, graph.Graph]:
    """Run a graph to its end, with the maps of its run where one sampler is in it; raises Problem when it fails."""
    api = graph.to_api(workflow, client.server.json("/object_info"))
    kinds = [node["class_type"] for node in api.values()]
    if kinds.count("LayerFusionKSampler") == 1:
        api = demo.with_priors(api)
    done = client.follow(client.queue(api, workflow))
    if done.status != "success":
        raise Problem(f"The graph did not finish ({done.status}). {done.error}")
    return done, api


def _layers(client: Client, workflow: graph.Graph, made: dict[str, dict[str, Image]]) -> dict[str, Image]:
    """Run a graph, once; its saved layers by name, what it shows as given, and the soft mask where one sampler runs."""
    from PIL import Image

    info = client.server.json("/object_info")
    mark = fingerprint(graph.to_api(workflow, info), info)
    if mark in made:
        return made[mark]
    done, api = _run(client, workflow)
    found = {}
    for file in done.images(graph.node_id(api, SAVE_NODE)):
        found[re.sub(r".*_\d{5}_", "", Path(file["filename"]).stem)] = Image.open(io.BytesIO(client.fetch(file)))
    for key, node in api.items():
        if node["class_type"] == "PreviewImage":
            picture = Image.open(io.BytesIO(client.fetch(done.images(key)[0])))
            if key == "maps":
                found["soft mask"] = demo.split_strip(picture)["soft mask"]
            elif api[node["inputs"]["images"][0]]["class_type"] != "LayerFusionPreviewPriors":
                found["given"] = picture
    found.setdefault("given", found.get("foreground"))  # a cut-out that is kept comes out as it went in
    made[mark] = found
    return found


MAKERS = {"demo": _demo, "given": _given, "graph": _graph, "viewer": _viewer}


def _square(picture: Image) -> Image:
    """A picture of `SIDE` x `SIDE`, transparency as a checkerboard; masks keep their cells."""
    from PIL import Image

    from layerfusion_core.layers import compositing

    picture = picture.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return compositing.on_checkerboard(picture, 16) if "A" in picture.getbands() else picture.convert("RGB")


def _rows(rows: list[list[tuple[str, Image]]]) -> Image:
    """Labelled pictures, a row each."""
    from PIL import Image

    from layerfusion_core.layers import compositing

    made = [compositing.labelled_row([(label, _square(picture)) for label, picture in row]) for row in rows]
    whole = Image.new("RGB", (made[0].width, sum(row.height for row in made)))
    for index, row in enumerate(made):
        whole.paste(row, (0, index * row.height))
    return whole


def _tiles(layers: dict[str, Image], first: str) -> Image:
    """A thumbnail: one picture and the three layers in a square; of several foregrounds two, and the other layers."""
    from PIL import Image

    whole = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    names = (first, *demo.STREAMS) if "foreground" in layers else ("foreground_1", "foreground_2", *demo.STREAMS[1:])
    for index, name in enumerate(names):
        whole.paste(_square(layers[name]), (index % 2 * SIDE, index // 2 * SIDE))
    return whole


def _noted(picture: Image, note: str) -> Image:
    """The picture with lines of text below it; above, the templates page lays its own words."""
    from PIL import Image, ImageDraw, ImageFont

    whole = Image.new("RGB", (picture.width, picture.height + NOTE_HEIGHT), "white")
    whole.paste(picture, (0, 0))
    middle = (picture.width // 2, picture.height + NOTE_HEIGHT // 2)
    ImageDraw.Draw(whole).text(middle, note, "black", ImageFont.load_default(20), "mm", align="center")
    return whole
