"""A ComfyUI server with this checkout as its only custom node pack, on a free port and in folders of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .console import Problem

START_SECONDS = 180
PACK_FOLDER = "layerfusion"
OFFLINE_SWITCHES = ("--offline", "--disable-api-nodes")
"""Newer and older name of the switch that keeps the host from asking servers outside."""


class ComfyServer:
    """Context manager: start the server, wait until it answers, stop it at the end.

    Everything the server writes lies in a temporary folder, unless ``output`` or ``user`` name others. The pack is
    loaded from the checkout through a link called ``layerfusion``, whatever the checkout itself is called. ``prepare``
    may put more into the server's folder (custom_nodes, models, input) before it starts.
    """

    def __init__(self, host: Path, checkout: Path, *, port: int | None = None, python: Path | None = None,
                 output: Path | None = None, user: Path | None = None, models: Path | None = None,
                 prepare: Callable[[Path], None] | None = None) -> None:
        self.host = host
        self.checkout = checkout.resolve()
        self.python = python or Path(sys.executable)
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.output, self.user, self.models, self.prepare = output, user, models, prepare
        self.process: subprocess.Popen[bytes] | None = None
        self.seconds_to_start = 0.0
        self._folder = tempfile.TemporaryDirectory(prefix="layerfusion-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.log = self.folder / "server.log"

    def __enter__(self) -> ComfyServer:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def get(self, path: str, timeout: float = 30) -> bytes:
        """Body of a GET request to the server; raises urllib.error.HTTPError for statuses of 400 and above."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=timeout) as answer:
            return answer.read()

    def json(self, path: str) -> dict:
        """JSON object at a path of the server."""
        return json.loads(self.get(path))

    def post(self, path: str, body: dict) -> dict:
        """POST a JSON object; the JSON answer, or {} where the server sends none."""
        request = urllib.request.Request(f"http://{self.address}{path}", data=json.dumps(body).encode(),
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else {}

    def log_tail(self, lines: int = 25) -> str:
        """The last lines the server wrote."""
        if not self.log.is_file():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def command(self) -> list[str]:
        """The command line of the server."""
        base = self.folder / "base"
        parts = [str(self.python), str(self.host / "main.py"), "--base-directory", str(base), "--listen", "127.0.0.1",
                 "--port", str(self.port), "--disable-auto-launch", "--database-url", "sqlite:///:memory:",
                 "--preview-method", "latent2rgb"]
        if not accelerator():
            parts.append("--cpu")
        if self.output:
            parts += ["--output-directory", str(self.output)]
        if self.user:
            parts += ["--user-directory", str(self.user)]
        if self.models:
            parts += ["--extra-model-paths-config", str(self._model_paths())]
        known = (self.host / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        return parts + [switch for switch in OFFLINE_SWITCHES if f'"{switch}"' in known][:1]

    def _start(self) -> None:
        for name in ("custom_nodes", "models/checkpoints", "models/layer_model", "input", "output", "temp", "user"):
            (self.folder / "base" / name).mkdir(parents=True)
        link(self.checkout, self.folder / "base" / "custom_nodes" / PACK_FOLDER)
        if self.prepare:
            self.prepare(self.folder / "base")
        for folder in filter(None, (self.output, self.user)):
            folder.mkdir(parents=True, exist_ok=True)
        variables = dict(os.environ)
        # Small models on few cores: OpenMP's waiting threads cost many times what they bring.
        variables.setdefault("OMP_NUM_THREADS", "1")
        variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.host, env=variables, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT)
        while True:
            if self.process.poll() is not None:
                raise Problem(f"ComfyUI ended while starting, code {self.process.returncode}:\n{self.log_tail()}")
            try:
                self.get("/system_stats", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                if time.monotonic() - started > START_SECONDS:
                    raise Problem(f"ComfyUI did not answer within {START_SECONDS} s:\n{self.log_tail()}") from None
                time.sleep(0.2)
        self.seconds_to_start = time.monotonic() - started
        try:
            self.get("/object_info/LayerFusionKSampler")
            loaded = bool(self.json("/object_info/LayerFusionKSampler"))
        except urllib.error.HTTPError:
            loaded = False
        if not loaded:
            raise Problem(f"ComfyUI started, but did not load the LayerFusion nodes:\n{self.log_tail(60)}")

    def _stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._folder.cleanup()

    def _model_paths(self) -> Path:
        """An extra-model-paths file that adds another ComfyUI's model folders to the server's."""
        assert self.models is not None
        folders = sorted(self.models.iterdir()) if self.models.is_dir() else []
        kinds = [folder.name for folder in folders if folder.is_dir()]
        lines = ["layerfusion_models:", f"  base_path: {json.dumps(str(self.models))}"]
        file = self.folder / "model_paths.yaml"
        file.write_text("\n".join(lines + [f"  {kind}: {json.dumps(kind)}" for kind in kinds]) + "\n", encoding="utf-8")
        return file


def free_port(wanted: int = 0) -> int:
    """A port nobody listens on: the wanted one if it is free, else one the system chooses."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            if os.name != "nt":  # a port just left is free, as the server sees it; on Windows this would allow sharing
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return probe.getsockname()[1]
            except OSError:
                continue
    raise Problem("No free port on 127.0.0.1.")


def link(target: Path, at: Path) -> None:
    """Make a folder appear at a second place: a symbolic link, or a junction where Windows forbids those."""
    try:
        at.symlink_to(target, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        subprocess.run(["cmd", "/c", "mklink", "/J", str(at), str(target)], check=True, capture_output=True)


def accelerator() -> bool:
    """Whether torch sees something better than the CPU; without one ComfyUI must be told so."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available() or (
        hasattr(torch, "xpu") and torch.xpu.is_available())
