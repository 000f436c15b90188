"""The demonstration model on diffusers and transformers: a prompt and a seed in, three layers out."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from .equations import CHUNK
from .pipeline import Evaluation, Options, Prompt, Prompts, layerfusion
from .sampling import Schedule
from .text import EOS, TextEncoder, tokenize
from .weights import build_unets

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "demo" / "models"
SCALE_FACTOR = 0.13025  # SDXL: model-space latent = VAE latent * 0.13025
FIGURE_PERCENT = 0.8  # the paper shows its masks at t = 0.8 T


@dataclass(frozen=True)
class DemoModels:
    """Everything that the demonstration model's files hold, fp32 on the CPU."""

    eps: nn.Module
    eps_fg: nn.Module
    clip_l: TextEncoder
    clip_g: TextEncoder
    words: dict[str, list[int]]
    unknown_id: int
    vae: nn.Module
    transparent_decoder: nn.Module


@dataclass(frozen=True)
class Layers:
    """A finished run: straight RGBA foreground, RGB background and composite, the paper's two masks where blended."""

    foreground: Image.Image
    background: Image.Image
    blended: Image.Image
    soft: Image.Image | None = None
    hard: Image.Image | None = None
    latents: dict[str, Tensor] = field(default_factory=dict)  # model space, (1, 4, h, w)
    priors: list[Evaluation] = field(default_factory=list)


def core(name: str) -> ModuleType:
    """A module of layerfusion_core (autoencoder or transparent decoder), without the checkout on sys.path."""
    if "layerfusion_core" not in sys.modules:
        folder = ROOT / "layerfusion_core"
        spec = importlib.util.spec_from_file_location(
            "layerfusion_core", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        package = importlib.util.module_from_spec(spec)
        sys.modules["layerfusion_core"] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"layerfusion_core.{name}")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(fp32 tensors, metadata) of a safetensors file."""
    if not path.is_file():
        raise ValueError(f"{path.name} of the demonstration model is missing from {path.parent}: restore it from git.")
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        metadata = file.metadata() or {}
    return {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}, metadata


def load_demo(models_dir: Path | str = MODELS, foreground_strength: float = 1.0) -> DemoModels:
    """Load the five files of the demonstration model."""
    folder = Path(models_dir)
    unet, unet_metadata = read(folder / "unet.safetensors")
    deltas, _ = read(folder / "foreground_lora.safetensors")
    described = json.loads(unet_metadata["config"])
    host = described["host"]
    config = {**host, "num_res_blocks": host["num_res_blocks"][0], "norm_groups": described["norm_num_groups"]}
    eps, eps_fg = build_unets(unet, deltas, config, foreground_strength)

    text, text_metadata = read(folder / "text_encoders.safetensors")
    text_config = json.loads(text_metadata["config"])
    used = text.pop("clip_l.used_ids")

    vae_weights, _ = read(folder / "vae.safetensors")
    vae = core("vae.demo_autoencoder").DemoAutoencoder.from_state_dict(vae_weights)

    decoder_weights, _ = read(folder / "transparent_decoder.safetensors")
    transparent = core("vae.decoder")
    decoder = transparent.TransparentDecoder(core("vae.checkpoint").decoder_config(decoder_weights))
    decoder.load_state_dict(decoder_weights)

    return DemoModels(
        eps=eps,
        eps_fg=eps_fg,
        clip_l=TextEncoder.load(text, "clip_l", used, text_config),
        clip_g=TextEncoder.load(text, "clip_g", used, text_config),
        words=json.loads(text_metadata["words"]),
        unknown_id=next(i for i in range(EOS) if i not in set(used.tolist())),
        vae=vae.eval().requires_grad_(False),
        transparent_decoder=decoder.eval().requires_grad_(False),
    )


def sinusoids(value: float, dim: int = 256) -> Tensor:
    """SDXL's embedding of one size number: cosines, then sines, of value / 10000^(i / (dim / 2)): (dim,)."""
    frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(dim // 2) / (dim // 2))
    return torch.cat([torch.cos(value * frequencies), torch.sin(value * frequencies)])


@torch.no_grad()
def encode(models: DemoModels, text: str, width: int, height: int) -> Prompt:
    """A prompt as SDXL sees it: both encoders' penultimate states side by side, and y = pooled state, size numbers."""
    chunks_l = tokenize(text, models.words, models.unknown_id, pad=EOS)
    chunks_g = tokenize(text, models.words, models.unknown_id, pad=0)
    states_l = [models.clip_l(chunk)[0] for chunk in chunks_l]
    states_g = [models.clip_g(chunk)[0] for chunk in chunks_g]
    context = torch.cat([torch.cat(states_l, dim=1), torch.cat(states_g, dim=1)], dim=-1)  # (1, 77 * chunks, 128)
    pooled = models.clip_g(chunks_g[0])[1]  # (1, 64)
    numbers = [height, width, 0, 0, height, width]  # size, crop, target size
    y = torch.cat([pooled, *(sinusoids(n)[None] for n in numbers)], dim=-1)
    last = len(chunks_l) - 1
    return Prompt(context, y, [CHUNK * last + chunks_l[last].index(EOS)])


def make_noise(seed: int, width: int, height: int, kind: str = "shared") -> Tensor | list[Tensor]:
    """The host's CPU noise of a seed: (1, 4, h, w) for all streams, or three draws in a row: FG, BL, BG."""
    if kind not in ("shared", "independent"):
        raise ValueError(f"Unknown noise {kind!r}: use shared or independent.")
    rows = 1 if kind == "shared" else 3
    noise = torch.randn(rows, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return noise if kind == "shared" else list(noise.split(1))


def picture(pixels: Tensor) -> Image.Image:
    """(1, C, H, W) in [0, 1] to an image: 1 channel L, 3 RGB, 4 RGBA."""
    array = (pixels[0].permute(1, 2, 0) * 255).round().clamp(0, 255).numpy().astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def figure_masks(priors: list[Evaluation], size: tuple[int, int]) -> tuple[Image.Image | None, Image.Image | None]:
    """mask_soft and mask_hard of the last block at the evaluation nearest to t = 0.8 T, as in the paper's figure 2."""
    blended = [evaluation for evaluation in priors if evaluation.soft]
    if not blended:
        return None, None
    schedule = Schedule()
    shown = min(blended, key=lambda e: abs(schedule.timestep(torch.tensor(e.sigma)) - FIGURE_PERCENT * 999))
    last = list(shown.soft)[-1]
    masks = (shown.soft[last], shown.hard[last])
    soft, hard = (picture(mask[:1, None]).resize(size, Image.Resampling.NEAREST) for mask in masks)
    return soft, hard


@torch.no_grad()
def generate(
    models: DemoModels,
    foreground: str,
    background: str,
    blended: str = "",
    negative: str = "",
    seed: int = 0,
    steps: int = 20,
    cfg: float = 4.5,
    width: int = 128,
    height: int = 128,
    sampler: str = "dpmpp_2m",
    scheduler: str = "karras",
    noise: str = "shared",
    ensemble: int = 8,
    options: Options | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Layers:
    """Three layers for a foreground and a background prompt; an empty blended prompt is "foreground, background".

    width and height are pixels, multiples of 8. progress is called with (step, steps).
    """
    if width % 8 or height % 8:
        raise ValueError(f"Width and height must be multiples of 8, got {width}x{height}.")

    def prompt(text: str) -> Prompt:
        return encode(models, text, width, height)

    prompts = Prompts(
        foreground=prompt(foreground),
        background=prompt(background),
        blended=prompt(blended or f"{foreground}, {background}"),
        negative=prompt(negative),
    )
    sigmas = Schedule().make(scheduler, steps)
    start = make_noise(seed, width, height, noise)
    result: dict[str, Any] = layerfusion(
        models.eps, models.eps_fg, prompts, start, sigmas, cfg, options, sampler, progress
    )
    priors = result.pop("priors")

    latents = {stream: latent / SCALE_FACTOR for stream, latent in result.items()}
    pixels = {stream: (models.vae.decode(latent) + 1) / 2 for stream, latent in latents.items()}
    colour, alpha = core("vae.decode").decode_transparent(
        models.transparent_decoder, pixels["foreground"], latents["foreground"], ensemble
    )
    soft, hard = figure_masks(priors, (width, height))
    return Layers(
        foreground=picture(torch.cat([colour, alpha], dim=1)),
        background=picture(pixels["background"]),
        blended=picture(pixels["blended"]),
        soft=soft,
        hard=hard,
        latents=result,
        priors=priors,
    )
