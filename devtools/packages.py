"""Packages into an environment: by uv where there is one (from its cache an environment fills in seconds), else by pip."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .console import Problem

UV_OPTIONS = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links",
              "constraint": "--constraints", "trusted-host": "--allow-insecure-host", "no-index": "--no-index"}
"""What pip's configuration may hold and how uv, which does not read it, is told the same."""
UV_VARIABLES = {"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}


def python_in(venv: Path) -> Path:
    """The interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make(venv: Path) -> None:
    """A virtual environment with pip in it; nothing is left of one that could not be made. Raises Problem."""
    made = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise Problem("Python could not make a virtual environment (on Debian and Ubuntu: install python3-venv).\n"
                      + (made.stdout + made.stderr).strip())


def key(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(python: Path) -> dict[str, str]:
    """Versions of all that an interpreter has, by ``key``, and its own as "python". Raises Problem if it does not run."""
    code = ("import importlib.metadata as m, json, platform\n"
            "have = [(d.metadata['Name'], d.version) for d in m.distributions() if d.metadata['Name']]\n"
            "print(json.dumps([('python', platform.python_version()), *have]))")
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd=python.parent)
    if answer.returncode:
        raise Problem(f"{python} does not run: {answer.stderr.strip()}")
    return {key(name): version for name, version in reversed(json.loads(answer.stdout))}  # the first on the path counts


def install(python: Path, arguments: list[str], log: Path) -> bool:
    """Install what pip's own arguments name, by uv, and by pip where that fails; whether it is there then.

    Both get the user's pip configuration. The output is added to ``log``; on a terminal its current line is shown.
    """
    uv = find_uv(python)
    if uv:
        options, variables = _for_uv(pip_settings(python))
        command = [str(uv), "pip", "install", "--python", str(python), "--index-strategy", "unsafe-best-match"]
        if _run([*command, *options, *arguments], log, variables):
            return True
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    return _run([*command, *arguments], log)


def remove(python: Path, names: list[str], log: Path) -> None:
    """Take distributions out again."""
    uv = find_uv(python)  # an environment made by uv has no pip
    command = [str(uv), "pip", "uninstall", "--python", str(python)] if uv else [str(python), "-m", "pip", "uninstall", "-y"]
    _run([*command, *names], log)


def find_uv(python: Path) -> Path | None:
    """The uv to use: the one on the path, or the one that lies beside the interpreter."""
    beside = python.parent / ("uv.exe" if os.name == "nt" else "uv")
    found = shutil.which("uv")
    return Path(found) if found else beside if beside.is_file() else None


def pip_settings(python: Path) -> dict[str, list[str]]:
    """What pip's files and variables say, by option: variables over the files, ``install`` over ``global``."""
    answer = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True)
    found: dict[str, dict[str, list[str]]] = {"global": {}, "install": {}, ":env:": {}}
    for line in answer.stdout.splitlines():
        match = re.fullmatch(r"(global|install|:env:)\.([a-z-]+)=(.+)", line.strip())
        if match:
            found[match[1]][match[2]] = str(ast.literal_eval(match[3])).split()
    return {**found["global"], **found["install"], **found[":env:"]}


def _for_uv(settings: dict[str, list[str]]) -> tuple[list[str], dict[str, str]]:
    """pip's settings as uv's options and environment variables."""
    options = []
    for name, option in UV_OPTIONS.items():
        for value in settings.get(name, []):
            if name != "no-index":
                options += [option, value]
            elif value.lower() in ("1", "true", "yes", "on"):
                options.append(option)
    variables = {variable: settings[name][0] for name, variable in UV_VARIABLES.items() if settings.get(name)}
    return options, {**variables, **os.environ}


def _run(command: list[str], log: Path, variables: dict[str, str] | None = None) -> bool:
    """Run an installer, its output in ``log`` and, on a terminal, its current line on screen; whether it succeeded."""
    with (log.open("a", encoding="utf-8") as file,
          subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           encoding="utf-8", errors="replace", env=variables) as process):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            if sys.stdout.isatty():
                sys.stdout.write("\r\033[K  " + line.strip()[:100])
                sys.stdout.flush()
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K")
    return process.returncode == 0
