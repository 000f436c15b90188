"""Variants of the method that the nodes do not offer, to learn what its parts do: classes to run with in `Blending`'s place.

Names as in `blending.py` and `prior_maps.py`.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..layerfusion_core.host.sampling.conditioning import EOS_KEY
from ..layerfusion_core.method.blending import Blending

FROZEN_AFTER = 4  # evaluations
WORDS = "words"
"""The experiment that is no other blending, but another text prior: `with_words`."""


class NoFeedback(Blending):
    """The foreground keeps its own attention: no a'_FG = a'_BL hard + a_FG (1 - hard)."""

    def attention(self, a, masks, site):
        out, foregrounds = super().attention(a.clone(), masks, site), self.layout.foreground_count
        return torch.cat((a[:, :foregrounds], out[:, foregrounds:]), dim=1)


class StructureOnly(Blending):
    """mask_soft = s', already min-maxed: no text prior."""

    def priors(self, read):
        return replace(read, content={grid: torch.ones_like(content) for grid, content in read.content.items()})


class ContentOnly(Blending):
    """mask_soft = norm(c): no structure prior."""

    def priors(self, read):
        return replace(read, structure=torch.ones_like(read.structure))


def with_words(conditioning: list) -> list:
    """A foreground's conditioning whose text prior is that of the prompt's words, the columns between start and <EOS>."""
    return [[text, {**extra, EOS_KEY: list(range(1, extra[EOS_KEY][0]))}] for text, extra in conditioning]


class Frozen(Blending):
    """A prior pass at each of the first evaluations; the masks of the last of them serve all others."""

    def reads_priors(self, evaluations):
        return evaluations < FROZEN_AFTER


BLENDINGS: dict[str, type[Blending]] = {
    "": Blending,
    "no_feedback": NoFeedback,
    "structure_only": StructureOnly,
    "content_only": ContentOnly,
    WORDS: Blending,
    "frozen": Frozen,
}
"""By the name of the experiment; "" for none."""
