"""The viewer's PSD of a run that is already on disk."""

from __future__ import annotations

import io

import folder_paths
import numpy as np
import pytest
from PIL import Image

from layerfusion_pack.layerfusion_core.host.output import psd_route
from layerfusion_pack.layerfusion_core.layers.export_formats import has_psd_tools

MODES = {"foreground": "RGBA", "background": "RGB", "blended": "RGB", "effects": "RGBA"}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A run's files in an output folder of the test's own."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    folder = tmp_path / "output" / "sub"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for layer, mode in MODES.items():
        picture = noise.integers(0, 256, (6, 5, len(mode)), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"run_00002_{layer}.png")
    (tmp_path / "secret.png").write_bytes((folder / "run_00002_blended.png").read_bytes())
    return {layer: {"filename": f"run_00002_{layer}.png", "subfolder": "sub", "type": "output"} for layer in MODES}


@pytest.mark.skipif(not has_psd_tools(), reason="psd-tools is not installed")
@pytest.mark.parametrize("effects", [True, False])
def test_layers_are_the_files(files, effects, tmp_path):
    from psd_tools import PSDImage

    if not effects:
        del files["effects"]
    name, data = psd_route.layered(files)
    assert name == "run_00002_layers.psd"
    found = {layer.name: layer for layer in PSDImage.open(io.BytesIO(data))}
    names = {"Background": "background", "Foreground": "foreground", "Blended": "blended"}
    assert set(found) == {*names, *(["Light and shadow"] if effects else [])}
    for layer, file in (names | ({"Light and shadow": "effects"} if effects else {})).items():
        saved = Image.open(tmp_path / "output" / "sub" / files[file]["filename"])
        assert np.array_equal(np.asarray(found[layer].topil().convert(saved.mode)), np.asarray(saved))
    assert [layer.visible for layer in found.values()] == [name != "Blended" for name in found]


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"subfolder": "..", "filename": "secret.png"}, "not in a folder of this ComfyUI's outputs"),
        ({"subfolder": "/", "filename": "etc/passwd"}, "not in a folder"),
        ({"type": "input"}, "not in a folder"),
        ({"filename": "none.png"}, "no longer on the server"),
        ({"filename": ""}, "no longer on the server"),
    ],
)
def test_only_pictures_of_the_outputs_are_read(files, changed, words):
    files["blended"] |= changed
    with pytest.raises(ValueError, match=words):
        psd_route.layered(files)


@pytest.mark.parametrize("body", [None, [], "x", {}, {"foreground": {}, "background": 1, "blended": None}])
def test_what_is_no_set_of_files_is_refused(body):
    with pytest.raises(ValueError, match="needs foreground, background and blended|Expected a file"):
        psd_route.layered(body)


def test_without_psd_tools_the_answer_says_so(files, monkeypatch):
    monkeypatch.setattr("layerfusion_pack.layerfusion_core.layers.export_formats.has_psd_tools", lambda: False)
    with pytest.raises(ValueError, match="psd-tools"):
        psd_route.layered(files)
