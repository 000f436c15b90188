"""Save Layers through the real server: names refused before the run, and its document in ComfyUI's own layer nodes."""

from __future__ import annotations

import io

import numpy
import pytest
from PIL import Image

from layerfusion_pack.devtools.console import Problem

SIDE = 16
GREY, RED, GREEN, BLUE = 0x808080, 0xFF0000, 0x00FF00, 0x0000FF


def picture(colour: int, side: int = SIDE) -> dict:
    return {"class_type": "EmptyImage", "inputs": {"width": side, "height": side, "batch_size": 1, "color": colour}}


def graph(transparent: float) -> dict:
    """A red foreground of that transparency over green, blended all blue, and a small grey picture added on top."""
    mask = {"value": transparent, "width": SIDE, "height": SIDE}
    return {
        "red": picture(RED), "green": picture(GREEN), "blue": picture(BLUE), "grey": picture(GREY, 4),
        "mask": {"class_type": "SolidMask", "inputs": mask},
        "cut": {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["red", 0], "alpha": ["mask", 0]}},
        "save": {"class_type": "LayerFusionSaveLayers", "inputs": {
            "foreground": ["cut", 0], "background": ["green", 0], "blended": ["blue", 0], "filename_prefix": "layers"}},
        "add": {"class_type": "AddLayer", "inputs": {"layers": ["save", 0], "image": ["grey", 0], "x": 2, "y": 1}},
        "stack": {"class_type": "ImageCompositor", "inputs": {"layers": ["add", 0], "compositor": {}}},
    }  # fmt: skip


@pytest.fixture
def composed(server, client, object_info):
    """A function: what Create Layered Image shows of the graph, and its layers as the editor gets them."""
    if "ImageCompositor" not in object_info:
        pytest.skip("this ComfyUI has no layer nodes yet (0.31 and later do)")

    def run(transparent: float):
        try:
            found = client.follow(client.queue(graph(transparent)))
        except Problem as refused:
            pytest.fail(str(refused))
        assert found.status == "success", found.error
        shown = numpy.asarray(Image.open(io.BytesIO(client.fetch(found.images("stack")[0]))))
        return shown, found.outputs["stack"]

    return run


def test_core_composes_the_document(composed):
    shown, output = composed(transparent=0.25)
    linear = 255 * (numpy.array([0.75, 0.25]) ** (1 / 2.4) * 1.055 - 0.055)  # core mixes in linear light
    numpy.testing.assert_allclose(shown[8, 8, :3], [*linear, 0], atol=1)
    assert shown[1, 2, :3].tolist() == shown[4, 5, :3].tolist() == [128, 128, 128]  # the added layer lies on top
    layers = output["compositor_bboxes"]
    assert [(layer["name"], layer["visible"]) for layer in layers] == [
        ("Background", True), ("Foreground", True), ("Blended", False), (None, True),
    ]  # fmt: skip


def test_core_gets_our_pixels(composed, client):
    _, output = composed(transparent=0.25)
    pictures = [numpy.asarray(Image.open(io.BytesIO(client.fetch(file)))) for file in output["compositor_layers"]]
    assert [tuple(picture[0, 0]) for picture in pictures[:3]] == [(0, 255, 0), (255, 0, 0, 191), (0, 0, 255)]


def test_a_name_that_cannot_be_saved_is_refused_before_anything_runs(client):
    bad = graph(0.25)
    save = bad["save"]["inputs"]
    for name in ("add", "stack", "grey"):
        del bad[name]
    save["filename_prefix"] = "../escaped"
    with pytest.raises(Problem, match="filename_prefix: .* leads outside the output folder"):
        client.queue(bad)
    save["filename_prefix"], save["bit_depth"] = "layers", "12"
    with pytest.raises(Problem, match="bit_depth"):
        client.queue(bad)
    save["bit_depth"] = "8"
    bad["name"] = {"class_type": "PrimitiveString", "inputs": {"value": "../escaped"}}
    save["filename_prefix"] = ["name", 0]  # known in the run only
    found = client.follow(client.queue(bad))
    assert found.status == "error" and "leads outside the output folder" in str(found.error)
