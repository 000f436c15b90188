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
    """Blend one attention's outputs across the streams of each sample.

    a: (G, S, M, C), G groups of rows; masks: of N samples, G a multiple of N, in a's type; site: "attn1" or "attn2".
    Returns a new (G, S, M, C) of a's dtype. strength g: lerp(a, a', g), 0 returns `a` itself.
    """
    if strength == 0.0:
        return a
    soft, hard = masks.soft.unsqueeze(-1).unbind(1), masks.hard.unsqueeze(-1).unbind(1)  # K of (N, M, 1)
    keep, scene = masks.keep.unsqueeze(-1), masks.scene.unsqueeze(-1)  # (N, M, 1)
    out = torch.empty_like(a)
    *foregrounds, a_bl, a_bg = a.unflatten(0, (-1, keep.shape[0])).unbind(2)  # S of (G / N, N, M, C)
    *new_fg, new_bl, new_bg = out.unflatten(0, (-1, keep.shape[0])).unbind(2)

    # One kernel an update, written where it belongs: on a GPU a run is as slow as its kernels are many.
    for k, a_fg in enumerate(foregrounds):
        a_bl = torch.lerp(a_bl, a_fg, soft[k], out=new_bl)  # a'_BL = a_FG soft + a_BL (1 - soft)
    for k, a_fg in enumerate(foregrounds):
        torch.lerp(a_fg, a_bl, hard[k], out=new_fg[k])  # a'_FG = a'_BL hard + a_FG (1 - hard)

    if background == BackgroundMode.ADAPT or (background == BackgroundMode.ADAPT_SELF and site == "attn1"):
        torch.lerp(a_bg, a_bl, keep, out=new_bg)  # a'_BG = a'_BL (1 - soft) + a_BG soft
    elif background == BackgroundMode.LITERAL:
        torch.lerp(a_bl, a_bg, keep, out=new_bg)  # a'_BG = a'_BL soft + a_BG (1 - soft), as printed
    elif background in (BackgroundMode.SHARE, BackgroundMode.ONE_SCENE):
        torch.lerp(a_bg, a_bl, scene, out=new_bg)  # a'_X = a_X grown + (a_BL + a_BG) / 2 (1 - grown)
        torch.lerp(a_bl, a_bg, scene, out=new_bl)
    else:
        new_bg.copy_(a_bg)
        if background == BackgroundMode.FROM_BACKGROUND:
            torch.lerp(a_bl, a_bg, keep, out=new_bl)  # a''_BL = a'_BL soft + a_BG (1 - soft)
    return out if strength == 1.0 else torch.lerp(a, out, strength)


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
