"""`dev.py evaluate`: ended and run again, and everything docs/evidence.md shows, in its quick form."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import comfy.utils
import pytest
import torch
from PIL import Image

from devtools import evaluate
from layerfusion_pack.evaluation import plan

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dev(host):
    """Starts `dev.py evaluate` with some arguments, in this environment and on the host under test."""
    variables = {**os.environ, "LAYERFUSION_DEV_READY": "1", "LAYERFUSION_DEV_HOST": str(host), "OMP_NUM_THREADS": "1"}

    def start(*arguments: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, str(CHECKOUT / "dev.py"), "evaluate", *arguments], env=variables,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip

    return start


def finish(process: subprocess.Popen) -> str:
    """What it said until it ended well."""
    output = process.communicate(timeout=550)[0]
    assert process.returncode == 0, output
    return output


def trios(out: Path) -> list[tuple]:
    lines = (out / "results.jsonl").read_text().splitlines() if (out / "results.jsonl").is_file() else []
    return [(row["method"], row["index"]) for row in map(json.loads, lines)]


@pytest.mark.slow
def test_ended_and_run_again(dev, tmp_path):
    arguments = ("--out", str(tmp_path), "--n", "12", "--steps", "2", "--methods", "adapt", "--jobs", "1")
    process = dev(*arguments)
    while not trios(tmp_path) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    some = trios(tmp_path)
    assert 0 < len(some) < 24
    time.sleep(2)
    assert trios(tmp_path) == some  # no worker went on
    assert f"trios {24 - len(some)}/{24 - len(some)}" in finish(dev(*arguments))
    assert trios(tmp_path)[: len(some)] == some
    assert len(trios(tmp_path)) == len(set(trios(tmp_path))) == 24
    assert "| setting (12 pairs) |" in (tmp_path / "table.md").read_text()


@pytest.fixture
def here(host, monkeypatch):
    """`dev.py evaluate` with its scripts and its worker in this process, which spares each the start of a host.

    The quick plan in two steps and at a quarter of its size.
    """
    smaller = dataclasses.replace(plan.SETTINGS_OF["quick"], size=plan.SETTINGS.size // 4, steps=2)
    monkeypatch.setitem(plan.SETTINGS_OF, "quick", smaller)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", comfy.utils.PROGRESS_BAR_ENABLED)

    def script(checkout: Path, name: str, *arguments: str, host: Path | None = None) -> None:
        with torch.inference_mode(False):  # as in a process of its own: one of them trains
            assert importlib.import_module(f"layerfusion_pack.evaluation.{name}").main(list(arguments)) == 0

    monkeypatch.setattr(evaluate, "_script", script)
    monkeypatch.setattr(evaluate, "_work", lambda command, jobs, out: script(CHECKOUT, *command[4:]))
    parser = argparse.ArgumentParser()
    evaluate.add_to(parser.add_subparsers())
    return lambda *arguments: evaluate.run(CHECKOUT, host, parser.parse_args(["evaluate", *arguments]))


def test_everything_the_page_shows(here, tmp_path):
    committed = (CHECKOUT / "docs" / "evidence.md").read_bytes()
    assert here("--evidence", "--quick", "--out", str(tmp_path)) == 0
    page = (tmp_path / "page" / "evidence.md").read_text()
    for name, text in re.findall(r"<!-- table (\w+) -->\n(.*?)<!-- end -->", page, re.DOTALL):
        assert ("not made yet" in text) == (name == "modes"), name  # whose first pairs are left out
        assert name in ("modes", "accuracy") or text.startswith("|")
    made: dict[str, set] = {}
    for name, index in trios(tmp_path):
        made.setdefault(name, set()).add(index)
    assert made == {name: set(range(count)) for name, count in plan.counts(quick=True).items()}
    later = {"evidence-modes.jpg", "evidence-rival.jpg"}  # of later pairs
    for picture in set(re.findall(r"\]\((evidence-\w+\.jpg)\)", page)) - later:
        with Image.open(tmp_path / "page" / picture) as image:
            assert image.width > 600
    assert (CHECKOUT / "docs" / "evidence.md").read_bytes() == committed


def test_the_plan_has_its_own_models_and_settings(dev, tmp_path):
    process = dev("--evidence", "--steps", "3", "--out", str(tmp_path))
    assert "leave out --models, --prompts and --steps" in process.communicate(timeout=60)[0]
    assert process.returncode == 1
