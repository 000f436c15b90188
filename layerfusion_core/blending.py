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

    a: (G, S, M, C), G samples; masks: of the same G, K, M; site: "attn1" or "attn2".
    Returns a new (G, S, M, C) of a's dtype; mask maths in fp32. strength g: lerp(a, a', g), 0 returns `a` itself.
    """
    if strength == 0.0:
        return a
    soft, hard, grown = (mask.unsqueeze(-1) for mask in masks)  # (G, K, M, 1) twice, (G, M, 1)
    streams = list(a.float().unbind(1))
    foregrounds, bl, bg = streams[: layout.foregrounds], layout.blended, layout.background

    a_bl = streams[bl]
    keep = torch.ones_like(soft[:, 0])  # (G, M, 1): what no foreground covers
    for k, a_fg in enumerate(foregrounds):
        a_bl = torch.lerp(a_bl, a_fg, soft[:, k])  # a'_BL = a_FG soft + a_BL (1 - soft)
        keep = keep * (1.0 - soft[:, k])
    new = [
        torch.lerp(a_fg, a_bl, hard[:, k]) for k, a_fg in enumerate(foregrounds)
    ]  # a'_FG = a'_BL hard + a_FG (1 - hard)

    a_bg = streams[bg]
    if background == BackgroundMode.ADAPT or (background == BackgroundMode.ADAPT_SELF and site == "attn1"):
        new += [a_bl, torch.lerp(a_bg, a_bl, keep)]  # a'_BG = a'_BL (1 - soft) + a_BG soft
    elif background == BackgroundMode.LITERAL:
        new += [a_bl, torch.lerp(a_bl, a_bg, keep)]  # a'_BG = a'_BL soft + a_BG (1 - soft), as printed
    elif background == BackgroundMode.FROM_BACKGROUND:
        new += [torch.lerp(a_bl, a_bg, keep), a_bg]  # a''_BL = a'_BL soft + a_BG (1 - soft)
    elif background in (BackgroundMode.SHARE, BackgroundMode.ONE_SCENE):
        scene = (a_bl + a_bg) / 2
        new += [torch.lerp(scene, a_bl, grown), torch.lerp(scene, a_bg, grown)]  # a'_X = a_X grown + scene (1 - grown)
    else:
        new += [a_bl, a_bg]

    return torch.stack([torch.lerp(old, now, strength) for old, now in zip(streams, new)], dim=1).to(a.dtype)


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
