"""Which versions an environment is filled with: those that were run together, and of torch and its kin what fits together."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from .packages import key

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
"""The versions that were run together. They bind what is brought, never what an environment or the host has."""
TORCH = ("torch", "torchvision", "torchaudio")
LAST_TORCHAUDIO = 11  # torchaudio 2.11 takes every later torch; before it, each torch 2.N had a torchaudio 2.N


def torch_family(have: dict[str, str]) -> dict[str, str]:
    """Version specifiers of torch, torchvision and torchaudio that keep those of an environment, and keep them together.

    ``have``: the versions there, by name. One that is there stays at its version, unless it belongs to another torch;
    one that is missing has to belong to it: torch 2.N goes with torchvision 0.(N + 15) and torchaudio 2.N. {} where
    none is there, or a torch before 2.
    """
    offsets = {"torch": (2, 0), "torchvision": (0, 15), "torchaudio": (2, 0)}
    for name, (major, offset) in offsets.items():
        if name in have:
            found = re.match(rf"{major}\.(\d+)", have[name])
            if found is None or int(found[1]) < offset:
                return {}
            minor = int(found[1]) - offset
            break
    else:
        return {}
    series = {"torch": f"2.{minor}", "torchvision": f"0.{minor + 15}", "torchaudio": f"2.{min(minor, LAST_TORCHAUDIO)}"}
    return {name: f"=={have[name]}" if belongs(have.get(name, ""), number) else f"=={number}.*"
            for name, number in series.items()}


def belongs(version: str, series: str) -> bool:
    """Whether a version is of a series: 2.11.0+cpu is of 2.11, 2.1.0 is not."""
    return re.match(rf"{re.escape(series)}(?!\d)", version) is not None


def strangers(have: dict[str, str]) -> list[str]:
    """Those of an environment's torchvision and torchaudio that belong to another torch than the one there."""
    return [name for name, version in torch_family(have).items() if name in have and version.endswith("*")]


def constraints(have: dict[str, str], pinned: Container[str] | None = None, *, keep: bool = False) -> list[str]:
    """Lines of a constraints file: the torch that is there, and the versions run together of what is not there yet.

    ``pinned``: names of the packages to take from those versions; None for all of them. ``keep``: everything that is
    there stays at its version, not torch and its kin alone.
    """
    family = torch_family(have)
    stay = {name: f"=={version}" for name, version in have.items() if name != "python"} if keep else {}
    lines = [f"{name}{version}" for name, version in {**stay, **family}.items()]
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        name = key(line.split("==")[0])
        if line.startswith("#") or name in have or name in family:
            continue
        if pinned is None or name in pinned:
            lines.append(line)
    return lines
