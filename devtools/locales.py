"""``dev.py locales``: writes the nodes' English texts, from which the page translates, and lists what languages lack.

locales/en/nodeDefs.json is made from the nodes; the other languages are written by hand. A text of theirs that the nodes do
not have any more is dropped from their files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import pack
from .console import say
from .graph import inputs_of
from .schema import infos

FOLDER = pack.CHECKOUT / "locales"
LANGUAGES = ("zh", "zh-TW", "ja", "ko", "de", "fr", "es", "ru")
Texts = dict[str, Any]


def add_to(commands: Any) -> None:
    """Register the command with dev.py's argument parser."""
    commands.add_parser("locales", help="write the nodes' English texts, and list what the translations lack")


def run(checkout: Path, host: Path | None, options: argparse.Namespace) -> int:
    """Write the English file, tidy the others, and list what they lack. 1 when they lack anything."""
    texts = english(infos(host))
    write("en", texts)
    lacking = 0
    for language in LANGUAGES:
        found = read(language)
        if found:
            write(language, kept(found, texts))
        for path in missing(found, texts):
            lacking += 1
            say(f"{language}: {'.'.join(path)}")
    say(f"{lacking} texts to translate")
    return 1 if lacking else 0


def file(language: str) -> Path:
    """Where a language's texts lie."""
    return FOLDER / language / "nodeDefs.json"


def read(language: str) -> Texts:
    """A language's texts; {} where there are none yet."""
    return json.loads(file(language).read_text(encoding="utf-8")) if file(language).is_file() else {}


def write(language: str, texts: Texts) -> None:
    """Write a language's texts."""
    file(language).parent.mkdir(parents=True, exist_ok=True)
    file(language).write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def leaves(texts: Texts, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every text by its path of keys."""
    found = {}
    for key, value in texts.items():
        found |= leaves(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


def missing(found: Texts, texts: Texts) -> list[tuple[str, ...]]:
    """Paths that `texts` has and `found` has not, or has empty."""
    have = leaves(found)
    return [path for path in leaves(texts) if not have.get(path)]


def kept(found: Texts, texts: Texts) -> Texts:
    """`found` in the order of `texts`, without what `texts` has not."""
    return {
        key: kept(found[key], value) if isinstance(value, dict) else found[key] for key, value in texts.items() if key in found
    }


def english(object_info: dict[str, Any]) -> Texts:
    """nodeDefs.json for the pack's nodes, from what /object_info says of them."""
    texts = {}
    for node in sorted(name for name in object_info if name.startswith("LayerFusion")):
        info = object_info[node]
        texts[node] = {"display_name": info["display_name"], "description": info["description"]}
        inputs = {name: _input(name, kind, options) for name, kind, options in inputs_of(info)}
        if inputs:
            texts[node]["inputs"] = inputs
        tips = info.get("output_tooltips") or [None] * len(info["output_name"])
        texts[node]["outputs"] = {str(slot): {"name": name, **({"tooltip": tip} if tip else {})}
                                  for slot, (name, tip) in enumerate(zip(info["output_name"], tips, strict=True))}
    return texts


def _input(name: str, kind: Any, options: dict[str, Any]) -> Texts:
    return {"name": name, "tooltip": options["tooltip"]}
