"""The help pages as a person reads them: in the host's own narrow panel, opened by the (i) of a node."""

from __future__ import annotations

import json
import re

import pytest
from host_page import open_page

from layerfusion_pack.devtools import browser, help_pictures, schema

PANEL = 240  # pixels of the panel with its margins; a host's own is 20 % of the window, and no less than 190
PAGE = "document.querySelector('.node-help-content')"
OPEN = """(() => {
  app.graph.clear();
  const node = LiteGraph.createNode(NODE);
  app.graph.add(node);
  app.canvas.selectNode(node);
  app.canvas.setDirty(true, true);
})()"""
INFO = "document.querySelector('[data-testid=info-button]')"
TITLE = f"{PAGE}?.querySelector('h1')?.textContent"
SHOWN = f"[...{PAGE}.querySelectorAll('img')].every((picture) => picture.complete)"
NARROW = f"{PAGE}.closest('.p-splitterpanel').style.setProperty('flex', '0 0 {PANEL}px', 'important')"
MEASURE = f"""(() => {{
  const page = {PAGE}, panel = page.closest(".p-splitterpanel"), above = [];
  for (let part = page; part !== panel.parentElement; part = part.parentElement) above.push(part);
  const parts = [...above, ...page.querySelectorAll("*")].filter((part) => part.clientWidth);
  const right = panel.getBoundingClientRect().right;
  return {{
    width: panel.clientWidth,
    wide: parts.filter((part) => part.scrollWidth > part.clientWidth || part.getBoundingClientRect().right > right + 1)
      .map((part) => `${{part.tagName}} ${{part.scrollWidth}} > ${{part.clientWidth}}: ${{part.textContent.trim().slice(0, 90)}}`),
    tables: page.querySelectorAll("table").length,
    pictures: [...page.querySelectorAll("img")].map((x) => [x.alt.length > 20, x.naturalWidth]),
    copied: [...page.querySelectorAll(":has(> wbr)")].map((name) => {{
      getSelection().selectAllChildren(name);
      return [getSelection().toString(), name.getClientRects().length];
    }}),
  }};
}})()"""


@pytest.fixture(scope="module")
def window(server):
    """The page, with nothing on its canvas."""
    if browser.find() is None:
        pytest.skip("NO CHROMIUM: install one to look at the help pages (on Debian and Ubuntu: chromium)")
    with browser.Browser() as opened:
        open_page(opened, server)
        yield opened


def read(window: browser.Browser, node: str) -> dict:
    """Open a node's page by its button, make the panel narrow and measure what is in it."""
    title = (schema.pack.CHECKOUT / "web" / "docs" / f"{node}.md").read_text(encoding="utf-8").splitlines()[0][2:]
    window.run(OPEN.replace("NODE", json.dumps(node)))
    window.wait(INFO)
    if window.run(TITLE) != title:
        window.run(f"{INFO}.click()")
    window.wait(f"{TITLE} === {json.dumps(title)} && {SHOWN}")
    window.run(NARROW)
    window.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return window.run(MEASURE)


@pytest.mark.parametrize("node", sorted(schema.read()))
def test_a_page_reads_in_the_narrow_panel(window, node):
    found = read(window, node)
    assert found["width"] == PANEL
    assert found["wide"] == [] and found["tables"] == 0
    assert found["pictures"] == [[True, help_pictures.WIDTH]]  # loaded, and with words for those who cannot see it


def test_a_long_name_breaks_and_is_copied_whole(window):
    copied = read(window, "LayerFusionLoadModels")["copied"]
    assert "layer_xl_transparent_attn.safetensors" in [name for name, _ in copied] and max(lines for _, lines in copied) > 1
    assert all(re.fullmatch(r"[\w.]+", name) for name, _ in copied), copied
