"""Queue a graph on a running server and follow it over the websocket, as the web page does."""

from __future__ import annotations

import json
import struct
import time
import urllib.error
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .console import Problem
from .graph import Graph
from .server import ComfyServer

HISTORY_SECONDS = 10  # the history entry may be written a moment after the last message


@dataclass
class Run:
    """What one queued graph gave: the outputs of its nodes, and what was heard on the way."""

    prompt_id: str
    status: str = "running"  # then success, interrupted or error
    error: str = ""
    blocked: list[str] = field(default_factory=list)  # why nodes were left out, while the rest ran on
    outputs: dict[str, Any] = field(default_factory=dict)
    progress: list[tuple[str, int, int]] = field(default_factory=list)  # (node id, value, total)
    previews: list[bytes] = field(default_factory=list)  # JPEG or PNG bytes
    executed: list[str] = field(default_factory=list)  # node ids in the order they ran
    seconds: float = 0.0

    def images(self, node: str) -> list[dict[str, str]]:
        """Files a node showed or saved: filename, subfolder and type, as /view takes them."""
        return self.outputs.get(node, {}).get("images", [])


class Client:
    """One websocket connection to a server; a context manager."""

    def __init__(self, server: ComfyServer, timeout: float = 300) -> None:
        self.server, self.timeout = server, timeout
        self.id = uuid.uuid4().hex

    def __enter__(self) -> Client:
        import websocket

        self.socket = websocket.create_connection(f"ws://{self.server.address}/ws?clientId={self.id}",
                                                  timeout=self.timeout)
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def queue(self, api: Graph, workflow: Graph | None = None) -> Run:
        """Queue a graph; ``workflow`` (the editor's format) is stored in saved pictures.

        Raises Problem with the server's reasons if it refuses the graph.
        """
        body: dict[str, Any] = {"prompt": api, "client_id": self.id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            return Run(self.server.post("/prompt", body)["prompt_id"])
        except urllib.error.HTTPError as refusal:
            raise Problem(refusal_text(json.loads(refusal.read()))) from None

    def follow(self, run: Run, on_progress: Callable[[Run], None] | None = None) -> Run:
        """Read messages until the queued graph has ended; fills and returns ``run``."""
        started = time.monotonic()
        while True:
            message = self._receive()
            if isinstance(message, bytes):
                picture = _picture(message)
                if picture:
                    run.previews.append(picture)
                continue
            event = json.loads(message)
            data = event.get("data", {})
            if data.get("prompt_id") not in (None, run.prompt_id):
                continue
            if event["type"] == "progress":
                run.progress.append((str(data.get("node")), data["value"], data["max"]))
                if on_progress:
                    on_progress(run)
            elif event["type"] == "execution_interrupted":
                run.status = "interrupted"
            elif event["type"] == "execution_error" and data.get("exception_type") == "ExecutionBlocked":
                run.blocked.append(data.get("exception_message", "").strip())
            elif event["type"] == "execution_error":
                run.status = "error"
                run.error = f"{data.get('node_type')}: {data.get('exception_message', '').strip()}"
            elif event["type"] == "executing" and data.get("node") is not None:
                run.executed.append(str(data["node"]))
            elif event["type"] == "executing" and data.get("prompt_id") == run.prompt_id:
                break
            if run.status in ("interrupted", "error"):
                break
        run.seconds = time.monotonic() - started
        if run.status == "running":
            run.status = "success"
            run.outputs = self._history(run.prompt_id)["outputs"]
        return run

    def fetch(self, image: dict[str, str]) -> bytes:
        """Bytes of a file named by a run's output."""
        query = urllib.parse.urlencode({key: image[key] for key in ("filename", "subfolder", "type")})
        return self.server.get(f"/view?{query}")

    def _receive(self) -> str | bytes:
        import websocket

        try:
            return self.socket.recv()
        except (websocket.WebSocketException, OSError) as error:
            raise Problem(f"Lost the server while the graph ran ({error}). Its last words:\n"
                          + self.server.log_tail()) from None

    def _history(self, prompt_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + HISTORY_SECONDS
        while True:
            entry = self.server.json(f"/history/{prompt_id}").get(prompt_id)
            if entry or time.monotonic() > deadline:
                return entry or {"outputs": {}}
            time.sleep(0.1)


def refusal_text(answer: dict[str, Any]) -> str:
    """The server's reasons for refusing a graph, a line each."""
    reasons = [answer.get("error", {}).get("message", "The server refused the graph.")]
    for node in (answer.get("node_errors") or {}).values():
        reasons += [f"{node['class_type']}: {error['message']}: {error['details']}" for error in node["errors"]]
    return "\n".join(reasons)


def _picture(message: bytes) -> bytes | None:
    """The picture inside a binary message, or None for other kinds of message."""
    event, second = struct.unpack(">II", message[:8])
    if event == 1:
        return message[8:]
    if event == 4:  # the second number is the length of the JSON metadata before the picture
        return message[8 + second:]
    return None
