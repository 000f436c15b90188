"""What a weight file is, and what a safetensors file holds by its header alone, before any tensor is loaded.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

_MAX_HEADER = 100_000_000  # the limit of the safetensors library itself
_MAX_VALUES = 1_000_000  # JSON values: SDXL's 2,515 tensors take 25,000, and this many a second and 150 MB to read


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: dtype as the header spells it ("F16"), shape, and [begin, end) in the data part, bytes."""

    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, int]


def is_pickle(path: str) -> bool:
    """Whether a file is a pickle (.pt, .pth, .ckpt, .bin), by its first bytes.

    ValueError, with the file's name and size and what to do, for what is no weight file: an empty file, a web page, a
    git-lfs pointer, another text or a gzip archive saved in place of the weights.
    """
    name, size = os.path.basename(path), os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(64)
    if size == 0:
        raise ValueError(f"{name} is empty (0 bytes): the download did not finish. Delete it and download it again.")
    found = _no_weights(head)
    if found is not None:
        raise ValueError(f"{name} ({size:,} bytes) is {found}")
    # A safetensors header length may begin with the same bytes, but then '{' follows it.
    return head.startswith((b"PK\x03\x04", b"\x80")) and head[8:9] != b"{"


def read_header(path: str) -> dict[str, TensorInfo]:
    """Return {tensor name: TensorInfo} of a safetensors file without reading its tensors; takes a second at most.

    ValueError, with the file's name and size and what to do, as `is_pickle` and for: a pickle, a damaged or unbounded
    header, a file that ends too early, and safetensors under another ending, which hosts would take for a pickle.
    """
    name, size = os.path.basename(path), os.path.getsize(path)
    if is_pickle(path):
        raise ValueError(
            f"{name} ({size:,} bytes) is a pickle (.pt, .ckpt or .bin), which can run code when it is opened. "
            f"Expected a .safetensors file: download that version of it."
        )
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > _MAX_HEADER:
            raise ValueError(_damaged(path, size, "it does not begin like a safetensors file"))
        if 8 + length > size:
            raise ValueError(_damaged(path, size, f"its header alone should take {length:,} bytes"))
        raw = file.read(length)
    values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if values > _MAX_VALUES:
        raise ValueError(
            f"{name} ({size:,} bytes) is no model's weight file: its header has {values:,} entries, expected at most "
            f"{_MAX_VALUES:,}. Download it again."
        )
    try:
        header = json.loads(raw)
        tensors = {
            name: TensorInfo(str(entry["dtype"]), tuple(entry["shape"]), tuple(entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
        expected = 8 + length + max((info.offsets[1] for info in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(_damaged(path, size, "its header cannot be read")) from error
    if size < expected:
        raise ValueError(_damaged(path, size, f"its header promises {expected:,} bytes, so the end is missing"))
    if not tensors:
        raise ValueError(_damaged(path, size, "it holds no tensors"))
    if not path.lower().endswith((".safetensors", ".sft")):
        raise ValueError(f"{name} is a safetensors file under another ending: rename it to end in .safetensors.")
    return tensors


def _no_weights(head: bytes) -> str | None:
    """Say what a file is, and what to do, when its first bytes are certainly not those of a weight file."""
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive: unpack it, or download the file itself."
    text = head.removeprefix(b"\xef\xbb\xbf")  # the byte order mark of UTF-8
    if not all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text[:8]):
        return None  # a safetensors file begins with a length, whose upper bytes are 0
    text = text.lstrip()
    if text.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the weights. Run 'git lfs pull' or download the file."
    if text.startswith(b"<"):
        return "a web page, not the weights: the link led to the download page. Download the file itself."
    begin = text[:40].decode("latin-1").split("\n")[0].rstrip()
    return (
        f"a text, not the weights (it begins with {begin!r}): the server may have sent a message in their place. Download "
        "the file itself; some pages want you to log in first."
    )


def _damaged(path: str, size: int, why: str) -> str:
    return (
        f"{os.path.basename(path)} ({size:,} bytes) is damaged or incomplete: {why}. Delete it and download it again."
    )
