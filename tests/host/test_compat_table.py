"""The table of docs/compatibility.md names a test for every line, and leaves out no compatibility test file."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROW = re.compile(r"^\|([^|]+)\|([^|]+)\| `(\w+)::(\w+)` \|$", re.MULTILINE)


def rows() -> list[tuple[str, ...]]:
    text = (HERE.parents[1] / "docs" / "compatibility.md").read_text(encoding="utf-8")
    found = ROW.findall(text)
    lines = [line for line in text.splitlines() if line.startswith("| ") and "| test |" not in line]
    assert len(found) == len(lines), "a line of the table names no test"
    return found


def test_every_line_names_a_test_that_exists():
    for subject, verdict, file, test in rows():
        source = (HERE / f"test_{file}.py").read_text(encoding="utf-8")
        assert f"\ndef {test}(" in source, f"{subject.strip()}: no {test} in test_{file}.py"
        assert verdict.strip().startswith(("works", "refused")), f"{subject.strip()}: works or refused?"


def test_every_file_of_compatibility_tests_is_in_the_table():
    files = {path.stem.removeprefix("test_") for path in HERE.glob("test_compat_*.py")} - {"compat_table"}
    assert files <= {file for _, _, file, _ in rows()}
