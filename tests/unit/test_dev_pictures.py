"""``dev.py pictures`` without a run: which files there are, and how large they may be."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
from PIL import Image

from layerfusion_pack.devtools import examples, pictures
from layerfusion_pack.devtools.console import Problem

CHECKOUT = Path(__file__).resolve().parents[2]


def made(monkeypatch) -> dict[str, Image.Image]:
    """What the makers give from layers that no run made."""
    tile = Image.new("RGBA", (256, 256), (200, 30, 30, 128))
    names = ("foreground", "background", "blended", "soft mask", "given")
    monkeypatch.setattr(pictures, "_layers", lambda client, workflow, made: dict.fromkeys(names, tile))
    monkeypatch.setattr(pictures, "_asked", lambda info, workflow, *asked: workflow)
    client = SimpleNamespace(server=SimpleNamespace(json=lambda path: {}))
    return {**pictures._demo(CHECKOUT, client, {}), **pictures._given(CHECKOUT, client, {})}


def test_the_readme_has_its_pictures_and_the_examples_theirs(monkeypatch):
    files = set(made(monkeypatch))
    thumbnails = {f"{examples.FOLDER}/{examples.name(key)}.jpg" for key in examples.GRAPHS}
    assert {path.name for path in (CHECKOUT / examples.FOLDER).glob("*.jpg")} == {Path(name).name for name in thumbnails}
    shown = set(re.findall(r"\]\((docs/\w+\.jpg)\)", (CHECKOUT / "README.md").read_text(encoding="utf-8")))
    # Of the browser, of `python evaluation` matching and several.
    others = {"docs/graph.jpg", "docs/viewer.jpg", "docs/matched.jpg", "docs/several.jpg"}
    assert files == shown - others and others <= shown
    assert all((CHECKOUT / name).stat().st_size <= pictures.LARGEST for name in files | others)
    assert all((CHECKOUT / name).stat().st_size <= pictures.LARGEST_THUMBNAIL for name in thumbnails)  # they are published


def test_the_readme_names_examples_that_there_are():
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b\d+ [A-Z][\w -]+\((?:demo|SDXL)[^)\n]*\)", text))
    assert len(named) >= 5 and named - {examples.name(key) for key in examples.GRAPHS} == set()


def test_files_are_kept_small(tmp_path):
    noise = numpy.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=numpy.uint8)
    pictures.save(Image.fromarray(noise), tmp_path / "fits.jpg")
    assert (tmp_path / "fits.jpg").stat().st_size <= pictures.LARGEST
    with pytest.raises(Problem, match="more than 200000"):
        pictures.save(Image.fromarray(numpy.tile(noise, (3, 3, 1))), tmp_path / "large.jpg")
    assert not (tmp_path / "large.jpg").exists()
