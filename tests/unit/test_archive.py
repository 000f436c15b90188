"""What the registry's archive holds: the pack with its help pages and models, and nothing that only developers need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
MEBIBYTE = 2**20
SHIPPED = {"web", "locales", "workflows", "subgraphs", "demo", "nodes", "layerfusion_core"}
"""Folders of the archive, as far as the checkout has them."""


def git(*arguments: str) -> list[str]:
    found = subprocess.run(["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True)
    if found.returncode:
        pytest.skip("NO GIT CHECKOUT: which files the published archive holds was NOT tested")
    return found.stdout.splitlines()


def by_official_tool(folder: Path) -> list[str] | None:
    """What comfy-cli packs, None where it is not installed."""
    try:
        from comfy_cli.file_utils import zip_files
    except ImportError:
        return None
    before = Path.cwd()
    os.chdir(CHECKOUT)
    try:
        zip_files(str(folder / "node.zip"))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(folder / "node.zip") as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> set[str]:
    """Files of the archive: those that git tracks and .comfyignore, which has git's rules, leaves in."""
    if shutil.which("git") is None:
        pytest.skip("GIT IS MISSING: which files the published archive holds was NOT tested")
    tracked = set(git("ls-files"))
    left_in = tracked - set(git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore"))
    official = by_official_tool(tmp_path_factory.mktemp("archive"))
    assert official is None or set(official) == left_in
    return {name for name in left_in if (CHECKOUT / name).exists()}


def below(folder: str, pattern: str = "*") -> set[str]:
    found = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / folder).rglob(pattern) if path.is_file()}
    assert found, folder
    return {name for name in found if "__pycache__" not in name}


def test_everything_that_a_user_needs_is_in(packed):
    wanted = {"LICENSE", "README.md", "pyproject.toml", "requirements.txt", "__init__.py"}
    for folder in SHIPPED - {"demo"} | {"demo/models"}:
        wanted |= below(folder) if (CHECKOUT / folder).is_dir() else set()
    assert len(below("web/docs", "*.md")) >= 19 and len(below("demo/models", "*.safetensors")) == 5
    assert len(below("workflows", "*.json")) == len(below("workflows", "*.jpg")) >= 9
    assert wanted - packed == set()


def test_what_only_developers_need_is_out(packed):
    folders = {name.split("/")[0] for name in packed if "/" in name}
    assert folders == {folder for folder in SHIPPED if (CHECKOUT / folder).is_dir()}
    assert {name for name in packed if name.startswith("demo/")} - below("demo/models") <= {"demo/README.md", "demo/.gitignore"}
    assert {name for name in packed if "/" not in name and name.endswith((".py", ".md", ".cff"))} == {
        "__init__.py", "README.md", "CHANGELOG.md", "CITATION.cff"}  # fmt: skip


def test_the_archive_is_small(packed):
    models = sum((CHECKOUT / name).stat().st_size for name in below("demo/models"))
    size = sum((CHECKOUT / name).stat().st_size for name in packed)
    assert size - models < 2 * MEBIBYTE and size < 34 * MEBIBYTE


def test_nothing_in_it_uses_what_is_left_out(packed):
    left_out = re.compile(r"^\s*(?:from|import)\s+[.\w]*\b(devtools|tests|evaluation|benchmarks|dev)\b", re.MULTILINE)
    users = {name for name in packed if name.endswith(".py") and left_out.search((CHECKOUT / name).read_text("utf-8"))}
    assert users == set()
