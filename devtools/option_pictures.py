"""The strips of docs/options.md: one scene and seed of the miniature models with each value of an option."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import demo
from .client import Client
from .sheet import Node, Output
from .studio import Scene, Studio, Tile, rows

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "docs"
TILE, FONT = 160, 14  # pixels
APPLE, BOTTLE = ("a red apple", "a wooden table"), ("a blue glass bottle", "a wooden table")
STEPS, STEP = 12, 4  # of a run, and whose masks are shown
WITHOUT_FOREGROUND = ("background", "blended")
Strip = list[list[Tile]]
Run = tuple[Scene, Node]
"""A scene, and the sampler on its sheet whose layers are shown."""


def make(name: str, client: Client) -> dict[str, Image]:
    """A strip of `MAKERS`, by its file."""
    strip = MAKERS[name](Studio(client))
    return {f"{FOLDER}/option-{name}.jpg": rows(strip, TILE * max(map(len, strip)), FONT).convert("RGB")}


def _strip(studio: Studio, runs: dict[str, Run], shown: tuple[str, ...] = demo.STREAMS) -> Strip:
    """A column per run, its label above; a row per layer or mask."""
    made: Strip = [[] for _ in shown]
    for label, (scene, run) in runs.items():
        found = {name: pictures[0] for name, pictures in studio.develop(scene.sheet, _outputs(scene, run, shown)).items()}
        for row, name in zip(made, shown, strict=True):
            picture = demo.split_strip(found[name])[name] if name in demo.MAPS else found[name]
            row.append(("" if row is not made[0] else label, picture))
    return made


def _outputs(scene: Scene, run: Node, shown: tuple[str, ...]) -> dict[str, Output]:
    pictures = scene.decoded(run)
    maps = scene.sheet.add("LayerFusionPreviewPriors", priors=run["priors"], step=STEP)["image"]
    return {name: maps if name in demo.MAPS else pictures[name] for name in shown}


def _varied(studio: Studio, values: dict[str, dict[str, Any]], shown: tuple[str, ...] = demo.STREAMS,
            prompts: tuple[str, str] = APPLE) -> Strip:
    """Runs that differ in widgets of LayerFusion Options."""
    scenes = {label: studio.scene(*prompts) for label in values}
    return _strip(studio, {label: (scene, scene.run(options=values[label], steps=STEPS)) for label, scene in scenes.items()}, shown)


def background_mode(studio: Studio) -> Strip:
    modes = ("off", "from_background", "literal", "adapt_self", "adapt", "share", "one_scene")
    return _varied(studio, {mode: {"background_mode": mode} for mode in modes}, WITHOUT_FOREGROUND)


def strength(studio: Studio) -> Strip:
    return _varied(studio, {f"{value:g}": {"strength": value} for value in (0.0, 0.25, 0.5, 1.0)}, prompts=BOTTLE)


def percent(studio: Studio) -> Strip:
    parts = ((0.0, 1.0), (0.5, 1.0), (0.0, 0.5), (0.0, 0.25))
    values = {f"{start:g} to {end:g}": {"start_percent": start, "end_percent": end} for start, end in parts}
    return _varied(studio, values, prompts=BOTTLE)


def hardness(studio: Studio) -> Strip:
    values = {f"{value:g}": {"hardness": value} for value in (1.0, 10.0, 50.0)}
    return _varied(studio, values, ("hard mask", *WITHOUT_FOREGROUND))


def prior_mode(studio: Studio) -> Strip:
    return _varied(studio, {mode: {"prior_mode": mode} for mode in ("exact", "previous_step")}, ("soft mask", *WITHOUT_FOREGROUND))


def noise(studio: Studio) -> Strip:
    return _varied(studio, {noise: {"noise": noise} for noise in ("shared", "independent")})


def blend(studio: Studio) -> Strip:
    values = {"both": (True, True), "self only": (True, False), "cross only": (False, True)}
    return _varied(studio, {label: {"blend_self_attention": own, "blend_cross_attention": cross}
                            for label, (own, cross) in values.items()}, WITHOUT_FOREGROUND)


def cfg(studio: Studio) -> Strip:
    own = (("foreground", 1.0), ("blended", 1.0), ("blended", 12.0))
    values = {f"{name} {scale:g}": {f"cfg_{name}": scale} for name, scale in own}
    return _varied(studio, {"all 4.5": {}, **values})


MAKERS: dict[str, Callable[[Studio], Strip]] = {function.__name__: function for function in (
    background_mode, strength, percent, hardness, prior_mode, noise, blend, cfg)}
