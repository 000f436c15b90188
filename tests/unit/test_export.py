"""Files that never overwrite and are never half written, exact at 8 bit, with the workflow inside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layerfusion_pack.layerfusion_core.layers import export, part_files
from layerfusion_pack.layerfusion_core.layers.export import (
    LayerSet,
    PartlySaved,
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
    foreground, *scenes = (value.astype(np.float32) / 255 for value in pixels.values())
    return LayerSet((foreground,), *scenes)


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
    foreground, *scenes = (value.astype(np.float32) / 65535 for value in want.values())
    layers = LayerSet((foreground,), *scenes)
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


def test_pictures_that_are_too_large_for_16_bit_say_so():
    pytest.importorskip("av", reason="PyAV IS MISSING: PNG files of 16 bit were NOT tested")
    large = np.broadcast_to(np.zeros(4, np.uint16), (16384, 16384, 4))
    with pytest.raises(ValueError, match=r"these pictures have 16384 x 16384; choose png \(8 bit\)"):
        export._png_16_bit(large)


def test_metadata_can_be_left_out():
    assert metadata_texts(None, None) == {}


@pytest.fixture(params=[True, False], ids=["hard-links", "no-hard-links"])
def links(request, monkeypatch) -> bool:
    """Whether the file system has hard links; FAT and many network drives have none."""

    def refuse(*_):
        raise PermissionError(1, "no hard links")

    if not request.param:
        monkeypatch.setattr(export.os, "link", refuse)
    return request.param


def test_never_overwrites_and_shares_one_number(tmp_path, links):
    (tmp_path / "a_00001_y").write_bytes(b"mine")
    (tmp_path / "a_00002_x").write_bytes(b"mine")
    number, names = save_set(str(tmp_path), "a", 1, {"x": text(b"X"), "y": text(b"Y")})
    assert number == 3 and set(names.values()) == {"a_00003_x", "a_00003_y"}
    assert (tmp_path / "a_00001_y").read_bytes() == b"mine" and (tmp_path / "a_00003_y").read_bytes() == b"Y"
    assert len(os.listdir(tmp_path)) == 4


def test_a_name_taken_in_the_last_moment_is_not_replaced(tmp_path, monkeypatch, links):
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
    assert [(tmp_path / f"a_00002_{name}").read_bytes() for name in "xy"] == [b"X", b"Y"]


def test_under_a_final_name_a_file_is_complete(tmp_path, monkeypatch, links):
    seen = []

    def look():
        seen.extend(path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("a_"))

    def watch(name):
        step = getattr(export.os, name)

        def observed(*arguments):
            look()
            step(*arguments)
            look()

        monkeypatch.setattr(export.os, name, observed)

    for name in ("link", "rename", "replace", "remove"):
        watch(name)
    save_set(str(tmp_path), "a", 1, {"x": text(b"X"), "y": text(b"Y")})
    assert set(seen) == {b"X", b"Y"}


def test_a_failed_step_of_naming_leaves_nothing(tmp_path, monkeypatch, links):
    link = export._link

    def fail(source, target):
        if target.endswith("_y"):
            raise OSError("the drive is gone")
        link(source, target)

    monkeypatch.setattr(export, "_link", fail)
    with pytest.raises(OSError, match="the drive is gone"):
        save_set(str(tmp_path), "a", 1, {"x": text(b"X"), "y": text(b"Y")})
    assert os.listdir(tmp_path) == []


def test_a_number_that_another_process_is_taking_is_left_to_it(tmp_path, links):
    (tmp_path / part_files.claim_name("a", 1)).touch()
    assert save_set(str(tmp_path), "a", 1, {"x": text(b"X")})[0] == 2


def test_a_failed_save_leaves_nothing(tmp_path):
    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_set(str(tmp_path), "a", 1, {"x": text(b"X"), "y": fail})
    assert os.listdir(tmp_path) == []


def test_a_format_that_fails_keeps_the_others(tmp_path):
    def full(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    writers = {"1.png": text(b"1"), "2.png": text(b"2"), "1.webp": text(b"1"), "2.webp": full, "x.psd": text(b"X")}
    with pytest.raises(PartlySaved, match="WEBP: .*No space left") as partly:
        save_set(str(tmp_path), "a", 1, writers)
    assert partly.value.number == 1 and set(partly.value.failed) == {".webp"}
    assert sorted(os.listdir(tmp_path)) == sorted(partly.value.names.values()) == [
        "a_00001_1.png", "a_00001_2.png", "a_00001_x.psd",
    ]  # fmt: skip
    with pytest.raises(OSError, match="No space left"):
        save_set(str(tmp_path), "b", 1, {"1.png": full})
    assert len(os.listdir(tmp_path)) == 3


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from layerfusion_core.layers.export import save_set
def hang(file):
    file.write(b"half"); file.flush(); print("writing", flush=True); time.sleep(60)
save_set(sys.argv[2], "a", 1, {"x": lambda file: file.write(b"X"), "y": hang})
"""


def test_part_files_of_a_killed_process_are_removed_and_no_others(tmp_path):
    pytest.importorskip("psutil", reason="PSUTIL IS MISSING: tidying up after a killed process was NOT tested")
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[2]), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        theirs = set(os.listdir(tmp_path))
        assert len(theirs) == 2
        save_set(str(tmp_path), "b", 1, {"x": text(b"X")})
        assert set(os.listdir(tmp_path)) == theirs | {"b_00001_x"}  # it is still at work
    finally:
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        process.communicate()
    save_set(str(tmp_path), "b", 2, {"x": text(b"X")})
    assert sorted(os.listdir(tmp_path)) == ["b_00001_x", "b_00002_x"]


def test_leftovers_of_another_machine_go_by_their_age(tmp_path):
    old, new = f".{'0' * 32}.ffffffff.1.part", f".{'1' * 32}.ffffffff.1.part"
    earlier = f".{'2' * 32}.part"  # of releases that gave no process
    users = [".notes.part", "picture.part", "._00001.claim"]
    for name in (old, new, earlier, part_files.claim_name("a", 7), *users):
        (tmp_path / name).touch()
        if name != new:
            os.utime(tmp_path / name, times=(time.time() - 25 * 3600,) * 2)
    part_files.remove_abandoned(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([new, *users])


def test_a_new_process_with_an_old_number_does_not_keep_leftovers(tmp_path):
    pytest.importorskip("psutil", reason="PSUTIL IS MISSING: tidying up after a killed process was NOT tested")
    path = tmp_path / part_files.part_name()  # of this very process, but written before it began, as after a container's restart
    path.touch()
    part_files.remove_abandoned(str(tmp_path))
    assert path.exists()
    os.utime(path, times=(time.time() - 12 * 3600,) * 2)
    part_files.remove_abandoned(str(tmp_path))
    assert not path.exists()
