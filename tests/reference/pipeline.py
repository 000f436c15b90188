"""The whole method: three streams denoised in lock step by two UNets that meet at their attention outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .equations import (
    Streams,
    blend,
    content_confidence,
    grow,
    hard_mask,
    one_scene,
    resize_structure,
    soft_mask,
    structure_prior,
    surround,
)
from .sampling import SAMPLERS, Schedule
from .walk import AttentionOutput, Walk, advance, walk_unet

Grid = tuple[int, int]


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt: context (1|N, tokens, D), y (1|N, adm), and the EOS columns of context (None: unknown)."""

    context: Tensor
    y: Tensor
    eos: list[int] | None = None


@dataclass(frozen=True)
class Prompts:
    """A positive prompt per stream and one negative for all (not used at cfg 1)."""

    foreground: Prompt
    background: Prompt
    blended: Prompt
    negative: Prompt | None = None


@dataclass(frozen=True)
class Options:
    """Settings of the method; the defaults are the paper's."""

    background_mode: str = "adapt"  # one of BACKGROUND_MODES
    prior_mode: str = "exact"  # exact | previous_step
    hardness: float = 10.0
    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0
    attentions: tuple[str, ...] = ("attn1", "attn2")


@dataclass
class Priors:
    """What one FG pass tells: the last self-attention's s' and every block's c, by block name."""

    structure: Tensor  # (N, h * w)
    structure_grid: Grid
    content: dict[str, Tensor]  # (N, M) each
    grids: dict[str, Grid]


@dataclass
class Evaluation:
    """Record of one model evaluation; maps as (N, h, w), dicts by transformer block, all empty when not blended."""

    sigma: float
    structure: Tensor | None = None
    content: dict[str, Tensor] = field(default_factory=dict)
    soft: dict[str, Tensor] = field(default_factory=dict)
    hard: dict[str, Tensor] = field(default_factory=dict)


class PriorCollector:
    """Reads the priors off the attention outputs of one foreground walk, block after block."""

    def __init__(self, eos: list[int] | None) -> None:
        self.eos = eos
        self.content: dict[str, Tensor] = {}
        self.grids: dict[str, Grid] = {}
        self.last_self: AttentionOutput | None = None

    def see(self, at: AttentionOutput) -> None:
        if at.site == "attn1":
            self.last_self = at
        else:
            self.content[at.block] = content_confidence(at.probabilities, self.eos)
            self.grids[at.block] = at.grid

    def priors(self) -> Priors:
        structure = structure_prior(self.last_self.probabilities)
        return Priors(structure, self.last_self.grid, self.content, self.grids)


def plain_pass(walk: Walk, see: Callable[[AttentionOutput], None] | None = None) -> Tensor:
    """An ordinary UNet pass; `see` may look at every attention output."""
    at, noise = advance(walk, None)
    while at is not None:
        if see:
            see(at)
        at, noise = advance(walk, at.output)
    return noise


def masks_of(priors: Priors, hardness: float) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """(mask_soft, mask_hard, mask_hard grown by a token), each (N, M), for every transformer block."""
    masks = {}
    for block, c in priors.content.items():
        s = resize_structure(priors.structure, priors.structure_grid, priors.grids[block])
        soft = soft_mask(s, c)
        hard = hard_mask(soft, hardness)
        masks[block] = (soft, hard, grow(hard, priors.grids[block]))
    return masks


def blended_pass(
    walks: Streams,
    masks: dict[str, tuple[Tensor, Tensor, Tensor]],
    options: Options,
    see_foreground: Callable[[AttentionOutput], None] | None = None,
) -> list[Tensor]:
    """Advance the three streams together and blend wherever they stop: three noise predictions."""
    steps = [advance(walk, None) for walk in walks]
    while steps[0][0] is not None:
        at = Streams(*(step[0] for step in steps))
        here = at.foreground
        if see_foreground:
            see_foreground(here)
        outputs = Streams(*(stream.output for stream in at))
        if here.site in options.attentions:
            outputs = blend(outputs, *masks[here.block], options.background_mode, here.site, options.strength)
        steps = [advance(walk, output) for walk, output in zip(walks, outputs, strict=True)]
    return [step[1] for step in steps]


class LayerFusionModel:
    """denoised = model(x, sigma) for the three streams at once: x (3, N, 4, h, w) in the order FG, BL, BG."""

    def __init__(
        self, eps: nn.Module, eps_fg: nn.Module, prompts: Prompts, cfg: float, options: Options, schedule: Schedule
    ) -> None:
        if options.prior_mode not in ("exact", "previous_step"):
            raise ValueError(f"Unknown prior mode {options.prior_mode!r}: use exact or previous_step.")
        if cfg != 1 and prompts.negative is None:
            raise ValueError(f"cfg {cfg} needs a negative prompt; cfg 1 runs without one.")
        self.unets = Streams(eps_fg, eps, eps)
        self.positive = Streams(prompts.foreground, prompts.blended, prompts.background)
        self.negative = Streams(*[prompts.negative] * 3)
        self.cfg, self.options, self.schedule = cfg, options, schedule
        self.previous: Priors | None = None  # previous_step: the maps of the evaluation before
        self.record: list[Evaluation] = []

    def blends_at(self, sigma: float) -> bool:
        start = self.schedule.percent_to_sigma(self.options.start_percent)
        end = self.schedule.percent_to_sigma(self.options.end_percent)
        return self.options.strength != 0 and end < sigma <= start

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        model_input = x / torch.sqrt(sigma**2 + 1)
        timestep = self.schedule.timestep(sigma)

        def walks(prompts: Streams) -> Streams:
            triples = zip(self.unets, model_input, prompts, strict=True)
            return Streams(*(walk_unet(unet, z, timestep, prompt.y, prompt.context) for unet, z, prompt in triples))

        self.record.append(Evaluation(float(sigma)))
        if self.blends_at(float(sigma)):
            positive, negative = self.blended(walks)
        else:
            positive = [plain_pass(walk) for walk in walks(self.positive)]
            negative = [plain_pass(walk) for walk in walks(self.negative)] if self.cfg != 1 else None

        noise = torch.stack(positive)
        if negative is not None:
            unconditional = torch.stack(negative)
            noise = unconditional + self.cfg * (noise - unconditional)
        return self.one_scene(x - sigma * noise)

    def one_scene(self, predictions: Tensor) -> Tensor:
        """Background mode one_scene on the guided predictions (3, N, 4, h, w), by the priors at the last block."""
        now, options = self.record[-1], self.options
        if options.background_mode != "one_scene" or not now.soft:
            return predictions
        soft = now.soft[next(reversed(now.soft))]  # (N, h', w'), on the grid of the last self-attention
        around = surround(now.structure.flatten(1), soft.flatten(1), soft.shape[-2:], options.hardness)
        return torch.stack(one_scene(Streams(*predictions), around, soft.shape[-2:], options.strength))

    def blended(self, walks: Callable[[Streams], Streams]) -> tuple[list[Tensor], list[Tensor] | None]:
        """Noise predictions of the positive and the negative prompts, blended by the same masks."""
        eos = self.positive.foreground.eos
        priors = self.previous
        if self.options.prior_mode == "exact" or priors is None:
            collector = PriorCollector(eos)
            plain_pass(walks(self.positive).foreground, collector.see)
            priors = collector.priors()
        masks = masks_of(priors, self.options.hardness)
        self.keep(priors, masks)

        collector = PriorCollector(eos)
        positive = blended_pass(walks(self.positive), masks, self.options, collector.see)
        if self.options.prior_mode == "previous_step":
            self.previous = collector.priors()
        negative = blended_pass(walks(self.negative), masks, self.options) if self.cfg != 1 else None
        return positive, negative

    def keep(self, priors: Priors, masks: dict[str, tuple[Tensor, Tensor, Tensor]]) -> None:
        def images(maps: dict[str, Tensor]) -> dict[str, Tensor]:
            return {block: m.unflatten(-1, priors.grids[block]) for block, m in maps.items()}

        evaluation = self.record[-1]
        evaluation.structure = priors.structure.unflatten(-1, priors.structure_grid)
        evaluation.content = images(priors.content)
        evaluation.soft = images({block: soft for block, (soft, _, _) in masks.items()})
        evaluation.hard = images({block: hard for block, (_, hard, _) in masks.items()})


@torch.no_grad()
def layerfusion(
    eps: nn.Module,
    eps_fg: nn.Module,
    prompts: Prompts,
    noise: Tensor | Streams | Sequence[Tensor],
    sigmas: Tensor,
    cfg: float,
    options: Options | None = None,
    sampler: str = "euler",
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Generate the three layers' latents.

    noise: (N, 4, h, w) unit noise shared by the streams, or three of them in the order foreground, blended, background.
    sigmas: (steps + 1,). progress: called with (step, steps) after every model evaluation.

    Returns `foreground`, `background`, `blended`: latents (N, 4, h, w) in model space (VAE latent * 0.13025), and
    `priors`: a list with one Evaluation per model evaluation.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"The reference knows the samplers {', '.join(SAMPLERS)}, not {sampler!r}.")
    schedule = Schedule()
    sigmas = torch.as_tensor(sigmas, dtype=torch.float32)
    streams = [noise] * 3 if isinstance(noise, Tensor) else list(noise)
    x = schedule.initial_latent(torch.stack(streams).float(), sigmas[0])

    model = LayerFusionModel(eps, eps_fg, prompts, cfg, options or Options(), schedule)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = model(x, sigma)
        if progress:
            progress(len(model.record), len(sigmas) - 1)
        return denoised

    foreground, blended, background = SAMPLERS[sampler](denoise, x, sigmas)
    return {"foreground": foreground, "background": background, "blended": blended, "priors": model.record}
