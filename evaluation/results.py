"""Results on disk: a JSON line per trio and method, and the pictures they were measured on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

LINES = "results.jsonl"
TRUTH = "truth.jsonl"  # what `truth` adds
STREAMS = ("foreground", "background", "blended")


def read(out: Path, key: str | None = None, file: str = LINES) -> list[dict]:
    """The lines of a file in `out`, the last of each pair and method; `key`: only those made with these weights and settings.

    A line that a killed run left unfinished is passed over.
    """
    found: dict[tuple, dict] = {}
    path = out / file
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if key is None or row["key"] == key:
            found[row["key"], row["method"], row["index"]] = row
    return list(found.values())


def latest(out: Path) -> list[dict]:
    """The lines made with the weights and settings that ran last."""
    rows = read(out)
    return [row for row in rows if row["key"] == rows[-1]["key"]]


def append(out: Path, rows: list[dict], file: str = LINES) -> None:
    """Add lines to a file; NaN becomes null. One write, so that workers do not mix their lines."""
    text = "".join(json.dumps({k: _plain(v) for k, v in row.items()}) + "\n" for row in rows)
    path = out / file
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        text = "\n" + text  # behind a line that a killed run left unfinished
    with path.open("a", encoding="utf-8") as opened:
        opened.write(text)


def _plain(value):
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 5)
    return value


def picture_path(out: Path, method: str, index: int, stream: str) -> Path:
    """Where the picture of one stream lies; foreground: RGBA with straight alpha."""
    return out / "pictures" / method / f"{index:04d}-{stream}.png"


def save_pictures(out: Path, method: str, index: int, foreground: np.ndarray, background, blended) -> None:
    """Write a trio as 8-bit PNG: foreground (H, W, 4), background and blended (H, W, 3), floats in [0, 1]."""
    for stream, picture in zip(STREAMS, (foreground, background, blended)):
        path = picture_path(out, method, index, stream)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)).save(path)


def load_picture(out: Path, method: str, index: int, stream: str) -> np.ndarray:
    """A picture as floats in [0, 1], (H, W, 4) or (H, W, 3)."""
    with Image.open(picture_path(out, method, index, stream)) as image:
        return np.asarray(image, dtype=np.float32) / 255.0


def load_trios(out: Path, method: str, indices: list[int]) -> list[torch.Tensor]:
    """Foregrounds (N, H, W, 4), backgrounds and blended pictures (N, H, W, 3) of some pairs."""
    return [
        torch.stack([torch.from_numpy(load_picture(out, method, index, stream)) for index in indices]) for stream in STREAMS
    ]
