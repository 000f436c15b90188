"""Writing layers to disk: pixels, metadata, and files that never overwrite and are never half written.

numpy and Pillow, PyAV for 16 bit (all come with the host). A set is what is written of one sample; all files of a set
share one number.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo, putchunk

from .part_files import claim_name, part_name, remove_abandoned

Writer = Callable[[BinaryIO], None]

PNG_HEADER = 33
"""Bytes of a PNG's signature and first chunk; colour profile and texts come right after."""


@dataclass(frozen=True)
class LayerSet:
    """The layers of one sample, sRGB floats in [0, 1].

    foregrounds: (H, W, 4) each, from the rearmost to the front one, straight alpha, 1 = opaque; background and blended:
    (H, W, 3). effects: light and shadow between background and foregrounds, as a foreground, or None.
    """

    foregrounds: tuple[np.ndarray, ...]
    background: np.ndarray
    blended: np.ndarray
    effects: np.ndarray | None = None

    @classmethod
    def of(cls, pictures: Mapping[str, np.ndarray]) -> LayerSet:
        """The layers of pictures by the ending of their files, as `pictures` gives them."""
        count = sum(ending.startswith("foreground") for ending in pictures)
        foregrounds = tuple(pictures[ending] for ending in foreground_endings(count))
        return cls(foregrounds, pictures["background"], pictures["blended"], pictures.get("effects"))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.blended.shape[1], self.blended.shape[0]

    @property
    def pictures(self) -> dict[str, np.ndarray]:
        """The layers by the ending of their files, foregrounds first."""
        found = dict(zip(foreground_endings(len(self.foregrounds)), self.foregrounds))
        found |= {"background": self.background, "blended": self.blended}
        return found if self.effects is None else found | {"effects": self.effects}


def foreground_endings(count: int) -> list[str]:
    """Names of the foregrounds of a picture in files: `foreground`, or of several `foreground_1` (the rearmost) and so on."""
    return [f"foreground_{k}" for k in range(1, count + 1)] if count > 1 else ["foreground"]


def quantised(picture: np.ndarray, depth: int = 8) -> np.ndarray:
    """Floats in [0, 1] to the nearest of 2^depth levels (depth 8 or 16), so that such values survive a round trip."""
    top, kind = (255, np.uint8) if depth == 8 else (65535, np.uint16)
    return np.rint(np.clip(picture, 0.0, 1.0).astype(np.float64) * top).astype(kind)


@cache
def srgb_profile() -> bytes:
    """An sRGB ICC profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def metadata_texts(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """The host's metadata as texts: `prompt` (the API graph) and every entry of extra_pnginfo (`workflow`)."""
    texts = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return texts | {key: json.dumps(value) for key, value in (extra_pnginfo or {}).items()}


def png_writer(picture: np.ndarray, texts: Mapping[str, str], depth: int = 8) -> Writer:
    """Writes an (H, W, 3 | 4) picture as PNG with an sRGB profile and text chunks that the host can read back."""

    def write(file: BinaryIO) -> None:
        info = PngInfo()
        for key, text in texts.items():
            info.add_text(key, text)
        pixels = quantised(picture, depth)
        if depth == 8:
            image = Image.fromarray(pixels)
            image.save(file, format="PNG", pnginfo=info, icc_profile=srgb_profile(), compress_level=4)
            return
        plain = _png_16_bit(pixels)
        file.write(plain[:PNG_HEADER])
        putchunk(file, b"iCCP", b"ICC Profile\0\0", zlib.compress(srgb_profile()))
        for name, data, *_ in info.chunks:
            putchunk(file, name, data)
        file.write(plain[PNG_HEADER:])

    return write


def _png_16_bit(pixels: np.ndarray) -> bytes:
    """An (H, W, 3 | 4) picture of 16-bit values as plain PNG; PyAV's, because Pillow cannot write 16-bit colour."""
    import av  # large, and comes with the host

    height, width, channels = pixels.shape
    if 8 * (width + 128) * (height + 128) >= 2**31 - 1:  # FFmpeg's limit, which it calls an invalid argument
        raise ValueError(
            f"PNG of 16 bit can be written up to about 16255 x 16255 pixels, these pictures have {width} x {height}; "
            "choose png (8 bit)"
        )
    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width = height, width
    codec.pix_fmt = "rgb48be" if channels == 3 else "rgba64be"
    codec.time_base, codec.options = Fraction(1), {"pred": "mixed"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=codec.pix_fmt)
    return b"".join(bytes(packet) for packet in (*codec.encode(frame), *codec.encode(None)))


def png_set(layers: LayerSet, texts: Mapping[str, str], depth: int = 8) -> dict[str, Writer]:
    """The writers of a PNG set by file name ending, `depth` bits a channel; foregrounds and effects are RGBA, straight colour."""
    return {f"{name}.png": png_writer(picture, texts, depth) for name, picture in layers.pictures.items()}


class PartlySaved(ValueError):
    """Some formats of a set could not be written; the others are saved.

    number and names: what `save_set` returns otherwise; failed: the error by extension (".psd").
    """

    def __init__(self, number: int, names: dict[str, str], failed: dict[str, Exception]) -> None:
        super().__init__("; ".join(f"{kind[1:].upper()}: {error}" for kind, error in failed.items()))
        self.number, self.names, self.failed = number, names, failed


def save_set(folder: str, stem: str, number: int, writers: Mapping[str, Writer]) -> tuple[int, dict[str, str]]:
    """Writes files `stem_00001_ending` that share the first free number >= `number`; returns it and {ending: name}.

    Everything is written to temporary names in the same folder and renamed at the end, so that an interrupted or
    failed save leaves nothing behind, and a file that exists is never replaced, also when another process saves at
    the same time. What a killed process left is removed. A format (all files of one extension) that cannot be written
    leaves none of its files: PartlySaved after the others are saved; when there are no others, the error itself.
    """
    remove_abandoned(folder)
    parts: dict[str, str] = {}
    failed: dict[str, Exception] = {}
    try:
        for ending, write in writers.items():
            kind = os.path.splitext(ending)[1]
            if kind in failed:
                continue
            parts[ending] = os.path.join(folder, part_name())
            try:
                with open(parts[ending], "xb") as file:
                    write(file)
            except Exception as error:
                failed[kind] = error
                for other in [name for name in parts if name.endswith(kind)]:
                    _remove(parts.pop(other))  # at once: the disk may be full
        if failed and not parts:
            raise next(iter(failed.values()))
        while True:
            names = {ending: f"{stem}_{number:05}_{ending}" for ending in parts}
            moves = {path: os.path.join(folder, names[ending]) for ending, path in parts.items()}
            if _publish(moves, os.path.join(folder, claim_name(stem, number))):
                break
            number += 1
    finally:
        for path in parts.values():
            _remove(path)
    if failed:
        raise PartlySaved(number, names, failed)
    return number, names


def _publish(moves: Mapping[str, str], claim: str) -> bool:
    """Gives every temporary file its final name; False, with nothing changed, when one of the names is taken.

    claim: a file that exists meanwhile, so that of several processes only one takes a number. It matters where there are
    no hard links, and looking for a name and taking it are two steps.
    """
    try:
        open(claim, "xb").close()
    except FileExistsError:
        return False
    done: list[tuple[str, str]] = []
    try:
        if any(os.path.lexists(target) for target in moves.values()):
            return False
        for source, target in moves.items():
            _link(source, target)
            done.append((source, target))
    except BaseException as error:
        for source, target in done:
            if os.path.exists(source):
                os.remove(target)
            else:
                os.replace(target, source)
        if isinstance(error, FileExistsError):
            return False
        raise
    finally:
        _remove(claim)
    return True


def _link(source: str, target: str) -> None:
    """Like rename, but FileExistsError when the target exists; the source may stay (the caller removes it)."""
    try:
        os.link(source, target)  # atomic, and refuses to replace
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(source, target)  # one step too, so that nobody sees a file that is not complete


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.remove(path)
