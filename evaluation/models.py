"""The models of an evaluation: the demo's, or a checkpoint with LayerDiffuse's files. Only `load` imports the host."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .layerdiffuse import load_steps, step_files

PART = 1 << 20  # bytes of a weight file's start and end that identify it


@dataclass(frozen=True)
class Settings:
    """How the pictures are made. size: pixels of the square side; ensemble: passes of the transparent decoder."""

    size: int
    steps: int
    cfg: float
    sampler: str = "dpmpp_2m"
    scheduler: str = "karras"
    ensemble: int = 8
    seed: int = 2412


DEMO = Settings(size=256, steps=20, cfg=4.5)  # as in the demo graphs
REAL = Settings(size=1024, steps=25, cfg=7.0)  # LayerDiffuse's published defaults


@dataclass(frozen=True)
class Models:
    """What a run needs; transparent: TransparentVAE; steps: of `load_steps`, {} without LayerDiffuse's files for them."""

    base: Any
    foreground: Any
    clip: Any
    vae: Any
    transparent: Any
    steps: dict[str, Any] = field(default_factory=dict)


def is_demo(models: str) -> bool:
    """Whether `models` names weights of the demo's format: "demo", or a folder of such files."""
    return models == "demo" or (Path(models) / "unet.safetensors").is_file()


def default_settings(models: str) -> Settings:
    """Size, steps and guidance scale that suit the models."""
    return DEMO if is_demo(models) else REAL


def files(models: str) -> list[Path]:
    """The weight files, in a fixed order. ValueError when the folder has none.

    A folder for a real model is laid out like ComfyUI's `models`: one file in checkpoints, and
    layer_xl_transparent_attn.safetensors and vae_transparent_decoder.safetensors in layer_model.
    """
    if is_demo(models):
        folder = Path(__file__).resolve().parents[1] / "demo" / "models" if models == "demo" else Path(models)
        return sorted(folder.glob("*.safetensors"))
    folder = Path(models)
    checkpoints = sorted((folder / "checkpoints").glob("*.safetensors"))
    layers = sorted((folder / "layer_model").glob("*.safetensors"))
    if len(checkpoints) != 1 or len(layers) < 2:
        raise ValueError(
            f"{folder}: expected demo weights (unet.safetensors and so on), or one SDXL checkpoint in checkpoints and "
            f"LayerDiffuse's files in layer_model; found {len(checkpoints)} and {len(layers)} safetensors files there"
        )
    return [*checkpoints, *layers]


def steps(models: str) -> dict[str, Path]:
    """LayerDiffuse's files for its second and third run, by kind; {} where they are not all there."""
    demo = is_demo(models)
    folder = Path(__file__).resolve().parents[1] / "demo" if models == "demo" else Path(models).parent if demo else Path(models)
    return step_files(folder / "layer_model")


def fingerprint(models: str) -> str:
    """Identity of the weights: a hash of names, sizes, beginnings and ends of the files."""
    total = hashlib.sha256()
    for path in files(models):
        total.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            total.update(file.read(PART))
            file.seek(max(0, path.stat().st_size - PART))
            total.update(file.read(PART))
    return total.hexdigest()[:16]


def load(models: str) -> Models:
    """Load "demo", a folder of demo files, or a folder with checkpoints and layer_model (see `files`)."""
    from ..layerfusion_core.host.models.demo import MODELS, load_demo

    if is_demo(models):
        demo = load_demo(MODELS if models == "demo" else Path(models))
        return Models(demo.base, demo.foreground_model, demo.clip, demo.vae, demo.transparent_vae, load_steps(steps(models)))
    import folder_paths

    from ..layerfusion_core.host.models.foreground import apply_foreground, load_foreground_weights
    from ..layerfusion_core.host.models.transparent_vae import DECODER, load_transparent_vae
    from ..layerfusion_core.weights.formats import WANTED
    from ..nodes.loading import load_checkpoint

    folder = Path(models).absolute()
    for kind in ("checkpoints", "layer_model"):
        folder_paths.add_model_folder_path(kind, str(folder / kind), True)
    base, clip, vae = load_checkpoint(files(models)[0].name, "checkpoint")
    weights = load_foreground_weights(str(folder / "layer_model" / WANTED))
    foreground, transparent = apply_foreground(base, weights), load_transparent_vae(DECODER[1])
    return Models(base, foreground, clip, vae, transparent, load_steps(steps(models)))
