"""Stage `unet`: trains the base U-Net and the foreground deltas together, in one resumable run.

Each batch starts with foreground rows (an object on mid-grey), which pass through base + deltas; the other rows
(backgrounds, composites, a few plain grey canvases) pass through the base alone. On a CPU two single-thread processes
share one flat parameter vector in memory: each computes gradients of its own rows, then updates one half of the vector.
"""

from __future__ import annotations

import time

import torch
import torch.multiprocessing as mp
import unet
from common import Clock, Settings, log, rate, save_checkpoint
from stage_latents import FILE

CHECKPOINT = "unet.pt"
PEAK_RATE = 1.2e-3
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01
FOREGROUND_SHARE = 0.32
EXPORT_MINUTES = 10.0
SAVE_MINUTES = 3.0
LOG_STEPS = 20


def schedule() -> torch.Tensor:
    """SDXL's cumulative alphas (1000,): scaled-linear betas from 0.00085 to 0.012."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()


class Batches:
    """Random training rows from the cached latents."""

    def __init__(self, settings: Settings, batch: int, seed: int):
        self.data = torch.load(settings.work / FILE, mmap=False)
        self.batch, self.foreground = batch, round(FOREGROUND_SHARE * batch)
        self.random = torch.Generator().manual_seed(seed)
        self.alphas, self.device = schedule(), settings.device

    def draw(self) -> tuple[torch.Tensor, ...]:
        """x (B, 4, h, w), t (B,), context, pooled, noise, loss weight (B,)."""
        d, b, n, r = self.data, self.batch, self.foreground, self.random
        scene = torch.randint(len(d["latents"]), (b,), generator=r)
        wording = torch.randint(2, (b,), generator=r)
        u = torch.rand(b, generator=r)
        # kind: 0 foreground, 1 background, 2 composite; which caption columns describe it
        kind = torch.where(u < 0.30, 1, 2)
        kind[:n] = 0
        column = 2 * kind
        column[n:][u[n:] > 0.85] = 0  # composites captioned with the object only
        x0 = d["latents"][scene, kind]
        caption = d["captions"][scene, column + wording]
        grey = (u > 0.96) & (kind == 2)
        x0[grey] = d["grey"]
        caption[grey] = d["plain"]
        caption[torch.rand(b, generator=r) < 0.10] = d["empty"]
        # stratified over the batch, tilted towards high noise, where shapes and colours are decided
        strata = (torch.randperm(b, generator=r) + torch.rand(b, generator=r)) / b
        t = (1000 * strata**0.75).long().clamp(max=999)
        a = self.alphas[t]
        snr = a / (1 - a)
        weight = snr.clamp(max=5) / snr * (1 + 1 / snr).sqrt().clamp(max=4)
        noise = torch.randn(x0.shape, generator=r)
        x = a.sqrt().view(-1, 1, 1, 1) * x0 + (1 - a).sqrt().view(-1, 1, 1, 1) * noise
        rows = (x, t, d["context"][caption], d["pooled"][caption], noise, weight)
        return tuple(v.to(self.device) for v in rows)


class Flat:
    """Parameters, their average and the optimiser's moments as flat vectors that processes can share."""

    def __init__(self, model: torch.nn.Module, workers: int, device: str):
        start = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).to(device)
        self.value, self.average = start.clone(), start.clone()
        self.first, self.second = torch.zeros_like(start), torch.zeros_like(start)
        self.gradients = torch.zeros(workers, start.numel(), device=device)
        self.report = torch.zeros(workers, 4)  # loss, foreground loss, squared gradient norm, stop flag
        if device == "cpu":
            for tensor in vars(self).values():
                tensor.share_memory_()

    def bind(self, model: torch.nn.Module, worker: int) -> None:
        """Makes the parameters of `model` and their gradients views of these vectors."""
        offset = 0
        for p in model.parameters():
            p.data = self.value[offset : offset + p.numel()].view_as(p)
            p.grad = self.gradients[worker, offset : offset + p.numel()].view_as(p)
            offset += p.numel()

    def state_dict(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The averaged weights under the model's names."""
        offset, out = 0, {}
        for name, p in model.named_parameters():
            out[name] = self.average[offset : offset + p.numel()].view_as(p).clone()
            offset += p.numel()
        return out


def work(
    rank: int, workers: int, settings: Settings, flat: Flat, barrier, batch: int, minutes: float, resume: dict
) -> None:
    if settings.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    model, rows = unet.build()
    model.to(settings.device).train()
    if settings.device == "cpu":
        model.to(memory_format=torch.channels_last)
    flat.bind(model, rank)
    batches = Batches(settings, batch, settings.seed * 1000 + rank + 10 * resume["step"])
    rows.count = batches.foreground
    gradient, size = flat.gradients[rank], flat.value.numel()
    part = slice(rank * size // workers, (rank + 1) * size // workers)
    clock, step, saved, exported = Clock(minutes, resume["minutes"]), resume["step"], time.time(), time.time()
    sums, began = torch.zeros(2), time.time()
    while True:
        gradient.zero_()
        x, t, context, pooled, noise, weight = batches.draw()
        error = (unet.predict(model, x, t, context, pooled, settings.size) - noise).square().mean((1, 2, 3))
        (weight * error).mean().backward()
        flat.report[rank, 0], flat.report[rank, 1] = error.detach().mean(), error.detach()[: rows.count].mean()
        flat.report[rank, 3] = clock.progress()
        barrier.wait()
        mean = flat.gradients[:, part].mean(0) if workers > 1 else gradient
        flat.report[rank, 2] = mean.square().sum()
        barrier.wait()
        progress = flat.report[0, 3].item()
        norm = flat.report[:, 2].sum().sqrt().item()
        step += 1
        update(
            flat,
            part,
            mean,
            step,
            PEAK_RATE * min(step / 200, 1.0) * rate(progress, 0.0),
            min(1.0, 1.0 / (norm + 1e-6)),
        )
        sums += flat.report[:, :2].mean(0)
        barrier.wait()
        if rank == 0:
            if step % LOG_STEPS == 0:
                log.info(
                    "unet: step %d, %.1f min, eps loss %.4f, foreground %.4f, norm %.2f, %.3f s a step",
                    step,
                    clock.minutes(),
                    sums[0] / LOG_STEPS,
                    sums[1] / LOG_STEPS,
                    norm,
                    (time.time() - began) / LOG_STEPS,
                )
                sums, began = torch.zeros(2), time.time()
            if time.time() - saved > 60 * SAVE_MINUTES or progress >= 1:
                save_checkpoint(settings.work / CHECKPOINT, {
                    "value": flat.value, "average": flat.average, "first": flat.first, "second": flat.second,
                    "step": step, "minutes": clock.minutes(),
                })  # fmt: skip
                saved = time.time()
            if time.time() - exported > 60 * EXPORT_MINUTES or progress >= 1:
                unet.save(settings, flat.state_dict(model))
                exported = time.time()
        if progress >= 1:
            return


@torch.no_grad()
def update(flat: Flat, part: slice, gradient: torch.Tensor, step: int, learning_rate: float, clip: float) -> None:
    """One AdamW step and one step of the weight average on `part` of the flat vectors."""
    value, first, second = flat.value[part], flat.first[part], flat.second[part]
    gradient = gradient.mul_(clip)
    first.lerp_(gradient, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    scale = (1 - BETAS[1] ** step) ** 0.5
    value.mul_(1 - learning_rate * WEIGHT_DECAY)
    value.addcdiv_(first, second.sqrt().add_(1e-8 * scale), value=-learning_rate * scale / (1 - BETAS[0] ** step))
    flat.average[part].lerp_(value, 1 - min(0.998, step / (step + 10)))


class NoBarrier:
    def wait(self) -> None:
        """Nothing to wait for with one worker."""


def train(settings: Settings, minutes: float, batch: int = 32) -> None:
    """`minutes` counts from the very first run: a resumed run ends when the total is reached."""
    torch.manual_seed(settings.seed)
    workers = 2 if settings.device == "cpu" else 1
    if workers > 1:
        torch.set_num_threads(1)
    model, _ = unet.build()
    log.info("unet: parameters %s, %d workers", unet.describe(model), workers)
    flat, resume = Flat(model, workers, settings.device), {"step": 0, "minutes": 0.0}
    path = settings.work / CHECKPOINT
    if path.exists():
        state = torch.load(path, map_location=settings.device)
        for name in ("value", "average", "first", "second"):
            getattr(flat, name).copy_(state[name])
        resume = {"step": state["step"], "minutes": state["minutes"]}
        log.info("unet: resumed at step %d, %.1f min", resume["step"], resume["minutes"])
    if workers == 1:
        work(0, 1, settings, flat, NoBarrier(), batch, minutes, resume)
        return
    context = mp.get_context("fork")
    barrier = context.Barrier(workers, timeout=600)  # a worker that dies must not leave the other waiting
    others = [
        context.Process(target=work, args=(r, workers, settings, flat, barrier, batch // workers, minutes, resume))
        for r in range(1, workers)
    ]
    for process in others:
        process.start()
    work(0, workers, settings, flat, barrier, batch // workers, minutes, resume)
    for process in others:
        process.join()
