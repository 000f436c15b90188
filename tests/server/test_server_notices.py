"""What a node says of its result, on the page: seen at once, whole on hover, again from the cache, gone when it is over."""

from __future__ import annotations

import json

import pytest
from host_page import RENDERERS, open_page, require_widgets

from layerfusion_pack.devtools import browser

SIDE = 16
LINE = "Foreground is opaque: picture 2 of 2, 100.0 % of it"
WHITE = 0xFFFFFF


def images(colour: int, count: int) -> dict:
    return {"class_type": "EmptyImage", "inputs": {"width": SIDE, "height": SIDE, "batch_size": count, "color": colour}}


def graph(second_mask: int) -> dict:
    """Two pictures placed and shown, the first cut away; the second as its mask says: black keeps all of it."""
    place = {"image": ["cut", 0], "x": 0, "y": 0, "scale": 1.0, "width": 0, "height": 0}
    named = {
        "red": images(0xFF0000, 2), "green": images(0x00FF00, 2), "white": images(WHITE, 1), "second": images(second_mask, 1),
        "both": {"class_type": "ImageBatch", "inputs": {"image1": ["white", 0], "image2": ["second", 0]}},
        "mask": {"class_type": "ImageToMask", "inputs": {"image": ["both", 0], "channel": "red"}},
        "cut": {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["red", 0], "alpha": ["mask", 0]}},
        "place": {"class_type": "LayerFusionPlaceForeground", "inputs": place},
        "show": {"class_type": "LayerFusionPreviewLayers", "inputs": {
            "foreground": ["place", 0], "background": ["green", 0], "blended": ["green", 0]}},
    }  # fmt: skip
    numbers = {name: str(number) for number, name in enumerate(named, 1)}
    for node in named.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                node["inputs"][name] = [numbers[value[0]], value[1]]
    return {numbers[name]: node for name, node in named.items()}


PLACE = "app.graph.nodes.find(({ type }) => type === 'LayerFusionPlaceForeground')"
VIEWER = "document.querySelector('.layerfusion-viewer')"
CAPTION = f"{VIEWER}.querySelector('.caption')"
HISTORY = "app.api.fetchApi('/history').then((answer) => answer.json())"
SAID = f"{PLACE}.widgets.find(({{ name }}) => name === 'layerfusion_notice')?.element"


@pytest.fixture(scope="module")
def window():
    if browser.find() is None:
        pytest.skip("NO CHROMIUM: install one to test what nodes say (on Debian and Ubuntu: chromium)")
    with browser.Browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=RENDERERS)
def page(request, server, window):
    """The page with the graph in it, before the run."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    open_page(window, server, request.param)
    load(window, 0)
    require_widgets(window, request.param)
    window.wait(VIEWER)
    return window


def load(page, second_mask: int) -> None:
    """The graph, new on the page, with Place Foreground and the viewer in view."""
    page.run("app.graph.clear()")
    page.run(f"app.loadApiJson({json.dumps(graph(second_mask))}, 'notices')")
    page.wait(PLACE)
    page.run(f"""(() => {{
        const place = {PLACE}, show = app.graph.nodes.find(({{ type }}) => type === "LayerFusionPreviewLayers");
        show.pos = [place.pos[0] + place.size[0] + 60, place.pos[1]];
        app.canvas.ds.scale = 1;
        app.canvas.ds.offset = [200 - place.pos[0], 200 - place.pos[1]];
        app.canvas.setDirty(true, true);
    }})()""")


def run(page) -> None:
    """Run the graph to its end."""
    before = page.run(f"{HISTORY}.then((all) => Object.keys(all).length)")
    page.run("app.queuePrompt(0)")
    page.wait(f"{HISTORY}.then((all) => Object.keys(all).length > {before})", 60)


def shown(page) -> dict:
    """The line on Place Foreground: its words, those on hover, and whether it can be seen where the node is."""
    page.wait(SAID, 20)
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.run(f"""(() => {{
        const {{ textContent, title, role }} = {SAID};
        const {{ x, y, width, height }} = {SAID}.getBoundingClientRect();
        const there = document.elementFromPoint(x + width / 2, y + height / 2);
        return {{ line: textContent, title, role, height, seen: {SAID}.contains(there), lines: Math.round(height / 20) }};
    }})()""")


def test_a_warning_is_seen_on_the_node_in_the_viewer_and_in_the_log(page, server):
    assert page.run(f"Boolean({SAID})") is False
    run(page)
    found = shown(page)
    assert found["line"] == LINE and found["title"].startswith(f"{LINE}. If it should be a cut-out")
    assert found["role"] == "status" and found["seen"] and found["lines"] == 1, found
    page.wait(f"{CAPTION}.value", 20)
    assert page.run(f"{CAPTION}.value").startswith(f"{LINE} · ")
    assert page.run(f"{CAPTION}.title").startswith(f"{LINE}. Where the object fills the picture")
    assert f"{LINE}. If it should" in server.log.read_text() and f"{LINE}. Where the object" in server.log.read_text()


def test_it_is_said_again_when_the_run_comes_from_the_cache(page):
    run(page)
    load(page, 0)
    for _ in "new on the page", "says it already":
        run(page)
        messages = page.run(f"{HISTORY}.then((all) => Object.values(all).at(-1).status.messages)")
        assert next(len(message["nodes"]) for kind, message in messages if kind == "execution_cached") == 9
        assert shown(page)["line"] == LINE
        assert page.run(f"{PLACE}.widgets.filter(({{ name }}) => name === 'layerfusion_notice').length") == 1
        page.wait(f"{CAPTION}.value.startsWith({json.dumps(LINE)})", 20)


def second_mask(page, colour: int) -> None:
    page.run(f"""app.graph.nodes.filter(({{ type }}) => type === "EmptyImage").at(-1).widgets
        .find(({{ name }}) => name === "color").value = {colour}""")


def test_it_goes_when_a_run_has_nothing_to_say(page):
    load(page, 0)
    run(page)
    shown(page)
    height = page.run(f"{PLACE}.size[1]")
    second_mask(page, WHITE)
    run(page)
    page.wait(f"!{SAID} && {CAPTION}.value && !{CAPTION}.value.includes('opaque')", 20)
    second_mask(page, 0)
    run(page)
    assert shown(page)["line"] == LINE and page.run(f"{PLACE}.size[1]") == height


def test_it_is_said_in_a_subgraph(page):
    load(page, 0)
    page.run(f"app.canvas.graph.convertToSubgraph(new Set([{PLACE}])); 0")
    inner = "app.graph.nodes.find(({ subgraph }) => subgraph).subgraph.nodes[0].widgets"
    said = f"{inner}.find(({{ name }}) => name === 'layerfusion_notice')"
    run(page)
    page.wait(f"{said}?.element.textContent === {json.dumps(LINE)}", 20)
    second_mask(page, WHITE)
    run(page)
    page.wait(f"!{said}", 20)


def test_the_viewer_says_it_after_a_reload(page):
    load(page, 0)
    run(page)
    page.run("""(() => {
        const node = app.graph.nodes.find(({ type }) => type === "LayerFusionPreviewLayers"), graph = app.graph;
        const copy = LiteGraph.createNode(node.type);
        copy.id = node.id;
        graph.remove(node);
        graph.add(copy);
    })()""")
    page.wait(f"{CAPTION}?.value.startsWith({json.dumps(LINE)})", 20)
    assert page.errors == [] or not any("layerfusion" in error for error in page.errors)
