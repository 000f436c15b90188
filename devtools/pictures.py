"""``dev.py pictures``: remakes the pictures of README and templates page from runs of the example graphs.

A thumbnail shows its own graph, run as it is saved; docs/given.jpg shows the same runs, docs/demo.jpg the demo graph with
the prompts and seeds of `SHOWN`, docs/viewer.jpg the page of Save Layers in a browser after a run.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from . import browser, demo, graph
from .client import Client, Run
from .console import Problem, say
from .server import ComfyServer

if TYPE_CHECKING:
    from PIL.Image import Image

NAMES = ("demo", "given", "viewer")
"""What can be asked for; thumbnails go with the picture that shows the same runs."""
BOTTLE = ("a glass blue bottle", "a wooden table", 7)
SHOWN = (BOTTLE, ("a yellow lantern", "a night street", 7), ("a red balloon", "a meadow", 7))
"""Foreground, background and seed of the rows of docs/demo.jpg, below that of the demo graph as it is saved."""
GIVEN = ("demo_given_foreground", "demo_given_background", "demo_harmonise")
SDXL_NOTE = "Drawn by the miniature models.\nPictures of real SDXL weights look otherwise."
SIDE, NOTE_HEIGHT = 256, 64
LARGEST = 200_000  # bytes of a file
VIEWER = "document.querySelector('.layerfusion-viewer')"
SAVE_NODE = "LayerFusionSaveLayers"
NODE = f"app.graph.nodes.find((node) => node.type === '{SAVE_NODE}')"
NODE_SIZE = (420, 560)
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
    unknown = set(options.names) - set(NAMES)
    if unknown:
        raise Problem(f"No picture is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}.")
    say("Starting ComfyUI")
    with ComfyServer(host, checkout) as server, Client(server) as client:
        makers = {"demo": _demo, "given": _given, "viewer": _viewer}
        for name in options.names or NAMES:
            for file, picture in makers[name](checkout, client).items():
                save(picture, checkout / file)
                say(f"  {file}")
    return 0


def save(picture: Image, file: Path) -> None:
    """Write a JPEG file of at most `LARGEST` bytes, as good as that allows; Problem where it is too large at any quality."""
    for quality in (92, 88, 84, 80, 75, 70):
        data = io.BytesIO()
        picture.save(data, format="JPEG", quality=quality, subsampling=0)
        if data.tell() <= LARGEST:
            file.write_bytes(data.getvalue())
            return
    raise Problem(f"{file.name} takes {data.tell()} bytes at quality {quality}, more than {LARGEST}; show fewer pictures in it.")


def _demo(checkout: Path, client: Client) -> dict[str, Image]:
    workflow = _workflow(checkout, "demo")
    made = [_layers(client, workflow)] + [_layers(client, _asked(client, workflow, *asked)) for asked in SHOWN]
    return {
        "docs/demo.jpg": _rows([[(name, layers[name]) for name in (*demo.STREAMS, "soft mask")] for layers in made]),
        "workflows/demo.jpg": _tiles(made[0], "soft mask"),
        "workflows/layerfusion_sdxl.jpg": _noted(_tiles(made[1], "soft mask"), SDXL_NOTE),
    }


def _given(checkout: Path, client: Client) -> dict[str, Image]:
    pictures, rows = {}, []
    for name in GIVEN:
        layers = _layers(client, _workflow(checkout, name))
        label = "given, pasted" if name == "demo_harmonise" else "given"
        rows.append([(label, layers["given"]), *((stream, layers[stream]) for stream in demo.STREAMS)])
        pictures[f"workflows/{name}.jpg"] = _tiles(layers, "given")
    return {"docs/given.jpg": _rows(rows), **pictures}


def _viewer(checkout: Path, client: Client) -> dict[str, Image]:
    """The viewer's element in each of `VIEWS`, side by side."""
    from PIL import Image

    workflow = _asked(client, _workflow(checkout, "demo"), *BOTTLE)
    made = _run(client, workflow).outputs[str(next(n["id"] for n in workflow["nodes"] if n["type"] == SAVE_NODE))]
    views = []
    with browser.Browser() as window, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "demo.json"
        file.write_text(json.dumps(workflow), encoding="utf-8")
        client.server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False})
        window.open(f"http://{client.server.address}/")
        window.wait("window.app?.vueAppReady && app.extensionManager.spinner === false", PATIENCE)
        window.wait("document.elementFromPoint(800, 500)?.closest('canvas, [data-node-id]')", PATIENCE)  # the curtain is up
        window.drop(file, 800, 500)
        window.wait(f"app.graph.nodes.length > 10 && {NODE}", PATIENCE)
        window.run(f"""(() => {{
            const node = {NODE}, view = app.canvas.ds;
            node.setSize([{NODE_SIZE[0]}, {NODE_SIZE[1]}]);
            view.scale = 1;
            view.offset = [150 - node.pos[0], 200 - node.pos[1]];
            app.canvas.setDirty(true, true);
        }})()""")
        window.wait(f"{VIEWER}?.getBoundingClientRect().height > 100", PATIENCE)
        window.run(f"{NODE}.onExecuted({json.dumps(made)})")  # what the page does when the node has run
        window.wait(f"{VIEWER}.querySelector('.sheet img')?.naturalWidth && "
                    f"[...{VIEWER}.querySelectorAll('img')].every((x) => x.naturalWidth)", PATIENCE)
        for key in VIEWS:
            window.run(f"{VIEWER}.focus()")
            window.key(key)
            window.run(f"{VIEWER}.blur()")
            window.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            box = window.run(f"{VIEWER}.getBoundingClientRect().toJSON()")
            box = {"x": box["x"] - EDGE, "y": box["y"] - EDGE, "width": box["width"] + 2 * EDGE, "height": box["height"] + 2 * EDGE}
            views.append(Image.open(io.BytesIO(window.screenshot(box))).convert("RGB"))
    whole = Image.new("RGB", (sum(view.width for view in views) + 8 * (len(views) - 1), views[0].height), "white")
    for index, view in enumerate(views):
        whole.paste(view, (index * (view.width + 8), 0))
    return {"docs/viewer.jpg": whole}


def _workflow(checkout: Path, name: str) -> graph.Graph:
    return json.loads((checkout / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def _asked(client: Client, workflow: graph.Graph, foreground: str, background: str, seed: int) -> graph.Graph:
    """The demo graph with other prompts and seed."""
    info = client.server.json("/object_info")
    workflow = graph.with_widgets(workflow, info, "LayerFusionTextEncode", foreground=foreground, background=background)
    return graph.with_widgets(workflow, info, "LayerFusionKSampler", seed=seed)


def _run(client: Client, workflow: graph.Graph) -> Run:
    """Run a graph to its end; raises Problem when it fails."""
    done = client.follow(client.queue(graph.to_api(workflow, client.server.json("/object_info")), workflow))
    if done.status != "success":
        raise Problem(f"The graph did not finish ({done.status}). {done.error}")
    return done


def _layers(client: Client, workflow: graph.Graph) -> dict[str, Image]:
    """Run a graph; its saved layers by name, what else it shows as given, and the soft mask where it shows masks."""
    from PIL import Image

    done, api = _run(client, workflow), graph.to_api(workflow, client.server.json("/object_info"))
    found = {}
    for file in done.images(graph.node_id(api, SAVE_NODE)):
        found[Path(file["filename"]).stem.rsplit("_", 1)[-1]] = Image.open(io.BytesIO(client.fetch(file)))
    for key, node in api.items():
        if node["class_type"] == "PreviewImage":
            data = client.fetch(done.images(key)[0])
            if api[node["inputs"]["images"][0]]["class_type"] == "LayerFusionPreviewPriors":
                found["soft mask"] = demo.split_strip(data)["soft mask"]
            else:
                found["given"] = Image.open(io.BytesIO(data))
    return found


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
    """A thumbnail: one picture and the three layers in a square."""
    from PIL import Image

    whole = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    for index, name in enumerate((first, *demo.STREAMS)):
        whole.paste(_square(layers[name]), (index % 2 * SIDE, index // 2 * SIDE))
    return whole


def _noted(picture: Image, note: str) -> Image:
    """The picture with lines of text above it."""
    from PIL import Image, ImageDraw, ImageFont

    whole = Image.new("RGB", (picture.width, picture.height + NOTE_HEIGHT), "white")
    whole.paste(picture, (0, NOTE_HEIGHT))
    middle = (picture.width // 2, NOTE_HEIGHT // 2)
    ImageDraw.Draw(whole).text(middle, note, "black", ImageFont.load_default(20), "mm", align="center")
    return whole
