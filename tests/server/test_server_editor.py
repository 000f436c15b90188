"""The menu of Save Layers leads to the layer editor of ComfyUI's own page, whose PSD export holds the layers."""

from __future__ import annotations

import json
import time

import numpy
import pytest

from layerfusion_pack.devtools import browser

SIDE = 16
ALPHA = 191  # of the foreground: 1 - 0.25 in 255ths
DOWNLOAD = "[data-testid=compositor-download-psd]"
WEBGL = ("--enable-unsafe-swiftshader", "--use-angle=swiftshader")  # the editor draws with it


def picture(colour: int) -> dict:
    return {"class_type": "EmptyImage", "inputs": {"width": SIDE, "height": SIDE, "batch_size": 1, "color": colour}}


GRAPH = {
    "1": picture(0xFF8040), "2": picture(0x20C060), "3": picture(0x4060E0),
    "4": {"class_type": "SolidMask", "inputs": {"value": 0.25, "width": SIDE, "height": SIDE}},
    "5": {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["1", 0], "alpha": ["4", 0]}},
    "6": {"class_type": "LayerFusionSaveLayers", "inputs": {
        "foreground": ["5", 0], "background": ["2", 0], "blended": ["3", 0], "filename_prefix": "editor"}},
}  # fmt: skip
EDIT = """app.collectNodeMenuItems(app.graph.nodes.find(({ type }) => type === "LayerFusionSaveLayers"))
    .find(({ content }) => content.includes("Create Layered Image")).callback()"""
EDITORS = 'app.graph.nodes.filter(({ type, inputs }) => type === "ImageCompositor" && inputs[0].link !== null).length'


@pytest.fixture
def exported(server, object_info, tmp_path):
    """The PSD that a person gets who runs the graph and presses the download button."""
    psd_tools = pytest.importorskip("psd_tools")
    if "ImageCompositor" not in object_info:
        pytest.skip("this ComfyUI has no layer editor yet (0.31 and later do)")
    if browser.find() is None:
        pytest.skip("NO CHROMIUM: install one to test the layer editor (on Debian and Ubuntu: chromium)")
    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": True})
    with browser.Browser(switches=WEBGL) as window:
        window.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        window.open(f"http://{server.address}/")
        window.wait("window.app?.vueAppReady && app.extensionManager.spinner === false")
        window.run(f"app.loadApiJson({json.dumps(GRAPH)}, 'editor')")
        window.wait("app.graph.nodes.length === 6")
        for _ in range(2):  # the second time goes to the node that is there
            window.run(EDIT)
        assert window.run(EDITORS) == 1 and window.run("app.graph.nodes.length") == 7
        assert window.run("document.body.innerText.includes('Open Compositor')")
        window.run("app.queuePrompt(0)")
        window.wait(f"document.querySelector('{DOWNLOAD}:enabled')", 60)
        window.run(f"document.querySelector('{DOWNLOAD}').click()")
        deadline = time.monotonic() + 60
        while not (found := list(tmp_path.glob("*.psd"))):  # it has another name until it is complete
            assert time.monotonic() < deadline, "no PSD within a minute\n" + "\n".join(window.errors)
            time.sleep(0.2)
    return psd_tools.PSDImage.open(found[0])


def test_the_editors_psd_holds_our_layers(exported):
    layers = {layer.name: layer for layer in exported}
    assert [(name, layers[name].visible) for name in ("Background", "Foreground", "Blended")] == [
        ("Background", True), ("Foreground", True), ("Blended", False),
    ]  # fmt: skip
    for name, value in {
        "Background": (0x20, 0xC0, 0x60, 255), "Foreground": (0xFF, 0x80, 0x40, ALPHA), "Blended": (0x40, 0x60, 0xE0, 255)
    }.items():  # fmt: skip
        pixels = numpy.asarray(layers[name].topil().convert("RGBA"))
        assert pixels.shape == (SIDE, SIDE, 4) and abs(pixels.astype(int) - value).max() <= 1, (name, pixels[0, 0])
