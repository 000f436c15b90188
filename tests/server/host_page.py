"""The host's page in a browser, in either way of drawing nodes."""

from __future__ import annotations

import pytest

from layerfusion_pack.devtools import browser

RENDERERS = CLASSIC, NEW_NODES = "classic", "Nodes 2.0"


def open_page(window: browser.Browser, server, renderer: str = CLASSIC) -> None:
    """Load the page anew and wait until it takes clicks."""
    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": renderer == NEW_NODES})
    window.open(f"http://{server.address}/")
    window.wait("window.app?.vueAppReady && app.extensionManager.spinner === false")
    # The curtain of the start fades out after that; a file that falls on it is lost.
    window.wait("document.elementFromPoint(800, 500)?.closest('canvas, [data-node-id]')")


def require_widgets(window: browser.Browser, renderer: str) -> None:
    """Skip where Nodes 2.0 are too old to show the nodes of the graph that is open."""
    if renderer == NEW_NODES and not window.run("Boolean(document.querySelector('[data-testid=node-widgets]'))"):
        pytest.skip("The Nodes 2.0 of this ComfyUI do not show the widgets of node packs yet")
