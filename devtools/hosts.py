"""Find a ComfyUI on this machine, or ask its official installer for one."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from .console import Problem, say

INSTALL_SECONDS = 600  # a clone over a slow line; without a network the installer gives up within seconds


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


def install(python: Path) -> Path | None:
    """Let comfy-cli, ComfyUI's official installer, put a ComfyUI at ~/comfy/ComfyUI; None when that fails."""
    target = Path.home() / "comfy" / "ComfyUI"
    say(f"No ComfyUI found; asking comfy-cli to install one into {target}")
    # Requirements are left to us, so that the host and its tests share one environment.
    steps = [
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "comfy-cli"],
        [str(python), "-m", "comfy_cli", "--skip-prompt", "--workspace", str(target), "install", "--cpu",
         "--version", "latest", "--skip-manager", "--skip-torch-or-directml", "--skip-requirement"],
    ]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        for step in steps:
            try:
                result = subprocess.run(step, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                        timeout=INSTALL_SECONDS, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
            except subprocess.TimeoutExpired:
                break
            if result.returncode:
                break
        log.seek(0)
        reason = _reason(log.read())
    if is_host(target):
        return target
    say(f"ComfyUI could not be installed ({reason}); going on with the reference engine. "
        "To use a ComfyUI you have, set COMFYUI_PATH.")
    return None


def _reason(log: str) -> str:
    """The line of an installer's output that tells most."""
    lines = [line.strip() for line in log.splitlines()]
    telling = [line for line in lines if line.lower().startswith(("fatal:", "error:"))]
    return (telling or ["the installer did not finish"])[0]
