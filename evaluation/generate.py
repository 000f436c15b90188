"""Trios of layers in batches on a ComfyUI host, each the same whatever batch it is made in."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management
import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..layerfusion_core.host.sampling.conditioning import EOS_KEY, encode_prompt
from ..layerfusion_core.host.sampling.ksampler import sample_layers
from ..layerfusion_core.layers.compositing import alpha_over
from ..layerfusion_core.method.options import LayerFusionOptions
from ..layerfusion_core.method.prior_maps import PriorRecord
from ..layerfusion_core.method.streams import Layers
from .experiments import BLENDINGS, WORDS, with_words
from .layerdiffuse import three_runs
from .measures import mask_flicker
from .methods import LAYERDIFFUSE, Method
from .models import Models, Settings
from .prompts import Pair


@dataclass(frozen=True)
class Trios:
    """A batch of layers: straight colours, alpha (B, H, W) with 1 = opaque, pictures (B, H, W, 3) in [0, 1].

    flicker: `mask_flicker` of the last block's soft mask, (B,); seconds, cpu_seconds: per trio, sampling and decoding;
    the second is this process's time on the CPU, which other processes on the machine do not lengthen. memory: the most
    that was taken of a GPU meanwhile, GB; NaN without one.
    """

    foreground: Tensor
    alpha: Tensor
    background: Tensor
    blended: Tensor
    flicker: Tensor
    seconds: float
    cpu_seconds: float
    memory: float = math.nan

    def pasted(self) -> Trios:
        """The sequential baseline: the blended picture is the foreground laid over the background."""
        rgba = torch.cat((self.foreground, self.alpha[..., None]), dim=-1)
        return Trios(self.foreground, self.alpha, self.background, alpha_over(rgba, self.background),
                     torch.full_like(self.flicker, torch.nan), 0.0, 0.0)  # fmt: skip


class Generator:
    """Makes trios with one set of models; keeps encoded prompts, which recur in every method."""

    def __init__(self, models: Models, settings: Settings) -> None:
        self.models, self.settings = models, settings
        self._texts: dict[str, list] = {}

    def groups(self, pairs: list[Pair], size: int) -> list[list[Pair]]:
        """Batches of at most `size` pairs that can be run together: one batch has one <EOS> column for all its rows."""
        columns: dict[object, list[Pair]] = {}
        for pair in pairs:
            columns.setdefault(str(self._text(pair.foreground)[0][1].get(EOS_KEY)), []).append(pair)
        return [group[i : i + size] for group in columns.values() for i in range(0, len(group), size)]

    def trios(self, method: Method, pairs: list[Pair]) -> Trios:
        """The layers of `pairs` (one group) with the method's options. A pair's noise follows from its index alone."""
        started = time.perf_counter(), time.process_time()
        on_gpu = comfy.model_management.get_torch_device().type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        layers, flicker = self._three_runs(pairs) if method.name == LAYERDIFFUSE else self._one_run(method, pairs)
        memory = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else math.nan
        now = time.perf_counter(), time.process_time()
        seconds, cpu_seconds = ((end - start) / len(pairs) for start, end in zip(started, now))
        return Trios(*layers, flicker, seconds, cpu_seconds, memory)

    def _three_runs(self, pairs: list[Pair]) -> tuple[Sequence[Tensor], Tensor]:
        return three_runs(self, pairs), torch.full((len(pairs),), torch.nan)

    def _one_run(self, method: Method, pairs: list[Pair]) -> tuple[Sequence[Tensor], Tensor]:
        """Layers (colour, alpha, background, blended) and the flicker of the masks."""
        s = self.settings
        blended = [pair.background if method.blended_text == "background" else pair.blended_text for pair in pairs]
        texts = [[pair.foreground for pair in pairs], blended, [pair.background for pair in pairs]]
        foreground, blended, background = (self.conditioning(stream) for stream in texts)
        if method.experiment == WORDS:
            foreground = with_words(foreground)
        layers, record = sample_layers(
            self.models.base, self.models.foreground, Layers((foreground,), blended, background), self._text(""),
            self.latent(pairs), s.seed + method.seed, s.steps, s.cfg, s.sampler, s.scheduler, 1.0,
            LayerFusionOptions(**method.options), blending=BLENDINGS[method.experiment],
        )  # fmt: skip
        samples = layers.map(lambda layer: layer["samples"])
        foreground, blended, background = (self.models.vae.decode(own).float() for own in samples.streams)
        colour, alpha = self.models.transparent.decode(foreground, samples.foregrounds[0], s.ensemble)
        return (colour, alpha, background, blended), _flicker(record, len(pairs))

    def latent(self, pairs: list[Pair]) -> dict:
        """An empty LATENT for `pairs`."""
        # batch_index: the host draws noises 0, 1, 2, ... from the seed and takes these, so batches do not matter.
        side = self.settings.size // 8
        return {"samples": torch.zeros(len(pairs), 4, side, side), "batch_index": [pair.index for pair in pairs]}

    def alone(self, conditioning: list, latent: dict, model: ModelPatcher | None = None) -> Tensor:
        """Samples of a model, the foreground's by default, in the stock sampler, from the noise of the foreground stream."""
        s, samples = self.settings, latent["samples"]
        noise = comfy.sample.prepare_noise(samples, s.seed, latent["batch_index"])
        return comfy.sample.sample(
            model or self.models.foreground, noise, s.steps, s.cfg, s.sampler, s.scheduler, conditioning,
            self.conditioning([""]), samples, seed=s.seed, disable_pbar=True,
        )  # fmt: skip

    def _text(self, text: str) -> list:
        if text not in self._texts:
            self._texts[text] = encode_prompt(self.models.clip, text)
        return self._texts[text]

    def conditioning(self, texts: list[str]) -> list:
        """One CONDITIONING whose rows are the prompts; shorter ones are repeated, which attention does not notice."""
        found = [self._text(text)[0] for text in texts]
        longest = max(tensor.shape[1] for tensor, _ in found)
        if any(longest % tensor.shape[1] for tensor, _ in found):
            raise ValueError("prompts of very different lengths cannot share a batch; use a batch size of 1")
        tensor = torch.cat([tensor.repeat(1, longest // tensor.shape[1], 1) for tensor, _ in found])
        pooled = torch.cat([extra["pooled_output"] for _, extra in found])
        return [[tensor, {**found[0][1], "pooled_output": pooled}]]


def _flicker(record: PriorRecord, count: int) -> Tensor:
    if not record.maps:
        return torch.full((count,), torch.nan)
    return mask_flicker([record.images(step)["soft"] for step in range(len(record.maps))])
