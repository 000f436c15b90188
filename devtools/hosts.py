"""Find a ComfyUI on this machine, or ask its official installer for one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import packages
from .console import Problem, say

GET_ONE = "put a ComfyUI at ~/comfy/ComfyUI or set COMFYUI_PATH to one"
REPOSITORY = "https://github.com/comfyanonymous/ComfyUI"  # where comfy-cli takes it from
ASK_SECONDS = 30
INSTALL_SECONDS = 600  # a clone over a slow line


def is_host(folder: Path) -> bool:
    """Whether a folder holds a ComfyUI checkout."""
    return (folder / "main.py").is_file() and (folder / "comfy_execution").is_dir()


def candidates(checkout: Path) -> list[Path]:
    """Places to look at after COMFYUI_PATH, best first."""
    # Not resolved: a checkout linked into custom_nodes belongs to the ComfyUI whose folder holds the link.
    inside = [parent.parent for parent in checkout.parents if parent.name == "custom_nodes"]
    home = Path.home()
    return [*inside, home / "comfy" / "ComfyUI", home / "ComfyUI"]


def find(checkout: Path) -> Path | None:
    """The ComfyUI to use: COMFYUI_PATH, the one this checkout is installed in, ~/comfy/ComfyUI, ~/ComfyUI.

    Raises Problem when COMFYUI_PATH is set but holds no ComfyUI: a wrong setting must not be passed over.
    """
    chosen = os.environ.get("COMFYUI_PATH")
    if chosen:
        folder = Path(chosen).expanduser().absolute()
        if not is_host(folder):
            raise Problem(f"COMFYUI_PATH is {folder}, but there is no ComfyUI (main.py) in it. Correct or unset it.")
        return folder
    return next((folder for folder in candidates(checkout) if is_host(folder)), None)


def version(host: Path) -> str:
    """ComfyUI's version, read from its files without importing it; "unknown" when it does not say."""
    for name in ("comfyui_version.py", "pyproject.toml"):
        if (host / name).is_file():
            found = re.search(r'version__? *= *"([^"]+)"', (host / name).read_text(encoding="utf-8"))
            if found:
                return found[1]
    return "unknown"


def install() -> Path | None:
    """Let comfy-cli, ComfyUI's official installer, put a ComfyUI at ~/comfy/ComfyUI; None when that fails.

    comfy-cli and its settings lie in a temporary folder, its tracking is off, and a failed attempt leaves nothing.
    """
    target = Path.home() / "comfy" / "ComfyUI"
    if target.exists():
        return _without(f"{target} is there, but holds no ComfyUI (main.py)")
    reason = _unreachable()
    if reason:
        return _without(reason)
    say(f"No ComfyUI found; asking comfy-cli, its official installer, to put one into {target}")
    parent_was_there = target.parent.exists()
    try:
        with tempfile.TemporaryDirectory(prefix="layerfusion-", ignore_cleanup_errors=True) as folder:
            reason = _install(target, Path(folder))
    finally:  # also when it was interrupted
        if not is_host(target):
            shutil.rmtree(target, ignore_errors=True)
            if not parent_was_there and target.parent.is_dir() and not any(target.parent.iterdir()):
                target.parent.rmdir()
    return target if is_host(target) else _without(reason)


def _install(target: Path, folder: Path) -> str:
    """Run comfy-cli out of an environment in a folder; the line of its output that tells most."""
    log = folder / "log"
    try:
        packages.make(folder / "venv")
    except Problem as problem:
        return str(problem).splitlines()[0]
    python = packages.python_in(folder / "venv")
    if not packages.install(python, ["comfy-cli"], log):
        return _reason(log.read_text(encoding="utf-8", errors="replace"))
    # Requirements are left to us, so that the host and its tests share one environment.
    command = [str(python), "-m", "comfy_cli", "--skip-prompt", "--workspace", str(target), "install", "--cpu",
               "--version", "latest", "--skip-manager", "--skip-torch-or-directml", "--skip-requirement"]
    variables = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1"}
    if (Path.home() / ".gitconfig").is_file():
        variables.setdefault("GIT_CONFIG_GLOBAL", str(Path.home() / ".gitconfig"))  # git's settings are the user's still
    (folder / "home").mkdir()
    variables.update(HOME=str(folder / "home"), USERPROFILE=str(folder / "home"))
    variables["VIRTUAL_ENV"] = str(folder / "venv")  # else it puts an empty environment into ComfyUI's folder
    with log.open("a", encoding="utf-8") as output:
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                           timeout=INSTALL_SECONDS, env=variables)
        except subprocess.TimeoutExpired:
            return f"the installer did not finish within {INSTALL_SECONDS} s"
    return _reason(log.read_text(encoding="utf-8", errors="replace"))


def _unreachable() -> str:
    """Why ComfyUI's repository cannot be had from here; "" when it can. Asked first: it takes a second and no files."""
    try:
        asked = subprocess.run(["git", "ls-remote", "--exit-code", REPOSITORY, "HEAD"], stdin=subprocess.DEVNULL,
                               capture_output=True, text=True, errors="replace", timeout=ASK_SECONDS,
                               env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
    except FileNotFoundError:
        return "git is not installed"
    except subprocess.TimeoutExpired:
        return f"{REPOSITORY} did not answer within {ASK_SECONDS} s"
    return _reason(asked.stderr) if asked.returncode else ""


def _without(reason: str) -> None:
    say(f"No ComfyUI: none was found, and none could be installed ({reason}). Going on without. "
        "To use one you have, set COMFYUI_PATH.")


def _reason(log: str) -> str:
    """The line of an installer's output that tells most."""
    lines = [line.strip() for line in log.splitlines()]
    telling = [line for line in lines if line.lower().startswith(("fatal:", "error:"))]
    return (telling or ["the installer did not finish"])[0]
