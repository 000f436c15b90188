"""The viewer of Save Layers in a real browser: the demo graph dropped on the page, run, and looked at like a person does."""

from __future__ import annotations

import json
import re

import numpy
import pytest
from host_page import CLASSIC, RENDERERS
from viewer_page import LAYERS, NODE, VIEWER, opened, over, renewed

from layerfusion_pack.devtools import browser, graph

SAVE_WIDGETS = ["filename_prefix", "psd", "ora", "webp", "bit_depth"]


@pytest.fixture(scope="module")
def demo_file(demo_workflow, object_info, tmp_path_factory):
    """The demo graph with a batch of two, as a file to drop."""
    if browser.find() is None:
        pytest.skip("NO CHROMIUM: install one to test the viewer (on Debian and Ubuntu: chromium)")
    file = tmp_path_factory.mktemp("drop") / "demo.json"
    workflow = graph.with_widgets(demo_workflow, object_info, "EmptyLatentImage", batch_size=2)
    workflow = graph.with_widgets(workflow, object_info, "LayerFusionMatchLayers", cleanliness=0.0)  # some effects in any case
    file.write_text(json.dumps(workflow), encoding="utf-8")
    return file


@pytest.fixture(scope="module", params=RENDERERS)
def page(request, server, demo_file):
    """The page with the demo graph, before the run."""
    with browser.Browser() as window:
        page = opened(window, server, renewed(demo_file), request.param)
        page.wait(f"{VIEWER}?.getBoundingClientRect().height > 100", 30)
        yield page


@pytest.fixture
def ran(page):
    """The page after the run, fitted, with the blended picture of the first sample."""
    assert not page.failed, "the graph did not run, see the first failure"
    page.failed = True
    if not page.run(f"Boolean(app.nodeOutputs[{NODE}.id])"):
        page.start()
    page.wait(f"[...{VIEWER}.querySelectorAll('.sheet img')].every((x) => x.naturalWidth)", 120)
    page.failed = False
    page.press("1", "ArrowLeft")
    return page


def test_before_the_run_the_viewer_says_what_to_do(page):
    assert page.run(f"{VIEWER}.querySelector('.note').textContent") == "Run the workflow to see the layers here."
    assert page.run(f"[...{VIEWER}.querySelectorAll('.segments button')].map((x) => x.ariaDisabled)") == ["true"] * 5


def test_tokens_in_the_file_name_become_what_they_become_in_save_image(page):
    prefix = "%date:yyyy-MM-dd%/%LayerFusion KSampler.seed%_%EmptyLatentImage.width%_%year%_%nothing%"
    found = page.run(f"""(async () => {{
        const node = LiteGraph.createNode("SaveImage"), kinds = ["SaveImage", "LayerFusionSaveLayers"];
        app.graph.add(node);
        app.graph.nodes.find(({{ type }}) => type === "LayerFusionDecode").connect(0, node, 0);
        const widgets = kinds.map((kind) => app.graph.nodes.find(({{ type }}) => type === kind)
            .widgets.find(({{ name }}) => name === "filename_prefix"));
        const before = widgets[1].value;
        for (const widget of widgets) widget.value = {json.dumps(prefix)};
        const {{ output, workflow }} = await app.graphToPrompt();
        widgets[1].value = before;
        app.graph.remove(node);
        const queued = (kind) => Object.values(output).find(({{ class_type }}) => class_type === kind).inputs.filename_prefix;
        return [...kinds.map(queued), workflow.nodes.find(({{ type }}) => type === kinds[1]).widgets_values[0]];
    }})()""")
    theirs, ours, saved = found
    assert ours == theirs and re.fullmatch(r"\d{4}-\d\d-\d\d/\d+_128_%year%_%nothing%", ours)
    assert saved == prefix  # the graph keeps the tokens


def test_the_run_shows_the_blended_picture(ran):
    assert "segment blended" in ran.pressed() and ran.looks_like(ran.files(0)["blended"])
    assert ran.caption() == "The blended picture, 1 of 2"
    sources = ran.run(f"[...{VIEWER}.querySelectorAll('img')].map((x) => x.src)")
    assert len(sources) == 8 and all("/view?filename=" in source for source in sources)


def test_keys_choose_what_to_see(ran):
    files = ran.files(0)
    ran.press("3")
    assert ran.looks_like(files["background"]) and not ran.looks_like(files["blended"])
    ran.press("4")
    assert ran.looks_like(files["foreground"][..., 3])
    ran.press("2", "b", "b")
    assert "swatch light" in ran.pressed() and ran.looks_like(over(files["foreground"], 250.0))
    ran.press("b")
    assert ran.looks_like(over(files["foreground"], numpy.array([0.0, 177.0, 64.0])))
    ran.press("b", "5")
    names = ran.run(f"[...{VIEWER}.querySelectorAll('figure')].filter((x) => x.offsetHeight > 20).map((x) => x.innerText)")
    assert names == ["Structure prior", "Content confidence", "Soft mask", "Hard mask"]


def test_eyes_choose_the_layers_that_are_composited(ran):
    files = ran.files(0)
    ran.click(".eyes button:nth-child(1)")
    assert ran.caption() == "Foreground over effects over background, 1 of 2"
    shown = over(files["foreground"], over(files["effects"], files["background"]))
    without = over(files["foreground"], files["background"])
    assert ran.looks_like(shown) and abs(shown - files["blended"]).mean() < abs(without - files["blended"]).mean()
    ran.click(".eyes button:nth-child(2)")
    assert ran.caption() == "Effects over background, 1 of 2"
    assert ran.looks_like(over(files["effects"], files["background"]))
    ran.click(".eyes button:nth-child(3)")
    assert ran.looks_like(files["background"])
    ran.click(".eyes button:nth-child(4)")
    assert ran.caption() == "All layers hidden, 1 of 2"


def test_the_slider_divides_blended_picture_and_background(ran):
    files = ran.files(0)
    ran.press("c")
    x, y = ran.middle(".divider")
    box = ran.rectangle(".sheet")
    ran.window.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    for share in (0.5, 0.4, 0.25):
        ran.window.mouse("mouseMoved", box["x"] + share * box["width"], y, button="left", buttons=1)
    ran.window.mouse("mouseReleased", box["x"] + 0.25 * box["width"], y, button="left", clickCount=1)
    assert ran.run(f"{VIEWER}.querySelector('.divider').ariaValueNow") == "25"
    expected = files["background"].copy()
    expected[:, :32] = files["blended"][:, :32]
    assert ran.looks_like(expected)
    ran.run(f"{VIEWER}.querySelector('.divider').focus()")
    for key in ("ArrowRight", "End"):
        ran.key(key)
    assert ran.looks_like(files["blended"])


def test_the_pager_goes_through_the_batch(ran):
    ran.click(".pager .next")
    ran.wait(f"{VIEWER}.querySelector('.sheet img').complete")
    assert ran.run(f"{VIEWER}.querySelector('.pager span').textContent") == "2 / 2"
    assert ran.looks_like(ran.files(1)["blended"]) and not ran.looks_like(ran.files(0)["blended"])


def test_zoom_shows_pixels_of_the_picture_as_pixels_of_the_screen(ran):
    for width in (128, 512):
        ran.press("z")
        assert round(ran.rectangle(".sheet")["width"]) == width
    before = ran.rectangle(".sheet")
    x, y = ran.middle(".stage")
    ran.window.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    ran.window.mouse("mouseMoved", x + 40, y - 30, button="left", buttons=1)
    ran.window.mouse("mouseReleased", x + 40, y - 30, button="left", clickCount=1)
    after = ran.rectangle(".sheet")
    assert (round(after["x"] - before["x"]), round(after["y"] - before["y"])) == (40, -30)
    ran.press("z")
    assert ran.rectangle(".sheet")["height"] <= ran.rectangle(".stage")["height"]


def test_wheel_and_middle_button_belong_to_the_canvas(ran):
    x, y = ran.middle(".stage")
    scale, offset = ran.run("[app.canvas.ds.scale, [...app.canvas.ds.offset]]")
    ran.window.mouse("mouseWheel", x, y, deltaX=0, deltaY=120)
    ran.wait(f"app.canvas.ds.scale < {scale}", 10)
    ran.run(f"app.canvas.ds.scale = {scale}; app.canvas.ds.offset = {offset}; app.canvas.setDirty(true, true)")
    ran.window.mouse("mousePressed", x, y, button="middle", buttons=4, clickCount=1)
    for step in (10, 40):
        ran.window.mouse("mouseMoved", x + step, y, button="middle", buttons=4)
    ran.window.mouse("mouseReleased", x + 40, y, button="middle", clickCount=1)
    ran.wait(f"Math.abs(app.canvas.ds.offset[0] - {offset[0]} - 40) < 2", 10)
    ran.run(f"app.canvas.ds.offset = {offset}; app.canvas.setDirty(true, true)")


def test_a_screen_reader_finds_every_control(ran):
    ran.press("c")
    found = ran.window.send("Accessibility.getFullAXTree")["nodes"]
    names = {(node["role"]["value"], node["name"]["value"]) for node in found if node.get("name", {}).get("value")}
    segments = ("Blended", "Foreground", "Background", "Alpha", "Masks")
    wanted = {("button", f"{name} ({key})") for key, name in enumerate(segments, 1)}
    wanted |= {("button", f"Show or hide the {layer} layer") for layer in LAYERS}
    wanted |= {("button", f"Backdrop: {name} (B)") for name in ("checkerboard", "dark", "light", "colour")}
    wanted |= {("button", "Next picture (arrow right)"), ("button", "Zoom to fit (Z, double click)"),
               ("slider", "Blended picture against background"), ("region", "Layers")}
    assert wanted - names == set()


def test_the_hosts_own_preview_is_not_shown_beside_it(ran):
    assert ran.run(f"Boolean({NODE}.imgs)") is False
    assert ran.run(f"{NODE}.widgets.map((widget) => widget.name)") == [*SAVE_WIDGETS, "layers_viewer"]
    others = f"document.querySelectorAll(`[data-node-id=\"${{{NODE}.id}}\"] img`).length"
    assert ran.run(others) == ran.run(f"{VIEWER}.closest('[data-node-id]') ? 8 : 0")


def test_the_viewer_leaves_the_saved_graph_alone(ran, demo_workflow):
    saved = next(node for node in demo_workflow["nodes"] if node["type"] == "LayerFusionSaveLayers")
    assert ran.run(f"{NODE}.serialize().widgets_values.filter((value) => value !== null)") == saved["widgets_values"]
    api = ran.run("app.graphToPrompt().then(({ output }) => output)")
    assert set(api[str(saved["id"])]["inputs"]) == {*LAYERS, *SAVE_WIDGETS, "priors"}


def test_the_picture_in_view_is_saved_copied_opened_and_carried(ran):
    """What would leave the page is caught on it."""
    ran.press("2")
    caught = ran.run(f"""(async () => {{
        const seen = {{}};
        const originals = [window.open, HTMLAnchorElement.prototype.click, navigator.clipboard.write, URL.createObjectURL];
        URL.createObjectURL = (blob) => ((seen.blob = blob), "blob:");
        window.open = (url) => (seen.open = url);
        HTMLAnchorElement.prototype.click = function () {{ seen.save ??= [this.href, this.download]; seen.last = this; }};
        navigator.clipboard.write = async ([item]) => (seen.copy = (await item.getType("image/png")).size);
        for (const name of ["open", "save", "copy"]) await {VIEWER}.querySelector(`.action.${{name}}`).click();
        await new Promise((done) => setTimeout(done, 500));
        const transfer = new DataTransfer(), image = {VIEWER}.querySelector("img:not([hidden])");
        image.dispatchEvent(new DragEvent("dragstart", {{ dataTransfer: transfer, bubbles: true, cancelable: true }}));
        seen.carried = transfer.getData("text/uri-list");
        {VIEWER}.querySelector(".action.psd").click();
        for (let i = 0; i < 500 && !seen.last?.download?.endsWith(".psd"); i++) await new Promise((done) => setTimeout(done, 100));
        if (!seen.blob) throw new Error({VIEWER}.querySelector(".caption").value);
        seen.psd = [seen.last.download, seen.blob.type, new TextDecoder().decode((await seen.blob.arrayBuffer()).slice(0, 4))];
        [window.open, HTMLAnchorElement.prototype.click, navigator.clipboard.write, URL.createObjectURL] = originals;
        return {{ ...seen, last: null, blob: null }};
    }})()""")
    name = json.loads(ran.run(f"app.nodeOutputs[{NODE}.id].layerfusion_layers")[0])["foreground"]["filename"]
    assert name in caught["open"] and name in caught["carried"] and caught["carried"].startswith("http://")
    assert name in caught["save"][0] and caught["save"][1] == name
    assert caught["copy"] > 1000
    assert caught["psd"] == [name.replace("foreground.png", "layers.psd"), "image/vnd.adobe.photoshop", "8BPS"]
    ran.press("1")
    ran.click(".eyes button:nth-child(1)")
    assert ran.run(f"{VIEWER}.querySelector('.action.save').ariaDisabled") == "true"


def test_the_nodes_menu_has_them_too(ran):
    items = ran.run(f"""(() => {{
        const node = {NODE}, listed = [];
        if (app.collectNodeMenuItems) listed.push(...app.collectNodeMenuItems(node));
        else node.getExtraMenuOptions(app.canvas, listed);
        return listed.filter(Boolean).map((item) => item.content);
    }})()""")
    assert [item for item in items if "picture" in item or "PSD" in item] == [
        "Save this picture", "Copy this picture", "Open this picture in a new tab", "Save all layers as one PSD file"]  # fmt: skip


def test_delete_in_the_viewer_keeps_the_node(ran):
    ran.run(f"app.canvas.selectNode({NODE})")
    ran.press("Delete", "Backspace")
    assert ran.run(f"Boolean({NODE})")


def test_the_host_counts_the_pictures_once(ran):
    """In its lists of outputs; what is for the viewer alone is none."""
    outputs = next(iter(ran.server.json("/history?max_items=1").values()))["outputs"]
    files = [item for output in outputs.values() for kind in output.values() if isinstance(kind, list)
             for item in kind if isinstance(item, dict) and item.get("type") == "output"]  # fmt: skip
    assert len(files) == len({file["filename"] for file in files}) == 8


def test_a_picture_that_is_gone_is_said_to_be(ran):
    """Also without a blended picture the rest is shown. Then the run's own result again."""
    ran.run(f"{NODE}.onExecuted({{ layerfusion_layers: [{{ foreground: {{ filename: 'none.png' }} }}] }})")
    ran.press("2")
    ran.wait(f"{VIEWER}.querySelector('.note').textContent === 'A picture of this run is no longer on the server.'", 10)
    ran.run(f"{NODE}.onExecuted(app.nodeOutputs[{NODE}.id])")
    ran.press("1")
    ran.wait(f"!{VIEWER}.querySelector('.note').textContent", 10)
    assert ran.window.errors == [] or not any("layerfusion" in error for error in ran.window.errors)


def test_after_a_reload_the_last_run_comes_back(ran):
    ran.wait("app.graph.id", 5)
    fresh = ran.run(f"""(async () => {{
        const node = {NODE}, graph = app.graph, copy = LiteGraph.createNode(node.type);
        const {{ id }} = node;
        graph.remove(node);
        copy.id = id;
        graph.add(copy);
        for (let i = 0; i < 100 && !{VIEWER}?.querySelector("img[src]"); i++) await new Promise((done) => setTimeout(done, 100));
        return Boolean({VIEWER}?.querySelector("img[src]"));
    }})()""")
    assert fresh


def test_without_the_viewer_the_node_shows_the_blended_picture(server, demo_file):
    with browser.Browser() as window:
        window.send("Network.enable")
        window.send("Network.setBlockedURLs", urls=["*/viewer.js*"])
        page = opened(window, server, demo_file, CLASSIC)
        assert page.run(f"{VIEWER}") is None
        page.start()
        page.wait(f"{NODE}.imgs?.length === 8", 120)
        assert "blended" in page.run(f"{NODE}.imgs[0].src")
        page.run("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
        page.start()
        page.wait(f"document.querySelector(`[data-node-id=\"${{{NODE}.id}}\"] img`)?.src.includes('blended')", 30)
