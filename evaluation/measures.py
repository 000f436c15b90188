"""Measures of layered results that need no ground truth, per picture.

Pictures are (B, H, W, 3) sRGB in [0, 1], alphas (B, H, W) in [0, 1] with 1 = opaque, regions (B, H, W) bool. Every
function returns one fp32 number per picture, (B,); NaN where there is nothing to measure (an empty region, a flat
picture). Lengths scale with the longer side L, so pictures of different sizes compare: at 128 px they are the numbers
in brackets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..layerfusion_core.layers import matching
from ..layerfusion_core.layers.compositing import alpha_over

OBJECT = 0.25  # alpha of the faintest pixel that counts as object: glass bodies lie near 0.4
SOLID = 0.75  # alpha from which a pixel shows the object's colour rather than what is behind it
BEST_PSNR = 60.0  # dB; MSE below 1e-6 is finer than 8-bit pictures can hold
FLAT = 1 / 255  # high-pass standard deviation below which there is no pattern to correlate


def luma(picture: Tensor) -> Tensor:
    """Rec. 601 luma of (B, H, W, 3): 0.299 R + 0.587 G + 0.114 B, (B, H, W) in [0, 1]."""
    return picture.float() @ picture.new_tensor([0.299, 0.587, 0.114]).float()


def outside(alpha: Tensor) -> Tensor:
    """Region at least L / 16 [8 px] away from the object (alpha > 0.25)."""
    return ~dilate(alpha > OBJECT, max(1, round(max(alpha.shape[-2:]) / 16)))


def inside(alpha: Tensor) -> Tensor:
    """Region of the object: alpha > 0.25."""
    return alpha > OBJECT


def dilate(region: Tensor, radius: int) -> Tensor:
    """Region grown by a square of `radius` pixels on each side."""
    grown = F.max_pool2d(region[:, None].float(), 2 * radius + 1, stride=1, padding=radius)
    return grown[:, 0] > 0


def psnr(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio 10 log10(1 / MSE) over the pixels of `region` (default: all), dB, at most 60."""
    error = (a.float() - b.float()).square().mean(dim=-1)
    return -10.0 * torch.log10(_mean(error, region).clamp_min(10 ** (-BEST_PSNR / 10)))


def ssim(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """Structural similarity of the luma (Wang et al. 2004: Gaussian window of 1.5 px, K1 = 0.01, K2 = 0.03), [-1, 1].

    Only pixels of `region` enter the windows, so what lies outside of it has no influence near its edge.
    """
    x, y = luma(a), luma(b)
    weight = _weight(x, region)
    mx, my = _local_mean(x, weight, 1.5), _local_mean(y, weight, 1.5)
    vx = _local_mean(x * x, weight, 1.5) - mx * mx
    vy = _local_mean(y * y, weight, 1.5) - my * my
    cov = _local_mean(x * y, weight, 1.5) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return _mean(similarity, region)


def high_pass_correlation(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """Pearson correlation of the two lumas' fine structure in `region`, [-1, 1]: do they show the same pattern?

    Fine structure is the luma minus its Gaussian blur of L / 32 [4 px], taken over the pixels of `region` only. NaN
    where one of the two is flat (standard deviation below one 8-bit level).
    """
    x, y = luma(a), luma(b)
    weight, sigma = _weight(x, region), max(x.shape[-2:]) / 32
    x, y = x - _local_mean(x, weight, sigma), y - _local_mean(y, weight, sigma)
    x, y = x - _mean(x, region)[:, None, None], y - _mean(y, region)[:, None, None]
    vx, vy, cov = _mean(x * x, region), _mean(y * y, region), _mean(x * y, region)
    flat = torch.minimum(vx, vy) < FLAT**2
    return torch.where(flat, torch.nan, cov / (vx * vy).clamp_min(1e-12).sqrt())


def soft_iou(a: Tensor, b: Tensor) -> Tensor:
    """Soft intersection over union of two alphas, sum(min) / sum(max), [0, 1]; 1 = equal, NaN when both are empty."""
    low, high = torch.minimum(a, b).sum(dim=(-2, -1)), torch.maximum(a, b).sum(dim=(-2, -1))
    return torch.where(high > 0, low / high.clamp_min(1e-12), torch.nan)


def object_share(picture: Tensor, foreground: Tensor, alpha: Tensor, colours: int = 400) -> Tensor:
    """Share of the object's pixels that `picture` shows as object, [0, 1]: near 1 if blended, near 0 in a background.

    foreground: its straight colours. A pixel p inside the object is compared with the nearest colour s that `picture`
    shows outside of it, and with the foreground's colour f. It counts as object when its place between the two,
    (p - s).(f - s) / |f - s|^2, is above alpha / 2: a glass pixel that shows the object lies at alpha. `colours` of the
    outside, evenly picked, make the comparison. NaN where the object or the outside has less than 16 pixels.
    """
    shares = []
    for p, f, a, near, far in zip(picture.float(), foreground.float(), alpha.float(), inside(alpha), outside(alpha)):
        if near.sum() < 16 or far.sum() < 16:
            shares.append(torch.tensor(torch.nan))
            continue
        scene = p[far]
        scene = scene[:: max(1, len(scene) // colours)]
        p, f, a = p[near], f[near], a[near]
        s = scene[torch.cdist(p, scene).argmin(dim=1)]
        place = ((p - s) * (f - s)).sum(-1) / (f - s).square().sum(-1).clamp_min(1e-6)
        shares.append((place > a / 2).float().mean())
    return torch.stack(shares).cpu()


def shadow(background: Tensor, blended: Tensor, alpha: Tensor) -> Tensor:
    """How much darker the blended picture is than the background right beside the object than far from it, luma.

    Beside: within L / 16 [8 px] of alpha > 0.25, but 2 % of L [3 px] away from it. Above 0: a shadow that the blended
    picture has and the background has not; range [-1, 1].
    """
    drop, side = luma(background) - luma(blended), max(alpha.shape[-2:])
    beside = ~outside(alpha) & ~dilate(inside(alpha), max(1, round(side / 50)))
    return _mean(drop, beside) - _mean(drop, outside(alpha))


def layer_measures(foreground: Tensor, alpha: Tensor, background: Tensor, blended: Tensor) -> dict[str, Tensor]:
    """All measures of a batch of trios by name, (B,) each; foreground: straight colours (B, H, W, 3).

    outside_psnr, outside_ssim, outside_corr: blended against background away from the object (higher: one scene).
    leak_corr: fine structure of the background against the foreground inside the object (0: none of it). leak_psnr:
    background against foreground inside, dB (lower: cleaner; finds flat leaks, which leak_corr does not).
    leak_share, shown_share: `object_share` of the background and of the blended picture. inside_psnr: blended against
    foreground where alpha > 0.75. over_psnr: the foreground laid over the background (sRGB values) against blended.
    shadow: `shadow`. Then those of `alpha_measures` and of `matched`.
    """
    far, near = outside(alpha), inside(alpha)
    rgba = torch.cat((foreground, alpha[..., None]), dim=-1)
    over = alpha_over(rgba, background)
    return {
        "outside_psnr": psnr(blended, background, far),
        "outside_ssim": ssim(blended, background, far),
        "outside_corr": high_pass_correlation(blended, background, far),
        "leak_corr": high_pass_correlation(background, foreground, near),
        "leak_psnr": psnr(background, foreground, near),
        "leak_share": object_share(background, foreground, alpha),
        "shown_share": object_share(blended, foreground, alpha),
        "inside_psnr": psnr(blended, foreground, alpha > SOLID),
        "over_psnr": psnr(over, blended),
        "shadow": shadow(background, blended, alpha),
        **alpha_measures(alpha),
        **matched(rgba, background, blended),
    }


def alpha_measures(alpha: Tensor) -> dict[str, Tensor]:
    """Statistics of alphas (B, H, W): what they cover and how.

    coverage: mean alpha, [0, 1]. components: number of connected pieces with alpha > 0.25 of at least 0.1 % of the
    picture. border: share of border pixels with alpha > 0.25, [0, 1]. semi: of all pixels with alpha > 0.05 the share
    below 0.95, [0, 1] (edges and glass).
    """
    solid = inside(alpha).float()
    border = torch.cat((solid[:, 0], solid[:, -1], solid[:, 1:-1, 0], solid[:, 1:-1, -1]), dim=1)
    some = alpha > 0.05
    return {
        "coverage": alpha.float().mean(dim=(-2, -1)),
        "components": components(alpha),
        "border": border.mean(dim=1),
        "semi": _mean((alpha < 0.95).float(), some),
    }


def components(alpha: Tensor, smallest: float = 0.001) -> Tensor:
    """Number of 8-connected pieces of alpha > 0.25 that hold at least `smallest` of the picture's pixels."""
    labels = [ndimage.label(one, np.ones((3, 3)))[0] for one in inside(alpha).cpu().numpy()]
    return torch.tensor([float((np.bincount(one.ravel())[1:] >= smallest * one.size).sum()) for one in labels])


def matched(foreground: Tensor, background: Tensor, blended: Tensor) -> dict[str, Tensor]:
    """What Match Layers makes of trios, foreground (B, H, W, 4), rounded as 8-bit files hold it.

    matched_psnr: all layers laid over each other against the blended picture, dB. film: mean alpha of the effects away from
    the object, [0, 1].
    """
    found = matching.match_layers([foreground], background, blended)
    layers = matching.Matched([rounded(layer) for layer in found.foregrounds], rounded(found.effects))
    return {
        "matched_psnr": psnr(matching.flattened(layers, rounded(background)), blended),
        "film": _mean(found.effects[..., 3], outside(foreground[..., 3])),
    }


def rounded(x: Tensor) -> Tensor:
    """Values in [0, 1] as 8-bit files hold them."""
    return (x * 255).round() / 255


def mask_flicker(masks: Sequence[Tensor]) -> Tensor:
    """Mean change of a mask between consecutive model evaluations, mean |m_t - m_(t-1)|, [0, 1]; 0 = a steady mask.

    masks: one (B, h, w) per evaluation, as `PriorRecord.images` gives them. NaN for fewer than two.
    """
    steps = [(b.float() - a.float()).abs().mean(dim=(-2, -1)) for a, b in zip(masks[:-1], masks[1:])]
    if not steps:
        return torch.full((masks[0].shape[0] if len(masks) else 1,), torch.nan)
    return torch.stack(steps).mean(dim=0)


def _weight(x: Tensor, region: Tensor | None) -> Tensor:
    return torch.ones_like(x) if region is None else region.float()


def _mean(values: Tensor, region: Tensor | None) -> Tensor:
    """Mean of (B, H, W) over the region; NaN where that is empty."""
    weight = _weight(values, region)
    count = weight.sum(dim=(-2, -1))
    return torch.where(count > 0, (values * weight).sum(dim=(-2, -1)) / count.clamp_min(1.0), torch.nan)


def _local_mean(values: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Gaussian-weighted mean around every pixel over the pixels with weight 1 (normalised convolution), (B, H, W)."""
    return _blur(values * weight, sigma) / _blur(weight, sigma).clamp_min(1e-6)


def _blur(values: Tensor, sigma: float) -> Tensor:
    found = ndimage.gaussian_filter(values.float().cpu().numpy(), (0, sigma, sigma), mode="constant", truncate=3.0)
    return torch.from_numpy(found).to(values.device)
