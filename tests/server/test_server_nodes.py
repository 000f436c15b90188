"""What /object_info promises: the locked nodes, with a tooltip on everything a user can set."""

from __future__ import annotations

import pytest

from layerfusion_pack.devtools import graph, schema

NODES = list(schema.read())


def test_the_server_gives_what_saved_graphs_use(object_info):
    assert schema.lock(object_info) == schema.read()


@pytest.mark.parametrize("node", NODES)
def test_everything_has_a_name_a_description_and_tooltips(node, object_info):
    info = object_info[node]
    assert info["category"] == "LayerFusion" and info["description"]
    assert "LayerFusion" not in info["display_name"][11:] and info["display_name"] != node
    missing = [name for name, _, options in graph.inputs_of(info) if not options.get("tooltip")]
    assert missing == []
    assert [tip for tip in info.get("output_tooltips") or [] if not tip] == []


def test_the_seed_changes_after_each_run_as_in_the_stock_sampler(object_info):
    options = {name: options for name, _, options in graph.inputs_of(object_info["LayerFusionKSampler"])}
    assert options["seed"]["control_after_generate"] is True and options["seed"]["max"] == 2**64 - 1
