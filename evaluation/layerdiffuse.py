"""The paper's one comparison: LayerDiffuse's trio, made in three runs.

The foreground model draws the object; fg2ble the picture around it; fgble2bg, from both, the scene behind it. All on one
checkpoint, with one noise and the trio's prompts, and every picture on its way through the VAE, as LayerDiffuse does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .prompts import Pair

if TYPE_CHECKING:
    from .generate import Generator

TO_BLENDED, TO_BACKGROUND = KINDS = "fg2ble", "fgble2bg"


def step_files(folder: Path) -> dict[str, Path]:
    """{kind: file} of the steps' weights in a `layer_model` folder; {} when one is missing."""
    found = {kind: path for kind in KINDS for path in sorted(folder.glob("*.safetensors")) if kind in path.name}
    return found if len(found) == len(KINDS) else {}


def missing(models: str) -> str:
    """What an evaluation without the steps' weights lacks, in words."""
    return f"it needs {' and '.join(f'layer_xl_{kind}.safetensors' for kind in KINDS)} in {models}/layer_model"


def load_steps(found: Mapping[str, Path]) -> dict[str, Any]:
    """The weights of `step_files`, read: {kind: ConditionalWeights}."""
    from ..layerfusion_core.host.sampling.on_layers import load_conditional_weights

    return {kind: load_conditional_weights(str(path), kind) for kind, path in found.items()}


def three_runs(maker: Generator, pairs: list[Pair]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Foreground's straight colour, its alpha, background and blended picture of `pairs`, (B, H, W[, 3])."""
    from ..layerfusion_core.host.models.transparent_encode import encode_transparent
    from ..layerfusion_core.host.sampling.on_layers import condition_on_layers

    models, latent = maker.models, maker.latent(pairs)
    nothing = dict.fromkeys(("foreground", "background", "blended"))

    def run(model: Any, texts: list[str]) -> Tensor:
        return maker.alone(maker.conditioning(texts), latent, model)

    samples = run(models.foreground, [pair.foreground for pair in pairs])
    colour, alpha = models.transparent.decode(models.vae.decode(samples).float(), samples, maker.settings.ensemble)
    given = {**nothing, "foreground": {"samples": encode_transparent(models.vae, colour, alpha)}}
    model = condition_on_layers(models.base, models.steps[TO_BLENDED], given)
    blended = models.vae.decode(run(model, [pair.blended_text for pair in pairs])).float()
    given["blended"] = {"samples": models.vae.encode(blended)}
    model = condition_on_layers(models.base, models.steps[TO_BACKGROUND], given)
    background = models.vae.decode(run(model, [pair.background for pair in pairs])).float()
    return colour, alpha, background, blended
