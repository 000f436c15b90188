"""The Python environment that demo, tests and server run in: found or made, filled once, remembered by a stamp."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from .console import Problem, say

TORCH = {"torch": "2.11.0", "torchvision": "0.26.0", "torchaudio": "2.11.0"}
"""Versions that belong together; taken only where torch is missing, an installed torch is never replaced."""
EXTRAS = ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.8", "websocket-client>=1.7", "psd-tools>=1.26",
          "ruff>=0.6", "numpy", "pillow", "safetensors>=0.4.2", "transformers>=4.50", "diffusers>=0.31", "accelerate",
          "torchmetrics>=1.4", "torch-fidelity>=0.3"]
"""What the tests, the evaluation, the demo's client and the reference engine use beyond the host's own requirements."""
STAMP = "layerfusion-setup.json"


def python_in(venv: Path) -> Path:
    """The interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_or_make(checkout: Path) -> Path:
    """Interpreter to use: that of LAYERFUSION_VENV, the running one if it is in a venv with torch, else ``.venv``'s.

    Makes ``.venv`` in the checkout if needed. Raises Problem when LAYERFUSION_VENV is wrong or none can be made.
    """
    chosen = os.environ.get("LAYERFUSION_VENV")
    if chosen:
        python = python_in(Path(chosen).expanduser().absolute())
        if not python.is_file():
            raise Problem(f"LAYERFUSION_VENV is {chosen}, but {python} does not exist. Correct or unset it.")
        return python
    if sys.prefix != sys.base_prefix and "torch" in installed(Path(sys.executable), ["torch"]):
        return Path(sys.executable)
    python = python_in(checkout / ".venv")
    if not python.is_file():
        say(f"Making a virtual environment in {checkout / '.venv'}")
        made = subprocess.run([sys.executable, "-m", "venv", str(checkout / ".venv")], capture_output=True, text=True)
        if made.returncode:
            raise Problem("Python could not make a virtual environment (on Debian and Ubuntu: install python3-venv).\n"
                          + (made.stdout + made.stderr).strip())
    return python


def installed(python: Path, names: list[str]) -> dict[str, str]:
    """Versions of those of the named distributions that the interpreter has."""
    code = ("import importlib.metadata as m, json, sys\n"
            "have = {}\n"
            "for name in sys.argv[1:]:\n"
            "    try: have[name] = m.version(name)\n"
            "    except m.PackageNotFoundError: pass\n"
            "print(json.dumps(have))")
    answer = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True)
    if answer.returncode:
        raise Problem(f"{python} does not run: {answer.stderr.strip()}")
    return json.loads(answer.stdout)


def fingerprint(python: Path, checkout: Path, host: Path | None) -> str:
    """Hash of everything the set-up depends on; a stamp with the same hash means there is nothing to do."""
    parts = [str(python), *EXTRAS, *TORCH.values()]
    for file in (checkout / "requirements.txt", host and host / "requirements.txt"):
        parts.append(file.read_text(encoding="utf-8") if file and file.is_file() else "")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def install(python: Path, checkout: Path, host: Path | None) -> None:
    """Fill the environment with what the host, the tests and the reference engine need, unless that was done before.

    pip runs with the user's own configuration. Raises Problem with the end of pip's output when it fails.
    """
    stamp = python.parent.parent / STAMP
    done = fingerprint(python, checkout, host)
    remembered = _remembered(stamp)
    if done in remembered:
        return
    started = time.monotonic()
    torch = TORCH if host else {"torch": TORCH["torch"]}
    if "torch" not in installed(python, ["torch"]):
        say("Installing torch (the largest part; a few minutes and up to 3 GB the first time)")
        pinned = [f"{name}=={number}" for name, number in torch.items()]
        if not _pip(python, pinned, log := stamp.with_suffix(".log")):
            say("  this exact torch is not to be had here; taking the newest that is")
            _pip_or_stop(python, list(torch), log)
    wanted = [*EXTRAS]
    if host:
        missing = [name for name in ("torchvision", "torchaudio") if name not in installed(python, list(TORCH))]
        have = installed(python, ["torch"])["torch"].split("+")[0]
        wanted += [f"{name}=={TORCH[name]}" if have == TORCH["torch"] else name for name in missing]
        wanted += ["-r", str(host / "requirements.txt")]
    if (checkout / "requirements.txt").is_file():
        wanted += ["-r", str(checkout / "requirements.txt")]
    say(f"Installing {'what ComfyUI requires, ' if host else ''}the test tools and the reference engine's packages")
    _pip_or_stop(python, wanted, stamp.with_suffix(".log"))
    # What a host needs includes what is needed without one; another host's requirements may contradict this one's.
    remembered = dict.fromkeys((done, fingerprint(python, checkout, None)), time.strftime("%Y-%m-%d %H:%M:%S"))
    stamp.write_text(json.dumps(remembered, indent=1), encoding="utf-8")
    say(f"Environment ready after {time.monotonic() - started:.0f} s")


def _remembered(stamp: Path) -> dict[str, str]:
    try:
        return json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _pip(python: Path, arguments: list[str], log: Path) -> bool:
    """Run pip install, its output in ``log`` and, on a terminal, its current line on screen; whether it succeeded."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", *arguments]
    with (log.open("w", encoding="utf-8") as file,
          subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           encoding="utf-8", errors="replace") as process):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            if sys.stdout.isatty():
                sys.stdout.write("\r\033[K  " + line.strip()[:100])
                sys.stdout.flush()
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K")
    return process.returncode == 0


def _pip_or_stop(python: Path, arguments: list[str], log: Path) -> None:
    if not _pip(python, arguments, log):
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-12:])
        raise Problem(f"pip failed; its whole output is in {log}\n{tail}")
