"""What can be seen of foregrounds that did not come out transparent: which of them, and the likely causes."""

from __future__ import annotations

import torch
from torch import Tensor

OPAQUE, OPAQUE_SHARE = 0.98, 0.99
GREY, GREY_TOLERANCE, GREY_SHARE = 0.5, 0.12, 0.25
_NAMED = 6  # of a batch

LIKELY_CAUSES = (
    "Where the object itself fills the picture, nothing is wrong. Otherwise the likely causes, the likeliest first: (1) the "
    "foreground model is not connected, or its foreground weights were not applied (connect foreground_model from Load "
    "LayerFusion Models or Apply Foreground Weights); (2) the checkpoint does not follow the weights: Illustrious, NoobAI "
    "and Pony models and Lightning, Turbo or other distilled ones often do not; (3) the foreground prompt names a scene or a "
    "background (describe the object only)."
)


def opaque_share(alpha: Tensor, within: Tensor | None = None) -> Tensor:
    """The share of each alpha (B, H, W), 1 = opaque, that is (nearly) opaque, (B,).

    within: (B, H, W), True where it counts (a foreground's region), None for everywhere; 0 where nothing counts.
    """
    opaque = alpha >= OPAQUE
    if within is None:
        return opaque.float().flatten(1).mean(dim=1)
    counted = within.to(alpha.device).flatten(1)
    return (opaque.flatten(1) & counted).sum(dim=1) / counted.sum(dim=1).clamp_min(1)


def which(rows: Tensor, per_picture: int = 1) -> str:
    """In words, which foregrounds (pictures * per_picture,) are True: "picture 2 of 3, " and the like, "" for an only one."""
    pictures = len(rows) // per_picture
    found = [(row % per_picture + 1, row // per_picture + 1) for row in rows.nonzero().flatten().tolist()]
    if len(rows) == 1:
        return ""
    if per_picture > 1 and pictures > 1:
        names = [f"foreground {foreground} of picture {picture}" for foreground, picture in found]
        return f"{_listed(names)}, "
    kind, numbers = ("picture", [b for _, b in found]) if per_picture == 1 else ("foreground", [a for a, _ in found])
    if len(numbers) == len(rows):
        return f"all {len(rows)} {kind}s, "
    return f"{kind}{'s' * (len(numbers) > 1)} {_listed(list(map(str, numbers)))} of {len(rows)}, "


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def opaque_finding(alpha: Tensor, per_picture: int = 1, within: Tensor | None = None) -> str | None:
    """The sentence that says which foregrounds are opaque; None when none is.

    alpha: (pictures * per_picture, H, W), 1 = opaque; within: as for `opaque_share`. A foreground is opaque when at least 99 %
    of it has alpha >= 0.98.
    """
    shares = opaque_share(alpha, within)
    failed = shares >= OPAQUE_SHARE
    if not bool(failed.any()):
        return None
    part = "it" if within is None or bool(within[failed.to(within.device)].all()) else "its region"
    return f"Foreground is opaque: {which(failed, per_picture)}{100 * float(shares[failed].min()):.1f} % of {part}."


def grey_finding(pixels: Tensor, per_picture: int = 1) -> str | None:
    """The sentence that says which foregrounds were not painted on mid-grey, as foreground models do; None when all were.

    pixels: (pictures * per_picture, 3, H, W) in [0, 1], the latents decoded by the ordinary VAE. A foreground is not on grey
    when less than a quarter of its border is within 0.12 of mid-grey (each colour channel).
    """
    band = max(1, min(pixels.shape[-2:]) // 32)
    border = torch.ones(pixels.shape[-2:], dtype=torch.bool, device=pixels.device)
    border[band:-band, band:-band] = False
    near_grey = (pixels - GREY).abs().amax(dim=1) <= GREY_TOLERANCE  # (B, H, W)
    shares = near_grey[:, border].float().mean(dim=1)
    failed = shares < GREY_SHARE
    if not bool(failed.any()):
        return None
    share = 100 * float(shares[failed].max())
    return f"Foreground is not on grey: {which(failed, per_picture)}{share:.0f} % of its border is, as models paint it."


def effect_warning(pixels: Tensor, alpha: Tensor, per_picture: int = 1, within: Tensor | None = None) -> str | None:
    """What is wrong when foregrounds do not look transparent, with the likely causes in order; None when they do.

    pixels, per_picture: as for `grey_finding`; alpha, within: as for `opaque_finding`.
    """
    findings = [found for found in (opaque_finding(alpha, per_picture, within), grey_finding(pixels, per_picture)) if found]
    return " ".join([*findings, LIKELY_CAUSES]) if findings else None
