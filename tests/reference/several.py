"""Several foregrounds: the method of `pipeline` with K foreground streams, each in a region of its own.

The paper names it as future work. What is added to its equations: the foregrounds lie over each other in the order in which
they are given, the first at the back, and one is opaque where it covers another; each object's mask ends at its region; and
outside of it a foreground stream is held at the empty canvas, as inpainting holds what it keeps. Background modes `share` and
`off`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .equations import grow, hard_mask, resize_structure
from .pipeline import PriorCollector, Priors, Prompt, plain_pass
from .sampling import SAMPLERS, Schedule
from .walk import Walk, advance, walk_unet


@dataclass(frozen=True)
class Foreground:
    """One object: its prompt, and its region (h, w) in [0, 1] on latent cells (None: the whole canvas)."""

    prompt: Prompt
    region: Tensor | None = None


@dataclass(frozen=True)
class SeveralOptions:
    """Settings; mode is `share` or `off`, the prior mode is exact."""

    mode: str = "share"
    hardness: float = 10.0
    strength: float = 1.0


def region_on(region: Tensor, grid: tuple[int, int]) -> Tensor:
    """A region on tokens, (M,): area average, and at its inner edge no more than the mean of a token and its neighbours."""
    rows, columns = grid
    height, width = region.shape
    area = torch.zeros(grid)
    for i in range(rows):
        for j in range(columns):
            top, left = i * height // rows, j * width // columns
            area[i, j] = region[top : math.ceil((i + 1) * height / rows), left : math.ceil((j + 1) * width / columns)].mean()
    soft = area.clone()
    for i in range(rows):
        for j in range(columns):
            soft[i, j] = min(area[i, j], area[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean())
    return soft.flatten()


def soft_mask_in(region: Tensor, s: Tensor, c: Tensor) -> Tensor:
    """norm(s' c) over the tokens of the region alone, times the region: (N, M)."""
    masks = []
    for product in s * c:
        inside = product[region > 0]
        low, high = inside.min(), inside.max()
        masks.append(((product - low) / (high - low)).clamp(0, 1) * region)
    return torch.stack(masks)


def silhouette_in(region: Tensor, structure: Tensor, grid: tuple[int, int], hardness: float) -> Tensor:
    """Where an object is within its region (M,), by its structure prior alone: s' (N, M), both on `grid` -> (N, M).

    s' is also high on the border of the canvas, whatever is there: a token on it counts as the one beside it.
    """
    rows, columns = grid
    found = torch.zeros_like(structure)
    for n, s in enumerate(structure.reshape(-1, rows, columns)):
        if min(grid) >= 3:
            s = torch.stack([
                torch.stack([s[min(max(i, 1), rows - 2), min(max(j, 1), columns - 2)] for j in range(columns)]) for i in range(rows)
            ])  # fmt: skip
        s = s.flatten()
        low, high = s[region > 0].min(), s[region > 0].max()
        found[n] = hard_mask(((s - low) / (high - low)).clamp(0, 1) * region, hardness) * region
    return found


def over_each_other(soft: list[Tensor], silhouettes: list[Tensor]) -> list[Tensor]:
    """The share that each foreground covers of what is behind it, all (N, M): opaque where an object is over another."""
    covered, nothing_behind = [], torch.ones_like(silhouettes[0])
    for mask, object_here in zip(soft, silhouettes, strict=True):
        over_another = object_here * (1 - nothing_behind)
        covered.append(mask + (1 - mask) * over_another)
        nothing_behind = nothing_behind * (1 - object_here)
    return covered


def composite(
    foregrounds: list[Tensor], blended: Tensor, background: Tensor, soft: list[Tensor], hard: list[Tensor], grown: Tensor,
    options: SeveralOptions,
) -> list[Tensor]:  # fmt: skip
    """One attention's outputs (N, M, D) of all streams, blended: foregrounds, blended, background; masks (N, M)."""
    count = len(foregrounds)
    bl = blended
    for fg, mask in zip(foregrounds, soft, strict=True):
        bl = fg * mask[..., None] + bl * (1 - mask[..., None])
    new = []
    for k, fg in enumerate(foregrounds):
        seen = hard[k]
        for front in range(k + 1, count):
            seen = seen * (1 - soft[front])
        new.append(bl * seen[..., None] + fg * (1 - seen[..., None]))
    bg = background
    if options.mode == "share":
        around = grown[..., None]
        scene = (bl + bg) / 2
        bl, bg = bl * around + scene * (1 - around), bg * around + scene * (1 - around)
    old = [*foregrounds, blended, background]
    return [torch.lerp(a, b, options.strength) for a, b in zip(old, [*new, bl, bg], strict=True)]


class SeveralModel:
    """denoised = model(x, sigma) for x (K + 2, N, 4, h, w): foregrounds, blended, background."""

    def __init__(
        self, eps: nn.Module, eps_fg: nn.Module, foregrounds: list[Foreground], blended: Prompt, background: Prompt,
        negative: Prompt, cfg: float, options: SeveralOptions, schedule: Schedule,
    ) -> None:  # fmt: skip
        self.foregrounds, self.count = foregrounds, len(foregrounds)
        self.unets = [eps_fg] * self.count + [eps, eps]
        self.positive = [*(f.prompt for f in foregrounds), blended, background]
        self.negative = [negative] * (self.count + 2)
        self.cfg, self.options, self.schedule = cfg, options, schedule

    def walks(self, x: Tensor, sigma: Tensor, prompts: list[Prompt]) -> list[Walk]:
        z, t = x / torch.sqrt(sigma**2 + 1), self.schedule.timestep(sigma)
        rows = zip(self.unets, z, prompts)
        return [walk_unet(unet, one, t, prompt.y, prompt.context) for unet, one, prompt in rows]

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        if self.options.strength == 0:
            positive, negative = ([plain_pass(w) for w in self.walks(x, sigma, p)] for p in (self.positive, self.negative))
        else:
            priors = []
            for k, walk in enumerate(self.walks(x, sigma, self.positive)[: self.count]):
                collector = PriorCollector(self.foregrounds[k].prompt.eos)
                plain_pass(walk, collector.see)
                priors.append(collector.priors())
            blend = self.blending(priors)
            positive, negative = (together(self.walks(x, sigma, p), blend) for p in (self.positive, self.negative))
        positive, negative = torch.stack(positive), torch.stack(negative)
        return x - sigma * (negative + self.cfg * (positive - negative))

    def blending(self, priors: list[Priors]) -> Callable[[str, list[Tensor]], list[Tensor]]:
        masks: dict[str, tuple[list[Tensor], list[Tensor], Tensor]] = {}
        for block, grid in priors[0].grids.items():
            soft, silhouettes = [], []
            for own, foreground in zip(priors, self.foregrounds, strict=True):
                s = resize_structure(own.structure, own.structure_grid, grid)
                region = torch.ones(own.structure_grid) if foreground.region is None else foreground.region
                soft.append(soft_mask_in(region_on(region, grid), s, own.content[block]))
                fine, hardness = own.structure_grid, self.options.hardness
                silhouette = silhouette_in(region_on(region, fine), own.structure, fine, hardness)
                silhouettes.append(resize_structure(silhouette, fine, grid))
            hard = [hard_mask(mask, self.options.hardness) for mask in soft]
            masks[block] = over_each_other(soft, silhouettes), hard, grow(torch.stack(hard).amax(dim=0), grid)

        def blend(block: str, outputs: list[Tensor]) -> list[Tensor]:
            *foregrounds, blended, background = outputs
            return composite(foregrounds, blended, background, *masks[block], self.options)

        return blend


def together(walks: list[Walk], blend: Callable[[str, list[Tensor]], list[Tensor]]) -> list[Tensor]:
    """Advance all streams in step and blend wherever they stop: a noise prediction each."""
    steps = [advance(walk, None) for walk in walks]
    while steps[0][0] is not None:
        outputs = blend(steps[0][0].block, [at.output for at, _ in steps])
        steps = [advance(walk, output) for walk, output in zip(walks, outputs, strict=True)]
    return [noise for _, noise in steps]


@torch.no_grad()
def several(
    eps: nn.Module, eps_fg: nn.Module, foregrounds: list[Foreground], blended: Prompt, background: Prompt,
    negative: Prompt, noise: Tensor, sigmas: Tensor, cfg: float, canvas: Tensor | None = None,
    options: SeveralOptions | None = None, sampler: str = "euler",
) -> list[Tensor]:  # fmt: skip
    """Latents (N, 4, h, w) in model space of foregrounds (rearmost first), blended and background.

    noise: (N, 4, h, w), shared; canvas: (4,) an empty foreground's latent in model space, held outside the regions: a cell
    of which a region covers the share r for the first (1 - r) of the steps, or for all of them where r is 0.
    """
    schedule, count, steps = Schedule(), len(foregrounds), len(sigmas) - 1
    model = SeveralModel(eps, eps_fg, foregrounds, blended, background, negative, cfg, options or SeveralOptions(), schedule)
    start = torch.zeros(count + 2, *noise.shape)
    steps_held = torch.zeros(count + 2, 1, 1, *noise.shape[-2:])
    for k, foreground in enumerate(foregrounds):
        if foreground.region is not None:
            outside = foreground.region < 1
            start[k] = torch.where(outside, canvas[:, None, None], start[k])
            share = torch.floor((1 - foreground.region) * steps + 1e-4)
            steps_held[k, 0, 0] = torch.where(foreground.region <= 0, math.inf, share)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        step = int((sigmas[:-1] - sigma).abs().argmin())
        held = steps_held > step
        x = torch.where(held, start + sigma * noise, x)
        return torch.where(held, start, model(x, sigma))

    x = schedule.initial_latent(noise.expand(count + 2, *noise.shape).clone(), sigmas[0]) + start
    x = SAMPLERS[sampler](denoise, x, sigmas)
    return list(torch.where(torch.isinf(steps_held), start, x))
