"""What docs/evidence.md is made of: its questions, the methods that answer them, and how many pairs each is made for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from . import methods
from .models import DEMO

SETTINGS = dataclasses.replace(DEMO, steps=12, ensemble=1)  # as the quality tests; 8 passes bring nothing on the demo
SETTINGS_OF = {"full": SETTINGS, "quick": dataclasses.replace(SETTINGS, steps=3, size=128)}
PAIRS, TREND = 100, 16  # where a decision hangs on the numbers, and where a trend is enough
QUICK_PAIRS, QUICK_TREND = 3, 1
SEEN = 60  # the first pairs of the list: the mask of one_scene was chosen on these

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


DEFAULT = methods.DEFAULT
MODES = ("independent", "adapt", "share", "one_scene")
QUESTIONS = (
    Question("blending", ("independent", "sequential", *MODES[1:])),
    Question("modes", MODES, (*SCENE, *CLEAN, "inside_psnr", "shadow_found", "matched_psnr", "film"), skip=SEEN),
    Question("modes_glass", MODES, glass=True),
    Question("others", ("adapt", "adapt_self", "literal", "from_background", "off")),
    Question("rival", ("independent", methods.LAYERDIFFUSE, *MODES[1:]),
             (*SCENE, "leak_share", "bg_object", "inside_psnr", "shown_share", "shadow_found", "matched_psnr")),
    Question("prior", (DEFAULT, "x_frozen"), (*LAYERS, "flicker"), against=DEFAULT),
    Question("prior_default", (DEFAULT, "previous"), (*LAYERS, "shadow_found", "flicker"), against=DEFAULT),
    Question("strength", (DEFAULT, "x_no_feedback", "hardness_20", "end_50", "self_only", "cross_only"), against=DEFAULT),
    Question("noise", ("independent", "independent_noise", DEFAULT, "noise", "background_prompt")),
    Question("maps", (DEFAULT, "x_words", "x_structure_only", "x_content_only"), against=DEFAULT),
    Question("truth", MODES,
             ("fg_shape", "fg_colour", "bg_pattern", "bg_tone", "bl_shape", "bl_colour", "bl_pattern", "bl_tone")),
)  # fmt: skip
LIT = (*MODES, "previous", methods.LAYERDIFFUSE)  # whose light and shadow are judged
MANY = frozenset({*LIT, methods.SEQUENTIAL})


def counts(quick: bool = False) -> dict[str, int]:
    """Number of pairs by method, the reference first."""
    names = [methods.INDEPENDENT, *(name for question in QUESTIONS for name in question.methods)]
    many, few = (QUICK_PAIRS, QUICK_TREND) if quick else (PAIRS, TREND)
    return {name: many if name in MANY else few for name in dict.fromkeys(names)}
