"""Stage `alpha`: trains the transparent decoder on foregrounds that the trained autoencoder has decoded.

Input is the object over mid-grey, encoded, perturbed with a little latent noise (sampled latents are never exact), and
decoded; the target is the drawn alpha and the straight colour, which runs on smoothly outside the object.
"""

from __future__ import annotations

import stage_vae
import torch
from common import (
    SCALE_FACTOR,
    Average,
    Clock,
    Settings,
    drawn_batches,
    export,
    log,
    rate,
    to_bytes,
)
from safetensors.torch import load_file

from layerfusion_core.vae.checkpoint import decoder_config
from layerfusion_core.vae.decoder import DecoderConfig, TransparentDecoder

CONFIG = DecoderConfig(widths=(16, 16, 32, 48, 64), attention=(False, False, False, False, True))
HELD_OUT = 10_000_000
PEAK_RATE = 1.5e-3
NOISE = 0.20  # largest latent noise, in standard deviations of the latent


def targets(settings: Settings, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures on grey (n, 3, S, S) and targets A, R, G, B (n, 4, S, S), both uint8 on the device."""
    drawn = [
        (to_bytes(d.on_grey), to_bytes(torch.cat([d.alpha, d.colour], 1)))
        for d in drawn_batches(settings, start, count)
    ]
    return torch.cat([grey for grey, _ in drawn]), torch.cat([target for _, target in drawn])


def inputs(vae, grey: torch.Tensor, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoded picture in [0, 1] and unscaled latent, after latent noise of up to `noise` standard deviations."""
    with torch.no_grad():
        latent = vae.encode(grey * 2 - 1)
        strength = noise * torch.rand(len(grey), 1, 1, 1, device=grey.device) / SCALE_FACTOR
        latent = latent + strength * torch.randn_like(latent)
        return (vae.decode(latent) + 1) / 2, latent


def train(settings: Settings, minutes: float, batch: int = 0, pool: int = 0, resume: bool = False) -> None:
    """Trains for `minutes`; with `resume`, goes on from the exported weights at a lower rate."""
    on_gpu = settings.device != "cpu"
    batch, pool = batch or (24 if on_gpu else 4), pool or min(settings.count, 6000 if on_gpu else 500)
    torch.manual_seed(settings.seed + 2)
    vae = stage_vae.load(settings)
    model = load(settings).train().requires_grad_(True) if resume else TransparentDecoder(CONFIG).to(settings.device)
    peak, start = (PEAK_RATE / 2, pool) if resume else (PEAK_RATE, 0)  # another pool of scenes the second time
    grey, target = targets(settings, start, pool)
    parameters = list(model.parameters())
    average = Average(model, 0.99)
    optimiser = torch.optim.AdamW(parameters, lr=peak, weight_decay=1e-4, betas=(0.9, 0.98))
    clock, step = Clock(minutes), 0
    while clock.progress() < 1:
        for group in optimiser.param_groups:
            group["lr"] = peak * rate(clock.progress(), 0.03)
        pick = torch.randint(pool, (batch,), device=settings.device)
        picture, latent = inputs(vae, grey[pick].float() / 255, NOISE)
        want = target[pick].float() / 255
        error = model(picture, latent) - want
        # colour counts most where the object is; outside it only has to be smooth
        weight = torch.cat([torch.full_like(want[:, :1], 2.0), (0.1 + want[:, :1]).expand(-1, 3, -1, -1)], 1)
        loss = (weight * (error.abs() + 2 * error.square())).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        average.update()
        step += 1
        if step % 50 == 0:
            off = error[:, 0].abs().mean().item()
            log.info("alpha: step %d, %.1f min, loss %.4f, alpha error %.4f", step, clock.minutes(), loss.item(), off)
    model.load_state_dict(average.state_dict())
    config = {
        "widths": CONFIG.widths,
        "attention": CONFIG.attention,
        "groups": CONFIG.groups,
        "head_dim": CONFIG.head_dim,
    }
    export(settings, "transparent_decoder", model.state_dict(), config, output="A,R,G,B straight")
    log.info("alpha: %d steps, held-out alpha error %.4f, colour error in the object %.4f", step, *evaluate(settings))


def load(settings: Settings) -> TransparentDecoder:
    state = {k: v.float() for k, v in load_file(str(settings.models / "transparent_decoder.safetensors")).items()}
    model = TransparentDecoder(decoder_config(state))
    model.load_state_dict(state)
    return model.to(settings.device).eval().requires_grad_(False)


def evaluate(settings: Settings, count: int = 60) -> tuple[float, float]:
    """Mean absolute error of alpha over the canvas, and of straight colour weighted by alpha, on held-out scenes."""
    vae, model = stage_vae.load(settings), load(settings)
    grey, want = (v.float() / 255 for v in targets(settings, HELD_OUT, count))
    with torch.no_grad():
        got = torch.cat([model(*inputs(vae, part, 0.0)) for part in grey.split(10)]).clamp(0, 1)
    alpha = (got[:, :1] - want[:, :1]).abs().mean()
    colour = ((got[:, 1:] - want[:, 1:]).abs() * want[:, :1]).sum() / (3 * want[:, :1].sum())
    return alpha.item(), colour.item()
