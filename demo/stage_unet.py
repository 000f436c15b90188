"""Stage `unet`: trains the base U-Net and the foreground deltas together, in one resumable run.

Each batch starts with foreground rows (an object on mid-grey), which pass through base + deltas; the other rows
(backgrounds, composites, a few plain grey canvases) pass through the base alone. On a GPU the whole step, from the
forward pass to the optimiser, is one CUDA graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import unet
from common import Average, Clock, Settings, log, rate
from stage_latents import FILE, WORDINGS
from torch import Tensor

PEAK_RATE = 1.2e-3
BETAS = (0.9, 0.985)
WEIGHT_DECAY = 0.01
FOREGROUND_SHARE = 0.32
EXPORT_MINUTES = 10.0
LOG_STEPS = 200


def schedule() -> Tensor:
    """SDXL's cumulative alphas (1000,): scaled-linear betas from 0.00085 to 0.012."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()


class Batches:
    """Random training rows from the cached latents, put together on the device."""

    def __init__(self, settings: Settings, batch: int):
        self.data = torch.load(settings.work / FILE, map_location=settings.device)
        self.batch, self.foreground = batch, round(FOREGROUND_SHARE * batch)
        self.device = settings.device
        self.alphas = schedule().to(self.device)

    def draw(self) -> tuple[Tensor, ...]:
        """x (B, 4, h, w), t (B,), context, pooled, noise, loss weight (B,)."""
        d, b, n, on = self.data, self.batch, self.foreground, self.device
        scene = torch.randint(len(d["latents"]), (b,), device=on)
        wording = torch.randint(WORDINGS, (b,), device=on)
        u = torch.rand(b, device=on)
        kind = torch.where(u < 0.30, 1, 2)  # 0 foreground, 1 background, 2 composite
        kind[:n] = 0
        column = torch.where((u > 0.88) & (kind == 2), 0, kind)  # composites captioned with the object only
        x0 = d["latents"][scene, kind].float()
        caption = d["captions"][scene, WORDINGS * column + wording]
        grey = (u > 0.97) & (kind == 2)
        x0 = torch.where(grey.view(-1, 1, 1, 1), d["grey"], x0)
        caption = torch.where(grey, 1, caption)
        return self.noisy(x0, caption)

    def noisy(self, x0: Tensor, caption: Tensor) -> tuple[Tensor, ...]:
        """The rows of `draw` for latents (B, 4, h, w) and the numbers of their captions (B,)."""
        d, b, on = self.data, len(x0), self.device
        caption = torch.where(torch.rand(b, device=on) < 0.10, 0, caption)
        # stratified over the batch, tilted towards high noise, where shapes and colours are decided
        strata = (torch.randperm(b, device=on) + torch.rand(b, device=on)) / b
        t = (1000 * strata**0.75).long().clamp(max=999)
        a = self.alphas[t]
        snr = a / (1 - a)
        weight = snr.clamp(max=5) / snr * (1 + 1 / snr).sqrt().clamp(max=4)
        noise = torch.randn_like(x0)
        x = a.sqrt().view(-1, 1, 1, 1) * x0 + (1 - a).sqrt().view(-1, 1, 1, 1) * noise
        return x, t, d["context"][caption].float(), d["pooled"][caption], noise, weight


class Step:
    """One training step on given rows: gradients and AdamW."""

    def __init__(self, settings: Settings, model: torch.nn.Module, compiled: bool = False):
        self.settings, self.model = settings, model
        on_gpu = settings.device != "cpu"
        self.rate = torch.tensor(0.0, device=settings.device)
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=self.rate if on_gpu else 0.0, betas=BETAS, weight_decay=WEIGHT_DECAY,
            fused=on_gpu, capturable=on_gpu,
        )  # fmt: skip
        self.predict = torch.compile(unet.predict) if compiled else unet.predict

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, pooled: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.settings.device != "cpu", cache_enabled=False):
            eps = self.predict(self.model, x, t, context, pooled, self.settings.size)
        error = (eps.float() - noise).square().mean((1, 2, 3))
        self.optimiser.zero_grad(set_to_none=True)
        (weight * error).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimiser.step()
        return error.detach()

    def set_rate(self, value: float) -> None:
        self.rate.fill_(value)
        if self.settings.device == "cpu":
            self.optimiser.param_groups[0]["lr"] = value


def captured(step: Callable[..., Tensor], rows: tuple[Tensor, ...], warm_up: int = 4) -> Callable[..., Tensor]:
    """`step` as a CUDA graph: the same work without the time that its thousands of launches take."""
    held = [row.clone() for row in rows]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            step(*held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(*held)

    def replay(*rows: Tensor) -> Tensor:
        for old, new in zip(held, rows, strict=True):
            old.copy_(new)
        graph.replay()
        return result

    return replay


def train(settings: Settings, minutes: float, batch: int = 0, start: float = 0.0, end: float = 1.0) -> None:
    """Goes on from the exported weights where `start` > 0; start .. end is this run's part of the rate's way down."""
    on_gpu = settings.device != "cpu"
    batch = batch or (256 if on_gpu else 16)
    torch.manual_seed(settings.seed + round(1000 * start))
    model, rows = unet.load(settings) if start else unet.build()
    model.to(settings.device).train().requires_grad_(True)
    batches = Batches(settings, batch)
    rows.count = batches.foreground
    log.info("unet: parameters %s, batch %d", unet.describe(model), batch)
    step = Step(settings, model, settings.compiled)
    average = Average(model, 0.9985)
    run: Callable[..., Tensor] = step
    if on_gpu:
        try:
            run = captured(step, batches.draw())
        except RuntimeError as error:
            log.warning("unet: no CUDA graph on this machine (%s); going on without", error)
    clock, count, exported, began = Clock(minutes), 0, time.time(), time.time()
    sums = torch.zeros(2, device=settings.device)
    while clock.progress() < 1:
        progress = start + (end - start) * clock.progress()
        step.set_rate(PEAK_RATE * min((count + 1) / 300, 1.0) * rate(progress, 0.0))
        error = run(*batches.draw())
        average.update()
        sums += torch.stack([error.mean(), error[: rows.count].mean()])
        count += 1
        if count % LOG_STEPS == 0:
            loss, foreground = (sums / LOG_STEPS).tolist()
            log.info("unet: step %d, %.1f min, eps loss %.4f, foreground %.4f, %.3f s a step", count, clock.minutes(),
                     loss, foreground, (time.time() - began) / LOG_STEPS)  # fmt: skip
            sums.zero_()
            began = time.time()
        if time.time() - exported > 60 * EXPORT_MINUTES:
            unet.save(settings, average.state_dict())
            exported = time.time()
    unet.save(settings, average.state_dict())
    log.info("unet: %d steps of %d rows in %.1f minutes", count, batch, clock.minutes())
