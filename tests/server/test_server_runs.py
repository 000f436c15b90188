"""The demo graph queued over HTTP and followed over the websocket, as the page does it."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

import numpy
import pytest
from PIL import Image

from layerfusion_pack.devtools import demo, graph
from layerfusion_pack.devtools.console import Problem

STREAMS = demo.STREAMS


def pixels(png: bytes) -> numpy.ndarray:
    return numpy.asarray(Image.open(io.BytesIO(png)))


def run_demo(client, api, workflow=None):
    """Queue, follow to the end, and collect (the run, its PNG files)."""
    run = client.follow(client.queue(api, workflow))
    assert run.status == "success", run.error
    return run, demo.collect(client, api, run)


def without_priors(api):
    """The graph without its prior preview and the masks of Save Layers, for runs that record none."""
    priors = graph.node_id(api, "LayerFusionPreviewPriors")
    rest = {key: node for key, node in api.items() if key != priors and node["inputs"].get("images") != [priors, 0]}
    return {key: {**node, "inputs": {name: value for name, value in node["inputs"].items() if name != "priors"}}
            for key, node in rest.items()}


@pytest.fixture(scope="module")
def first_run(server, demo_graph, demo_workflow):
    """One complete run that several tests look at."""
    from layerfusion_pack.devtools.client import Client

    with Client(server) as client:
        return run_demo(client, demo_graph(), demo_workflow)


def test_the_demo_graph_gives_three_layers(first_run):
    _, files = first_run
    pictures = {name: pixels(files[name]) for name in STREAMS}
    assert pictures["foreground"].shape == (128, 128, 4)
    assert pictures["background"].shape == pictures["blended"].shape == (128, 128, 3)
    assert all(picture[..., :3].std() > 1 for picture in pictures.values())
    alpha = pictures["foreground"][..., 3]
    assert alpha.min() < 250 and alpha.max() > alpha.min()
    assert pixels(files["priors"]).std() > 0


def test_progress_and_previews_arrive_while_it_samples(first_run, demo_graph):
    run, _ = first_run
    sampler = graph.node_id(demo_graph(), "LayerFusionKSampler")
    steps = [(value, total) for node, value, total in run.progress if node == sampler]
    assert steps[-1] == (6, 6)
    assert [value for value, _ in steps] == sorted(value for value, _ in steps) and len(steps) >= 6
    strips = [Image.open(io.BytesIO(picture)) for picture in run.previews]
    # Three squares with gaps of a 24th, under a line of an eighth of their side: 74 : 27.
    wide = [strip for strip in strips if abs(strip.width / strip.height - 74 / 27) < 0.05]
    assert len(wide) >= 6, f"expected three pictures with their names per step, got sizes {[strip.size for strip in strips]}"


def test_saved_files_carry_the_graph(first_run, demo_graph, demo_workflow):
    _, files = first_run
    for name in STREAMS:
        stored = Image.open(io.BytesIO(files[name])).info
        assert json.loads(stored["prompt"]) == demo_graph()
        assert json.loads(stored["workflow"])["nodes"] == demo_workflow["nodes"]


def test_interrupted_runs_leave_nothing_behind(client, server, demo_graph, first_run):
    """Interrupt a long run in the middle of sampling, queue the first again: the same pictures, bit for bit."""
    longer = demo_graph(seed=7, steps=60)
    sampler = graph.node_id(longer, "LayerFusionKSampler")
    sent = []

    def interrupt(run):
        node, value, _ = run.progress[-1]
        if node == sampler and value >= 2 and not sent:
            sent.append(value)
            server.post("/interrupt", {})

    run = client.follow(client.queue(longer), interrupt)
    assert run.status == "interrupted" and run.progress[-1][1] < 60
    _, again = run_demo(client, demo_graph())
    for name in (*STREAMS, "priors"):
        assert numpy.array_equal(pixels(again[name]), pixels(first_run[1][name])), name


def test_another_seed_gives_other_pictures(client, demo_graph, first_run):
    _, files = run_demo(client, demo_graph(seed=43))
    assert not numpy.array_equal(pixels(files["foreground"]), pixels(first_run[1]["foreground"]))


def test_options_reach_the_sampler(client, demo_graph, first_run):
    """Strength 0 through an Options node: three independent streams, so the blended picture changes."""
    api = demo_graph()
    api["options"] = {"class_type": "LayerFusionOptions", "inputs": {
        "background_mode": "adapt", "prior_mode": "exact", "hardness": 10.0, "strength": 0.0, "start_percent": 0.0,
        "end_percent": 1.0, "noise": "shared", "blend_self_attention": True, "blend_cross_attention": True}}
    api[graph.node_id(api, "LayerFusionKSampler")]["inputs"]["options"] = ["options", 0]
    run = client.follow(client.queue(api))
    assert run.status == "success", run.error
    assert len(run.blocked) == 1 and "Preview Priors has nothing to show: the run blended nothing" in run.blocked[0]
    saved = run.images(graph.node_id(api, "LayerFusionSaveLayers"))
    blended = next(image for image in saved if "blended" in image["filename"])
    assert not numpy.array_equal(pixels(client.fetch(blended)), pixels(first_run[1]["blended"]))


def test_custom_sampling_gives_what_the_sampler_gives(client, demo_graph, first_run):
    """Guider, Stack and Split Latents around ComfyUI's own SamplerCustomAdvanced, put in the place of the sampler."""
    api = demo_graph()
    sampler = graph.node_id(api, "LayerFusionKSampler")
    given = api[sampler]["inputs"]
    sockets = ("base_model", "foreground_model", *demo.PROMPTS, "cfg", "options")
    parts = {
        "guider": ("LayerFusionGuider", {name: given[name] for name in sockets}),
        "noise": ("RandomNoise", {"noise_seed": given["seed"]}),
        "algorithm": ("KSamplerSelect", {"sampler_name": given["sampler_name"]}),
        "sigmas": ("BasicScheduler", {"model": given["base_model"], "scheduler": given["scheduler"],
                                      "steps": given["steps"], "denoise": 1.0}),
        "stack": ("LayerFusionStackLatents", {"latent": given["latent_image"]}),
        "run": ("SamplerCustomAdvanced", {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["algorithm", 0],
                                          "sigmas": ["sigmas", 0], "latent_image": ["stack", 0]}),
        sampler: ("LayerFusionSplitLatents", {"latent": ["run", 0]}),
    }
    api = without_priors(api) | {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in parts.items()}
    run = client.follow(client.queue(api))
    assert run.status == "success", run.error
    for image in run.images(graph.node_id(api, "LayerFusionSaveLayers")):
        name = next((stream for stream in STREAMS if stream in image["filename"]), None)
        if name is None:
            continue  # the effects
        ours = pixels(client.fetch(image)).astype(int)
        assert abs(ours - pixels(first_run[1][name])).max() <= 1, name


def test_a_value_out_of_range_is_refused_by_name(client, demo_graph):
    with pytest.raises(Problem, match="LayerFusionKSampler.*steps"):
        client.queue(demo_graph(steps=0))


@pytest.mark.parametrize("node, inputs, expected", [
    ("LayerFusionLoadTransparentVAE", {"decoder": "vae_transparent_decoder.safetensors", "encoder": "none"},
     ["vae_transparent_decoder.safetensors", "layer_model", "huggingface.co"]),
    ("LayerFusionLoadModels", {"checkpoint": "sd_xl_base_1.0.safetensors", "foreground_checkpoint": "same as base",
                               "foreground_weights": "layer_xl_transparent_attn.safetensors"},
     ["layer_xl_transparent_attn.safetensors", "layer_model", "huggingface.co"]),
])
def test_a_missing_file_is_named_with_its_place(client, node, inputs, expected):
    show = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    api = {"1": {"class_type": node, "inputs": inputs}, "2": show}
    try:
        run = client.follow(client.queue(api))
        text = run.error
        assert run.status == "error"
    except Problem as refused:
        text = str(refused)
    assert [word for word in expected if word not in text] == [], text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says what a process maps")
def test_weight_files_are_let_go_when_the_server_frees_its_memory(server, client, demo_graph):
    def mapped() -> bool:
        return "demo/models" in Path(f"/proc/{server.process.pid}/maps").read_text()

    run_demo(client, demo_graph(seed=99, steps=1))
    held = mapped()
    server.post("/free", {"unload_models": True, "free_memory": True})
    deadline = time.monotonic() + 20  # the server sees to it between two runs
    while mapped() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert held and not mapped()
