"""The Python environment that demo, tests and server run in: found or made, filled once, remembered by a stamp."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import packages, pins
from .console import Problem, say
from .packages import installed, python_in

NEEDED = ["torch", "torchvision", "numpy", "scipy>=1.10", "pillow", "safetensors>=0.4.2", "transformers>=4.50", "diffusers>=0.31",
          "accelerate", "pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.8", "websocket-client>=1.7"]
"""What the demo's client, the reference engine and the test runner use beyond the host's own requirements."""
HELPFUL = {"psd-tools>=1.26": (3, 11), "av>=14.2": (3, 10), "ruff>=0.6": (3, 10), "basedpyright>=1.31": (3, 10)}
"""What single tests use, and the first Python it is to be had for; where it is missing they are named as not run."""
EVALUATION = ["torchmetrics>=1.4", "torch-fidelity>=0.3"]
"""What only the paper's Table 1 and its test use."""
IMPORTS = {
    "torch": "import torch",
    "torchvision": "import torchvision",
    "torchaudio": "import torchaudio",
    "numpy": "import numpy",
    "scipy": "from scipy import ndimage",
    "pillow": "import PIL.Image",
    "safetensors": "import safetensors.torch",
    "transformers": "from transformers import CLIPTextModel",
    "diffusers": "from diffusers import UNet2DConditionModel",
    "accelerate": "import accelerate",
    "pytest": "import pytest",
    "websocket-client": "import websocket",
    "psd-tools": "from psd_tools import PSDImage",
    "av": "import av",
    "torchmetrics": "import torchmetrics",
    "torch-fidelity": "from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3",
}
"""What shows that a package works; after those it needs itself, so that the first that fails is the cause."""
STAMP, LOG = "layerfusion-setup.json", "layerfusion-setup.log"
TRY_IMPORTS = """
import json, sys
for name, line in json.loads(sys.argv[1]).items():
    print("@", name, flush=True)
    try:
        exec(line)
    except BaseException as error:
        print("@", name, type(error).__name__ + ":", *str(error).split(), flush=True)
"""


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
    if sys.prefix != sys.base_prefix and "torch" in installed(Path(sys.executable)):
        return Path(sys.executable)
    python = python_in(checkout / ".venv")
    if not python.is_file():
        say(f"Making a virtual environment in {checkout / '.venv'}")
        packages.make(checkout / ".venv")
    return python


def fingerprint(python: Path, checkout: Path, host: Path | None, evaluation: bool = False) -> str:
    """Hash of everything the set-up depends on; a stamp with the same hash means there is nothing to do."""
    parts = [str(python.parent.parent), *NEEDED, *HELPFUL, *(EVALUATION if evaluation else [])]
    for file in (pins.CONSTRAINTS, checkout / "requirements.txt", host and host / "requirements.txt"):
        parts.append(file.read_text(encoding="utf-8") if file and file.is_file() else "")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def install(python: Path, checkout: Path, host: Path | None, *, evaluation: bool = False) -> None:
    """Fill the environment with what the host, the tests and the reference engine need, unless that was done before.

    ``evaluation`` adds what only the evaluation needs. What is there already stays, but for a torchvision or torchaudio
    of another torch. Raises Problem with the end of the installer's output when it fails, and with the package at fault
    when what was installed cannot be imported.
    """
    venv = python.parent.parent
    stamp, log = venv / STAMP, venv / LOG
    if fingerprint(python, checkout, host, evaluation) in _remembered(stamp):
        return
    started = time.monotonic()
    own = venv == checkout / ".venv"
    before = installed(python)
    version = tuple(map(int, before["python"].split(".")[:2]))
    helpful = [name for name, first in HELPFUL.items() if version >= first] + (EVALUATION if evaluation else [])
    needed = [*NEEDED, *(["torchaudio"] if host else [])]
    _announce(venv, own, before, [*needed, *helpful], host)
    for folder in (host, checkout):
        if folder and (folder / "requirements.txt").is_file():
            needed += ["-r", str(folder / "requirements.txt")]
    log.write_text("", encoding="utf-8")
    if own and not packages.find_uv(python):
        packages.install(python, ["uv"], log)  # it helps; without it pip does the same
    _torchvision_of_that_build(python, before, log)
    if not _fill(python, own, [*needed, *helpful], log):
        if not _fill(python, own, needed, log):
            tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-12:])
            raise Problem(f"The packages could not be installed; the whole output is in {log}\n{tail}")
        for name in [name for name in helpful if not _fill(python, own, [name], log)]:
            say(f"  {name} could not be installed; tests that use it will be named as not run")
    _check(python, own, host, before, log)
    # What a host needs includes what is needed without one; another host's requirements may contradict this one's.
    kinds = [(where, extra) for where in (host, None) for extra in (evaluation, False)]
    marks = {fingerprint(python, checkout, *kind): time.strftime("%Y-%m-%d %H:%M:%S") for kind in kinds}
    stamp.write_text(json.dumps(marks, indent=1), encoding="utf-8")
    say(f"Environment ready after {time.monotonic() - started:.0f} s")


def imports(python: Path, names: list[str]) -> dict[str, str]:
    """Import packages in a process of their own; those that fail, the cause first, with their errors."""
    lines = {name: line for name, line in IMPORTS.items() if name in names}
    run = subprocess.run([str(python), "-c", TRY_IMPORTS, json.dumps(lines)], cwd=python.parent, text=True,
                         capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, errors="replace")
    said = [line.split(" ", 2)[1:] for line in run.stdout.splitlines() if line.startswith("@ ")]
    broken = {name: error[0][:400] for name, *error in said if error}
    if run.returncode:  # not an exception: the process itself ended while it imported the last one
        last = said[-1][0] if said else "python"
        broken.setdefault(last, f"the process ended with code {run.returncode} {run.stderr.strip()[-200:]}".strip())
    return broken


def _check(python: Path, own: bool, host: Path | None, before: dict[str, str], log: Path) -> None:
    """Import what is there now; Problem with the package at fault and what to do about it."""
    have = installed(python)
    broken = imports(python, list(have))
    if "torchvision" in broken and "torchvision" not in before:  # it would break what ran without it
        reason = f"torchvision {have['torchvision']} does not work beside torch {have['torch']} ({broken['torchvision']})"
        packages.remove(python, ["torchvision"], log)
        if host:
            raise Problem(f"{reason}. It was taken out again. What to do: bring the one that was built with this torch, or "
                          + _another(python, own))
        say(f"  {reason}; going on without it")
        broken = imports(python, list(installed(python)))
    if list(broken) == ["torchaudio"]:
        say(f"  torchaudio {have['torchaudio']} does not work ({broken.pop('torchaudio')}); ComfyUI's audio nodes need it")
    if broken:
        name, error = next(iter(broken.items()))
        others = f" With it: {', '.join([*broken][1:])}." if len(broken) > 1 else ""
        repair = "" if own else f"repair it ({python} -m pip install --force-reinstall {name}), or "
        raise Problem(f"{name} {have.get(name, '')} in {python.parent.parent} cannot be imported: {error}.{others}\n"
                      f"What to do: {repair}{_another(python, own)}")


def _another(python: Path, own: bool) -> str:
    """How to come to a fresh environment."""
    if own:
        return f"delete {python.parent.parent} and run this again."
    leave = "unset LAYERFUSION_VENV" if os.environ.get("LAYERFUSION_VENV") else "leave this environment (deactivate)"
    return f"{leave}: then this checkout makes an environment of its own."


def _fill(python: Path, own: bool, wanted: list[str], log: Path) -> bool:
    """Install in the versions run together, else with only torch of them, else in the newest; whether it succeeded.

    What an environment of the user's holds gives way last. torch and torchvision are named in one call, so that also
    the newest come out as a pair.
    """
    have, tried = installed(python), []
    for pinned, keep in ((None, not own), (pins.TORCH, not own), ((), False)):
        lines = pins.constraints(have, pinned, keep=keep)
        if lines in tried:
            continue
        if len(tried) == 1:
            say("  some of these versions are not to be had here; trying newer ones")
        tried.append(lines)
        with tempfile.TemporaryDirectory(prefix="layerfusion-") as folder:
            file = Path(folder) / "constraints.txt"
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
            if packages.install(python, ["-c", str(file), *wanted], log):
                return True
    return False


def _torchvision_of_that_build(python: Path, have: dict[str, str], log: Path) -> None:
    """Bring the torchvision of a torch from PyTorch's own index (2.9.1+cpu) from there; of another build it does not work."""
    build = have.get("torch", "").partition("+")[2]
    wanted = pins.torch_family(have).get("torchvision", "")
    if re.fullmatch(r"cpu|xpu|cu\d+|rocm[\d.]+", build) and wanted.endswith("*"):
        index = f"https://download.pytorch.org/whl/{build}"
        packages.install(python, ["--no-deps", "--index-url", index, f"torchvision{wanted}"], log)


def _announce(venv: Path, own: bool, have: dict[str, str], wanted: list[str], host: Path | None) -> None:
    """Say what will be installed and where; of an environment of the user's also what it holds and what changes in it."""
    if not own:
        chosen = "LAYERFUSION_VENV is" if os.environ.get("LAYERFUSION_VENV") else "This runs in an environment of yours,"
        say(f"{chosen} {venv}. It holds {len(have) - 1} packages; where that is possible, they stay.")
    for name in pins.strangers(have):
        say(f"{name} {have[name]} belongs to another torch than {have.get('torch')}: it will be replaced")
    missing = [name for name in (packages.key(re.split(r"[<>=]", name)[0]) for name in wanted) if name not in have]
    more = ["what ComfyUI's requirements.txt asks for"] if host else []
    size = "" if "torch" in have else " (a few minutes and up to 3 GB the first time)"
    if missing or more:
        say(f"Installing {', '.join([*missing, *more])}{size}")


def _remembered(stamp: Path) -> dict[str, str]:
    try:
        return json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
