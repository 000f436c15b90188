"""Files that never overwrite and are never half written, exact at 8 bit, with the workflow inside."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from layerfusion_pack.layerfusion_core import export
from layerfusion_pack.layerfusion_core.export import (
    LayerSet,
    metadata_texts,
    png_set,
    quantised,
    save_set,
    srgb_profile,
)


@pytest.fixture
def pixels() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (16, 24, 4 if name == "foreground" else 3), dtype=np.uint8)
            for name in ("foreground", "background", "blended")}  # fmt: skip


@pytest.fixture
def layers(pixels) -> LayerSet:
    return LayerSet(**{name: value.astype(np.float32) / 255 for name, value in pixels.items()})


def text(data: bytes):
    return lambda file: file.write(data)


def test_every_level_survives_the_round_trip():
    for depth, kind in ((8, np.uint8), (16, np.uint16)):
        levels = np.arange(2**depth, dtype=kind)
        assert np.array_equal(quantised(levels.astype(np.float32) / levels[-1], depth), levels)
        assert quantised(np.array([-1.0, 2.0]), depth).tolist() == [0, levels[-1]]


def test_png_set_is_bit_exact_and_holds_the_workflow(tmp_path, layers, pixels):
    texts = metadata_texts({"1": {"class_type": "X"}}, {"workflow": {"nodes": ["\u00e4"]}})
    number, names = save_set(str(tmp_path), "cat", 1, png_set(layers, texts))
    assert number == 1 and names["foreground.png"] == "cat_00001_foreground.png"
    assert sorted(os.listdir(tmp_path)) == [f"cat_00001_{name}.png" for name in ("background", "blended", "foreground")]
    for name, value in pixels.items():
        with Image.open(tmp_path / f"cat_00001_{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), value)  # also the colour under alpha 0
            assert json.loads(picture.text["workflow"]) == {"nodes": ["\u00e4"]}
            assert json.loads(picture.text["prompt"]) == {"1": {"class_type": "X"}}
            assert picture.info["icc_profile"] == srgb_profile()


def test_png_set_of_16_bit(tmp_path):
    av = pytest.importorskip("av", reason="PyAV IS MISSING: PNG files of 16 bit were NOT tested")
    rng = np.random.default_rng(1)
    want = {name: rng.integers(0, 65536, (9, 13, channels), dtype=np.uint16)
            for name, channels in (("foreground", 4), ("background", 3), ("blended", 3))}  # fmt: skip
    layers = LayerSet(**{name: value.astype(np.float32) / 65535 for name, value in want.items()})
    _, names = save_set(str(tmp_path), "deep", 1, png_set(layers, {"workflow": '{"nodes": []}'}, depth=16))
    for name, value in want.items():
        path = tmp_path / names[f"{name}.png"]
        with av.open(str(path)) as file:
            frame = next(file.decode(video=0))
        kind = "rgba64be" if name == "foreground" else "rgb48be"
        assert frame.format.name == kind and np.array_equal(frame.to_ndarray(format=kind), value)
        with Image.open(path) as picture:
            picture.verify()  # the checksum of every chunk
        with Image.open(path) as picture:
            assert picture.text == {"workflow": '{"nodes": []}'} and picture.info["icc_profile"] == srgb_profile()


def test_metadata_can_be_left_out():
    assert metadata_texts(None, None) == {}


@pytest.mark.parametrize("links", [True, False], ids=["hard-links", "no-hard-links"])
def test_never_overwrites_and_shares_one_number(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(export.os, "link", lambda *_: (_ for _ in ()).throw(OSError("not supported")))
    (tmp_path / "a_00001_y").write_bytes(b"mine")
    (tmp_path / "a_00002_x").write_bytes(b"mine")
    number, names = save_set(str(tmp_path), "a", 1, {"x": text(b"X"), "y": text(b"Y")})
    assert number == 3 and set(names.values()) == {"a_00003_x", "a_00003_y"}
    assert (tmp_path / "a_00001_y").read_bytes() == b"mine" and (tmp_path / "a_00003_y").read_bytes() == b"Y"
    assert len(os.listdir(tmp_path)) == 4


def test_a_name_taken_in_the_last_moment_is_not_replaced(tmp_path, monkeypatch):
    link, taken = export._link, []

    def race(source, target):
        if target.endswith("a_00001_y") and not taken:
            taken.append(target)
            (tmp_path / "a_00001_y").write_bytes(b"theirs")
        link(source, target)

    monkeypatch.setattr(export, "_link", race)
    number, _ = save_set(str(tmp_path), "a", 1, {"x": text(b"X"), "y": text(b"Y")})
    assert number == 2 and (tmp_path / "a_00001_y").read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["a_00001_y", "a_00002_x", "a_00002_y"]


def test_a_failed_save_leaves_nothing(tmp_path):
    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_set(str(tmp_path), "a", 1, {"x": text(b"X"), "y": fail})
    assert os.listdir(tmp_path) == []
