"""PSD, OpenRaster and WebP: bit-exact, named layers, a true preview, the workflow inside."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from layerfusion_pack.layerfusion_core.layers.export import LayerSet, PartlySaved, quantised, save_set, srgb_profile
from layerfusion_pack.layerfusion_core.layers.export_formats import merged, writers

ALL = {"psd": True, "ora": True, "webp": True}
TEXTS = {"prompt": json.dumps({"1": {"text": "a < b & c"}}), "workflow": json.dumps({"nodes": ["\u00e4"]})}


@pytest.fixture(scope="module")
def layers() -> LayerSet:
    rng = np.random.default_rng(0)
    foreground, background, blended = (rng.integers(0, 256, (12, 20, n)).astype(np.float32) / 255 for n in (4, 3, 3))
    foreground[:4, ..., 3] = 0.0  # with colour under it
    return LayerSet((foreground,), background, blended)


def written(layers: LayerSet, ending: str, **formats) -> io.BytesIO:
    buffer = io.BytesIO()
    writers(layers, TEXTS, **formats)[ending](buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("depth", [8, 16])
def test_psd(layers, depth):
    psd_tools = pytest.importorskip("psd_tools", minversion="1.26", reason="PSD-TOOLS IS MISSING: PSD was NOT tested")
    document = psd_tools.PSDImage.open(written(layers, "layers.psd", psd=True, depth=depth))
    assert document.size == (20, 12) and document.depth == depth
    assert [(layer.name, layer.visible) for layer in document] == [
        ("Background", True), ("Foreground", True), ("Blended", False),
    ]  # fmt: skip
    top = 2**depth - 1
    for layer, want in zip(document, (layers.background, layers.foregrounds[0], layers.blended)):
        assert not layer.has_mask()
        got = np.rint(layer.numpy() * top)
        assert np.array_equal(got[..., : want.shape[-1]], np.rint(want.astype(np.float64) * top))
    preview = document.numpy()[..., :3]
    assert np.abs(preview - merged(layers)).max() <= 1.5 / 255
    assert document.image_resources.get_data(1039) == srgb_profile()
    xmp = document.image_resources.get_data(1060)
    assert b"a &lt; b &amp; c" in (xmp if isinstance(xmp, bytes) else bytes(str(xmp), "utf8"))


def test_psd_says_what_to_install(layers, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "psd_tools", None)
    with pytest.raises(PartlySaved, match="pip install -U psd-tools"):
        save_set(str(tmp_path), "a", 1, writers(layers, TEXTS, **ALL))
    assert len(list(tmp_path.iterdir())) == 7  # PNG, OpenRaster and WebP all the same


@pytest.mark.parametrize(("format", "side"), [("webp", 16383), ("psd", 30000)])
def test_pictures_that_are_too_large_for_a_format_say_so(tmp_path, format, side):
    if format == "psd":
        pytest.importorskip("psd_tools", minversion="1.26", reason="PSD-TOOLS IS MISSING: PSD was NOT tested")
    one, *scenes = (np.zeros((1, side + 1, channels), np.float32) for channels in (4, 3, 3))
    large = LayerSet((one,), *scenes)
    with pytest.raises(PartlySaved, match=f"at most {side} x {side} pixels, these pictures have {side + 1} x 1"):
        save_set(str(tmp_path), "a", 1, writers(large, TEXTS, **{format: True}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"a_00001_{name}.png" for name in ("background", "blended", "foreground")
    ]
    fits = LayerSet((one[:, :side],), *(picture[:, :side] for picture in scenes))
    assert len(save_set(str(tmp_path), "b", 1, writers(fits, TEXTS, **{format: True}))[1]) > 3


def test_ora(layers):
    with zipfile.ZipFile(written(layers, "layers.ora", ora=True)) as archive:
        names = archive.namelist()
        assert names[0] == "mimetype" and archive.read("mimetype") == b"image/openraster"
        assert archive.getinfo("mimetype").compress_type == zipfile.ZIP_STORED
        stack = archive.read("stack.xml").decode()
        order = [stack.index(name) for name in ("Blended", "Foreground", "Background")]
        assert order == sorted(order) and stack.count('visibility="hidden"') == 1 and 'w="20" h="12"' in stack
        for name, want in (("foreground", layers.foregrounds[0]), ("background", layers.background)):
            picture = Image.open(io.BytesIO(archive.read(f"data/{name}.png")))
            assert np.array_equal(np.asarray(picture), quantised(want))
        preview = Image.open(io.BytesIO(archive.read("mergedimage.png")))
        assert np.array_equal(np.asarray(preview), quantised(merged(layers)))
        assert json.loads(preview.text["workflow"]) == {"nodes": ["\u00e4"]}
        pictures = [name for name in names if name.endswith(".png")]
        assert len(pictures) == 5 and "Thumbnails/thumbnail.png" in pictures
        for name in pictures:
            assert Image.open(io.BytesIO(archive.read(name))).info["icc_profile"] == srgb_profile(), name


def test_effects_are_a_layer_and_a_file_of_their_own(layers):
    effects = np.random.default_rng(1).integers(0, 256, (12, 20, 4)).astype(np.float32) / 255
    layers = dataclasses.replace(layers, effects=effects)
    with zipfile.ZipFile(written(layers, "layers.ora", ora=True)) as archive:
        stack = archive.read("stack.xml").decode()
        order = [stack.index(f'name="{name}"') for name in ("Blended", "Foreground", "Light and shadow", "Background")]
        assert order == sorted(order) and stack.count('visibility="hidden"') == 1
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(archive.read("data/effects.png")))), quantised(effects))
        alpha = effects[..., 3:]
        below = dataclasses.replace(layers, effects=None, background=effects[..., :3] * alpha + layers.background * (1 - alpha))
        preview = Image.open(io.BytesIO(archive.read("mergedimage.png")))
        assert np.array_equal(np.asarray(preview), quantised(merged(below)))
    names = list(writers(layers, {}, **ALL))
    assert {"effects.png", "effects.webp"} < set(names) and len(names) == 10
    for ending in ("effects.png", "effects.webp"):
        assert np.array_equal(np.asarray(Image.open(written(layers, ending, webp=True))), quantised(effects))


def test_webp(layers):
    for name, want in (("foreground", layers.foregrounds[0]), ("blended", layers.blended)):
        picture = Image.open(written(layers, f"{name}.webp", webp=True))
        assert np.array_equal(np.asarray(picture), quantised(want))  # also the colour under alpha 0
        assert picture.info["icc_profile"] == srgb_profile()
        exif = picture.getexif()
        assert exif[0x0110] == f"prompt:{TEXTS['prompt']}" and exif[0x010F].startswith("workflow:")


def test_formats(layers):
    names = ["foreground", "background", "blended"]
    pngs, webps = ([f"{name}.{kind}" for name in names] for kind in ("png", "webp"))
    assert list(writers(layers, {})) == pngs
    for format, files in {"psd": ["layers.psd"], "ora": ["layers.ora"], "webp": webps}.items():
        assert sorted(writers(layers, {}, **{format: True})) == sorted([*pngs, *files])
    assert sorted(writers(layers, {}, **ALL)) == sorted([*pngs, *webps, "layers.psd", "layers.ora"])


def test_the_depth_is_that_of_png_and_psd(layers):
    for depth, bits in ((8, 8), (16, 16)):
        for ending in ("background.png", "layers.psd"):
            head = written(layers, ending, psd=True, depth=depth).read(26)
            assert (head[24] if ending.endswith("png") else head[23]) == bits, ending
