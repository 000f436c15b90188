"""The viewer with two foregrounds, and wherever a person takes it: a narrow node, a subgraph, a reload, another node."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy
import pytest
from host_page import RENDERERS
from PIL import Image
from viewer_page import NODE, VIEWER, opened, over, renewed

from layerfusion_pack.devtools import browser, examples, graph

CHECKOUT = Path(__file__).resolve().parents[2]
STACK = ("foreground_2", "foreground_1", "effects", "background")  # top to bottom, under the blended picture
SETS = f"JSON.parse(app.nodeOutputs[{NODE}.id].layerfusion_layers[0])"
EYES = f"[...{VIEWER}.querySelectorAll('.eyes button:not([hidden])')]"


@pytest.fixture(scope="module")
def two_foregrounds(object_info, tmp_path_factory):
    """The example graph with few steps, as a file to drop; the models draw two things at their own size only."""
    if browser.find() is None:
        pytest.skip("NO CHROMIUM: install one to test the viewer (on Debian and Ubuntu: chromium)")
    workflow = examples.load(CHECKOUT, "two_foregrounds")
    workflow = graph.with_widgets(workflow, object_info, "LayerFusionKSampler", steps=6)
    file = tmp_path_factory.mktemp("drop") / "two_foregrounds.json"
    file.write_text(json.dumps(workflow), encoding="utf-8")
    return file


@pytest.fixture(scope="module", params=RENDERERS)
def page(request, server, two_foregrounds):
    """The page after the run; the second renderer's comes from the cache."""
    with browser.Browser() as window:
        page = opened(window, server, renewed(two_foregrounds), request.param)
        page.start()
        page.wait(f"{VIEWER}?.querySelectorAll('.sheet img').length === 5", 120)
        page.wait(f"[...{VIEWER}.querySelectorAll('.sheet img')].every((x) => x.naturalWidth)")
        yield page


@pytest.fixture(scope="module")
def files(page) -> dict[str, numpy.ndarray]:
    """The saved layers, as floats in 0..255."""
    return {layer: page.picture(file) for layer, file in page.run(SETS).items() if layer != "masks"}


def only(page, *layers: str) -> None:
    """Show these layers and no others, with their eyes."""
    page.press("1")
    for layer in ("blended", *STACK):
        label = f"Show or hide the {layer.replace('_', ' ')} layer"
        shown = layer in layers
        page.run(f"""(() => {{
            const eye = {EYES}.find(({{ ariaLabel }}) => ariaLabel === {json.dumps(label)});
            if ((eye.ariaPressed === "true") !== {json.dumps(shown)}) eye.click();
        }})()""")


def saved_name(page) -> str | None:
    """Name under which the viewer's button would save what is in view; None where it says that it cannot."""
    return page.run(f"""(async () => {{
        const original = HTMLAnchorElement.prototype.click;
        let name = null;
        HTMLAnchorElement.prototype.click = function () {{ name = this.download; }};
        {VIEWER}.querySelector(".action.save").click();
        await new Promise((done) => setTimeout(done, 100));
        HTMLAnchorElement.prototype.click = original;
        return name;
    }})()""")


def test_there_is_an_eye_for_each_layer_from_top_to_bottom(page):
    names = ["Blended", "Foreground 2", "Foreground 1", "Effects", "Background"]
    assert page.run(f"{EYES}.map((eye) => eye.textContent)") == names


def test_each_eye_switches_its_own_layer(page, files):
    assert not page.looks_like(files["background"])
    only(page, *STACK)
    shown = files["background"]
    for layer in reversed(STACK[:-1]):
        shown = over(files[layer], shown)
    assert page.looks_like(shown)
    for layer in ("foreground_1", "foreground_2"):
        only(page, layer, "background")
        assert page.looks_like(over(files[layer], files["background"]))
        assert page.caption() == f"{layer.replace('_', ' ').capitalize()} over background"
        alone = [abs(page.seen() - numpy.asarray(Image.fromarray(over(files[other], files["background"]).astype("uint8"))
                 .resize((32, 32), Image.Resampling.BOX), dtype=float)).mean() for other in ("foreground_1", "foreground_2")]
        assert min(alone) == alone[("foreground_1", "foreground_2").index(layer)] < max(alone) / 2


def test_save_gives_the_foreground_in_view(page):
    stem = page.run(SETS)["blended"]["filename"].removesuffix("blended.png")
    for layer in ("foreground_1", "foreground_2", "background"):
        only(page, layer)
        assert saved_name(page) == f"{stem}{layer}.png"
    page.press("2")  # both, of which no file is
    assert page.caption() == "Foreground 2 over foreground 1" and saved_name(page) is None


def test_the_psd_holds_both_foregrounds(page, files):
    psd_tools = pytest.importorskip("psd_tools")
    data = page.run(f"""(async () => {{
        const answer = await app.api.fetchApi("/layerfusion/psd", {{ method: "POST", body: JSON.stringify({SETS}) }});
        const bytes = new Uint8Array(await answer.arrayBuffer());
        return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
    }})()""")
    layers = {layer.name: layer for layer in psd_tools.PSDImage.open(io.BytesIO(base64.b64decode(data)))}
    assert list(layers) == ["Background", "Light and shadow", "Foreground 1", "Foreground 2", "Blended"]
    for number in (1, 2):
        found = numpy.asarray(layers[f"Foreground {number}"].topil().convert("RGBA"), dtype=float)
        assert numpy.array_equal(found, files[f"foreground_{number}"])


def test_a_right_click_on_the_node_offers_what_the_buttons_do(page):
    x, y = page.run(f"""(() => {{
        const shown = document.querySelector(`[data-node-id="${{{NODE}.id}}"]`)?.getBoundingClientRect();
        const [left, top] = app.canvas.ds.convertOffsetToCanvas([{NODE}.pos[0], {NODE}.pos[1] - 15]);
        const around = app.canvas.canvas.getBoundingClientRect();
        return shown ? [shown.x + 60, shown.y + 12] : [around.x + left + 60, around.y + top];
    }})()""")
    page.window.click(x, y, button="right")
    page.wait("document.body.innerText.includes('Save this picture')", 10)
    for item in ("Copy this picture", "Open this picture in a new tab", "Save all layers as one PSD file"):
        assert page.run(f"document.body.innerText.includes({json.dumps(item)})"), item
    page.key("Escape")
    page.run("document.querySelectorAll('.litecontextmenu').forEach((menu) => menu.remove())")


def test_at_260_pixels_the_labels_do_not_touch(page):
    width = page.run(f"{NODE}.size[0]")
    narrow = f"{NODE}.setSize([260, {NODE}.size[1]]), app.canvas.setDirty(true, true)"
    page.wait(f"({narrow}, Math.abs({VIEWER}.offsetWidth - 240) < 24)", 30)  # the page may undo the first for a run that ends
    boxes = page.run(f"""[...{VIEWER}.querySelectorAll('.segments button')].map((button) =>
        [button.getBoundingClientRect().left, button.getBoundingClientRect().right,
         button.scrollWidth - button.clientWidth, button.ariaLabel])""")
    assert [label.split(" (")[0] for *_, label in boxes] == ["Blended", "Foreground", "Background", "Alpha", "Masks"]
    assert all(over_by <= 1 for _, _, over_by, _ in boxes), boxes
    assert all(left[1] <= right[0] + 0.5 for left, right in zip(boxes, boxes[1:])), boxes
    page.run(f"{NODE}.setSize([{width}, {NODE}.size[1]]); app.canvas.setDirty(true, true)")


def test_a_picture_is_dragged_into_load_image(page, files):
    """What the viewer hands over is let fall on a Load Image node, which takes the file in view."""
    only(page, "foreground_2")
    page.run(f"""(() => {{
        const node = LiteGraph.createNode("LoadImage");
        node.pos = [{NODE}.pos[0] + {NODE}.size[0] + 60, {NODE}.pos[1]];
        app.graph.add(node);
        app.canvas.setDirty(true, true);
        window.loader = node.widgets.find(({{ name }}) => name === "image");
        loader.value = "none.png";
    }})()""")
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.run(f"""(() => {{
        const transfer = new DataTransfer(), image = {VIEWER}.querySelector(".sheet img:not([hidden])");
        const options = {{ dataTransfer: transfer, bubbles: true, cancelable: true }};
        image.dispatchEvent(new DragEvent("dragstart", options));
        const [x, y] = app.canvas.ds.convertOffsetToCanvas([{NODE}.pos[0] + {NODE}.size[0] + 100, {NODE}.pos[1] + 40]);
        const {{ left, top }} = app.canvas.canvas.getBoundingClientRect();
        const place = {{ clientX: left + x, clientY: top + y }};
        document.elementFromPoint(left + x, top + y).dispatchEvent(new DragEvent("drop", {{ ...options, ...place }}));
    }})()""")
    page.wait("loader.value !== 'none.png'", 20)
    name = page.run("loader.value")
    assert "foreground_2" in name
    assert numpy.array_equal(page.picture({"filename": name, "type": "input"}), files["foreground_2"])
    page.run("app.graph.remove(app.graph.nodes.find(({ type }) => type === 'LoadImage'))")


def test_after_convert_to_subgraph_the_pictures_are_there(page):
    page.run(f"app.canvas.graph.convertToSubgraph(new Set([{NODE}])); 0")
    page.run("""(() => {
        const node = app.graph.nodes.find(({ subgraph }) => subgraph);
        if (app.canvas.openSubgraph) app.canvas.openSubgraph(node.subgraph, node);
        else app.canvas.setGraph(node.subgraph);
    })()""")
    page.wait(f"[...({VIEWER}?.querySelectorAll('.sheet img') ?? [])].filter((x) => x.naturalWidth).length === 5", 20)


def test_after_a_reload_the_pictures_are_there(page, server, two_foregrounds):
    page.window.open(f"http://{server.address}/")
    page.wait("window.app?.vueAppReady && app.extensionManager.spinner === false")
    page.wait("document.elementFromPoint(800, 500)?.closest('canvas, [data-node-id]')")
    page.window.drop(two_foregrounds, 800, 500)  # whatever the page keeps of the graph by itself
    page.wait(NODE, 30)
    page.wait(f"[...({VIEWER}?.querySelectorAll('.sheet img') ?? [])].filter((x) => x.naturalWidth).length === 5", 30)
