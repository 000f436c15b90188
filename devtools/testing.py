"""``dev.py test``: each tier in a process of its own, then a closing line per tier and what was not run.

pytest runs the tiers, Node.js's own test runner the one of the page's scripts. A run of everything begins with style and types.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from . import hosts
from .console import say


@dataclass(frozen=True)
class Tier:
    """A folder of tests and what it takes to run them."""

    name: str
    label: str
    needs_host: bool = False
    files: str = "test_*.py"

    @property
    def folder(self) -> str:
        return f"tests/{self.name}"


STYLE = Tier("style", "style and types")
CHECKS = {"ruff": ["check", "."], "basedpyright": []}
"""Programs of that tier, with their arguments; pyproject.toml says what they look at."""
WEB = Tier("web", "web (Node.js)", files="*.test.mjs")
TIERS = (STYLE, Tier("unit", "unit"), Tier("reference", "reference"), WEB, Tier("host", "host (in process)", True),
         Tier("server", "server (HTTP)", True))
GET_A_HOST = f"{hosts.GET_ONE}, and run this again"
GET_NODE = "install Node.js 20 or newer (its program is called node), and run this again"
NO_TESTS_COLLECTED = 5
PARALLEL = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile", "--no-loadscope-reorder"]
"""One single-threaded process per core, a test file at a time each; in the order of ``tests/conftest.py``, long ones first."""
SERVERS = ["-n", str(min(2, os.cpu_count() or 1)), *PARALLEL[2:]]
"""No more than two: each process has a ComfyUI server, and for some tests a browser, of its own."""
QUICK = ["-m", "not slow"]
"""Marks of a run of everything: without the tests that repeat at length what others show in short."""
START_PYTEST = ("import os, sys; sys.path[:] = [p for p in sys.path if p not in ('', os.getcwd())]; "
                "import pytest; sys.exit(pytest.main())")
"""As ``python -m pytest``, without the checkout on the path: its ``nodes`` folder would hide ComfyUI's ``nodes.py``."""


@dataclass
class Result:
    """Counts of one tier; ``code`` is the exit code of its test runner."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    code: int = 0
    reasons: tuple[str, ...] = ()  # why tests were skipped

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"

    @property
    def bad(self) -> bool:
        """Failed tests, or a runner that ended in a way its counts do not show (a crash, a wrong argument)."""
        return self.failed > 0 or self.code not in (0, NO_TESTS_COLLECTED)


def run(checkout: Path, host: Path | None, arguments: list[str]) -> int:
    """Run all tiers that this machine can run and print the closing lines; 0 when nothing failed."""
    chosen, options = split(arguments, checkout)
    results: dict[str, Result] = {}
    not_run: list[str] = []
    marks = [] if chosen or "-m" in options else QUICK
    for tier in TIERS:
        paths = [path for path in chosen if _tier_of(path, checkout) == tier.name]
        if chosen and not paths:
            continue
        if tier.needs_host and host is None:
            not_run.append(f"NOT RUN: {tier.label.upper()} TESTS, THERE IS NO COMFYUI. What to do: {GET_A_HOST}.")
            continue
        if tier is STYLE:
            if (checkout / "pyproject.toml").is_file():
                say(f"\n== {tier.label} ==")
                results[tier.name] = _style(checkout)
            continue
        if not any((checkout / tier.folder).glob(f"**/{tier.files}")):
            continue
        if tier is WEB and shutil.which("node") is None:
            not_run.append(f"NOT RUN: {tier.label.upper()} TESTS, THERE IS NO NODE.JS. What to do: {GET_NODE}.")
            continue
        say(f"\n== {tier.label} ==")
        if tier is WEB:
            results[tier.name] = _node(checkout, paths)
            continue
        side_by_side = SERVERS if tier.name == "server" else PARALLEL
        results[tier.name] = _pytest(checkout, host, paths or [tier.folder], [*side_by_side, *marks, *options])
    if marks and results.keys() - {WEB.name, STYLE.name}:
        not_run.append('NOT RUN: TESTS MARKED AS SLOW. What to do: add -m "" to this command.')
    return close(results, not_run, host)


def close(results: dict[str, Result], not_run: list[str], host: Path | None) -> int:
    """Print the closing lines; exit code 0 only when tests ran and none failed."""
    say("")
    if host is not None:
        say(f"ComfyUI {hosts.version(host)}")
    total = Result()
    for tier in TIERS:
        if tier.name not in results:
            continue
        result = results[tier.name]
        note = "" if result.failed or not result.bad else f" (ENDED WITH CODE {result.code}, see above)"
        say(f"{tier.label}: {result} in {result.seconds:.0f} s{note}")
        total.passed += result.passed
        total.failed += result.failed
        total.skipped += result.skipped
        not_run += [f"NOT RUN: A {tier.label.upper()} TEST. {reason}" for reason in result.reasons]
    for line in dict.fromkeys(not_run):
        say(line)
    if any(result.bad for result in results.values()):
        total.failed = max(total.failed, 1)
    say(str(total))
    return 1 if total.failed or not total.passed else 0


def split(arguments: list[str], checkout: Path) -> tuple[list[str], list[str]]:
    """Part pytest's arguments into test paths (``tests/unit/test_x.py::test_y`` too) and everything else."""
    chosen = [argument for argument in arguments if _tier_of(argument, checkout)]
    return chosen, [argument for argument in arguments if argument not in chosen]


def _tier_of(argument: str, checkout: Path) -> str | None:
    """Name of the tier a path argument belongs to; None for anything that is no path below tests/."""
    if argument.startswith("-"):
        return None
    path = Path(os.path.abspath(argument.split("::")[0]))
    names = [tier.name for tier in TIERS if path == checkout / tier.folder or checkout / tier.folder in path.parents]
    return names[0] if names and path.exists() else None


def _pytest(checkout: Path, host: Path | None, paths: list[str], options: list[str]) -> Result:
    """One pytest run; the counts come from its JUnit report."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if host is not None:
        variables["COMFYUI_PATH"] = str(host)
    with tempfile.TemporaryDirectory(prefix="layerfusion-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-c", START_PYTEST, "-q", "-p", "no:cacheprovider", f"--junitxml={report}",
                   *options, *paths]
        started = time.monotonic()
        code = subprocess.run(command, cwd=checkout, env=variables).returncode
        result = read_report(report)
    result.seconds, result.code = time.monotonic() - started, code
    return result


def _style(checkout: Path) -> Result:
    """One check a program; those that the environment lacks are skipped."""
    result, reasons, started = Result(), [], time.monotonic()
    for program, arguments in CHECKS.items():
        if importlib.util.find_spec(program) is None:
            reasons.append(f"NO {program.upper()}: {sys.executable} -m pip install {program}")
        elif subprocess.run([sys.executable, "-m", program, *arguments], cwd=checkout).returncode == 0:
            result.passed += 1
        else:
            result.failed += 1
    result.skipped, result.reasons, result.seconds = len(reasons), tuple(reasons), time.monotonic() - started
    return result


def _node(checkout: Path, paths: list[str]) -> Result:
    """One run of Node.js's own test runner over the given files, or all of its tier; it reports as pytest does."""
    files = [path for path in paths if Path(path).is_file()] or sorted((checkout / WEB.folder).glob(f"**/{WEB.files}"))
    with tempfile.TemporaryDirectory(prefix="layerfusion-") as folder:
        report = Path(folder) / "report.xml"
        command = ["node", "--test", "--test-reporter=spec", "--test-reporter-destination=stdout",
                   "--test-reporter=junit", f"--test-reporter-destination={report}", *map(str, files)]
        started = time.monotonic()
        code = subprocess.run(command, cwd=checkout).returncode
        result = read_report(report)
    result.seconds, result.code = time.monotonic() - started, code
    return result


def read_report(report: Path) -> Result:
    """Counts from a JUnit XML file; nothing counted when the runner wrote none."""
    if not report.is_file():
        return Result()
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    skips = [mark for case in cases for mark in case.findall("skipped")]
    failed = sum(1 for case in cases if case.find("failure") is not None or case.find("error") is not None)
    reasons = dict.fromkeys(mark.get("message") or "no reason given" for mark in skips)
    return Result(len(cases) - failed - len(skips), failed, len(skips), reasons=tuple(reasons))
