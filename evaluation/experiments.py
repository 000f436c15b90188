"""Background updates that the nodes do not offer, to learn whether they should: put in place of the engine's `blend`.

Names as in `blending.py`. All keep the first two updates (a'_BL, a'_FG) and change how blended and background agree on
the scene.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..layerfusion_core.options import BackgroundMode


def _blend_with(original, update):
    def blend(a, masks, layout, background, site, strength=1.0):
        """As `blending.blend`; `update` gives (blended, background) of the mixed outputs."""
        out = original(a, masks, layout, BackgroundMode.OFF, site, 1.0).float()
        bl, bg = update(out[:, layout.blended], out[:, layout.background], masks, site)
        out = torch.cat((out[:, : layout.foregrounds], bl[:, None], bg[:, None]), dim=1)
        return torch.lerp(a.float(), out, strength).to(a.dtype)

    return blend


def _hard(bl, bg, masks, site):
    """`adapt` with the hard mask: a'_BG = a'_BL (1 - hard) + a_BG hard."""
    return bl, torch.lerp(bl, bg, masks.hard[:, 0, :, None])


def _grown(bl, bg, masks, site):
    """`adapt` with the grown hard mask."""
    return bl, torch.lerp(bl, bg, masks.grown[..., None])


def _grown_self(bl, bg, masks, site):
    """`adapt_self` with the grown hard mask."""
    return _grown(bl, bg, masks, site) if site == "attn1" else (bl, bg)


def _share_hard(bl, bg, masks, site):
    """`share` with the hard mask as it is."""
    mask, mean = masks.hard[:, 0, :, None], (bl + bg) / 2
    return torch.lerp(mean, bl, mask), torch.lerp(mean, bg, mask)


def _share_soft(bl, bg, masks, site):
    """`share` with the soft mask."""
    mask, mean = masks.soft[:, 0, :, None], (bl + bg) / 2
    return torch.lerp(mean, bl, mask), torch.lerp(mean, bg, mask)


def _from_grown(bl, bg, masks, site):
    """`from_background` with the grown hard mask: outside of it the blended stream takes the background's."""
    return torch.lerp(bg, bl, masks.grown[..., None]), bg


def _from_hard(bl, bg, masks, site):
    """`from_background` with the hard mask."""
    return torch.lerp(bg, bl, masks.hard[:, 0, :, None]), bg


UPDATES = {
    "hard": _hard, "grown": _grown, "grown_self": _grown_self, "share_hard": _share_hard,
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
