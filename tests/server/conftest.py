"""One real ComfyUI server for the tests of a process, started as a user's would be and asked over HTTP only."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from layerfusion_pack.devtools import demo, examples, graph, hosts
from layerfusion_pack.devtools.client import Client
from layerfusion_pack.devtools.server import ComfyServer

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.append(str(Path(__file__).resolve().parent))  # tests share viewer_page.py


@pytest.fixture(scope="session")
def server():
    """The running server."""
    host = hosts.find(CHECKOUT)
    if host is None:
        pytest.skip("NO COMFYUI FOUND: put one at ~/comfy/ComfyUI or set COMFYUI_PATH to run the server tests")
    with ComfyServer(host, CHECKOUT) as running:
        yield running


@pytest.fixture(scope="session")
def object_info(server):
    """What the server says of all its nodes."""
    return server.json("/object_info")


@pytest.fixture(scope="session")
def demo_workflow(object_info):
    """The first example graph as the editor saves it, at 128 pixels instead of 256 and with 6 steps instead of 20."""
    workflow = graph.with_widgets(examples.load(CHECKOUT, "demo"), object_info, "EmptyLatentImage", width=128, height=128)
    return graph.with_widgets(workflow, object_info, "LayerFusionKSampler", steps=6)


@pytest.fixture(scope="session")
def demo_graph(demo_workflow, object_info):
    """A function: the demo graph in the server's format with widgets of the sampler set, and its priors shown."""

    def build(**sampler):
        changed = graph.with_widgets(demo_workflow, object_info, "LayerFusionKSampler", **sampler)
        return demo.with_priors(graph.to_api(changed, object_info))

    return build


@pytest.fixture
def client(server):
    """A websocket connection of its own, with nothing cached on the server from the test before."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    with Client(server) as connected:
        yield connected
