"""Variants of the method that the nodes do not offer, to learn whether they should: classes to run with in `Blending`'s place.

Names as in `blending.py` and `prior_maps.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ..layerfusion_core.host.sampling.conditioning import EOS_KEY
from ..layerfusion_core.method.blending import Blending, blend
from ..layerfusion_core.method.masks import Masks, grow
from ..layerfusion_core.method.options import BackgroundMode

FROZEN_AFTER = 4  # evaluations
WORDS = "words"
"""The experiment that is no other blending, but another text prior: `with_words`."""


# How blended and background agree: (a'_BL, a_BG, masks) -> new (a_BL, a_BG), each (G, M, C)


def _hard(bl, bg, masks):
    """`adapt` with the hard mask: a'_BG = a'_BL (1 - hard) + a_BG hard."""
    return bl, torch.lerp(bl, bg, masks.hard[:, 0])


def _grown(bl, bg, masks):
    """`adapt` with the grown hard mask."""
    return bl, torch.lerp(bl, bg, masks.grown)


def _from_grown(bl, bg, masks):
    """`from_background` with the grown hard mask: outside of it the blended stream takes the background's."""
    return torch.lerp(bg, bl, masks.grown), bg


def _share(mask: Callable, weight: float = 0.5) -> Callable:
    """`share`: outside `mask` both take weight a'_BL + (1 - weight) a_BG; inside each keeps its own."""

    def update(bl, bg, masks):
        inside, both = mask(masks), torch.lerp(bg, bl, weight)
        return torch.lerp(both, bl, inside), torch.lerp(both, bg, inside)

    return update


UPDATES = {
    "hard": _hard, "grown": _grown, "from_grown": _from_grown, "share_soft": _share(lambda masks: masks.soft[:, 0]),
    "share_70": _share(lambda masks: masks.grown, 0.7),
    "share_mixed": _share(lambda masks: masks.grown if masks.grown.shape[-2] > 16 else masks.hard[:, 0]),
}  # fmt: skip


def _updating(update: Callable) -> type[Blending]:
    """As `blending.blend` for one foreground; `update` gives blended and background of the mixed outputs."""

    class Updated(Blending):
        def attention(self, a, masks, site):
            layout, out = self.layout, blend(a.clone(), masks, BackgroundMode.OFF, site)
            masks = Masks(*(mask.repeat(a.shape[0] // mask.shape[0], *[1] * (mask.ndim - 1)) for mask in masks))
            bl, bg = update(out[:, layout.blended], out[:, layout.background], masks)
            out = torch.cat((out[:, : layout.foreground_count], bl[:, None], bg[:, None]), dim=1)
            return torch.lerp(a, out, self.options.strength)

    return Updated


class NoFeedback(Blending):
    """The foreground keeps its own attention: no a'_FG = a'_BL hard + a_FG (1 - hard)."""

    def attention(self, a, masks, site):
        out, foregrounds = super().attention(a.clone(), masks, site), self.layout.foreground_count
        return torch.cat((a[:, :foregrounds], out[:, foregrounds:]), dim=1)


class AsAdaptSelf(Blending):
    """Attention is blended as in `adapt_self`, whatever the mode."""

    def attention(self, a, masks, site):
        return blend(a, masks, BackgroundMode.ADAPT_SELF, site, self.options.strength)


# Where masks come from


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


class Once(Blending):
    """One prior pass, at the first evaluation that blends; its masks serve all others."""

    def reads_priors(self, evaluations):
        return evaluations == 0


class Frozen(Blending):
    """A prior pass at each of the first evaluations; the masks of the last of them serve all others."""

    def reads_priors(self, evaluations):
        return evaluations < FROZEN_AFTER


# Where it blends


class Fine(Blending):
    """Blend only in blocks of the last self-attention's resolution."""

    def blends(self, site, grid, maps):
        return grid == maps.structure_grid and super().blends(site, grid, maps)


class Coarse(Blending):
    """Blend only in blocks of another resolution than the last self-attention's."""

    def blends(self, site, grid, maps):
        return grid != maps.structure_grid and super().blends(site, grid, maps)


def _last_masks(blending: Blending, maps) -> Masks:
    """The masks of the last block, (N, ...)."""
    grid = maps.grids[maps.last]
    return Masks(*(mask[maps.on(grid).index(maps.last)] for mask in blending.masks(maps, grid)))


class SceneTight(Blending):
    """`one_scene` shares predictions up to the grown hard mask of both priors, as attention, not of content alone."""

    def surround(self, maps):
        return _last_masks(self, maps).grown


class SceneLow(Blending):
    """`one_scene` shares predictions up to the grown soft mask of both priors, cut at 0.25."""

    def surround(self, maps):
        soft = grow(_last_masks(self, maps).soft, maps.grids[maps.last])
        return torch.sigmoid(self.options.hardness * (soft - 0.25))


BLENDINGS: dict[str, type[Blending]] = {
    "": Blending,
    **{name: _updating(update) for name, update in UPDATES.items()},
    "no_feedback": NoFeedback,
    "structure_only": StructureOnly,
    "content_only": ContentOnly,
    "scene_tight": SceneTight,
    "scene_low": SceneLow,
    "scene_self": AsAdaptSelf,
    WORDS: Blending,
    "once": Once,
    "frozen": Frozen,
    "fine": Fine,
    "coarse": Coarse,
}
"""By the name of the experiment; "" for none."""
