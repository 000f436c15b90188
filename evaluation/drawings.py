"""The demo's drawn scenes, where the truth about a picture is known."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path


def scenes_module():
    """demo/scenes.py, which draws the demo's training pictures."""
    folder = str(Path(__file__).resolve().parents[1] / "demo")
    sys.path.insert(0, folder)  # its modules import each other by their plain names
    try:
        return importlib.import_module("scenes")
    finally:
        sys.path.remove(folder)


def single(seed: int) -> Iterator:
    """Scenes with one object, from `seed` on."""
    scenes = scenes_module()
    while True:
        scene, seed = scenes.random_scene(seed), seed + 1
        if len(scene.items) == 1:
            yield scene


def of_kind(glass: bool, n: int, seed: int, side: int) -> list:
    """The first `n` scenes from `seed` on whose one object is of glass, or is not, drawn at `side` pixels."""
    found = (scene for scene in single(seed) if scene.glass == glass)
    return [scenes_module().draw(next(found), side) for _ in range(n)]
