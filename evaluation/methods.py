"""The settings that are compared, by name."""

from __future__ import annotations

from dataclasses import dataclass, field

INDEPENDENT, SEQUENTIAL = "independent", "sequential"


@dataclass(frozen=True)
class Method:
    """One row of the table.

    options: fields of LayerFusionOptions; blended_text: "auto", or "background" (the background stream's prompt);
    experiment: a background update of experiments.py instead of the options' background_mode.
    """

    name: str
    label: str
    options: dict = field(default_factory=dict)
    blended_text: str = "auto"
    experiment: str = ""


def _blending(name: str, label: str, **options) -> Method:
    return Method(name, label, options)


MAIN = (
    _blending(INDEPENDENT, "no blending (strength 0)", strength=0.0),
    _blending("adapt", "adapt, exact", background_mode="adapt"),
    _blending("adapt_previous", "adapt, previous_step", background_mode="adapt", prior_mode="previous_step"),
    _blending("adapt_self", "adapt_self, exact", background_mode="adapt_self"),
    _blending("adapt_self_previous", "adapt_self, previous_step", background_mode="adapt_self",
              prior_mode="previous_step"),
    _blending("share", "share, exact", background_mode="share"),
    _blending("literal", "literal, exact", background_mode="literal"),
    _blending("literal_previous", "literal, previous_step", background_mode="literal", prior_mode="previous_step"),
)  # fmt: skip
CHOICES = (
    Method(SEQUENTIAL, "foreground pasted on background (naive alpha-over)"),
    _blending("off", "off: background never follows", background_mode="off"),
    _blending("share_previous", "share, previous_step", background_mode="share", prior_mode="previous_step"),
    _blending("from_background", "from_background", background_mode="from_background"),
    _blending("self_only", "adapt, self-attention only", cross_attention=False),
    _blending("cross_only", "adapt, cross-attention only", self_attention=False),
    _blending("hardness_2", "adapt, hardness 2", hardness=2.0),
    _blending("hardness_50", "adapt, hardness 50", hardness=50.0),
    _blending("strength_half", "adapt, strength 0.5", strength=0.5),
    _blending("end_half", "adapt, ends at 0.5 of the schedule", end_percent=0.5),
    _blending("start_late", "adapt, starts at 0.2 of the schedule", start_percent=0.2),
    _blending("independent_noise", "no blending, a noise of its own for each", strength=0.0, noise="independent"),
    _blending("adapt_noise", "adapt, a noise of its own for each", noise="independent"),
    Method("background_prompt", "adapt, blended stream prompted with the background only", {}, "background"),
)
EXPERIMENTS = tuple(
    Method(f"x_{name}", f"experiment: {label}", {}, experiment=name)
    for name, label in (
        ("hard", "adapt with the hard mask"),
        ("grown", "adapt with the hard mask grown by a token"),
        ("grown_self", "adapt_self with the hard mask grown by a token"),
        ("share_hard", "share, outside the hard mask"),
        ("share_soft", "share, by the soft mask"),
        ("from_grown", "from_background with the grown hard mask"),
        ("from_hard", "from_background with the hard mask"),
    )
)
SETS = {"main": MAIN, "choices": CHOICES, "experiments": EXPERIMENTS, "all": (*MAIN, *CHOICES, *EXPERIMENTS)}
ALL = {method.name: method for method in SETS["all"]}


def select(text: str) -> list[Method]:
    """Methods of a comma-separated list of names and sets; `independent` first, it makes the reference alpha.

    ValueError for an unknown name.
    """
    names = [INDEPENDENT]
    for name in map(str.strip, text.split(",")):
        if name not in SETS and name not in ALL:
            raise ValueError(f"unknown method {name!r}; known: {', '.join((*SETS, *ALL))}")
        names += [method.name for method in SETS.get(name, ())] or [name]
    return [ALL[name] for name in dict.fromkeys(names)]
