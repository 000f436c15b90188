"""What every node says of inputs that are missing, of another type or no number, as the host asks before it runs anything."""

from __future__ import annotations

import asyncio
import math

import execution
import pytest

import nodes as host_nodes
from layerfusion_pack.nodes import NODES as PAGE
from layerfusion_pack.nodes import LayerFusionExtension

NODES = {node.define_schema().node_id: node for node in asyncio.run(LayerFusionExtension().get_node_list())}


def inputs_of(node) -> dict[str, tuple]:
    """{input: (type, its options)} as the host reads them."""
    types = node.INPUT_TYPES()
    return {**types.get("required", {}), **types.get("optional", {})}


FLOATS = [(node, name) for node, cls in NODES.items() for name, (kind, _) in inputs_of(cls).items() if kind == "FLOAT"]
FILES = [
    ("LayerFusionLoadModels", "foreground_weights"),
    ("LayerFusionApplyForeground", "foreground_weights"),
    ("LayerFusionConditionOnLayers", "weights"),
    ("LayerFusionLoadTransparentVAE", "decoder"),
    ("LayerFusionLoadTransparentVAE", "encoder"),
]


def test_the_page_of_nodes_names_their_ids():
    assert list(PAGE) == list(NODES) and list(PAGE.values()) == list(NODES.values())


def test_every_input_and_output_has_a_tooltip():
    for node in NODES.values():
        schema = node.GET_SCHEMA()
        assert schema.description and all(item.tooltip for item in (*schema.inputs, *schema.outputs)), schema.node_id


@pytest.fixture
def errors(monkeypatch):
    """A function: what the host finds wrong with a node that is given these inputs, [(kind of error, input)]."""
    monkeypatch.setattr(host_nodes, "NODE_CLASS_MAPPINGS", NODES)

    def find(node: str, inputs: dict) -> list[tuple[str, str]]:
        prompt = {"1": {"class_type": node, "inputs": inputs}}
        _, found, _ = asyncio.run(execution.validate_inputs("test", prompt, "1", {}))
        return [(error["type"], error["extra_info"]["input_name"]) for error in found]

    return find


@pytest.mark.parametrize("node", NODES)
def test_missing_inputs_get_the_hosts_own_message(node, errors):
    required = NODES[node].INPUT_TYPES().get("required", {})
    assert sorted(errors(node, {})) == sorted(("required_input_missing", name) for name in required)


def test_no_node_is_left_out():
    assert len(NODES) >= 19 and len(FLOATS) >= 20


@pytest.mark.parametrize("node, name", FLOATS)
def test_floats_take_finite_numbers_only(node, name, errors):
    options = inputs_of(NODES[node])[name][1]
    for value in (math.nan, "nan", math.inf, -math.inf, options["min"] - 1e-6, options["max"] + 1e-3):
        assert name in [found for kind, found in errors(node, {name: value}) if kind.startswith("value_")], value
    for value in (options["min"], options["max"], options["default"], str(options["default"])):
        assert name not in [found for _, found in errors(node, {name: value})], value
    assert float(options["min"]) == options["min"] and options["min"] <= options["default"]


@pytest.mark.parametrize("node, name", FLOATS)
def test_a_number_from_another_node_is_finite_too(node, name):
    others = dict.fromkeys(inputs_of(NODES[node]))
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"^{name}: expected a finite number, got {value}"):
            NODES[node].execute(**{**others, name: value})


@pytest.mark.parametrize("node, name", FILES)
def test_files_that_are_not_there_are_said_before_the_run(node, name, errors):
    for value in (5, {"a": 1}, "", "gone.safetensors"):
        assert ("custom_validation_failed", name) in errors(node, {name: value}), value
