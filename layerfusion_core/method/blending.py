"""Attention-level blending of the streams (paper, section 2.3).

`a` below is an attention output after its output projection, before the residual add. The same equations serve
self-attention (attn1) and cross-attention (attn2). With K foregrounds the blended stream composites them in order.
`blend_predictions` is not the paper's: it completes the background mode `one_scene` (docs/evidence.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .masks import Masks
from .options import BackgroundMode
from .streams import StreamLayout


def blend(
    a: torch.Tensor,
    masks: Masks,
    layout: StreamLayout,
    background: BackgroundMode,
    site: str,
    strength: float = 1.0,
) -> torch.Tensor:
    """Blend one attention's outputs across the streams of each sample, in place.

    a: (G, S, M, C), G groups of rows; masks: of N samples, G a multiple of N, over channels and in a's type; site: "attn1"
    or "attn2". Returns a', which is `a` itself, written over; with a strength g below 1 a new lerp(a, a', g).
    """
    if strength == 0.0:
        return a
    blended = a if strength == 1.0 else a.clone()
    # In place, one kernel an update: on a GPU a run is as slow as its kernels are many.
    *foregrounds, bl, bg = blended.unflatten(0, (-1, masks.keep.shape[0])).unbind(2)  # S of (G / N, N, M, C)
    for fg, soft in zip(foregrounds, masks.soft.unbind(1)):
        bl.lerp_(fg, soft)  # a'_BL = a_FG soft + a_BL (1 - soft)
    for fg, hard in zip(foregrounds, masks.hard.unbind(1)):
        fg.lerp_(bl, hard)  # a'_FG = a'_BL hard + a_FG (1 - hard)

    if background == BackgroundMode.ADAPT or (background == BackgroundMode.ADAPT_SELF and site == "attn1"):
        bg.lerp_(bl, masks.keep)  # a'_BG = a'_BL (1 - soft) + a_BG soft
    elif background == BackgroundMode.LITERAL:
        bg.lerp_(bl, 1.0 - masks.keep)  # a'_BG = a'_BL soft + a_BG (1 - soft), as printed
    elif background == BackgroundMode.FROM_BACKGROUND:
        bl.lerp_(bg, masks.keep)  # a''_BL = a'_BL soft + a_BG (1 - soft)
    elif background in (BackgroundMode.SHARE, BackgroundMode.ONE_SCENE):
        bl.lerp_(bg, masks.scene)  # a'_X = a_X grown + (a_BL + a_BG) / 2 (1 - grown), X = BL, BG
        bg.lerp_(bl, masks.back)
    return blended if strength == 1.0 else torch.lerp(a, blended, strength)


def blend_predictions(
    x0: torch.Tensor, surround: torch.Tensor, layout: StreamLayout, strength: float = 1.0
) -> torch.Tensor:
    """Give blended and background one scene away from the object: the mean of their denoised predictions.

    x0: (G, S, C, h, w), after guidance; surround: (G, 1, h', w') in [0, 1], `surround_mask` on a token grid.
    x0'_X = x0_X surround + (x0_BL + x0_BG) / 2 (1 - surround), X = BL, BG; returns a new tensor of x0's shape and dtype.
    strength g: lerp(x0, x0', g). Foregrounds are left as they are.
    """
    inside = F.interpolate(surround.to(x0.device), x0.shape[-2:], mode="bilinear")
    streams = list(x0.unbind(1))
    pictures = {i: streams[i].float() for i in (layout.blended, layout.background)}
    scene = sum(pictures.values()) / 2
    for i, own in pictures.items():
        streams[i] = torch.lerp(own, torch.lerp(scene, own, inside), strength).to(x0.dtype)
    return torch.stack(streams, dim=1)
