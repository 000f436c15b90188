"""The help pages, which the host shows in a panel of about 240 pixels: a page for each node, in lists and short paragraphs."""

from __future__ import annotations

import re

import pytest

from layerfusion_pack.devtools import schema

PAGES = sorted((schema.pack.CHECKOUT / "web" / "docs").glob("*.md"))
LONGEST = 21  # characters of a word in a list of that panel; a longer name has a <wbr>, which is not copied with it


def test_every_node_has_a_page_and_every_page_a_node():
    assert [page.stem for page in PAGES] == sorted(schema.read())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_reads_in_a_narrow_panel(page):
    text = page.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("|")] == [], "a table: write a list"
    shown = re.sub(r"</?code>", "`", re.sub(r"\]\([^)]*\)", "]", text))  # addresses of links are not shown
    assert [word for word in re.split(r"[\s-]+|<wbr>", shown) if len(word.strip("*`.,;:()[]\"")) > LONGEST] == []
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert len(headings) == len(set(headings)), headings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_every_input_a_person_sets(page):
    text = page.read_text(encoding="utf-8").replace("<wbr>", "")
    assert [entry["name"] for entry in schema.read()[page.stem]["inputs"] if entry["name"] not in text] == []
