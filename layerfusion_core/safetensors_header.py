"""What a safetensors file holds, read from its header alone: names, dtypes and shapes, before any tensor is loaded.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

_MAX_HEADER = 100_000_000  # the limit of the safetensors library itself


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: dtype as the header spells it ("F16"), shape, and [begin, end) in the data part, bytes."""

    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, int]


def read_header(path: str) -> dict[str, TensorInfo]:
    """Return {tensor name: TensorInfo} of a safetensors file without reading its tensors.

    ValueError, with the file's name and size and what to do, for: an empty file, a pickle (.pt, .ckpt, .bin), a web
    page or a git-lfs pointer saved in place of the file, a damaged header, and a file that ends too early.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(64)
        _refuse_other_formats(path, size, head)
        length = int.from_bytes(head[:8], "little")
        if size < 8 or length > _MAX_HEADER:
            raise ValueError(_damaged(path, size, "it does not begin like a safetensors file"))
        if 8 + length > size:
            raise ValueError(_damaged(path, size, f"its header alone should take {length:,} bytes"))
        file.seek(8)
        raw = file.read(length)
    try:
        header = json.loads(raw)
        tensors = {
            name: TensorInfo(str(entry["dtype"]), tuple(entry["shape"]), tuple(entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
        expected = 8 + length + max((info.offsets[1] for info in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(_damaged(path, size, "its header cannot be read")) from error
    if size < expected:
        raise ValueError(_damaged(path, size, f"its header promises {expected:,} bytes, so the end is missing"))
    if not tensors:
        raise ValueError(_damaged(path, size, "it holds no tensors"))
    return tensors


def _refuse_other_formats(path: str, size: int, head: bytes) -> None:
    name = os.path.basename(path)
    if size == 0:
        raise ValueError(f"{name} is empty (0 bytes): the download did not finish. Delete it and download it again.")
    # A safetensors header length may begin with the same bytes, but then '{' follows it.
    if head.startswith((b"PK\x03\x04", b"\x80")) and head[8:9] != b"{":
        raise ValueError(
            f"{name} ({size:,} bytes) is a pickle (.pt, .ckpt or .bin), which can run code when it is opened. "
            f"Expected a .safetensors file: download that version of it."
        )
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        raise ValueError(
            f"{name} ({size:,} bytes) is a web page, not the weights: the link led to the download page. "
            f"Download the file itself."
        )
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{name} ({size:,} bytes) is a git-lfs pointer, not the weights. Run 'git lfs pull' or download the file."
        )


def _damaged(path: str, size: int, why: str) -> str:
    return (
        f"{os.path.basename(path)} ({size:,} bytes) is damaged or incomplete: {why}. Delete it and download it again."
    )
