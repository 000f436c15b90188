"""Other people's programs read our files, where they are installed: ImageMagick, GIMP, Krita, ag-psd; and the PSD format itself."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from layerfusion_pack.layerfusion_core.layers.export import LayerSet, quantised, save_set
from layerfusion_pack.layerfusion_core.layers.export_formats import merged, writers

FOLDER = Path(__file__).parent
NAMES = ("Background", "Foreground", "Blended")
GIMP_SCRIPT = """
(let* ((image (car (gimp-file-load RUN-NONINTERACTIVE "{source}" "{source}"))) (layers (gimp-image-get-layers image)))
  (for-each
    (lambda (layer)
      (file-png-save2 RUN-NONINTERACTIVE image layer
        (string-append "{folder}/" (car (gimp-item-get-name layer))
          (if (= (car (gimp-item-get-visible layer)) TRUE) ".visible" ".hidden") ".png")
        "layer.png" 0 1 0 0 0 0 0 0 1))
    (vector->list (cadr layers)))
  (gimp-quit 0))
"""


@pytest.fixture(scope="module")
def layers() -> LayerSet:
    rng = np.random.default_rng(0)
    foreground, background, blended = (rng.random((24, 40, n), np.float32) for n in (4, 3, 3))
    foreground[:8, ..., 3] = 0.0  # with colour under it
    return LayerSet((foreground,), background, blended)


@pytest.fixture(scope="module")
def saved(layers, tmp_path_factory):
    """A function: the path of the file that ends so, with `depth` bits a channel."""

    def save(ending: str, depth: int = 8) -> Path:
        folder = tmp_path_factory.mktemp("saved")
        wanted = {format: ending.endswith(format) for format in ("psd", "ora", "webp")}
        _, names = save_set(str(folder), "set", 1, writers(layers, {"workflow": "{}"}, depth=depth, **wanted))
        return folder / names[ending]

    return save


def imagemagick(*arguments) -> bytes:
    program = next(filter(None, map(shutil.which, ("magick", "/usr/bin/convert"))), None)
    if program is None:
        pytest.skip("IMAGEMAGICK IS MISSING: reading our files with it was NOT tested")
    return subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, timeout=60).stdout


def krita(path: Path, folder: Path) -> zipfile.ZipFile:
    """The file opened by Krita and saved as OpenRaster of its own."""
    if shutil.which("krita") is None or shutil.which("xvfb-run") is None:
        pytest.skip("KRITA OR XVFB IS MISSING: reading our files with it was NOT tested")
    again = folder / "again.ora"
    command = ["xvfb-run", "-a", "krita", "--nosplash", "--export", "--export-filename", again, path]
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    return zipfile.ZipFile(again)


def flattened_by_krita(archive: zipfile.ZipFile) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(archive.read("mergedimage.png"))).convert("RGB"))


def samples(path: Path | str, channels: str, depth: int) -> np.ndarray:
    """What ImageMagick reads, (24, 40, C)."""
    data = imagemagick(path, "-depth", depth, "-endian", "MSB", f"{channels}:-")
    return np.frombuffer(data, np.uint8 if depth == 8 else ">u2").reshape(24, 40, len(channels))


def describe(path: Path, what: str) -> list[str]:
    return imagemagick(path, "-format", f"{what}\n", "info:").decode().split("\n")[:-1]


@pytest.mark.parametrize("depth", [8, 16])
def test_imagemagick_reads_psd(layers, saved, depth):
    pytest.importorskip("psd_tools", reason="PSD-TOOLS IS MISSING: PSD was NOT tested")
    path = saved("layers.psd", depth)
    assert describe(path, "%[label] %z")[1:] == [f"{name} {depth}" for name in NAMES]
    assert "sRGB" in describe(path, "%[profile:icc]")[0]
    preview = samples(f"{path}[0]", "rgb", 8)
    assert np.abs(preview.astype(int) - quantised(merged(layers))).max() <= 1
    for index, want in enumerate((layers.background, layers.foregrounds[0], layers.blended), 1):
        got = samples(f"{path}[{index}]", "rgba"[: want.shape[-1]], depth)
        assert np.array_equal(got, quantised(want, depth)), NAMES[index - 1]


def with_effects(layers: LayerSet, count: int) -> LayerSet:
    """The layers with effects and `count` foregrounds."""
    random = np.random.default_rng(1)
    effects = random.random((24, 40, 4), np.float32)
    effects[:, 20:, 3] = 0.0
    more = tuple(random.random((24, 40, 4), np.float32) for _ in range(count - 1))
    return dataclasses.replace(layers, foregrounds=(*layers.foregrounds, *more), effects=effects)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_psd_with_effects_is_flattened_alike(layers, tmp_path, count):
    """By psd-tools and ImageMagick, from the layers themselves; and both as our own preview of the file."""
    psd_tools = pytest.importorskip("psd_tools", reason="PSD-TOOLS IS MISSING: PSD was NOT tested")
    full = with_effects(layers, count)
    numbered = ["Foreground"] if count == 1 else [f"Foreground {k + 1}" for k in range(count)]
    _, names = save_set(str(tmp_path), "set", 1, writers(full, {}, psd=True))
    path = tmp_path / names["layers.psd"]
    document = psd_tools.PSDImage.open(path)
    assert [layer.name for layer in document] == ["Background", "Light and shadow", *numbered, "Blended"]
    wanted = quantised(merged(full)).astype(int)
    theirs = {"psd-tools": np.asarray(document.composite(force=True).convert("RGB"))}
    flat = tmp_path / "flat.png"
    imagemagick(f"{path}[1-{count + 2}]", "-background", "none", "-layers", "flatten", flat)  # [0]: preview, the last: hidden
    with Image.open(flat) as picture:
        theirs["ImageMagick"] = np.asarray(picture.convert("RGB"))
    for name, picture in {"the preview": samples(f"{path}[0]", "rgb", 8), **theirs}.items():
        assert np.abs(picture - wanted).max() <= 2, name
    others = [dataclasses.replace(full, effects=None)]
    if count > 1:
        others.append(dataclasses.replace(full, foregrounds=full.foregrounds[::-1]))
    for other in others:
        assert np.abs(wanted - quantised(merged(other)).astype(int)).max() > 50  # the effects are seen, and the order


@pytest.mark.parametrize("ending", ["layers.ora", "layers.psd"])
def test_krita_flattens_effects_and_several_foregrounds_alike(layers, tmp_path, ending):
    if ending == "layers.psd":
        pytest.importorskip("psd_tools", reason="PSD-TOOLS IS MISSING: PSD was NOT tested")
    full = with_effects(layers, 2)
    _, names = save_set(str(tmp_path), "set", 1, writers(full, {}, psd=True, ora=True))
    with krita(tmp_path / names[ending], tmp_path) as archive:
        stack = ElementTree.fromstring(archive.read("stack.xml"))
        assert [layer.get("name") for layer in reversed(list(stack.iter("layer")))] == [
            "Background", "Light and shadow", "Foreground 1", "Foreground 2", "Blended",
        ]  # fmt: skip
        assert np.abs(flattened_by_krita(archive) - quantised(merged(full)).astype(int)).max() <= 2


def test_psd_of_16_bit_is_packed_as_photoshop_does(layers, saved):
    pytest.importorskip("psd_tools", reason="PSD-TOOLS IS MISSING: PSD was NOT tested")
    sys.path.append(str(FOLDER))
    from psd_channels import ALPHA, deep_layers

    found = list(deep_layers(saved("layers.psd", 16).read_bytes()))
    assert tuple(name for name, _ in found) == NAMES
    for (name, channels), want in zip(found, (layers.background, layers.foregrounds[0], layers.blended)):
        alpha = channels.pop(ALPHA)[..., None]
        got = np.concatenate([np.stack([channels[n] for n in range(3)], -1), alpha], axis=-1)
        assert np.array_equal(got[..., : want.shape[-1]], quantised(want, 16)), name
        assert want.shape[-1] == 4 or (alpha == 65535).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_ag_psd_reads(layers, saved, depth):
    if shutil.which("node") is None or not (FOLDER.parent / "node_modules" / "ag-psd").is_dir():
        pytest.skip("AG-PSD IS MISSING (npm install --prefix tests): reading PSD files with it was NOT tested")
    pytest.importorskip("psd_tools", reason="PSD-TOOLS IS MISSING: PSD was NOT tested")
    command = ["node", str(FOLDER / "read_psd.mjs"), str(saved("layers.psd", depth))]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    assert (found["width"], found["height"], found["depth"]) == (40, 24, depth)
    assert [(layer["name"], layer["hidden"]) for layer in found["layers"]] == list(zip(NAMES, (False, False, True)))
    for layer, want in zip(found["layers"], (layers.background, layers.foregrounds[0], layers.blended)):
        got = np.reshape(layer["pixels"], (24, 40, 4))
        assert np.array_equal(got[..., : want.shape[-1]], quantised(want, depth)), layer["name"]
    preview = np.reshape(found["preview"], (24, 40, 4))[..., :3]
    assert np.abs(preview - quantised(merged(layers), depth).astype(int)).max() <= (2 if depth == 8 else 2**8)


def test_imagemagick_reads_png_of_16_bit(layers, saved):
    pytest.importorskip("av", reason="PyAV IS MISSING: PNG files of 16 bit were NOT tested")
    path = saved("foreground.png", 16)
    assert describe(path, "%z %[type]") == ["16 TrueColorAlpha"] and "sRGB" in describe(path, "%[profile:icc]")[0]
    assert np.array_equal(samples(path, "rgba", 16), quantised(layers.foregrounds[0], 16))


def test_imagemagick_reads_webp(layers, saved):
    path = saved("foreground.webp")
    assert "sRGB" in describe(path, "%[profile:icc]")[0]
    assert np.array_equal(samples(path, "rgba", 8), quantised(layers.foregrounds[0]))


@pytest.mark.parametrize("ending", ["layers.ora", "layers.psd"])
def test_gimp_reads(layers, saved, tmp_path, ending):
    if shutil.which("gimp") is None:
        pytest.skip("GIMP IS MISSING: reading our files with it was NOT tested")
    if ending == "layers.psd":
        pytest.importorskip("psd_tools", reason="PSD-TOOLS IS MISSING: PSD was NOT tested")
    script = GIMP_SCRIPT.format(source=saved(ending).as_posix(), folder=tmp_path.as_posix())
    command = ["gimp", "--no-interface", "--no-data", "--no-fonts", "--console-messages"]
    command += ["--batch", script, "--batch", "(gimp-quit 1)"]  # the second after an error in the first
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "Unknown file type" in run.stderr:
        pytest.skip(f"THIS GIMP CANNOT OPEN {ending[-3:].upper()} FILES (Debian leaves the plug-in out): NOT tested")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Background.visible.png", "Blended.hidden.png", "Foreground.visible.png",
    ], run.stdout + run.stderr  # fmt: skip
    for name, want in zip(NAMES, (layers.background, layers.foregrounds[0], layers.blended)):
        with Image.open(next(tmp_path.glob(f"{name}.*"))) as picture:
            got = np.asarray(picture)
        assert np.array_equal(got[..., : want.shape[-1]], quantised(want)), name


@pytest.mark.parametrize("ending", ["layers.ora", "layers.psd"])
def test_krita_reads(layers, saved, tmp_path, ending):
    if ending == "layers.psd":
        pytest.importorskip("psd_tools", reason="PSD-TOOLS IS MISSING: PSD was NOT tested")
    with krita(saved(ending), tmp_path) as archive:
        found = list(ElementTree.fromstring(archive.read("stack.xml")).iter("layer"))
        assert [(layer.get("name"), layer.get("visibility")) for layer in reversed(found)] == [
            ("Background", "visible"), ("Foreground", "visible"), ("Blended", "hidden"),
        ]  # fmt: skip
        for layer, want in zip(reversed(found), (layers.background, layers.foregrounds[0], layers.blended)):
            got = np.asarray(Image.open(io.BytesIO(archive.read(layer.get("src")))).convert("RGBA"))
            top, left = int(layer.get("y")), int(layer.get("x"))  # Krita cuts off what is all transparent
            part = want[top : top + got.shape[0], left : left + got.shape[1]]
            assert part.shape[0] * part.shape[1] >= 16 * 40, layer.get("name")
            assert np.array_equal(got[..., : want.shape[-1]], quantised(part)), layer.get("name")
        preview = flattened_by_krita(archive)
        assert np.abs(preview - quantised(merged(layers)).astype(int)).max() <= 1  # it lays them over each other as we do
