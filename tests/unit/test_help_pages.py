"""The help pages, which the host shows in a panel of about 240 pixels: a page for each node, in lists and short paragraphs."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from layerfusion_pack.devtools import help_pictures, option_pictures, owner, schema

CHECKOUT = schema.pack.CHECKOUT
FOLDER = CHECKOUT / help_pictures.FOLDER
PAGES = sorted(FOLDER.glob("*.md"))
PICTURE = re.compile(r"^!\[(.*)\]\((.*)\)$", re.MULTILINE)
OPTIONS = CHECKOUT / "docs" / "options.md"
SHOWN = ("LayerFusionOptions", "LayerFusionKSampler", "LayerFusionKSamplerAdvanced", "LayerFusionGuider", "LayerFusionGivenLayers",
         "LayerFusionAddForeground")  # fmt: skip
"""Nodes whose options change the picture, and inputs that are none or do what they do in ComfyUI's own samplers."""
PLAIN = {
    "base_model", "foreground_model", "foreground", "background", "blended", "negative", "latent_image", "seed", "noise_seed",
    "steps", "cfg", "sampler_name", "scheduler", "options", "vae", "foregrounds", "foregrounds_per_picture",
}  # fmt: skip
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_what_the_node_is_for_and_a_picture(page):
    title, purpose, picture, *_ = page.read_text(encoding="utf-8").split("\n\n")
    assert title.startswith("# ") and "\n" not in title
    assert 20 < len(purpose) < 140 and re.fullmatch(r"[A-Z][^.]*(?:\.\d[^.]*)?\.", purpose), "one short sentence"
    shown = PICTURE.fullmatch(picture)
    assert shown
    alt, name = shown.groups()
    assert 20 < len(alt) < 140 and (FOLDER / name).is_file()


def test_pictures_of_the_pages_are_those_that_are_made_used_and_small():
    there = {path.name for path in FOLDER.iterdir()} - {path.name for path in PAGES}
    assert there == {f"{name}.webp" for name in (*help_pictures.MAKERS, "viewer")}
    assert there == {name for page in PAGES for _, name in PICTURE.findall(page.read_text(encoding="utf-8"))}
    for name in there:
        assert (FOLDER / name).stat().st_size <= help_pictures.LARGEST
        with Image.open(FOLDER / name) as picture:
            assert picture.width == help_pictures.WIDTH and picture.height < 1.6 * picture.width


def headings(page) -> list[str]:
    return re.findall(r"^## (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_option_that_changes_the_picture_is_explained():
    names = {entry["name"] for node in SHOWN for entry in schema.read()[node]["inputs"]} - PLAIN
    assert len(names) > 25 and names - {name for heading in headings(OPTIONS) for name in heading.split(", ")} == set()


def test_the_strips_of_the_options_are_those_that_are_made():
    shown = {name for _, name in PICTURE.findall(OPTIONS.read_text(encoding="utf-8"))}
    made = {f"option-{name}.jpg" for name in option_pictures.MAKERS}
    assert made <= shown and {path.name for path in OPTIONS.parent.glob("option-*.jpg")} == made
    assert all((OPTIONS.parent / name).is_file() for name in shown)


def test_links_into_the_docs_lead_to_a_heading():
    """Nodes with options link to what these look like."""
    base = f"https://github.com/{owner.repository(CHECKOUT)}/blob/main/"
    linked = {}
    for page in PAGES:
        for address in re.findall(r"\]\((https://github\.com/[^)]*)\)", page.read_text(encoding="utf-8")):
            file, _, anchor = address.removeprefix(base).partition("#")
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings(CHECKOUT / file)]
            assert address.startswith(base) and (not anchor or anchor in slugs), address
            linked.setdefault(page.stem, set()).add(file)
    assert {node for node, files in linked.items() if "docs/options.md" in files} == {*SHOWN}
