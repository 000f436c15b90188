"""Noise of the streams: the same for all streams of a sample, at the start and in every step, as a lone run would get it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.sample
import torch
from comfy.samplers import Sampler
from torch.utils._python_dispatch import TorchDispatchMode

from ...method.options import NoiseMode
from ...method.streams import Layers, StreamLayout


def stream_noise(noise: torch.Tensor, rows: int, seed: int | None, mode: NoiseMode, layout: StreamLayout) -> torch.Tensor:
    """Start noise (rows, C, h, w) of all streams of what a noise node drew: for N samples, or for their N * S rows.

    shared: of noise for all rows, the first N are every stream's: they are what a run of N gets. independent: the
    foreground keeps the noise, stream i draws with seed + i. ValueError for any other count of rows.
    """
    count = rows // layout.count
    if noise.shape[0] == count:
        if mode is NoiseMode.INDEPENDENT and seed is not None and noise.any():
            own = [comfy.sample.prepare_noise(noise, (seed + i) % 2**64) for i in range(1, layout.count)]
            return layout.stack(Layers.of([noise, *own]))
        return noise.repeat_interleave(layout.count, dim=0)
    if noise.shape[0] != rows:
        raise ValueError(
            f"expected noise for {count} pictures or {rows} rows of streams, got {noise.shape[0]}: a node changed the batch "
            "between LayerFusion Stack Latents and the sampler; change it before Stack Latents"
        )
    groups = layout.grouped(noise)
    if mode is NoiseMode.SHARED and not torch.equal(groups, groups[:, :1].expand_as(groups)):
        return noise[:count].repeat_interleave(layout.count, dim=0)
    return noise


class StepNoise(TorchDispatchMode):
    """Draws what samplers add in their steps once per sample: random numbers for N * S rows become N, repeated.

    Acts inside the samplers that `shared` gives, on whatever draws there (Gaussian and Brownian noise, churn, samplers of
    other packs), and not inside `paused`. A stream then sees the noise that the stock sampler gives a batch of these N
    samples. Numbers that a sampler draws row by row, or without torch, stay as they are.
    """

    def __init__(self, layout: StreamLayout):
        super().__init__()
        self._layout = layout
        self._shape = torch.Size()  # of the rows, while a sampler runs

    def shared(self, sampler: Sampler) -> Sampler:
        """A copy of `sampler` that runs with its draws shared."""
        out = copy.copy(sampler)

        def sample(model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
            self._shape = noise.shape
            with self:
                try:
                    return sampler.sample(model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs)
                finally:
                    self._shape = torch.Size()

        out.sample = sample
        return out

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While it lasts, in a sampler: nothing stands between torch and the model."""
        if not self._shape:
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        fewer = [self._per_sample(value) for value in args]
        options = {key: self._per_sample(value) for key, value in kwargs.items()}
        if all(new is old for new, old in zip((*fewer, *options.values()), (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        drawn = func(*fewer, **options).repeat_interleave(self._layout.count, dim=0)
        return kwargs.get("out", args[0]).copy_(drawn) if func._schema.is_mutable else drawn

    def _per_sample(self, value: Any) -> Any:
        """`value` for N rows where it is a tensor or a size for all rows."""
        rows, dims, count = self._shape[0], len(self._shape), self._layout.count
        if isinstance(value, torch.Tensor) and value.ndim == dims and value.shape[0] == rows:
            return self._layout.grouped(value)[:, 0].clone()
        if isinstance(value, (list, tuple)) and len(value) == dims and value[0] == rows:
            return type(value)((rows // count, *value[1:]))
        return value
