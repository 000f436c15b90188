"""Blending of the streams (paper, section 2.3): of attention outputs, and in one of our modes of predictions.

`a` below is an attention output after its output projection, before the residual add. The same equations serve
self-attention (attn1) and cross-attention (attn2). With K foregrounds the blended stream composites them in order.
`blend_predictions` is not the paper's: it completes the background mode `one_scene` (docs/evidence.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import Masks, resize_map, surround_mask
from .options import BackgroundMode, LayerFusionOptions, PriorMode
from .prior_maps import Grid, PriorMaps
from .streams import StreamLayout

# The equations, each one kernel per stream and in place: on a GPU a run is as slow as its kernels are many. x.lerp_(y, m)
# is x' = y m + x (1 - m).


def _composite(foregrounds: Sequence[Tensor], bl: Tensor, masks: Masks) -> None:
    """a'_BL = a_FG soft + a_BL (1 - soft), foreground after foreground."""
    for fg, soft in zip(foregrounds, masks.soft.unbind(1)):
        bl.lerp_(fg, soft)


def _feed_back(foregrounds: Sequence[Tensor], bl: Tensor, masks: Masks) -> None:
    """a'_FG = a'_BL hard + a_FG (1 - hard)."""
    for fg, hard in zip(foregrounds, masks.hard.unbind(1)):
        fg.lerp_(bl, hard)


def _adapt(bl: Tensor, bg: Tensor, masks: Masks) -> None:
    """a'_BG = a'_BL keep + a_BG (1 - keep), keep = 1 - soft: the background follows where no object is."""
    bg.lerp_(bl, masks.keep)


def _literal(bl: Tensor, bg: Tensor, masks: Masks) -> None:
    """a'_BG = a'_BL soft + a_BG (1 - soft), as printed in the paper."""
    bg.lerp_(bl, 1.0 - masks.keep)


def _from_background(bl: Tensor, bg: Tensor, masks: Masks) -> None:
    """a''_BL = a_BG keep + a'_BL (1 - keep): the blended picture takes the background's scene."""
    bl.lerp_(bg, masks.keep)


def _share(bl: Tensor, bg: Tensor, masks: Masks) -> None:
    """a''_X = a'_X grown + (a'_BL + a_BG) / 2 (1 - grown), X = BL, BG: both take their mean away from the object.

    With scene = (1 - grown) / 2 that is BL + (BG - BL) scene; and BG + (BL'' - BG) back, for BL is written by then.
    """
    bl.lerp_(bg, masks.scene)
    bg.lerp_(bl, masks.back)


def _keep_own(bl: Tensor, bg: Tensor, masks: Masks) -> None:
    """a'_BG = a_BG."""


BACKGROUND_UPDATES: dict[tuple[BackgroundMode, str], Callable[[Tensor, Tensor, Masks], None]] = {
    (mode, site): update
    for mode, self_attention, cross_attention in (
        (BackgroundMode.ADAPT, _adapt, _adapt),
        (BackgroundMode.ADAPT_SELF, _adapt, _keep_own),
        (BackgroundMode.LITERAL, _literal, _literal),
        (BackgroundMode.FROM_BACKGROUND, _from_background, _from_background),
        (BackgroundMode.OFF, _keep_own, _keep_own),
        (BackgroundMode.SHARE, _share, _share),
        (BackgroundMode.ONE_SCENE, _share, _share),
    )
    for site, update in (("attn1", self_attention), ("attn2", cross_attention))
}
"""What each mode does to blended and background after `_composite` and `_feed_back`, by the site of the attention."""


def blend(a: Tensor, masks: Masks, background: BackgroundMode, site: str, strength: float = 1.0) -> Tensor:
    """Blend one attention's outputs across the streams of each sample, in place.

    a: (G, S, M, C), G groups of rows; masks: of N samples, G a multiple of N, over channels and in a's type; site: "attn1"
    or "attn2". Returns a', which is `a` itself, written over; with a strength g below 1 a new lerp(a, a', g).
    """
    if strength == 0.0:
        return a
    blended = a if strength == 1.0 else a.clone()
    samples = masks.keep.shape[0]
    *foregrounds, bl, bg = blended.unflatten(0, (-1, samples)).unbind(2)  # S of (G / N, N, M, C)
    _composite(foregrounds, bl, masks)
    _feed_back(foregrounds, bl, masks)
    BACKGROUND_UPDATES[BackgroundMode(background), site](bl, bg, masks)
    return blended if strength == 1.0 else torch.lerp(a, blended, strength)


def blend_predictions(x0: Tensor, surround: Tensor, layout: StreamLayout, strength: float = 1.0) -> Tensor:
    """Give blended and background one scene away from the object: the mean of their denoised predictions.

    x0: (G, S, C, h, w), after guidance; surround: (G, 1, h', w') in [0, 1], `surround_mask` on a token grid.
    x0'_X = x0_X surround + (x0_BL + x0_BG) / 2 (1 - surround), X = BL, BG; returns a new tensor of x0's shape and dtype.
    strength g: lerp(x0, x0', g). Foregrounds are left as they are.
    """
    inside = F.interpolate(surround.to(x0.device), x0.shape[-2:], mode="bilinear")
    streams = list(x0.unbind(1))
    pictures = {i: streams[i].float() for i in (layout.blended, layout.background)}
    scene = (pictures[layout.blended] + pictures[layout.background]) / 2
    for i, own in pictures.items():
        streams[i] = torch.lerp(own, torch.lerp(scene, own, inside), strength).to(x0.dtype)
    return torch.stack(streams, dim=1)


@dataclass(frozen=True)
class Blending:
    """How the streams of a run are blended, step by step: the paper's way (sections 2.2 and 2.3) and our modes.

    The engine asks this object for everything that it does to the streams. A subclass that does one step in another way
    is another method: hand the class to `sample_layers` or `LayerFusionGuider` (evaluation/experiments.py has some).
    """

    layout: StreamLayout
    options: LayerFusionOptions

    def reads_priors(self, evaluations: int) -> bool:
        """Whether the evaluation after `evaluations` that blended reads priors in a pass of its own.

        It goes on with the maps of the one before if not; the first one has none.
        """
        return evaluations == 0 or self.options.prior_mode is PriorMode.EXACT

    @property
    def hands_priors_on(self) -> bool:
        """Whether an evaluation reads priors in its shared pass, for the next one."""
        return self.options.prior_mode is PriorMode.PREVIOUS_STEP

    def priors(self, read: PriorMaps) -> PriorMaps:
        """The priors to blend with and to record, of those that a pass has read."""
        return read

    def masks(self, maps: PriorMaps, grid: Grid) -> Masks:
        """The masks of all blocks on a token grid, (blocks, N, ...), in fp32."""
        return maps.masks(grid, self.options.hardness, self.layout.foreground_count)

    def blends(self, site: str, grid: Grid, maps: PriorMaps) -> bool:
        """Whether the outputs of a `site` ("attn1", "attn2") with these tokens are blended."""
        return self.options.blends_site(site)

    def attention(self, a: Tensor, masks: Masks, site: str) -> Tensor:
        """a' (G, S, M, C) of one attention's outputs; see `blend`."""
        return blend(a, masks, self.options.background_mode, site, self.options.strength)

    def predictions(self, x0: Tensor, maps: PriorMaps) -> Tensor:
        """What becomes of the guided prediction (N * S, C, h, w) of an evaluation; see `blend_predictions`."""
        if self.options.background_mode is not BackgroundMode.ONE_SCENE:
            return x0
        surround = self.surround(maps).to(x0.device).unflatten(-1, maps.grids[maps.last]).unsqueeze(1)
        return blend_predictions(self.layout.grouped(x0), surround, self.layout, self.options.strength).flatten(0, 1)

    def surround(self, maps: PriorMaps) -> Tensor:
        """`surround_mask` of the last block for N samples, (N, M)."""
        grid, each = maps.grids[maps.last], (-1, self.layout.foreground_count)
        structure = resize_map(maps.structure.float(), maps.structure_grid, grid).unflatten(0, each)
        soft, region = maps.soft(grid)[maps.on(grid).index(maps.last)].unflatten(0, each), maps.region_on(grid)
        region = None if region is None else region.unflatten(0, each)
        return surround_mask(structure, soft, grid, self.options.hardness, region)
