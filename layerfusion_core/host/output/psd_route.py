"""The server's answer to the viewer's "all layers as PSD": files of a run in, one layered file out."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sys

import folder_paths
import numpy as np
from aiohttp import web
from PIL import Image

from ...layers.export import LayerSet, foreground_endings
from ...layers.export_formats import psd_set

PATH = "/layerfusion/psd"
OPAQUE = ("background", "blended")
_LAYER = re.compile(r"foreground(_\d+)?|background|blended|effects")


def add_route() -> None:
    """Make the running server answer POST `PATH`: a set of files as in the viewer's results, JSON, to a PSD of 8 bit."""
    module = sys.modules.get("server")  # not there where the nodes are used without a server
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    if server is not None:
        server.routes.post(PATH)(_answer)


async def _answer(request: web.Request) -> web.Response:
    try:
        name, data = await asyncio.get_running_loop().run_in_executor(None, layered, json.loads(await request.text()))
    except ValueError as error:
        return web.Response(status=400, text=str(error))
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return web.Response(body=data, content_type="image/vnd.adobe.photoshop", headers=headers)


def layered(files: dict) -> tuple[str, bytes]:
    """Name and content of the PSD of a run's files {layer: {filename, subfolder, type}}.

    ValueError when psd-tools is missing, a layer is, or a file is not among the host's outputs.
    """
    files = {layer: files[layer] for layer in filter(_LAYER.fullmatch, files)} if isinstance(files, dict) else {}
    foregrounds = foreground_endings(sum(layer.startswith("foreground") for layer in files))
    if not {*foregrounds, *OPAQUE} <= files.keys():
        raise ValueError("A PSD needs foreground, background and blended picture of one run; run the workflow again")
    paths = {layer: picture_path(file) for layer, file in files.items()}
    pictures = {}
    for layer, path in paths.items():
        with Image.open(path) as picture:
            pictures[layer] = np.asarray(picture.convert("RGB" if layer in OPAQUE else "RGBA"), dtype=np.float32) / 255
    file = io.BytesIO()
    psd_set(LayerSet.of(pictures), {})["layers.psd"](file)
    stem = os.path.basename(paths["blended"]).removesuffix(".png").removesuffix("_blended")
    return f"{stem}_layers.psd", file.getvalue()


def picture_path(file: dict) -> str:
    """Path of a file as results name it; ValueError for one outside the host's output and temp folders, or not there."""
    try:
        name, subfolder, kind = str(file["filename"]), str(file.get("subfolder", "")), file.get("type", "output")
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"Expected a file as {{filename, subfolder, type}}, got {file!r}") from None
    folder = folder_paths.get_directory_by_type(kind) if kind in ("output", "temp") else None
    within = os.path.realpath(folder or os.devnull)
    path = os.path.realpath(os.path.join(within, subfolder, name))
    if not folder or os.path.commonpath([path, within]) != within:
        raise ValueError(f"{name} is not in a folder of this ComfyUI's outputs")
    if not os.path.isfile(path) or not path.endswith(".png"):
        raise ValueError(f"{name} is no longer on the server; run the workflow again")
    return path
