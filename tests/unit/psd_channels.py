"""The layers of a PSD file, read after Adobe's description of the format and nothing else: a second opinion on what we write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

ZIP_WITH_PREDICTION = 3
ALPHA = -1


class Bytes:
    """Big-endian numbers and blocks, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def numbers(self, kinds: str) -> tuple:
        return struct.unpack(f">{kinds}", self.take(struct.calcsize(f">{kinds}")))

    def block(self) -> Bytes:
        return Bytes(self.take(*self.numbers("I")))


def deep_layers(data: bytes) -> Iterator[tuple[str, dict[int, np.ndarray]]]:
    """(name, {channel number: (height, width) of 16-bit values}) of each layer of an RGB file, from the bottom.

    Only what Photoshop writes at 16 bit: ZIP with prediction. AssertionError for anything else.
    """
    file = Bytes(data)
    signature, version, _, _, _, _, depth, mode = file.numbers("4sH6sHIIHH")
    assert (signature, version, depth, mode) == (b"8BPS", 1, 16, 3)
    file.block(), file.block()  # colour mode data, image resources
    info = file.block().block()
    records = []
    for _ in range(abs(info.numbers("h")[0])):
        top, left, bottom, right, count = info.numbers("iiiiH")
        channels = [info.numbers("hI") for _ in range(count)]
        assert info.numbers("4s4sBBBB")[0] == b"8BIM"
        extra = info.block()
        extra.block(), extra.block()  # mask, blending ranges
        records.append((extra.take(*extra.numbers("B")).decode("ascii"), bottom - top, right - left, channels))
    for name, height, width, channels in records:
        found = {}
        for channel, length in channels:
            part = Bytes(info.take(length))
            assert part.numbers("H") == (ZIP_WITH_PREDICTION,)
            steps = np.frombuffer(zlib.decompress(part.take(length - 2)), ">u2").reshape(height, width)
            found[channel] = np.cumsum(steps, axis=1, dtype=np.uint16)  # each value less its left neighbour's, modulo 2^16
        yield name, found
