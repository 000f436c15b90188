"""The closing lines of ``dev.py test``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from layerfusion_pack.devtools import testing

CHECKOUT = Path(__file__).resolve().parents[2]
REPORT = """<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure message="no"/></testcase>
<testcase name="c"><skipped message="NO GIZMO: plug one in"/></testcase>
<testcase name="d"><error message="x"/></testcase>
</testsuite></testsuites>"""


def test_counts_come_from_the_report(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    result = testing.read_report(tmp_path / "report.xml")
    assert str(result) == "1 passed, 2 failed, 1 skipped"
    assert result.reasons == ("NO GIZMO: plug one in",)


def test_no_report_counts_nothing(tmp_path):
    assert str(testing.read_report(tmp_path / "report.xml")) == "0 passed, 0 failed, 0 skipped"


def test_the_last_line_is_the_total_and_skips_are_told(capsys):
    results = {"unit": testing.Result(3, 0, 1, reasons=("NO GIZMO",)), "reference": testing.Result(2)}
    assert testing.close(results, ["NOT RUN: SERVER"], None) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "5 passed, 0 failed, 1 skipped"
    assert "NOT RUN: SERVER" in lines and any(line.startswith("NOT RUN: A UNIT TEST. NO GIZMO") for line in lines)


@pytest.mark.parametrize("results", [
    {"unit": testing.Result(3, 1)}, {"unit": testing.Result(3, code=-11)}, {}, {"unit": testing.Result(code=5)},
])
def test_failures_crashes_and_runs_without_a_test_are_not_green(results, capsys):
    assert testing.close(results, [], None) == 1


def test_paths_choose_tiers_and_the_rest_goes_to_pytest(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    here = "tests/unit/test_dev_testing.py::test_no_report_counts_nothing"
    assert testing.split([here, "-k", "name", "tests/none.py"], CHECKOUT) == ([here], ["-k", "name", "tests/none.py"])


def test_without_a_host_its_tiers_are_named_in_capitals(tmp_path, capsys):
    (tmp_path / "tests").mkdir()
    assert testing.run(tmp_path, None, []) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("NOT RUN")]
    assert len(lines) == 2 and all("COMFYUI_PATH" in line for line in lines)


def web_tests(folder: Path, body: str) -> Path:
    """A checkout with one test of the page's scripts."""
    (folder / "tests" / "web").mkdir(parents=True)
    (folder / "tests" / "web" / "some.test.mjs").write_text(f"import {{ test }} from 'node:test';\n{body}\n")
    return folder


@pytest.mark.skipif(shutil.which("node") is None, reason="NO NODE.JS: install Node.js 20 or newer")
def test_the_pages_scripts_are_tested_and_their_failures_count(tmp_path, capsys):
    good = web_tests(tmp_path / "good", "test('a', () => {}); test('b', { skip: 'NO GIZMO' }, () => {});")
    assert testing.run(good, None, []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("web (Node.js): 1 passed, 0 failed, 1 skipped") for line in lines)
    assert any("NO GIZMO" in line for line in lines) and lines[-1] == "1 passed, 0 failed, 1 skipped"
    bad = web_tests(tmp_path / "bad", "test('a', () => { throw Error('x'); });")
    assert testing.run(bad, None, []) == 1
    assert testing.run(web_tests(tmp_path / "broken", "import './none.mjs';"), None, []) == 1


def test_without_nodejs_the_web_tests_are_named_in_capitals(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(testing.shutil, "which", lambda name: None)
    assert testing.run(web_tests(tmp_path, ""), None, []) == 1
    assert "NOT RUN: WEB (NODE.JS) TESTS, THERE IS NO NODE.JS. What to do:" in capsys.readouterr().out


def test_style_and_types_count_a_test_a_program_and_missing_ones_are_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(testing, "CHECKS", {"json.tool": ["pyproject.toml"], "this": [], "nogizmo": []})
    assert testing.run(tmp_path, None, []) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("style and types: 1 passed, 1 failed, 1 skipped in ") for line in lines)
    assert any(line.startswith("NOT RUN: A STYLE AND TYPES TEST. NO NOGIZMO: ") for line in lines)
    assert lines[-1] == "1 passed, 1 failed, 1 skipped"


@pytest.mark.parametrize(
    ("arguments", "quick"), [([], True), (["-m", ""], False), (["-x"], True), (["tests/unit"], False)], ids=str
)
def test_a_run_of_everything_leaves_out_slow_tests_and_says_so(arguments, quick, monkeypatch, capsys):
    asked = []
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr(testing, "_pytest", lambda *args: asked.append(args[-1]) or testing.Result(passed=1))
    monkeypatch.setattr(testing, "_node", lambda *args: testing.Result(passed=1))
    monkeypatch.setattr(testing, "_style", lambda *args: testing.Result(passed=1))
    assert testing.run(CHECKOUT, None, arguments) == 0
    assert asked and all(("not slow" in options) is quick for options in asked)
    assert ("NOT RUN: TESTS MARKED AS SLOW" in capsys.readouterr().out) is quick
