"""Stage `layers`: differences to the trained U-Net that make LayerDiffuse's steps, one layer from those that are there.

As LayerDiffuse's fg2ble and fgble2bg they widen the first convolution and change what is no attention: residual blocks, the
convolutions between levels, the way out. To stay small, weights change by low-rank terms; the first convolution, biases and
norms in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import unet
from common import Average, Clock, Settings, export, log, rate
from keys import MODEL_CHANNELS, PREFIX
from stage_latents import WORDINGS
from stage_unet import LOG_STEPS, Batches, Step, captured
from torch import Tensor, nn
from torch.nn.utils import parametrize

PEAK_RATE = 2e-3
RANK = 12
FOREGROUND, BACKGROUND, COMPOSITE = range(3)  # columns of the cached latents
KINDS = {"fg2ble": ((FOREGROUND,), COMPOSITE), "fgble2bg": ((FOREGROUND, COMPOSITE), BACKGROUND)}
GIVEN_NOISE = 0.05  # on the given latents, which later come from a sampler: not quite as drawn
NAMES = ("foreground", "background", "blended")


class Full(nn.Module):
    """A weight plus a difference of its shape."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.difference = nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.difference


class LowRank(nn.Module):
    """A weight (out, in[, kh, kw]) plus up (out, r) @ down (r, in * kh * kw)."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.down = nn.Parameter(torch.randn(RANK, weight[0].numel(), device=weight.device) / weight[0].numel() ** 0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), RANK, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def widen(model: unet.UNet, layers: int) -> dict[str, nn.Module]:
    """Freeze the network, widen its first convolution and add trainable differences: {weight key: difference}."""
    model.requires_grad_(False)
    first = model.input_blocks[0][0]
    wide = unet.First(4 * (1 + layers), MODEL_CHANNELS, 3, padding=1).to(first.weight.device).requires_grad_(False)
    wide.weight[:, :4], wide.weight[:, 4:], wide.bias[:] = first.weight, 0, first.bias
    model.input_blocks[0][0] = wide
    left_alone = {model.time_embed, model.label_emb, *(m for m in model.modules() if isinstance(m, unet.Transformer))}
    inside = {part for module in left_alone for part in module.modules()}
    found: dict[str, nn.Module] = {}
    for name, module in list(model.named_modules()):
        if module in inside or not isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm):
            continue
        for leaf in ("weight", "bias"):
            value = getattr(module, leaf)
            small = value.ndim == 1 or module is wide or min(len(value), value[0].numel()) <= RANK
            found[f"{name}.{leaf}"] = difference = (Full if small else LowRank)(value)
            parametrize.register_parametrization(module, leaf, difference)
    return found


def tensors(differences: dict[str, nn.Module], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """The differences in LayerDiffuse's grammar; shapes: of the weights, by key."""
    found = {}
    for key, difference in differences.items():
        if isinstance(difference, Full):
            found[f"{PREFIX}{key}::diff::0"] = difference.difference
        else:
            shape = shapes[key]
            found[f"{PREFIX}{key}::lora::0"] = difference.up.view(*difference.up.shape, *[1] * (len(shape) - 2))
            found[f"{PREFIX}{key}::lora::1"] = difference.down.view(RANK, *shape[1:])
    return found


def weight_of(model: nn.Module, key: str) -> Tensor:
    """A weight with its difference."""
    module, _, leaf = key.rpartition(".")
    return getattr(model.get_submodule(module), leaf)


class LayerBatches(Batches):
    """Rows of one kind: the noisy latent of the layer that is made, with the given layers' behind it."""

    def __init__(self, settings: Settings, batch: int, kind: str):
        super().__init__(settings, batch)
        self.given, self.made = KINDS[kind]

    def draw(self) -> tuple[Tensor, ...]:
        """x (B, 4 + 4 * given, h, w), t (B,), context, pooled, noise, loss weight (B,)."""
        d, on = self.data, self.device
        scene = torch.randint(len(d["latents"]), (self.batch,), device=on)
        wording = torch.randint(WORDINGS, (self.batch,), device=on)
        caption = d["captions"][scene, WORDINGS * self.made + wording]
        x, t, context, pooled, noise, weight = self.noisy(d["latents"][scene, self.made].float(), caption)
        given = torch.cat([d["latents"][scene, layer].float() for layer in self.given], dim=1)
        given = given + GIVEN_NOISE * torch.randn_like(given)
        return torch.cat([x, given], dim=1), t, context, pooled, noise, weight


def train(settings: Settings, minutes: float) -> None:
    """Train and export every kind, each for its share of `minutes`."""
    for kind in KINDS:
        train_kind(settings, kind, minutes / len(KINDS))


def train_kind(settings: Settings, kind: str, minutes: float) -> None:
    """Train one kind on the shipped U-Net and the cached latents."""
    on_gpu = settings.device != "cpu"
    batch = 128 if on_gpu else 8
    torch.manual_seed(settings.seed)
    batches = LayerBatches(settings, batch, kind)
    model, _ = unet.load(settings)
    differences = widen(model, len(batches.given))
    shapes = {key: weight_of(model, key).shape for key in differences}
    trained = nn.ModuleList(differences.values())
    log.info("layers: %s, %d parameters, batch %d", kind, sum(p.numel() for p in trained.parameters()), batch)
    step = Step(settings, model.train(), settings.compiled)
    average = Average(trained, 0.995)
    run: Callable[..., Tensor] = step
    if on_gpu:
        try:
            run = captured(step, batches.draw())
        except RuntimeError as error:
            log.warning("layers: no CUDA graph on this machine (%s); going on without", error)
    clock, count, total = Clock(minutes), 0, torch.zeros((), device=settings.device)
    while clock.progress() < 1:
        step.set_rate(PEAK_RATE * min((count + 1) / 100, 1.0) * rate(clock.progress(), 0.0))
        total += run(*batches.draw()).mean()
        average.update()
        count += 1
        if count % LOG_STEPS == 0:
            log.info("layers: %s, step %d, %.1f min, eps loss %.4f", kind, count, clock.minutes(), total.item() / LOG_STEPS)
            total.zero_()
    trained.load_state_dict(average.state_dict())
    made, given = NAMES[batches.made], " and ".join(NAMES[layer] for layer in batches.given)
    config = {"rank": RANK, "grammar": "KEY::lora::0 up, ::lora::1 down, KEY::diff::0 full", "makes": made, "given": given}
    beside = replace(settings, models=settings.models.parent / "layer_model")
    export(beside, f"demo_{kind}", tensors(differences, shapes), config)
    log.info("layers: %s, %d steps of %d rows in %.1f minutes", kind, count, batch, clock.minutes())
