"""Layers that add up to the blended picture: a foreground in the scene's light, and what the object does to the scene.

Background, then effects (shadow, glow, reflection), then foregrounds, laid over each other, give the blended picture.
Closed forms per pixel, no network; only the rule that keeps noise out of the effects, `worthwhile`, looks at a pixel's
surroundings and at the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .compositing import alpha_over, linear_to_srgb, srgb_to_linear

CLEANLINESS = 0.5  # the three below hold as they are here; chosen by evaluation/matching.py, see docs/layers.md
FILM = 0.0058  # mean alpha that effects may have far from any object
WORTH = 0.05  # what alpha must bring there at least, see `worthwhile`: noise of a few levels is not kept for being alone
NEAR = 0.1  # of that: what it must bring on and beside an object, where light and shadow are likely
OBJECT = 0.25  # alpha from which the surroundings count as beside an object; faint glass counts in proportion
REACH, SOFTNESS = 1 / 16, 1 / 48  # of the longer side: how far "beside" goes, and how softly it ends
AROUND = 1 / 256  # of the longer side: sigma of a pixel's surroundings
HIGHEST = 8.0  # price of alpha at which no change is worth it: seen <= 3.75 film in linear light, 3 film in sRGB
HALVINGS = 16  # of the interval that the price lies in
TINY = 1e-6  # alpha, or room for a change, that counts as none


class Matched(NamedTuple):
    """foregrounds: RGBA from the rearmost to the front one, alpha as given. effects: RGBA, right above the background."""

    foregrounds: list[Tensor]
    effects: Tensor


def match_layers(
    foregrounds: Sequence[Tensor],
    background: Tensor,
    blended: Tensor,
    cleanliness: float = CLEANLINESS,
    linear_light: bool = False,
    relight: bool = True,
) -> Matched:
    """Foregrounds with new colour and an effects layer that, over the background, give the blended picture.

    foregrounds: (B, H, W, 4) each, straight alpha, from the rearmost to the front one; background, blended:
    (B, H, W, 3); all sRGB in [0, 1], as are the results. cleanliness: see `worthwhile`; 0 gives the blended picture
    exactly (where no alpha is 1), at the price of a film of noise. linear_light: the layers are to be mixed in linear
    light. relight: False leaves the foregrounds' colour as it is, so that inside opaque objects nothing is matched.
    """
    into, back = (srgb_to_linear, linear_to_srgb) if linear_light else (_same, _same)
    scene, wanted = into(background), into(blended)
    layers = [torch.cat([into(layer[..., :3]), layer[..., 3:]], dim=-1) for layer in foregrounds]
    for place in reversed(range(len(layers))):  # the front one first; what is wanted behind it is left for the others
        color, alpha = layers[place][..., :3], layers[place][..., 3:]
        behind = _over(layers[:place], scene)
        if relight:
            color = relit(color, alpha, behind, wanted)
        wanted = seen_behind(color, alpha, behind, wanted)
        layers[place] = torch.cat([color, alpha], dim=-1)
    if cleanliness > 0:
        seen = back(_over(layers, wanted)) - back(_over(layers, scene))
        cover = 1.0 - torch.stack([1.0 - layer[..., 3:] for layer in layers]).prod(dim=0)
        film = least_layer(scene, wanted)[..., 3:]
        wanted = scene + worthwhile(seen.square().sum(dim=-1, keepdim=True), film, cover, cleanliness) * (wanted - scene)
    found = [
        torch.cat([back(layer[..., :3]).clamp(0.0, 1.0), layer[..., 3:]], dim=-1)
        for layer in (least_layer(scene, wanted), *layers)
    ]
    return Matched(found[1:], found[0])


def flattened(matched: Matched, background: Tensor, linear_light: bool = False) -> Tensor:
    """The layers laid over the background: (B, H, W, 3) sRGB in [0, 1]."""
    return _over((matched.effects, *matched.foregrounds), background, linear_light)


def relit(color: Tensor, alpha: Tensor, behind: Tensor, wanted: Tensor) -> Tensor:
    """The colour that an object shows in the blended picture, under its own alpha.

    color, behind, wanted: (B, H, W, 3) in the light that layers are mixed in; alpha: (B, H, W, 1). With the rest
    r = wanted - over, the changes dc of the colour and dt of what lies behind that make it up, a dc + (1 - a) dt = r,
    and are least, |dc|^2 + |dt|^2, are dc = a r / n, dt = (1 - a) r / n, n = a^2 + (1 - a)^2: opaque parts take the
    blended picture's colour, faint ones keep theirs, and nothing is amplified by more than 1.21, so soft edges get no
    fringes. Then the least that lets a colour in [0, 1] behind it make up for the rest exactly.
    """
    rest = wanted - (alpha * color + (1.0 - alpha) * behind)
    new = color + alpha * rest / (alpha**2 + (1.0 - alpha) ** 2)
    some = alpha.clamp_min(TINY)
    low, high = ((wanted - (1.0 - alpha)) / some).clamp(0.0, 1.0), (wanted / some).clamp(0.0, 1.0)
    return torch.where(alpha > TINY, torch.maximum(torch.minimum(new, high), low), color)


def seen_behind(color: Tensor, alpha: Tensor, behind: Tensor, wanted: Tensor) -> Tensor:
    """What must be seen behind a foreground to give what is wanted, in [0, 1]; `behind` where the foreground is opaque."""
    clear = 1.0 - alpha
    return torch.where(clear > TINY, ((wanted - alpha * color) / clear.clamp_min(TINY)).clamp(0.0, 1.0), behind)


def least_layer(scene: Tensor, wanted: Tensor) -> Tensor:
    """The layer of least alpha that laid over `scene` gives `wanted`: (B, H, W, 4), black where it is empty.

    Alpha is the largest share of the room between the scene and 0 or 1 that a channel needs; that channel becomes 0 or 1,
    the others are solved for. A shadow becomes a dark film, a glow a light one.
    """
    change = wanted - scene
    room = torch.where(change < 0, scene, 1.0 - scene)
    alpha = (change.abs() / room.clamp_min(TINY)).amax(dim=-1, keepdim=True).clamp(0.0, 1.0)
    color = (scene + change / alpha.clamp_min(TINY)).clamp(0.0, 1.0)
    return torch.cat([torch.where(alpha > 0, color, 0.0), alpha], dim=-1)


def worthwhile(seen: Tensor, film: Tensor, cover: Tensor, cleanliness: float) -> Tensor:
    """The share of each pixel's change of the background to keep, so that noise lays no film over it: (B, H, W, 1) in [0, 1].

    seen: what the whole change does to the picture, squared and summed over channels, so less under an object; film: the
    alpha it takes; cover: alpha of all objects together; all (B, H, W, 1). Keeping a share s costs s film and leaves
    (1 - s)^2 seen; at a price of l for alpha the best is s = 1 - l film / (2 seen), both taken around the pixel (a narrow
    Gaussian mean), so that a shadow has no holes. The price is `WORTH` far from any object and `NEAR` of it on
    and beside one. Where the mean alpha far away would still be above `FILM` the price there rises until it is not: a
    picture has that much film for what differs most, and two pictures that do not quite show one scene get no film over
    all of it. Cleanliness c, 0 < c <= 1, makes prices c / (1 - c) times as high and the film (1 - c) / c times as thick: 1
    keeps nothing far away and nearly nothing close by.
    """
    side = max(seen.shape[1:3])
    near = _mean_around(_grown((cover / OBJECT).clamp_max(1.0), max(1, round(side * REACH))), side * SOFTNESS)
    far, factor = 1.0 - near, cleanliness / max(1.0 - cleanliness, TINY)
    loss = _mean_around(film, side * AROUND) / (2.0 * _mean_around(seen, side * AROUND)).clamp_min(TINY**2)

    def kept(price: Tensor) -> Tensor:
        return (1.0 - (far * price + near * (WORTH * NEAR * factor)) * loss).clamp(0.0, 1.0)

    low = torch.full_like(loss[:, :1, :1], WORTH * factor)
    high = low.clamp_min(HIGHEST)
    most = FILM / factor * far.sum(dim=(1, 2, 3), keepdim=True)
    for _ in range(HALVINGS):
        price = (low * high).sqrt()
        thick = (kept(price) * film * far).sum(dim=(1, 2, 3), keepdim=True) > most
        low, high = torch.where(thick, price, low), torch.where(thick, high, price)
    return kept(high)


def _over(layers: Sequence[Tensor], picture: Tensor, linear_light: bool = False) -> Tensor:
    """Layers, the rearmost first, laid over a picture."""
    for layer in layers:
        picture = alpha_over(layer, picture, linear_light)
    return picture


def _grown(x: Tensor, radius: int) -> Tensor:
    """The largest value within a square of `radius` pixels to each side, (B, H, W, 1)."""
    x = x.movedim(-1, 1)
    for rows, columns in ((radius, 0), (0, radius)):
        x = F.max_pool2d(x, (2 * rows + 1, 2 * columns + 1), stride=1, padding=(rows, columns))
    return x.movedim(1, -1)


def _mean_around(x: Tensor, sigma: float) -> Tensor:
    """Gaussian mean of (B, H, W, 1), border pixels repeated."""
    radius = max(1, round(3 * sigma))
    at = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    weights = torch.softmax(-0.5 * (at / max(sigma, 0.3)) ** 2, dim=0)
    x = F.pad(x.movedim(-1, 1), (radius,) * 4, mode="replicate")
    x = F.conv2d(F.conv2d(x, weights.reshape(1, 1, 1, -1)), weights.reshape(1, 1, -1, 1))
    return x.movedim(1, -1)


def _same(x: Tensor) -> Tensor:
    return x
