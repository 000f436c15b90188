"""Writing layers to disk: pixels, metadata, and files that never overwrite and are never half written.

Pure Python, numpy and Pillow. A set is the three pictures of one sample; all files of a set share one number.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Writer = Callable[[BinaryIO], None]


@dataclass(frozen=True)
class LayerSet:
    """The layers of one sample, sRGB floats in [0, 1].

    foreground: (H, W, 4) with straight alpha, 1 = opaque; background and blended: (H, W, 3).
    """

    foreground: np.ndarray
    background: np.ndarray
    blended: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.blended.shape[1], self.blended.shape[0]


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] to the nearest of 256 levels, so that 8-bit values survive a round trip exactly."""
    return np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)


def metadata_texts(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """The host's metadata as texts: `prompt` (the API graph) and every entry of extra_pnginfo (`workflow`)."""
    texts = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return texts | {key: json.dumps(value) for key, value in (extra_pnginfo or {}).items()}


def png_writer(picture: np.ndarray, texts: Mapping[str, str]) -> Writer:
    """Writes an (H, W, 3 | 4) picture as 8-bit PNG, marked as sRGB, with text chunks that the host can read back."""

    def write(file: BinaryIO) -> None:
        info = PngInfo()
        info.add(b"sRGB", b"\x00")  # rendering intent: perceptual
        for key, text in texts.items():
            info.add_text(key, text)
        Image.fromarray(to_uint8(picture)).save(file, format="PNG", pnginfo=info, compress_level=4)

    return write


def png_set(layers: LayerSet, texts: Mapping[str, str]) -> dict[str, Writer]:
    """The writers of a PNG set by file name ending; the foreground is RGBA with straight colour."""
    return {
        "foreground.png": png_writer(layers.foreground, texts),
        "background.png": png_writer(layers.background, texts),
        "blended.png": png_writer(layers.blended, texts),
    }


def save_set(folder: str, stem: str, number: int, writers: Mapping[str, Writer]) -> tuple[int, dict[str, str]]:
    """Writes files `stem_00001_ending` that share the first free number >= `number`; returns it and {ending: name}.

    Everything is written to temporary names in the same folder and renamed at the end, so that an interrupted or
    failed save leaves nothing behind, and a file that exists is never replaced, also when another process saves at
    the same time. OSError when the disk refuses.
    """
    temporary = {ending: os.path.join(folder, f".{uuid.uuid4().hex}.part") for ending in writers}
    try:
        for ending, write in writers.items():
            with open(temporary[ending], "xb") as file:
                write(file)
        while True:
            names = {ending: f"{stem}_{number:05}_{ending}" for ending in writers}
            if _publish({temporary[ending]: os.path.join(folder, name) for ending, name in names.items()}):
                return number, names
            number += 1
    finally:
        for path in temporary.values():
            if os.path.exists(path):
                os.remove(path)


def _publish(moves: Mapping[str, str]) -> bool:
    """Gives every temporary file its final name; False, with nothing changed, when one of the names is taken."""
    if any(os.path.lexists(target) for target in moves.values()):
        return False
    done: list[str] = []
    try:
        for source, target in moves.items():
            _link(source, target)
            done.append(target)
    except BaseException as error:
        for target in done:
            os.remove(target)
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


def _link(source: str, target: str) -> None:
    """Like rename, but FileExistsError when the target exists; the source may stay (the caller removes it)."""
    try:
        os.link(source, target)  # atomic, and refuses to replace
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with open(target, "xb"):
            pass  # claims the name; replacing our own empty file is then safe
        try:
            os.replace(source, target)
        except OSError:
            os.remove(target)
            raise
