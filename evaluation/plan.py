"""What docs/evidence.md is made of: its questions, the methods that answer them, and how many pairs each is made for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from . import methods
from .models import DEMO

SETTINGS = dataclasses.replace(DEMO, steps=12, ensemble=1)  # as the quality tests; 8 passes bring nothing on the demo
SETTINGS_OF = {"full": SETTINGS, "quick": dataclasses.replace(SETTINGS, steps=3, size=128)}
PAIRS, TREND = 200, 20  # where a decision hangs on the numbers, and where a trend is enough
QUICK_PAIRS, QUICK_TREND = 3, 1
SEEN = 50  # the first pairs of the list: the modes were thought of on these

SCENE = ("outside_psnr", "outside_corr", "over_psnr")
CLEAN = ("leak_corr", "leak_psnr", "leak_share", "bg_object")
LAYERS = (*SCENE, "leak_share", "bg_object", "inside_psnr", "shown_share", "alpha_iou")


@dataclass(frozen=True)
class Question:
    """A table of the page. name: of its place in the page; against: methods after it show their difference to it.

    skip: pairs at the list's beginning that are left out; glass: None = all pairs, else only those with or without.
    """

    name: str
    methods: tuple[str, ...]
    columns: tuple[str, ...] = LAYERS
    against: str = ""
    skip: int = 0
    glass: bool | None = None


MODES = ("independent", "adapt", "adapt_self", "share", "one_scene")
MASKS = ("share", "x_share_soft", "x_share_mixed", "x_share_70", "x_grown", "x_hard",
         "x_from_grown", "one_scene", "x_scene_tight", "x_scene_low", "x_scene_self")
QUESTIONS = (
    Question("blending", ("independent", "sequential", "adapt", "share", "one_scene")),
    Question("modes", MODES, (*SCENE, *CLEAN, "inside_psnr", "shadow"), skip=SEEN),
    Question("modes_glass", MODES, glass=True),
    Question("others", ("adapt", "literal", "from_background", "off")),
    Question("masks", MASKS, against="share"),
    Question("prior", ("adapt", "adapt_previous", "x_frozen", "x_once_20"),
             (*LAYERS, "flicker", "cpu_seconds"), against="adapt"),
    Question("prior_default", ("one_scene", "one_scene_previous"), (*LAYERS, "flicker", "cpu_seconds"), against="one_scene"),
    Question("strength", ("adapt", "x_no_feedback", "hardness_2", "hardness_5", "hardness_20", "hardness_50",
                          "strength_50", "start_20", "end_50", "end_80", "self_only",
                          "cross_only", "x_fine", "x_coarse"), against="adapt"),
    Question("noise", ("independent", "independent_noise", "adapt", "adapt_noise", "one_scene", "one_scene_noise",
                       "background_prompt")),
    Question("maps", ("adapt", "x_words", "x_structure_only", "x_content_only"), against="adapt"),
    Question("truth", MODES,
             ("fg_shape", "fg_colour", "bg_pattern", "bg_tone", "bl_shape", "bl_colour", "bl_pattern", "bl_tone")),
)  # fmt: skip
MANY = frozenset({*MODES, methods.SEQUENTIAL})


def counts(quick: bool = False) -> dict[str, int]:
    """Number of pairs by method, the reference first."""
    names = [methods.INDEPENDENT, *(name for question in QUESTIONS for name in question.methods)]
    many, few = (QUICK_PAIRS, QUICK_TREND) if quick else (PAIRS, TREND)
    return {name: many if name in MANY else few for name in dict.fromkeys(names)}
