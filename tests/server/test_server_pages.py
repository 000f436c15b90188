"""Help pages, translations and example graphs, as the page asks for them."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path

import pytest
from PIL import Image

from layerfusion_pack.devtools import examples, graph, locales, pictures

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=examples.GRAPHS)
def key(request, object_info):
    """An example graph that this ComfyUI has all nodes of."""
    if not examples.complete(request.param, object_info):
        pytest.skip(f"this ComfyUI has no {examples.NEWER[request.param]} yet")
    return request.param


@pytest.fixture(scope="module")
def nodes(object_info):
    return sorted(name for name in object_info if name.startswith("LayerFusion"))


def test_every_node_has_a_help_page(server, nodes):
    for node in nodes:
        page = server.get(f"/extensions/layerfusion/docs/{node}.md").decode()
        assert page.startswith("# ") and len(page) > 200, node


def test_help_pages_name_every_input(server, nodes, object_info):
    for node in nodes:
        page = server.get(f"/extensions/layerfusion/docs/{node}.md").decode().replace("<wbr>", "")
        missing = [name for name, _, _ in graph.inputs_of(object_info[node]) if name not in page]
        assert missing == [], node


def test_the_english_texts_for_translators_are_those_of_the_nodes(server, object_info):
    """If this fails after a change of a text, run dev.py locales."""
    served = server.json("/i18n")["en"]["nodeDefs"]
    for node, texts in locales.english(object_info).items():
        assert served[node] == texts, node


def test_example_graphs_are_offered_with_a_picture(server):
    names = [examples.name(key) for key in examples.GRAPHS]
    assert sorted(server.json("/workflow_templates")["layerfusion"]) == sorted(names)
    for name in map(urllib.parse.quote, names):
        assert json.loads(server.get(f"/api/workflow_templates/layerfusion/{name}.json"))["nodes"]
        assert server.get(f"/api/workflow_templates/layerfusion/{name}.jpg")[:2] == b"\xff\xd8"


def test_the_picture_of_an_example_graph_shows_that_graph(key, object_info):
    """If this fails, the graph has changed since: run ``python dev.py pictures thumbnails`` again."""
    shown, _ = pictures.thumbnail_graph(CHECKOUT, key, object_info)
    with Image.open(examples.file(CHECKOUT, key, "jpg")) as picture:
        assert picture.info["comment"].decode() == pictures.fingerprint(graph.to_api(shown, object_info), object_info)


def test_example_graphs_fit_the_nodes_of_this_server(key, object_info):
    """Every node known, every widget value in place, every link between sockets of one type."""
    api = graph.to_api(examples.load(CHECKOUT, key), object_info)
    for number, node in api.items():
        specs = {spec[0]: spec for spec in graph.inputs_of(object_info[node["class_type"]])}
        required = object_info[node["class_type"]]["input"].get("required") or {}
        assert set(required) <= set(node["inputs"]) <= set(specs), (number, node["class_type"])
        for value_name, value in node["inputs"].items():
            if isinstance(value, list):
                origin = object_info[api[value[0]]["class_type"]]
                kind = specs[value_name][1]
                assert kind == "*" or origin["output"][value[1]] in kind.split(","), (number, value_name)


@pytest.mark.parametrize("key", examples.GRAPHS)
def test_example_graphs_are_consistent_for_the_editor(key):
    """Sockets and links name each other, ids are unique, and the counters are past the largest id."""
    workflow = examples.load(CHECKOUT, key)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"]) and workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"]) and workflow["version"] == 0.4
    for link, origin, slot, target, place, kind in workflow["links"]:
        assert link in nodes[origin]["outputs"][slot]["links"] and nodes[origin]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][place]["link"] == link
