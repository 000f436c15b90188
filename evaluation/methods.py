"""The settings that are compared, by name."""

from __future__ import annotations

from dataclasses import dataclass, field

INDEPENDENT, SEQUENTIAL, REFERENCE = "independent", "sequential", "reference"


@dataclass(frozen=True)
class Method:
    """One row of the table.

    options: fields of LayerFusionOptions; blended_text: "auto", or "background" (the background stream's prompt);
    experiment: one of `experiments.BLENDINGS`; seed: added to the settings' seed.
    """

    name: str
    label: str
    options: dict = field(default_factory=dict)
    blended_text: str = "auto"
    experiment: str = ""
    seed: int = 0


def _method(name: str, label: str, mode: str = "adapt", experiment: str = "", text: str = "auto", **options) -> Method:
    return Method(name, label, {"background_mode": mode, **options}, text, experiment)


MAIN = (
    _method(INDEPENDENT, "no blending (strength 0)", strength=0.0),
    _method("adapt", "adapt"),
    _method("share", "share", "share"),
    _method("one_scene", "one_scene", "one_scene"),
    _method("adapt_self", "adapt_self", "adapt_self"),
    _method("literal", "literal", "literal"),
    _method("from_background", "from_background", "from_background"),
)
CHOICES = (
    Method(REFERENCE, "no blending, another seed", {"background_mode": "adapt", "strength": 0.0}, seed=1),
    Method(SEQUENTIAL, "foreground pasted on background (naive alpha-over)"),
    _method("off", "off: background never follows", "off"),
    _method("adapt_previous", "adapt, previous_step", prior_mode="previous_step"),
    _method("adapt_self_previous", "adapt_self, previous_step", "adapt_self", prior_mode="previous_step"),
    _method("one_scene_previous", "one_scene, previous_step", "one_scene", prior_mode="previous_step"),
    _method("self_only", "self-attention only", cross_attention=False),
    _method("cross_only", "cross-attention only", self_attention=False),
    *(_method(f"hardness_{d}", f"hardness {d}", hardness=float(d)) for d in (2, 5, 20, 50)),
    _method("strength_50", "strength 0.5", strength=0.5),
    _method("start_20", "starts at 0.2 of the schedule", start_percent=0.2),
    _method("end_50", "ends at 0.5 of the schedule", end_percent=0.5),
    _method("end_80", "ends at 0.8 of the schedule", end_percent=0.8),
    _method("independent_noise", "no blending, a noise of its own for each", strength=0.0, noise="independent"),
    _method("adapt_noise", "adapt, a noise of its own for each", noise="independent"),
    _method("one_scene_noise", "one_scene, a noise of its own for each", "one_scene", noise="independent"),
    _method("background_prompt", "adapt, blended stream prompted with the background only", text="background"),
)
EXPERIMENTS = (
    *(
        _method(f"x_{name}", f"experiment: {label}", experiment=name)
        for name, label in (
            ("hard", "adapt by the hard mask"),
            ("grown", "adapt by the grown hard mask"),
            ("share_soft", "share, outside the soft mask"),
            ("share_70", "share, the scene 0.7 blended + 0.3 background"),
            ("share_mixed", "share, grown mask in the finer blocks only"),
            ("from_grown", "from_background by the grown hard mask"),
            ("no_feedback", "no feedback into the foreground"),
            ("structure_only", "structure prior only"),
            ("content_only", "content prior only"),
            ("words", "content prior of the words, not of <EOS>"),
            ("frozen", "masks of the fourth step kept"),
            ("fine", "only in blocks of the finer resolution"),
            ("coarse", "only in blocks of the coarser resolution"),
        )
    ),
    _method("x_scene_tight", "experiment: one_scene, predictions shared up to the grown hard mask", "one_scene", "scene_tight"),
    _method("x_scene_low", "experiment: one_scene, predictions shared up to the soft mask cut at 0.25", "one_scene", "scene_low"),
    _method("x_scene_self", "experiment: one_scene, attention as in adapt_self", "one_scene", "scene_self"),
    _method("x_once_20", "experiment: starts at 0.2, masks of that step kept", experiment="once", start_percent=0.2),
)  # fmt: skip
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
