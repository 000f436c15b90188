"""The rooms of the core, and what each may import: read from the files, nothing is imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "layerfusion_core"
RANK = {
    "method": 0,
    "vae": 0,
    "weights": 0,
    "layers": 1,
    "host/output": 2,
    "host/models": 2,
    "host/unet": 3,
    "host/sampling": 4,
    "nodes": 5,
}
"""A file imports from its own room and from those of a lower number."""

FILES = [path for folder in (CORE, ROOT / "nodes") for path in sorted(folder.rglob("*.py"))]
PURE = [path for name in ("method", "vae", "weights", "layers") for path in sorted((CORE / name).rglob("*.py"))]
HOSTS = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "node_helpers", "nodes", "latent_preview", "server", "execution"}


def room(path: Path) -> str:
    folder = path.relative_to(ROOT).parent.as_posix()
    return folder.removeprefix("layerfusion_core/")


def imported(path: Path) -> list[Path]:
    """The files of the pack that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [folder.with_suffix(".py")] if node.module else []
            found += names + [folder / f"{name.name}.py" for name in node.names]
    return [file for file in found if file.is_file()]


def test_every_room_is_known_and_says_its_purpose_in_one_line():
    rooms = {room(path) for path in FILES if path.name != "__init__.py"}
    assert rooms == set(RANK)
    for folder in [CORE, *(path for path in CORE.rglob("*") if path.is_dir() and path.name != "__pycache__")]:
        lines = (folder / "__init__.py").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1 and lines[0].startswith('"""') and lines[0].endswith('."""'), folder


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    if path.name == "__init__.py":
        return
    for file in imported(path):
        assert room(file) == room(path) or RANK[room(file)] < RANK[room(path)], f"{path.name} imports {file}"


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.stem)
def test_pure_rooms_know_no_host(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module else []
        assert not {name.split(".")[0] for name in names} & HOSTS


def test_no_file_imports_itself_through_others():
    graph = {path: set(imported(path)) for path in FILES}
    while leaves := [path for path, files in graph.items() if not files & set(graph)]:
        for path in leaves:
            del graph[path]
    assert not graph, "these files import each other in a circle: " + ", ".join(sorted(p.name for p in graph))


def test_no_file_name_twice_below_the_core():
    names = [path.name for path in CORE.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))
