"""The settings that are compared, by name."""

from __future__ import annotations

from dataclasses import dataclass, field

INDEPENDENT, SEQUENTIAL, REFERENCE, LAYERDIFFUSE = "independent", "sequential", "reference", "layerdiffuse"
DEFAULT = "share"


@dataclass(frozen=True)
class Method:
    """One row of the table.

    options: fields of LayerFusionOptions; blended_text: "auto", or "background" (the background stream's prompt);
    experiment: a change of experiments.py; seed: added to the settings' seed.
    """

    name: str
    label: str
    options: dict = field(default_factory=dict)
    blended_text: str = "auto"
    experiment: str = ""
    seed: int = 0


def _method(name: str, label: str, mode: str = DEFAULT, experiment: str = "", text: str = "auto", **options) -> Method:
    return Method(name, label, {"background_mode": mode, **options}, text, experiment)


MAIN = (
    _method(INDEPENDENT, "no blending (strength 0)", strength=0.0),
    Method(LAYERDIFFUSE, "LayerDiffuse, three runs"),
    *(_method(mode, mode, mode) for mode in ("adapt", "share", "one_scene", "adapt_self", "literal", "from_background")),
)
CHOICES = (
    Method(REFERENCE, "no blending, another seed", {"background_mode": DEFAULT, "strength": 0.0}, seed=1),
    Method(SEQUENTIAL, "foreground pasted on background (naive alpha-over)"),
    _method("off", "off: background never follows", "off"),
    _method("previous", "previous_step", prior_mode="previous_step"),
    _method("self_only", "self-attention only", cross_attention=False),
    _method("cross_only", "cross-attention only", self_attention=False),
    _method("hardness_20", "hardness 20", hardness=20.0),
    _method("end_50", "ends at 0.5 of the schedule", end_percent=0.5),
    _method("independent_noise", "no blending, a noise of its own for each", strength=0.0, noise="independent"),
    _method("noise", "share, a noise of its own for each", noise="independent"),
    _method("background_prompt", "share, blended stream prompted with the background only", text="background"),
)
EXPERIMENTS = tuple(
    _method(f"x_{name}", f"experiment: {label}", experiment=name)
    for name, label in (
        ("no_feedback", "no feedback into the foreground"),
        ("structure_only", "structure prior only"),
        ("content_only", "content prior only"),
        ("words", "content prior of the words, not of <EOS>"),
        ("frozen", "masks of the fourth step kept"),
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
