"""Writes the files of all example graphs; see the package."""

import json
import sys
import urllib.request
from pathlib import Path

from ..sheet import Sheet
from . import BLUEPRINTS, FOLDER, GRAPHS, complete, draw, file, name, text

CHECKOUT = Path(__file__).resolve().parents[2]

with urllib.request.urlopen(sys.argv[1].rstrip("/") + "/object_info") as answer:
    info = json.load(answer)
wanted = {name(key) for key in GRAPHS}
for old in (CHECKOUT / FOLDER).iterdir():
    if old.stem not in wanted:
        old.unlink()  # renamed or dropped
for key in GRAPHS:
    if not complete(key, info):
        print(f"{name(key)}: left as it is, this ComfyUI is too old to draw it")
        continue
    file(CHECKOUT, key).write_text(text(draw(key, info)), encoding="utf-8")
for one, function in BLUEPRINTS.items():
    (CHECKOUT / "subgraphs").mkdir(exist_ok=True)
    (CHECKOUT / "subgraphs" / f"{one}.json").write_text(text(function(Sheet(info), one)), encoding="utf-8")
