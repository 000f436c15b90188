"""``dev.py schema``: writes tests/schema.json, the promise to saved graphs that a test holds.

It names every node's inputs and outputs in order, with what a graph or a script depends on: types, defaults, ranges and
choices. New inputs and outputs go to the end, with defaults that keep old graphs as they were.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from . import pack
from .console import Problem, say
from .graph import inputs_of

FILE = pack.CHECKOUT / "tests" / "schema.json"
KEPT = ("default", "min", "max", "step", "control_after_generate", "multiline")
"""Of an input's options, those that its values depend on."""
OF_THE_HOST = {
    "checkpoint", "foreground_weights", "foreground_checkpoint", "decoder", "encoder", "weights", "sampler_name", "scheduler",
}  # fmt: skip
"""Inputs whose choices are files of the machine or algorithms of the host."""


def add_to(commands: Any) -> None:
    """Register the command with dev.py's argument parser."""
    commands.add_parser("schema", help="write the lock of the nodes' inputs and outputs; after every change of them")


def run(checkout: Path, host: Path | None, options: argparse.Namespace) -> int:
    """Write the lock and say which nodes changed in it."""
    before = read() if FILE.is_file() else {}
    now = lock(infos(host))
    FILE.write_text(text(now), encoding="utf-8")
    changed = sorted(node for node in before.keys() | now.keys() if before.get(node) != now.get(node))
    say(f"{FILE.relative_to(checkout)}: {', '.join(changed) or 'nothing'} changed")
    return 0


def infos(host: Path | None) -> dict[str, Any]:
    """The pack's nodes as /object_info describes them, in menu order, without a server. Problem without a ComfyUI."""
    if host is None:
        raise Problem("this needs a ComfyUI: put one at ~/comfy/ComfyUI or set COMFYUI_PATH to it.")
    pack.start_host(host)
    pack.register_pack()
    from layerfusion_pack.nodes import LayerFusionExtension

    nodes = asyncio.run(LayerFusionExtension().get_node_list())
    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in nodes}


def lock(object_info: dict[str, Any]) -> dict[str, Any]:
    """What saved graphs depend on, of the pack's nodes in /object_info."""
    return {node: _node(object_info[node]) for node in sorted(object_info) if node.startswith("LayerFusion")}


def read() -> dict[str, Any]:
    """The committed lock."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def text(found: dict[str, Any]) -> str:
    """The lock as JSON with a line for each input and output, so that a change is a line of the diff."""
    nodes = []
    for node, parts in found.items():
        lists = [
            f'    "{part}": [' + ",".join(f"\n      {json.dumps(entry)}" for entry in entries) + ("\n    ]" if entries else "]")
            for part, entries in parts.items()
        ]
        nodes.append(f'  "{node}": {{\n' + ",\n".join(lists) + "\n  }")
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def _node(info: dict[str, Any]) -> dict[str, list]:
    optional = info["input"].get("optional") or {}
    inputs = []
    for name, kind, options in inputs_of(info):
        choices = kind if isinstance(kind, list) else options.get("options")
        entry: dict[str, Any] = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind}
        entry |= {key: options[key] for key in KEPT if key in options and (key == "default" or options[key] is not False)}
        if name in OF_THE_HOST:
            entry.pop("default", None)
        elif choices is not None:
            entry["options"] = choices
        inputs.append(entry | ({"optional": True} if name in optional else {}))
    outputs = [{"name": name, "type": kind} for name, kind in zip(info["output_name"], info["output"], strict=True)]
    return {"inputs": inputs, "outputs": outputs}
