"""Pairs of tiny MODELs that do not share their weights, for the lock step tests."""

from __future__ import annotations

from functools import lru_cache

import runs
import tiny
from comfy.model_patcher import ModelPatcher

OTHER = 3  # seed of the second checkpoint


def fresh_pair() -> tuple[ModelPatcher, ModelPatcher]:
    """(base, foreground): foreground weights on another checkpoint than the base's."""
    other = tiny.tiny_sdxl(seed=OTHER)
    return runs.models()[0], tiny.with_foreground(other, tiny.foreground_file(other))


@lru_cache(maxsize=1)
def unlike() -> tuple[ModelPatcher, ModelPatcher]:
    """The pair of `fresh_pair`, built once."""
    return fresh_pair()


@lru_cache(maxsize=1)
def merged() -> tuple[ModelPatcher, ModelPatcher]:
    """(base, foreground): the foreground weights of `runs.models` merged into a checkpoint of their own."""
    base, foreground = runs.models()
    other = tiny.tiny_sdxl()
    file = tiny.foreground_file(base)
    weights = other.model.state_dict()
    for name in tiny.attention_weights(base):
        delta = file[f"{name}.weight::lora::0"] @ file[f"{name}.weight::lora::1"]
        weights[f"{name}.weight"].add_(delta)  # state_dict shares its tensors with the model
    return base, other
