"""Stage `vae`: trains the autoencoder on drawn scenes, then folds its latent scale into the weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from common import LATENT_SCALE, Clock, Settings, draw_triples, export, log, rate, to_tensor

from layerfusion_core.demo_autoencoder import DemoAutoencoder

HELD_OUT = 10_000_000
CONFIG = {"latent_channels": 4, "downscale": 8, "latent_scale": LATENT_SCALE}


def train(settings: Settings, minutes: float, batch: int = 16, pool: int = 2500) -> None:
    """L1 + L2 + gradient loss; the first three latent channels are drawn to a thumbnail, which a diffusion model
    learns easily, and the fourth is free for detail. Latent noise makes the decoder tolerate sampled latents."""
    torch.manual_seed(settings.seed)
    model = DemoAutoencoder().to(settings.device).to(memory_format=torch.channels_last)
    average = DemoAutoencoder().to(settings.device)
    average.load_state_dict(model.state_dict())
    log.info("vae: %d parameters", sum(p.numel() for p in model.parameters()))
    pictures = draw_triples(settings, 0, pool).reshape(-1, settings.size, settings.size, 3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4, betas=(0.9, 0.98))
    clock, step = Clock(minutes), 0
    while clock.progress() < 1:
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * rate(clock.progress())
        x = to_tensor(pictures[torch.randint(len(pictures), (batch,)).numpy()], settings.device)
        if torch.rand(()) < 0.3:  # colour and mirror variety beyond the drawn palette
            x = x.flip(-1)[:, torch.randperm(3)]
        latent = model.encoder(x)
        noise = 0.06 * torch.rand(batch, 1, 1, 1, device=x.device) * torch.randn_like(latent)
        y = model.decoder(latent + noise)
        thumbnail = F.avg_pool2d(x, 8)
        anchor = F.mse_loss(latent[:, :3], thumbnail) + 0.03 * latent[:, 3].square().mean()
        error = y - x
        gradient = (error.diff(dim=-1)).abs().mean() + (error.diff(dim=-2)).abs().mean()
        loss = error.abs().mean() + 2 * error.square().mean() + 0.5 * gradient + 0.1 * anchor
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        decay = min(0.995, step / (step + 20))
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        if step % 50 == 0:
            log.info(
                "vae: step %d, %.1f min, loss %.4f, mse dB %.2f",
                step,
                clock.minutes(),
                loss.item(),
                10 * torch.log10(4 / error.square().mean()).item(),
            )
        if step % 300 == 0:
            save(settings, average, pictures)
    save(settings, average, pictures)
    log.info("vae: %d steps, held-out PSNR %.2f dB", step, evaluate(settings, average))


def save(settings: Settings, model: DemoAutoencoder, pictures) -> None:
    """Exports a copy whose latent times 0.13025 has zero mean and unit standard deviation in each channel."""
    folded = DemoAutoencoder.from_state_dict({k: v.clone() for k, v in model.state_dict().items()})
    folded = folded.to(settings.device)
    with torch.no_grad():
        z = torch.cat([folded.encode(to_tensor(pictures[i : i + 100], settings.device)) for i in range(0, 1500, 100)])
        mean, scale = z.mean((0, 2, 3)), z.std((0, 2, 3)) * LATENT_SCALE
        # The grey canvas must stay representable everywhere; padding is zero in latent space, so no bias is folded
        # into the decoder's first convolution: only the scale is, and the mean is small by the choice of thumbnails.
        log.info("vae: channel means %s, deviations %s", mean.tolist(), (scale / LATENT_SCALE).tolist())
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
    """Mean PSNR (dB, peak 1) of held-out drawn pictures through encode and decode."""
    model = model or load(settings)
    x = to_tensor(draw_triples(settings, HELD_OUT, count).reshape(-1, settings.size, settings.size, 3), settings.device)
    with torch.no_grad():
        y = torch.cat([model.decode(model.encode(part)) for part in x.split(50)])
    return (10 * torch.log10(4 / (y - x).square().mean((1, 2, 3)))).mean().item()
