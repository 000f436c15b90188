"""Background updates that the nodes do not offer, to learn whether they should: put in place of the engine's `blend`.

Names as in `blending.py`. All keep the first two updates (a'_BL, a'_FG) and change how blended and background agree on
the scene. grown(hard): the hard mask, each token the largest of the 3 x 3 around it; square pictures only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from ..layerfusion_core.options import BackgroundMode


def grown(mask: torch.Tensor) -> torch.Tensor:
    """(G, K, M) -> (G, 1, M): the union of the K masks, grown by one token of the square grid."""
    side = math.isqrt(mask.shape[-1])
    if side * side != mask.shape[-1]:
        raise ValueError(f"experiments need a square picture, got {mask.shape[-1]} tokens")
    union = mask.amax(dim=1, keepdim=True)
    return F.max_pool2d(union.unflatten(-1, (side, side)), 3, stride=1, padding=1).flatten(-2)


def _blend_with(original, update):
    def blend(a, soft, hard, layout, background, site, strength=1.0):
        """As `blending.blend`; `update` gives (blended, background) of the mixed outputs."""
        out = original(a, soft, hard, layout, BackgroundMode.OFF, site, 1.0).float()
        bl, bg = update(out[:, layout.blended], out[:, layout.background], soft, hard, site)
        out = torch.cat((out[:, : layout.foregrounds], bl[:, None], bg[:, None]), dim=1)
        return torch.lerp(a.float(), out, strength).to(a.dtype)

    return blend


def _hard(bl, bg, soft, hard, site):
    """`adapt` with the hard mask: a'_BG = a'_BL (1 - hard) + a_BG hard."""
    return bl, torch.lerp(bl, bg, hard[:, 0, :, None])


def _grown(bl, bg, soft, hard, site):
    """`adapt` with the grown hard mask."""
    return bl, torch.lerp(bl, bg, grown(hard)[:, 0, :, None])


def _grown_self(bl, bg, soft, hard, site):
    """`adapt_self` with the grown hard mask."""
    return _grown(bl, bg, soft, hard, site) if site == "attn1" else (bl, bg)


def _share(bl, bg, soft, hard, site):
    """Outside the grown hard mask both take their mean; inside each keeps its own."""
    mask, mean = grown(hard)[:, 0, :, None], (bl + bg) / 2
    return torch.lerp(mean, bl, mask), torch.lerp(mean, bg, mask)


def _share_hard(bl, bg, soft, hard, site):
    """`share` with the hard mask as it is."""
    mask, mean = hard[:, 0, :, None], (bl + bg) / 2
    return torch.lerp(mean, bl, mask), torch.lerp(mean, bg, mask)


def _share_soft(bl, bg, soft, hard, site):
    """`share` with the soft mask."""
    mask, mean = soft[:, 0, :, None], (bl + bg) / 2
    return torch.lerp(mean, bl, mask), torch.lerp(mean, bg, mask)


def _from_grown(bl, bg, soft, hard, site):
    """`from_background` with the grown hard mask: outside of it the blended stream takes the background's."""
    return torch.lerp(bg, bl, grown(hard)[:, 0, :, None]), bg


def _from_hard(bl, bg, soft, hard, site):
    """`from_background` with the hard mask."""
    return torch.lerp(bg, bl, hard[:, 0, :, None]), bg


UPDATES = {
    "hard": _hard, "grown": _grown, "grown_self": _grown_self, "share": _share, "share_hard": _share_hard,
    "share_soft": _share_soft, "from_grown": _from_grown, "from_hard": _from_hard,
}  # fmt: skip


@contextmanager
def experiment(name: str) -> Iterator[None]:
    """Let the engine blend with UPDATES[name] within the block; "" changes nothing."""
    if not name:
        yield
        return
    from ..layerfusion_core.host import engine

    original = engine.blend
    engine.blend = _blend_with(original, UPDATES[name])
    try:
        yield
    finally:
        engine.blend = original
