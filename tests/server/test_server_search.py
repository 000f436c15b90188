"""The nodes in the page's search box, as somebody finds them who types what he wants."""

from __future__ import annotations

import json

import pytest

from layerfusion_pack.devtools import browser

WORDS = {
    "layer": "LayerFusionKSampler", "transparent": "LayerFusionLoadTransparentVAE", "rgba": "LayerFusionDecode",
    "alpha": "LayerFusionDecode", "cutout": "LayerFusionEncode", "psd": "LayerFusionSaveLayers",
    "layerdiffuse": "LayerFusionApplyForeground", "png": "LayerFusionSaveLayers",
}  # fmt: skip
"""What people type, and a node that must be among the first `SEEN`."""
SEEN = 10  # results that the box shows without scrolling
BY_ALIAS = {"background removal": "LayerFusionGivenLayers"}
"""Words that are in no node's name; older hosts search nothing else."""
BOX = "document.activeElement?.matches('input[role=combobox]')"
RESULTS = "[...document.querySelectorAll('[role=option]')].map((one) => one.innerText.split('\\n')[0].trim()).filter(Boolean)"


@pytest.fixture(scope="module")
def found(server):
    """A function: the names that the search box shows for a word."""
    if browser.find() is None:
        pytest.skip("NO CHROMIUM: install one to test the search for nodes (on Debian and Ubuntu: chromium)")
    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en"})
    with browser.Browser() as window:
        window.open(f"http://{server.address}/")
        window.wait("window.app?.vueAppReady && app.extensionManager.spinner === false")
        window.wait("document.elementFromPoint(800, 500)?.closest('canvas, [data-node-id]')")
        window.run("app.graph.clear()")
        window.run("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")  # a double click on the canvas
        window.wait(BOX)

        def search(word: str, name: str) -> list[str]:
            for typed, there in (("qqqq", False), (word, True)):  # the first, so that no older result is taken for the word's
                window.run("document.activeElement.select()")
                window.send("Input.insertText", text=typed)
                window.wait(f"{RESULTS}.includes({json.dumps(name)}) === {json.dumps(there)}")
            return window.run(RESULTS)

        yield search


def test_the_words_people_type_find_a_fitting_node_at_once(found, object_info):
    words = WORDS | (BY_ALIAS if object_info["LayerFusionKSampler"].get("search_aliases") else {})
    for word, node in words.items():
        name = object_info[node]["display_name"]
        assert name in found(word, name)[:SEEN], word


def test_loaders_and_sampler_are_seen_for_the_packs_name(found, object_info):
    """The page puts short IDs first, the guider's before all others: more than seen at once cannot be asked."""
    names = [object_info[f"LayerFusion{node}"]["display_name"] for node in ("KSampler", "LoadDemo", "LoadModels")]
    assert set(names) <= set(found("layerfusion", names[0])[:SEEN])
