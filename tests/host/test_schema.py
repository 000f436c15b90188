"""The nodes as graphs and people find them: the lock of their inputs and outputs, words that find them, their order."""

from __future__ import annotations

import dataclasses

import pytest
from comfy_api.latest import io

from layerfusion_pack.devtools import schema


@pytest.fixture(scope="module")
def infos(host):
    return schema.infos(host)


def test_inputs_and_outputs_are_those_that_saved_graphs_use(infos):
    """After a change that keeps old graphs as they were (new inputs and outputs at the end): dev.py schema."""
    found, locked = schema.lock(infos), schema.read()
    assert list(found) == list(locked)
    for node in locked:
        assert found[node] == locked[node], node


def test_the_lock_is_written_as_it_is_committed(infos):
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(schema.lock(infos))


def test_the_lock_sees_every_change():
    def spec(**options):
        return {"input": {"required": {"a": ["INT", {"default": 0, "min": 0, **options}]}}, "output": ["INT"], "output_name": ["a"]}

    locked = schema.lock({"LayerFusionX": spec()})
    assert locked["LayerFusionX"]["inputs"] == [{"name": "a", "type": "INT", "default": 0, "min": 0}]
    assert locked == schema.lock({"LayerFusionX": spec(tooltip="other words"), "Other": spec()})
    changes = [spec(default=1), spec(min=1), spec(max=5), spec(step=2), spec(control_after_generate=True)]
    changes += [{**spec(), "output_name": ["b"]}, {**spec(), "output": ["FLOAT"]}]
    changes.append({**spec(), "input": {"optional": spec()["input"]["required"]}})
    for change in changes:
        assert schema.lock({"LayerFusionX": change}) != locked, change


def names(info) -> str:
    return f"{info['name']} {info['display_name']}".lower()


WORDS = {
    "layer": "LayerFusionKSampler", "transparent": "LayerFusionLoadTransparentVAE", "rgba": "LayerFusionDecode",
    "alpha": "LayerFusionDecode", "cutout": "LayerFusionEncode", "psd": "LayerFusionSaveLayers",
    "png": "LayerFusionSaveLayers", "layerdiffuse": "LayerFusionApplyForeground",
}  # fmt: skip
"""What people type, and a node that fits and has the word in its name: older hosts search nothing else."""


def test_the_words_people_type_find_a_fitting_node(infos):
    assert [word for word, node in WORDS.items() if word not in names(infos[node])] == []
    if "search_aliases" not in {field.name for field in dataclasses.fields(io.Schema)}:
        pytest.skip("this ComfyUI searches names only (0.10 and later know aliases)")
    assert [node for node, info in infos.items() if not info["search_aliases"]] == []
    for word in (*WORDS, "background removal"):
        assert [node for node, info in infos.items() if word in info["search_aliases"]], word


def test_all_nodes_are_in_one_menu_with_loaders_and_sampler_before_the_guider(infos):
    assert {info["category"] for info in infos.values()} == {"LayerFusion"}
    order = list(infos)
    for node in ("LayerFusionLoadModels", "LayerFusionLoadDemo", "LayerFusionKSampler"):
        assert order.index(node) < order.index("LayerFusionGuider"), node
