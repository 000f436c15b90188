"""The conversion from the editor's graph format to the server's."""

from __future__ import annotations

import pytest

from layerfusion_pack.devtools import graph

SAMPLER = {
    "input": {
        "required": {
            "model": ["MODEL", {}],
            "seed": ["INT", {"control_after_generate": True}],
            "name": [["euler", "heun"], {}],
            "mode": ["COMBO", {"options": ["a", "b"]}],
            "wired": ["FLOAT", {"forceInput": True}],
        },
        "optional": {"options": ["LAYERFUSION_OPTIONS", {}], "flag": ["BOOLEAN", {"default": True}]},
    },
    "input_order": {"required": ["model", "seed", "name", "mode", "wired"], "optional": ["options", "flag"]},
    "display_name": "A sampler",
}
LOADER = {"input": {"required": {}}, "input_order": {"required": []}}
INFO = {"Sampler": SAMPLER, "Loader": LOADER}


def editor_graph(**changes):
    sampler = {
        "id": 7, "type": "Sampler", "widgets_values": [42, "randomize", "heun", "b", True],
        "inputs": [{"name": "model", "type": "MODEL", "link": 1}, {"name": "options", "type": "X", "link": None},
                   {"name": "seed", "type": "INT", "widget": {"name": "seed"}, "link": None}],
    }
    return {"nodes": [{"id": 3, "type": "Loader"}, {**sampler, **changes},
                      {"id": 9, "type": "MarkdownNote", "widgets_values": ["text"]}],
            "links": [[1, 3, 2, 7, 0, "MODEL"]]}


def test_widgets_follow_the_order_of_the_node_and_skip_the_editors_own_seed_control():
    assert [name for name, _ in graph.widgets_of(SAMPLER)] == ["seed", None, "name", "mode", "flag"]


def test_widgets_newer_than_the_graph_take_their_defaults():
    api = graph.to_api(editor_graph(widgets_values=[42, "fixed"]), INFO)
    assert api["7"]["inputs"] == {"seed": 42, "name": "euler", "mode": "a", "flag": True, "model": ["3", 2]}


def test_widget_values_and_links_become_inputs():
    api = graph.to_api(editor_graph(), INFO)
    assert api["7"]["inputs"] == {"seed": 42, "name": "heun", "mode": "b", "flag": True, "model": ["3", 2]}
    assert api["7"]["_meta"] == {"title": "A sampler"}
    assert api["3"]["inputs"] == {}


def test_notes_stay_in_the_editor():
    assert set(graph.to_api(editor_graph(), INFO)) == {"3", "7"}


def test_a_wired_widget_is_read_from_its_link():
    changed = editor_graph(inputs=[{"name": "model", "type": "MODEL", "link": 1},
                                   {"name": "seed", "type": "INT", "widget": {"name": "seed"}, "link": 1}])
    assert graph.to_api(changed, INFO)["7"]["inputs"]["seed"] == ["3", 2]


@pytest.mark.parametrize("changes, message", [
    ({"type": "Gone"}, r"node 7 \(Gone\) is not a node of this server"),
    ({"mode": graph.BYPASSED}, "muted or bypassed"),
    ({"widgets_values": [0] * 6}, r"expected 5 widget values \(seed, .*\), got 6"),
])
def test_graphs_that_do_not_fit_are_refused_with_the_reason(changes, message):
    with pytest.raises(ValueError, match=message):
        graph.to_api(editor_graph(**changes), INFO)


def test_widgets_are_set_in_a_copy_and_none_changes_nothing():
    original = editor_graph()
    changed = graph.with_widgets(original, INFO, "Sampler", seed=1, name=None, flag=False)
    assert changed["nodes"][1]["widgets_values"] == [1, "randomize", "heun", "b", False]
    assert original["nodes"][1]["widgets_values"][0] == 42


def test_setting_an_unknown_widget_or_node_is_refused():
    with pytest.raises(ValueError, match="has no widget sed; it has seed, name, mode, flag"):
        graph.with_widgets(editor_graph(), INFO, "Sampler", sed=1)
    with pytest.raises(ValueError, match="expected one Saver in the graph, found 0"):
        graph.with_widgets(editor_graph(), INFO, "Saver", seed=1)
    with pytest.raises(ValueError, match="expected one Saver in the graph, found 0"):
        graph.node_id(graph.to_api(editor_graph(), INFO), "Saver")
