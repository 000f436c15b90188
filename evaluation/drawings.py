"""The demo's drawn scenes, where the truth about a picture is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def scenes_module():
    """demo/scenes.py, which draws the demo's training pictures."""
    path = Path(__file__).resolve().parents[1] / "demo" / "scenes.py"
    if "layerfusion_scenes" not in sys.modules:
        spec = importlib.util.spec_from_file_location("layerfusion_scenes", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["layerfusion_scenes"] = module
        spec.loader.exec_module(module)
    return sys.modules["layerfusion_scenes"]


def of_kind(glass: bool, n: int, seed: int, side: int) -> list:
    """The first `n` scenes from `seed` on whose object is of glass, or is not, drawn at `side` pixels."""
    scenes, drawn = scenes_module(), []
    while len(drawn) < n:
        scene, seed = scenes.random_scene(seed), seed + 1
        if scene.glass == glass:
            drawn.append(scenes.draw(scene, side))
    return drawn
