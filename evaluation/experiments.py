"""Variants of the method that the nodes do not offer, to learn whether they should: put in the engine's place for a while.

Names as in `blending.py` and `prior_maps.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..layerfusion_core.host.sampling import guider
from ..layerfusion_core.host.sampling.conditioning import EOS_KEY
from ..layerfusion_core.host.unet import patches as engine
from ..layerfusion_core.method import prior_maps
from ..layerfusion_core.method.masks import Masks, grow, norm, resize_map
from ..layerfusion_core.method.options import BackgroundMode

FROZEN_AFTER = 4  # evaluations


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


def _blend_with(original: Callable, update: Callable) -> Callable:
    """As `blending.blend` for one foreground; `update` gives blended and background of the mixed outputs."""

    def blend(a, masks, layout, background, site, strength=1.0):
        out = original(a.clone(), masks, layout, BackgroundMode.OFF, site, 1.0)
        masks = Masks(*(mask.repeat(a.shape[0] // mask.shape[0], *[1] * (mask.ndim - 1)) for mask in masks))
        bl, bg = update(out[:, layout.blended], out[:, layout.background], masks)
        out = torch.cat((out[:, : layout.foregrounds], bl[:, None], bg[:, None]), dim=1)
        return torch.lerp(a, out, strength)

    return blend


def _without_feedback(original: Callable) -> Callable:
    """The foreground keeps its own attention: no a'_FG = a'_BL hard + a_FG (1 - hard)."""

    def blend(a, masks, layout, background, site, strength=1.0):
        out = original(a.clone(), masks, layout, background, site, strength)
        return torch.cat((a[:, : layout.foregrounds], out[:, layout.foregrounds :]), dim=1)

    return blend


# Where masks come from


def _structure_only(original: Callable) -> Callable:
    """mask_soft = s', already min-maxed: no text prior."""
    return lambda maps, grid: norm(resize_map(maps.structure.float(), maps.structure_grid, grid)).expand(
        len(maps.on(grid)), -1, -1
    )


def _content_only(original: Callable) -> Callable:
    """mask_soft = norm(c): no structure prior."""
    return lambda maps, grid: norm(maps.content[grid].float())


def _words(original: Callable) -> Callable:
    """c from the prompt's words, the columns between start and <EOS>, instead of <EOS>."""

    def text_columns(conditioning, device):
        words = list(range(1, conditioning[EOS_KEY][0]))
        return dataclasses.replace(original(conditioning, device), eos=words, _of={})

    return text_columns


def _once(original: Callable) -> Callable:
    """One prior pass, at the first evaluation that blends; its masks serve all others."""
    return lambda run, sigma: original(run, sigma) and run.maps is None


def _frozen(original: Callable) -> Callable:
    """A prior pass at each of the first evaluations; the masks of the last of them serve all others."""
    return lambda run, sigma: original(run, sigma) and len(run.record.maps) < FROZEN_AFTER


# Where it blends


def _only(fine: bool):
    """Blend only in blocks of the last self-attention's resolution (fine), or only in the others."""

    def change(original: Callable) -> Callable:
        def blend_patch(site):
            patch = original(site)

            def chosen(n, extra_options):
                run = extra_options[engine.KEY].run
                if run.maps is None or (n.shape[1] == run.maps.structure.shape[-1]) is fine:
                    return patch(n, extra_options)
                return n

            return chosen

        return blend_patch

    return change


def _tight(original: Callable) -> Callable:
    """`one_scene` shares predictions up to the grown hard mask of both priors, as attention, not of content alone."""
    return lambda self: self.masks(self.last, self.maps.grids[self.last], self.maps.structure).grown.squeeze(-1)


def _low(original: Callable) -> Callable:
    """`one_scene` shares predictions up to the grown soft mask of both priors, cut at 0.25."""

    def surround(self):
        grid = self.maps.grids[self.last]
        soft = grow(self.masks(self.last, grid, self.maps.structure).soft.squeeze(-1), grid)
        return torch.sigmoid(self.options.hardness * (soft - 0.25))

    return surround


def _as_adapt_self(original: Callable) -> Callable:
    """Attention is blended as in `adapt_self`, whatever the mode."""
    return lambda a, masks, layout, background, *rest: original(a, masks, layout, BackgroundMode.ADAPT_SELF, *rest)


CHANGES: dict[str, tuple[Any, str, Callable]] = {
    **{
        name: (engine, "blend", lambda original, u=update: _blend_with(original, u)) for name, update in UPDATES.items()
    },
    "no_feedback": (engine, "blend", _without_feedback),
    "structure_only": (prior_maps.PriorMaps, "soft", _structure_only),
    "content_only": (prior_maps.PriorMaps, "soft", _content_only),
    "scene_tight": (engine.BlendRun, "surround", _tight),
    "scene_low": (engine.BlendRun, "surround", _low),
    "scene_self": (engine, "blend", _as_adapt_self),
    "words": (guider, "text_columns", _words),
    "once": (engine.BlendRun, "begin_evaluation", _once),
    "frozen": (engine.BlendRun, "begin_evaluation", _frozen),
    "fine": (engine, "_blend_patch", _only(True)),
    "coarse": (engine, "_blend_patch", _only(False)),
}


@contextmanager
def experiment(name: str) -> Iterator[None]:
    """Run the engine with CHANGES[name] within the block; "" changes nothing."""
    if not name:
        yield
        return
    owner, attribute, change = CHANGES[name]
    original = getattr(owner, attribute)
    setattr(owner, attribute, change(original))
    try:
        yield
    finally:
        setattr(owner, attribute, original)
