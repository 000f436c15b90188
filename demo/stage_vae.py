"""Stage `vae`: trains the autoencoder on drawn scenes, then folds its latent scale into the weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from common import (
    SCALE_FACTOR,
    Average,
    Clock,
    Settings,
    draw_pictures,
    export,
    from_bytes,
    half_precision,
    log,
    rate,
)
from torch import Tensor

from layerfusion_core.vae.demo_autoencoder import DemoAutoencoder

HELD_OUT = 10_000_000
CONFIG = {"latent_channels": 4, "downscale": 8, "latent_scale": SCALE_FACTOR}
PEAK_RATE = 1.5e-3


def edges(error: Tensor) -> Tensor:
    """Mean absolute gradient of the error at full, half and quarter size: an edge that moved or lost its steepness."""
    total = error.new_zeros(())
    for level in range(3):
        if level:
            error = F.avg_pool2d(error, 2)
        total = total + (error.diff(dim=-1)).abs().mean() + (error.diff(dim=-2)).abs().mean()
    return total


def train(settings: Settings, minutes: float, batch: int = 0, pool: int = 0) -> None:
    """L1 + L2 + edge loss; the first three latent channels are drawn to a thumbnail, which a diffusion model learns
    easily, and the fourth is free for detail. Latent noise makes the decoder tolerate sampled latents."""
    on_gpu = settings.device != "cpu"
    batch, pool = batch or (64 if on_gpu else 8), pool or min(settings.count, 9000 if on_gpu else 500)
    torch.manual_seed(settings.seed)
    model = DemoAutoencoder().to(settings.device).to(memory_format=torch.channels_last)
    average = Average(model, 0.998)
    pictures = draw_pictures(settings, 0, pool)
    log.info("vae: %d parameters, %d pictures", sum(p.numel() for p in model.parameters()), len(pictures))
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=1e-4, betas=(0.9, 0.98))
    clock, step = Clock(minutes), 0
    while clock.progress() < 1:
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * rate(clock.progress())
        x = from_bytes(pictures[torch.randint(len(pictures), (batch,), device=settings.device)])
        if torch.rand(()) < 0.3:  # colour and mirror variety beyond the drawn palette
            x = x.flip(-1)[:, torch.randperm(3)]
        with half_precision(settings):
            latent = model.encoder(x.contiguous(memory_format=torch.channels_last)).float()
            noise = 0.04 * torch.rand(batch, 1, 1, 1, device=x.device) * torch.randn_like(latent)
            y = model.decoder(latent + noise)
        error = y.float() - x
        anchor = F.mse_loss(latent[:, :3], F.avg_pool2d(x, 8)) + 0.03 * latent[:, 3].square().mean()
        loss = error.abs().mean() + 2 * error.square().mean() + 0.4 * edges(error) + 0.05 * anchor
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update()
        step += 1
        if step % 200 == 0:
            db = 10 * torch.log10(4 / error.square().mean()).item()
            log.info("vae: step %d, %.1f min, loss %.4f, %.2f dB", step, clock.minutes(), loss.item(), db)
    trained = DemoAutoencoder.from_state_dict(average.state_dict()).to(settings.device)
    save(settings, trained, pictures)
    log.info("vae: %d steps, held-out PSNR of composites %.2f dB", step, evaluate(settings, trained))


def save(settings: Settings, model: DemoAutoencoder, pictures: Tensor) -> None:
    """Exports a copy whose latent times 0.13025 has zero mean and unit standard deviation in each channel."""
    folded = DemoAutoencoder.from_state_dict({k: v.clone() for k, v in model.state_dict().items()})
    folded = folded.to(settings.device)
    with torch.no_grad():
        z = torch.cat([folded.encode(from_bytes(part)) for part in pictures[:1500].split(50)])
        mean, scale = z.mean((0, 2, 3)), z.std((0, 2, 3)) * SCALE_FACTOR
        # The grey canvas must stay representable everywhere; padding is zero in latent space, so no bias is folded
        # into the decoder's first convolution: only the scale is, and the mean is small by the choice of thumbnails.
        log.info("vae: channel means %s, deviations %s", mean.tolist(), (scale / SCALE_FACTOR).tolist())
        head, stem = folded.encoder.head, folded.decoder.stem
        head.weight.div_(scale.view(-1, 1, 1, 1))
        head.bias.div_(scale)
        stem.weight.mul_(scale.view(1, -1, 1, 1))
    export(settings, "vae", folded.state_dict(), CONFIG)


def load(settings: Settings) -> DemoAutoencoder:
    from safetensors.torch import load_file

    model = DemoAutoencoder.from_state_dict(
        {k: v.float() for k, v in load_file(str(settings.models / "vae.safetensors")).items()}
    )
    return model.to(settings.device).eval().requires_grad_(False)


def evaluate(settings: Settings, model: DemoAutoencoder | None = None, count: int = 100) -> float:
    """Mean PSNR (dB, peak 1) of held-out drawn composites through encode and decode."""
    model = model or load(settings)
    x = from_bytes(draw_pictures(settings, HELD_OUT, count).unflatten(0, (-1, 3))[:, 2])
    with torch.no_grad():
        y = torch.cat([model.decode(model.encode(part)) for part in x.split(10)])
    return (10 * torch.log10(4 / (y - x).square().mean((1, 2, 3)))).mean().item()
