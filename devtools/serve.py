"""``dev.py serve``: ComfyUI with this pack and the demo graph, for trying by hand."""

from __future__ import annotations

import argparse
import shutil
import threading
import webbrowser
from pathlib import Path

from . import examples
from .console import Problem, say
from .server import ComfyServer, free_port

DEFAULT_PORT = 8188


def run(checkout: Path, host: Path | None, options: argparse.Namespace) -> int:
    """Serve until Ctrl-C. Pictures and saved graphs stay in ``layerfusion-serve`` in the current folder."""
    if host is None:
        raise Problem("serve needs a ComfyUI: put one at ~/comfy/ComfyUI or set COMFYUI_PATH to it.")
    if options.port and free_port(options.port) != options.port:
        raise Problem(f"Port {options.port} is in use; choose another with --port.")
    home = Path("layerfusion-serve").absolute()
    saved = home / "user" / "default" / "workflows"
    saved.mkdir(parents=True, exist_ok=True)
    for graph in sorted((checkout / examples.FOLDER).glob("*.json")):
        if not (saved / graph.name).exists():
            shutil.copy(graph, saved / graph.name)
    say("Starting ComfyUI")
    server = ComfyServer(host, checkout, port=free_port(options.port or DEFAULT_PORT), output=home / "output",
                         user=home / "user", models=host / "models")
    with server:
        page = f"http://{server.address}"
        say(f"{page}  (open the demo graph from the Workflows side bar or Templates > layerfusion; Ctrl-C stops)")
        if not options.no_browser:
            threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()
        assert server.process is not None
        try:
            code = server.process.wait()
        except KeyboardInterrupt:
            say("\nStopping")
            return 0
        raise Problem(f"ComfyUI ended by itself (exit code {code}):\n{server.log_tail()}")
