"""The translations: every English text has one in every language, and none stands for a text that is gone."""

from __future__ import annotations

import re

import pytest

from layerfusion_pack.devtools import locales

ENGLISH = locales.read("en")
KEPT = re.compile(r"https?://[^\s,;。、)]*\w|\w+\.safetensors|%[\w:. -]+%|denoise = 1 - keep|sigmoid\([^,]*\)")
"""What a translation must hold as it is: addresses, files, tokens, formulas."""


@pytest.mark.parametrize("language", locales.LANGUAGES)
def test_every_text_is_translated(language):
    """A new text: dev.py locales lists what the languages lack."""
    found = locales.read(language)
    assert [".".join(path) for path in locales.missing(found, ENGLISH)] == []
    assert found == locales.kept(found, ENGLISH), "texts that the nodes do not have any more: dev.py locales drops them"


@pytest.mark.parametrize("language", locales.LANGUAGES)
def test_what_is_no_language_stays_as_it_is(language):
    found = locales.leaves(locales.read(language))
    lost = {
        ".".join(path): [part for part in KEPT.findall(text) if part not in found[path]]
        for path, text in locales.leaves(ENGLISH).items()
    }
    assert {path: parts for path, parts in lost.items() if parts} == {}


def test_what_is_missing_is_found():
    english = {"A": {"display_name": "one", "inputs": {"x": {"name": "x", "tooltip": "two"}}}}
    found = {"A": {"display_name": "eins", "inputs": {"x": {"name": "x", "tooltip": ""}, "y": {"name": "y"}}}}
    assert locales.missing(found, english) == [("A", "inputs", "x", "tooltip")]
    assert "y" not in locales.kept(found, english)["A"]["inputs"]
