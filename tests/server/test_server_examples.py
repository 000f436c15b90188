"""The example graphs as a person first sees them: opened in a browser in each renderer, and what is drawn measured."""

from __future__ import annotations

import io
import itertools
import json
import urllib.error
from pathlib import Path

import pytest
from host_page import CLASSIC, NEW_NODES, RENDERERS, open_page, require_widgets
from PIL import Image

from layerfusion_pack.devtools import browser, examples, graph, sheet

CHECKOUT = Path(__file__).resolve().parents[2]
WINDOW, SMALL_WINDOW = (1600, 1000), (1366, 768)
SMALLEST_ZOOM = 0.6  # of the first fit in `WINDOW`
TEXT_ZOOM = 8 / 14  # below, the classic canvas draws no text: 8 pixels high at least, of the nodes' 14
FIRST = ("demo", "sdxl", "two_foregrounds", "two_foregrounds_sdxl", "layer_editor")
"""Graphs whose texts are drawn at the first fit in `SMALL_WINDOW`, too; the others have too many nodes for that."""
ROUNDING = 2  # pixels of the graph
SETTLED = "new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), {}))"
DRAWN = """(() => {
  const view = app.canvas.ds, left = app.canvas.canvas.getBoundingClientRect();
  const drawn = (node) => {
    const box = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    if (!box) return [...node.boundingRect];
    return [(box.x - left.x) / view.scale - view.offset[0], (box.y - left.y) / view.scale - view.offset[1],
            box.width / view.scale, box.height / view.scale];
  };
  return {
    zoom: view.scale,
    nodes: app.graph.nodes.map((node) => [`${node.id} ${node.title}`, drawn(node)]),
    groups: app.graph.groups.map((group) => [group.title, [...group.pos, ...group.size]]),
    cut: [...document.querySelectorAll("textarea, .comfy-markdown, .comfy-markdown-content")]
      .filter((x) => !x.matches(".comfy-markdown textarea") && x.clientHeight && x.scrollHeight > x.clientHeight + 2)
      .map((x) => (x.value || x.textContent).slice(0, 60)),
  };
})()"""
PREVIEW = """(async () => {
  const picture = Object.assign(document.createElement("canvas"), { width: 768, height: 256 });
  picture.getContext("2d").fillRect(0, 0, 768, 256);
  const blob = await new Promise((done) => picture.toBlob(done));
  const NOTICE = JSON.stringify({ line: "Foreground is opaque: 100.0 % of it", text: "A warning, as Decode shows it." });
  const running = app.graph.nodes.filter(({ type }) => /KSampler$|SamplerCustomAdvanced$/.test(type));
  for (const { id } of app.graph.nodes.filter(({ type }) => type === "LayerFusionDecode"))
    app.api.dispatchCustomEvent("executed", { node: `${id}`, display_node: `${id}`, output: { layerfusion_notices: [NOTICE] } });
  for (const { id } of running)
    app.api.dispatchCustomEvent("b_preview_with_metadata", { blob, displayNodeId: `${id}`, nodeId: `${id}`, jobId: "1" });
  const form = new FormData();
  form.append("image", blob, "shown.png");
  form.append("overwrite", "true");
  await app.api.fetchApi("/upload/image", { method: "POST", body: form });
  const output = { images: [{ filename: "shown.png", subfolder: "", type: "input" }] };
  for (const node of app.graph.nodes.filter(({ type }) => /^(Preview|Mask)/.test(type))) {
    running.push(node);
    app.api.dispatchCustomEvent("executed", { node: `${node.id}`, display_node: `${node.id}`, output, prompt_id: "1" });
  }
  for (let turn = 0; turn < 50; turn++) {
    app.canvas.setDirty(true, true);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)));
    const shown = running.filter((node) =>
      document.querySelector(`[data-node-id="${node.id}"] img`)?.naturalWidth || node.imgs?.[0]?.naturalWidth);
    if (shown.length === running.length && turn > 4) return running.length;
  }
  return 0;
})()"""
"""What a run shows on the page, without the run: previews of samplers, pictures of previews, a warning of Decode."""


def overlap(one: list[float], other: list[float]) -> bool:
    return all(one[axis] + ROUNDING < other[axis] + other[axis + 2] and other[axis] + ROUNDING < one[axis] + one[axis + 2]
               for axis in (0, 1))


def within(inner: list[float], outer: list[float]) -> bool:
    return all(outer[axis] <= inner[axis] + ROUNDING
               and inner[axis] + inner[axis + 2] <= outer[axis] + outer[axis + 2] + ROUNDING for axis in (0, 1))


def faults(drawn: dict) -> list[str]:
    """What lies over another thing, or half in a group."""
    found = [f"{one} lies over {other}" for things in (drawn["nodes"], drawn["groups"])
             for (one, box), (other, below) in itertools.combinations(things, 2) if overlap(box, below)]
    return found + [f"{name} {box} juts out of {group} {around}" for name, box in drawn["nodes"]
                    for group, around in drawn["groups"] if overlap(box, around) and not within(box, around)]


def whole(by_key: dict, object_info: dict) -> list:
    """The entries of the graphs that this ComfyUI has all nodes of."""
    return [entry for entry in by_key.items() if examples.complete(entry[0], object_info)]


@pytest.fixture(scope="module")
def window():
    if browser.find() is None:
        pytest.skip("NO CHROMIUM: install one to look at the example graphs (on Debian and Ubuntu: chromium)")
    with browser.Browser(*WINDOW) as opened:
        yield opened


def open_graph(window: browser.Browser, key: str) -> None:
    name = json.dumps(examples.name(key))
    window.run(f"""fetch(app.api.apiURL("/workflow_templates/layerfusion/" + {name} + ".json")).then((got) => got.json())
        .then((graph) => app.loadGraphData(graph, true, true, {name}, {{ openSource: "template" }})).then(() => 0)""")
    window.run(SETTLED.format(300))


@pytest.fixture(scope="module", params=RENDERERS)
def seen(request, server, window, object_info):
    """Of each example graph: what is drawn when it is opened, and while its samplers show previews."""
    open_page(window, server, request.param)
    found = {}
    for key in examples.GRAPHS:
        open_graph(window, key)
        require_widgets(window, request.param)
        opened = window.run(DRAWN)
        if key in examples.NEWER and not examples.complete(key, object_info):
            named = f"(dialog) => dialog.innerText.includes('{examples.NEWER[key]}')"
            window.wait(f"[...document.querySelectorAll('[role=dialog]')].some({named})")  # beside one of missing files
        api = window.run("app.graphToPrompt().then(({ output }) => output)")
        previews = window.run(PREVIEW)
        window.run(SETTLED.format(50))
        found[key] = {"opened": opened, "running": window.run(DRAWN), "previews": previews, "api": api}
    open_graph(window, "demo")  # which the next page restores, without a dialog of what is missing
    window.run(SETTLED.format(600))
    return found


def test_nothing_lies_over_another_thing_or_outside_its_group(seen):
    assert {key: found for key, states in seen.items() if (found := faults(states["opened"]))} == {}


def test_there_is_room_for_what_a_run_shows(seen):
    assert [key for key, states in seen.items() if not states["previews"]] == []
    assert {key: found for key, states in seen.items() if (found := faults(states["running"]))} == {}


def test_the_first_view_is_large_enough_to_read(seen):
    zooms = {key: round(states["opened"]["zoom"], 3) for key, states in seen.items()}
    assert min(zooms.values()) >= SMALLEST_ZOOM, zooms


def test_the_first_graphs_can_be_read_on_a_small_screen(server, window):
    window.resize(*SMALL_WINDOW)
    try:
        open_page(window, server, CLASSIC)
        zooms = {}
        for key in FIRST:
            open_graph(window, key)
            zooms[key] = window.run("app.canvas.ds.scale")
    finally:
        window.resize(*WINDOW)
    assert min(zooms.values()) >= TEXT_ZOOM, zooms


def test_prompts_and_notes_are_read_without_scrolling(seen):
    assert {key: cut for key, states in seen.items() if (cut := states["opened"]["cut"])} == {}


def test_the_page_queues_what_the_file_says(seen, object_info):
    """No widget in another's place, no link lost on the way through the page."""
    for key, states in whole(seen, object_info):
        expected = graph.to_api(examples.load(CHECKOUT, key), object_info)
        assert {node: (x["class_type"], x["inputs"]) for node, x in states["api"].items()} == {
            node: (x["class_type"], x["inputs"]) for node, x in expected.items()}, key


def test_a_graph_of_a_newer_comfyui_opens_in_an_older_one(seen):
    """With the node's outline; the page has named it, and the note says which ComfyUI has it."""
    for key in examples.NEWER:
        file = examples.load(CHECKOUT, key)
        assert "ComfyUI 0." in "".join(x["widgets_values"][0] for x in file["nodes"] if x["type"] == sheet.NOTE)
        assert len(seen[key]["opened"]["nodes"]) == len(file["nodes"])


def test_the_files_are_what_their_code_draws(object_info):
    for key, _ in whole(examples.GRAPHS, object_info):
        drawn = examples.text(examples.draw(key, object_info))
        assert examples.file(CHECKOUT, key).read_text(encoding="utf-8") == drawn, f"{key}: run python -m devtools.examples"
    for name, function in examples.BLUEPRINTS.items():
        drawn = examples.text(function(sheet.Sheet(object_info), name))
        assert (CHECKOUT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8") == drawn, name


PLACE = """(async () => {
  const got = (path) => app.api.fetchApi(path).then((answer) => answer.json());
  const found = Object.entries(await got("/global_subgraphs")).find(([, entry]) =>
    entry.name === %s && entry.info.node_pack.endsWith("layerfusion"));
  const { nodes, definitions } = JSON.parse((await got(`/global_subgraphs/${found[0]}`)).data);
  app.graph.clear();
  const placed = app.canvas._deserializeItems({ nodes, subgraphs: definitions.subgraphs }, { position: [200, 100] });
  const node = [...placed.nodes.values()][0];
  for (const [name, value] of Object.entries(%s)) node.widgets.find((widget) => widget.name === name).value = value;
  return { widgets: node.widgets.map(({ name }) => name), outputs: node.outputs.map(({ name, type }) => `${name} ${type}`),
           shown: node.serialize().properties.previewExposures?.length, api: (await app.graphToPrompt()).output };
})()"""
"""What the page does when a blueprint is chosen in its search."""
OUTSIDE = ["foreground", "background", "blended", "negative", "width", "height", "seed", "steps"]


@pytest.fixture
def place(server, window):
    """A function: a blueprint of the pack on an empty page."""
    try:
        server.json("/global_subgraphs")
    except urllib.error.HTTPError:
        pytest.skip("this ComfyUI has no blueprints of node packs yet (0.3.66 and later do)")
    open_page(window, server, NEW_NODES)

    def placed(name: str, **widgets) -> dict:
        made = window.run(PLACE % (json.dumps(name), json.dumps(widgets)))
        assert made["outputs"] == ["foreground IMAGE", "background IMAGE", "blended IMAGE", "alpha MASK"]
        assert made["shown"] == 1
        return made

    return placed


def test_one_node_gives_three_layers(place, client):
    made = place("Three layers (demo)", foreground="a blue mug", width=128, height=128, seed=5, steps=4)
    assert made["widgets"][:len(OUTSIDE)] == OUTSIDE
    run = client.follow(client.queue(made["api"]))
    assert run.status == "success", run.error
    saved = run.images(graph.node_id(made["api"], "LayerFusionSaveLayers"))
    pictures = {Path(file["filename"]).stem.rsplit("_", 1)[-1]: Image.open(io.BytesIO(client.fetch(file))) for file in saved}
    assert set(pictures) == {"foreground", "background", "blended", "effects"}
    assert pictures["foreground"].size == (128, 128) and pictures["foreground"].mode == "RGBA"
    sampler = made["api"][graph.node_id(made["api"], "LayerFusionKSampler")]["inputs"]
    text = made["api"][graph.node_id(made["api"], "LayerFusionTextEncode")]["inputs"]
    assert (sampler["seed"], sampler["steps"], text["foreground"]) == (5, 4, "a blue mug")


def test_one_node_with_a_checkpoint_asks_for_it_outside(place):
    made = place("Three layers (SDXL)", checkpoint="other.safetensors")
    assert made["widgets"][:len(OUTSIDE) + 1] == [*OUTSIDE, "checkpoint"]
    loader = made["api"][graph.node_id(made["api"], "LayerFusionLoadModels")]
    assert loader["inputs"]["checkpoint"] == "other.safetensors"
