"""docs/architecture.md names files and functions that exist, so that it is changed when they are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", TEXT)))


def defined(body: list[ast.stmt]) -> dict[str, ast.AST]:
    return {node.name: node for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}


def test_all_three_journeys_are_found():
    assert len(NAMED) > 60 and TEXT.count("\n1. ") == 3


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda value: value)
def test_what_is_named_exists(file, name):
    folder = ROOT if file.startswith(("nodes/", "tests/")) else ROOT / "layerfusion_core"
    names = defined(ast.parse((folder / file).read_text(encoding="utf-8")).body)
    for part in filter(None, name.split(".")):
        assert part in names, f"{file} has no {name}"
        names = defined(getattr(names[part], "body", []))


def test_every_room_is_in_the_map():
    rooms = {path.parent.relative_to(ROOT / "layerfusion_core") for path in (ROOT / "layerfusion_core").rglob("*.py")}
    for room in {room.as_posix() for room in rooms} - {".", "host"}:
        assert f"\n  {room}/ " in TEXT, f"{room} is missing"
