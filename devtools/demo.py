"""``dev.py demo``: one run of the first example graph (or of the reference engine) and its pictures in a folder."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import examples, graph, hosts
from .client import Client, Run
from .console import Bar, Problem, say
from .server import ComfyServer

if TYPE_CHECKING:
    from PIL.Image import Image

STREAMS = ("foreground", "background", "blended")
PROMPTS = (*STREAMS, "negative")
MAPS = ("structure prior", "content confidence", "soft mask", "hard mask")
"""What Preview Priors shows, from left to right."""
SHEET_HEIGHT = 256  # pixels; smaller pictures are enlarged to it


def run(checkout: Path, host: Path | None, options: argparse.Namespace) -> int:
    """Generate with the chosen engine (ComfyUI where there is one) and write the pictures and run.json to --out."""
    started = time.monotonic()
    if options.engine == "comfyui" and host is None:
        raise Problem("--engine comfyui needs a ComfyUI: put one at ~/comfy/ComfyUI or set COMFYUI_PATH to it.")
    workflow = examples.load(checkout, "demo")
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if host is None:
        record = _reference(checkout, workflow, options, out)
    else:
        record = _comfyui(checkout, host, workflow, options, out)
    record["versions"] = {**record.get("versions", {}), "layerfusion": _pack_version(checkout),
                          "python": platform.python_version(), "torch": importlib.metadata.version("torch")}
    record["seconds"]["total"] = round(time.monotonic() - started, 1)
    (out / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    say(f"{record['settings']['foreground']} | {record['settings']['background']}: seed {record['settings']['seed']}, "
        f"{record['settings']['steps']} steps, {record['seconds']['total']} s in all")
    for name in (*(f"{stream}.png" for stream in STREAMS), "layers.png", "run.json"):
        say(f"  {out / name}")
    if host is None:
        how = "leave out --engine reference" if options.engine == "reference" else hosts.GET_ONE
        say(f"ComfyUI was not used: these pictures are the reference engine's. To see the node pack, {how}, and run this again.")
    return 0


def _comfyui(checkout: Path, host: Path, workflow: graph.Graph, options: argparse.Namespace,
             out: Path) -> dict[str, Any]:
    """Run the graph in a real server; returns what run.json says of it."""
    from PIL import Image

    say("Starting ComfyUI")
    with ComfyServer(host, checkout) as server, Client(server) as client:
        info = server.json("/object_info")
        texts = {name: getattr(options, name) for name in STREAMS}
        workflow = graph.with_widgets(workflow, info, "LayerFusionTextEncode", **texts)
        workflow = graph.with_widgets(workflow, info, "LayerFusionKSampler", seed=options.seed, steps=options.steps)
        api = with_priors(graph.to_api(workflow, info))
        result = _follow(client, api, workflow)
        pictures = collect(client, api, result)
        seconds = {"server_start": round(server.seconds_to_start, 1), "run": round(result.seconds, 1)}
    for name in STREAMS:
        (out / f"{name}.png").write_bytes(pictures[name])
    write_sheet(out, split_strip(Image.open(io.BytesIO(pictures["priors"]))))
    settings = {name: value for node in ("LayerFusionTextEncode", "LayerFusionKSampler", "LayerFusionOptions")
                for name, value in api[graph.node_id(api, node)]["inputs"].items() if not isinstance(value, list)}
    return {"engine": "comfyui", "settings": settings, "seconds": seconds,
            "versions": {"comfyui": hosts.version(host)}}


def _follow(client: Client, api: graph.Graph, workflow: graph.Graph) -> Run:
    """Queue the graph and show its sampling steps as a bar; raises Problem when it does not succeed."""
    bar = Bar("sampling")
    sampler = graph.node_id(api, "LayerFusionKSampler")

    def show(run: Run) -> None:
        node, value, total = run.progress[-1]
        if node == sampler:
            bar.show(value, total)

    try:
        result = client.follow(client.queue(api, workflow), show)
    finally:
        bar.close()
    if result.status != "success":
        raise Problem(f"The graph did not finish ({result.status}). {result.error}")
    return result


def with_priors(api: graph.Graph, step: int = 5) -> graph.Graph:
    """A graph with the maps of its sampler's run shown, at a step from 1."""
    sampler = graph.node_id(api, "LayerFusionKSampler")
    inputs = {"priors": [sampler, 3], "block": "last self-attention", "step": step}
    return {**api, "priors": {"class_type": "LayerFusionPreviewPriors", "inputs": inputs},
            "maps": {"class_type": "PreviewImage", "inputs": {"images": ["priors", 0]}}}


def collect(client: Client, api: graph.Graph, run: Run) -> dict[str, bytes]:
    """PNG files of a finished demo graph `with_priors`: foreground, background, blended and priors.

    The layers are those that the save node wrote (one name with the stream in it each); priors is the preview fed by
    the prior node. Raises Problem when one is missing.
    """
    saved = run.images(graph.node_id(api, "LayerFusionSaveLayers"))
    found: dict[str, bytes] = {}
    for name in STREAMS:
        files = [image for image in saved if name in image["filename"]]
        if not files:
            raise Problem(f"The graph saved no {name}; it saved {[image['filename'] for image in saved]}.")
        found[name] = client.fetch(files[0])
    source = graph.node_id(api, "LayerFusionPreviewPriors")
    shown = [key for key, node in api.items() if node["inputs"].get("images") == [source, 0]]
    if not shown or not run.images(shown[0]):
        raise Problem("The graph shows no priors (a PreviewImage fed by LayerFusionPreviewPriors).")
    found["priors"] = client.fetch(run.images(shown[0])[0])
    return found


def write_sheet(out: Path, maps: dict[str, Image]) -> None:
    """Write layers.png: the three pictures in ``out`` (transparency as a checkerboard) and the maps, under labels."""
    from PIL import Image

    from layerfusion_core.layers import compositing

    layers = [(name, Image.open(out / f"{name}.png")) for name in STREAMS]
    height = max(SHEET_HEIGHT, layers[0][1].height)
    tiles = []
    for label, picture in [*layers, *maps.items()]:
        large = picture.resize((picture.width * height // picture.height, height), Image.Resampling.NEAREST)
        tiles.append((label, compositing.on_checkerboard(large, height // 32) if "A" in large.getbands() else large))
    compositing.labelled_row(tiles).save(out / "layers.png")


def split_strip(strip: Image) -> dict[str, Image]:
    """The maps of a Preview Priors picture, which shows them side by side, by name."""
    width = strip.width // len(MAPS)
    return {name: strip.crop((i * width, 0, (i + 1) * width, strip.height)) for i, name in enumerate(MAPS)}


def _reference(checkout: Path, workflow: graph.Graph, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Run the reference engine in a process of its own with the demo graph's settings; returns run.json's content."""
    say("Running the reference engine (the paper written plainly, on diffusers)")
    settings = reference_settings(workflow, options)
    command = [sys.executable, str(checkout / "tests" / "reference" / "generate.py"), "--out", str(out)]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    started = time.monotonic()
    variables = {"OMP_NUM_THREADS": "1", **os.environ, "HF_HUB_OFFLINE": "1"}
    bar = Bar("sampling")
    with subprocess.Popen(command, cwd=checkout, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            step = re.fullmatch(r"step (\d+)/(\d+)\s*", line)
            if step:
                bar.show(int(step[1]), int(step[2]))
            else:
                say(line.rstrip())
    bar.close()
    if process.returncode:
        raise Problem("The reference engine failed; its messages are above.")
    from PIL import Image

    masks = {f"{name} mask": out / "masks" / f"{name}.png" for name in ("soft", "hard")}
    write_sheet(out, {label: Image.open(file) for label, file in masks.items() if file.is_file()})
    return {"engine": "reference", "settings": settings, "seconds": {"run": round(time.monotonic() - started, 1)},
            "versions": {"diffusers": importlib.metadata.version("diffusers")}}


def reference_settings(workflow: graph.Graph, options: argparse.Namespace) -> dict[str, Any]:
    """Options of the reference's command line: what the user gave, for the rest the values of the demo graph."""
    values = {node["type"]: node["widgets_values"] for node in workflow["nodes"] if node.get("widgets_values")}
    settings: dict[str, Any] = dict(zip(PROMPTS, values["LayerFusionTextEncode"], strict=True))
    seed, _after_generate, steps, cfg, sampler, scheduler, _denoise = values["LayerFusionKSampler"]
    settings.update(seed=seed, steps=steps, cfg=cfg, sampler=sampler, scheduler=scheduler)
    settings["background-mode"], settings["prior-mode"], *_ = values["LayerFusionOptions"]
    given = {name: getattr(options, name, None) for name in settings}
    return {**settings, **{name: value for name, value in given.items() if value is not None}}


def _pack_version(checkout: Path) -> str:
    found = re.search(r'^version = "(.+)"', (checkout / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "unknown"
