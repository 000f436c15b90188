"""A MODEL that is conditioned on given layers, as LayerDiffuse makes its layers one after another, for the stock KSampler.

The weights are ordinary patches. The widened first convolution stays the checkpoint's own: what the given layers add to its
output, a convolution of their latents, is added behind it. The latents travel with every conditioning of a run, so that they
are cropped, repeated and put together with the noisy latent's rows wherever the host does that.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.utils
import torch
from comfy.conds import CONDNoiseShape
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...vae.decoder import LATENT_SCALE
from ...weights.conditional import AUTO, ConditionalWeights, Kind, parse_conditional, recognise_conditional
from ...weights.formats import LATENT_CHANNELS
from ..models.families import require_sdxl
from ..models.foreground import ATTACHMENT, ON_LAYERS, host_patches
from ..models.latents import require_channels, require_picture
from ..models.weight_files import read_weight_file
from ..unet.calls import callers, found_on_model
from ..unet.compiled import uncompiled
from .foregrounds import require_one
from .given_layers import GIVEN_KEY
from .stacked import require_layer

log = logging.getLogger(__name__)

_FIRST = "input_blocks.0.0.weight"


@dataclass(frozen=True)
class Conditioned:
    """What Condition on Layers put on a MODEL, found again as its attachment `layerfusion_on_layers`."""

    name: str
    kind: Kind
    strength: float


@dataclass
class _Given:
    """The given layers of one run: latents (1 | N, 4 * layers, h, w) as the model sees them, and their convolution.

    called: whether the model got them since it was last looked at.
    """

    kernel: torch.Tensor
    latents: torch.Tensor
    called: bool = field(default=False, compare=False)

    def of(self, rows: int) -> torch.Tensor:
        """The latents for all rows of a call whose conditionings carry none: each has the whole batch."""
        return self.latents if rows % len(self.latents) else comfy.utils.repeat_to_batch_size(self.latents, rows)


def load_conditional_weights(path: str, kind: str = AUTO) -> ConditionalWeights:
    """Read one of LayerDiffuse's fg2ble, bg2ble, fgble2bg, bgble2fg, refusing wrong content before a tensor is loaded.

    ValueError as `read_weight_file` and `parse_conditional`.
    """
    name = os.path.basename(path)

    def check(header) -> None:
        recognise_conditional({key: info.shape for key, info in header.items()}, name, kind)

    return parse_conditional(read_weight_file(path, check), name, kind)


def condition_on_layers(
    model: ModelPatcher, weights: ConditionalWeights, given: dict[str, dict | None], strength: float = 1.0
) -> ModelPatcher:
    """Return a clone of an SDXL MODEL that any sampler of the host runs, conditioned on the given LATENTs.

    given: by name (foreground, background, blended), None for what is not connected. strength s: every weight becomes
    W + s * delta, and the given layers count s times; 0 gives a plain clone (bit-equal to the model), 1 is LayerDiffuse.
    ValueError when the weights do not fit the model or the given layers, and for layers that are no pictures of one size.
    """
    require_sdxl(model, "model")
    if not math.isfinite(strength):
        raise ValueError(f"strength: expected a finite number (1 is LayerDiffuse), got {strength}")
    _require_base(model, weights.name)
    latents = _given_latents(weights, given)
    patches = host_patches(model, replace(weights.weights, tensors=_fitted(model, weights)))
    clone = model.clone()
    clone.set_attachments(ON_LAYERS, Conditioned(weights.name, weights.kind, strength))
    if strength == 0:
        return clone
    bound = clone.add_patches(patches, strength)
    if len(bound) != len(patches):  # cannot be after host_patches; a changed host must not fail in silence
        raise ValueError(f"ComfyUI took only {len(bound)} of the {len(patches)} patches of {weights.name}")
    kernel = strength * weights.kernel.detach().to("cpu", torch.float32)
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, ON_LAYERS, _with_latents(kernel, latents))
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, ON_LAYERS, _watched)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, ON_LAYERS, _beside_first_convolution)
    log.info("%s: %d entries bound, strength %g; it %s", weights.name, len(patches), strength, weights.kind.task)
    return clone


def _require_base(model: ModelPatcher, name: str) -> None:
    """ValueError when the MODEL carries weights already that, like these, are a difference to the checkpoint."""
    for key in (ATTACHMENT, ON_LAYERS):
        before = model.get_attachment(key)
        if before is not None and before.strength != 0:
            raise ValueError(
                f"model carries {before.name}, and {name} is a difference to the checkpoint, not to that: connect the "
                "checkpoint's own model (with its LoRAs)"
            )


def _given_latents(weights: ConditionalWeights, given: dict[str, dict | None]) -> torch.Tensor:
    """The latents that the weights take, one behind the other: (1 | N, 4 * layers, h, w)."""
    kind, connected = weights.kind, {name: latent for name, latent in given.items() if latent is not None}
    if set(connected) != set(kind.given):
        raise ValueError(
            f"{weights.name} {kind.task} ({kind.name}): expected {' and '.join(kind.given)} to be connected and nothing else, "
            f"got {' and '.join(connected) or 'none of them'}"
        )
    found = {name: connected[name]["samples"] for name in kind.given}
    for name, samples in found.items():
        if GIVEN_KEY in connected[name]:
            raise ValueError(f"{name}: got the output of LayerFusion Given Layers; connect the layer's own latent")
        require_layer(name, connected[name])
        require_one(name, connected[name])
        require_picture(name, samples)
        require_channels(name, samples, LATENT_CHANNELS)
        if not samples.any():
            raise ValueError(
                f"{name}: got an empty latent, which holds no picture: connect VAE Encode, LayerFusion Encode, or the output "
                "of the sampler that made the layer"
            )
    shapes = {name: tuple(samples.shape) for name, samples in found.items()}
    sizes, batches = {s[2:] for s in shapes.values()}, {s[0] for s in shapes.values()} - {1}
    if len(sizes) > 1 or len(batches) > 1:
        words = ", ".join(f"{name} {s[0]} x {_pixels(s[2:])}" for name, s in shapes.items())
        raise ValueError(f"expected given layers of one size, in batches of 1 or one same number; got {words}")
    batch = max(batches, default=1)
    return torch.cat([samples.detach().to("cpu", torch.float32).expand(batch, -1, -1, -1) for samples in found.values()], dim=1)


def _fitted(model: ModelPatcher, weights: ConditionalWeights) -> dict[str, torch.Tensor]:
    """Tensors of the weights, the first convolution's for the inpainting models' own channels, too, which they leave alone."""
    tensors = dict(weights.weights.tensors)
    key = next(key for key in (f"diffusion_model.{_FIRST}.diff", "conv_in.weight.diff") if key in tensors)
    more = model.model.state_dict()[f"diffusion_model.{_FIRST}"].shape[1] - LATENT_CHANNELS
    if more > 0:
        tensors[key] = torch.nn.functional.pad(tensors[key], (0, 0, 0, 0, 0, more))
    return tensors


def _with_latents(kernel: torch.Tensor, latents: torch.Tensor):
    """SAMPLER_SAMPLE wrapper: bring the given layers to the run's size and device, and into all its conditionings."""

    def wrapper(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        own = _at_size(latents, noise.shape)
        own = guider.inner_model.process_latent_in(own).to(noise.device)
        guider.conds = {name: [_carrying(entry, own) for entry in entries] for name, entries in guider.conds.items()}
        options = extra_args["model_options"]["transformer_options"]  # of this run alone
        options[ON_LAYERS] = _Given(kernel.to(noise.device), own)
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)

    return wrapper


def _carrying(entry: dict, latents: torch.Tensor) -> dict:
    return {**entry, "model_conds": {**entry.get("model_conds", {}), ON_LAYERS: CONDNoiseShape(latents)}}


def _at_size(latents: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The given latents for noise of `shape`; a second pass at another size gets them scaled, as the host does with its own."""
    if latents.shape[0] not in (1, shape[0]):
        raise ValueError(f"the given layers have a batch of {latents.shape[0]}, the sampled latent one of {shape[0]}: expected "
                         "1 given layer for all, or as many as are sampled")  # fmt: skip
    given, wanted = latents.shape[-2:], shape[-2:]
    if given == wanted:
        return latents
    scale = max(w / g for w, g in zip(wanted, given))
    if any(abs(g * scale - w) >= 1 for w, g in zip(wanted, given)):  # one cell is what rounding a scaled side can cost
        raise ValueError(
            f"the given layers are {_pixels(given)} pixels, the sampled latent is {_pixels(wanted)}: expected one shape; bring the "
            "pictures to it before they are encoded (Upscale Image with crop 'center'), or sample at their size"
        )
    log.warning(
        "The given layers are %s pixels and the sampled latent %s: their latents are scaled. Encode the pictures at the "
        "sampled size for more detail.", _pixels(given), _pixels(wanted),
    )  # fmt: skip
    return comfy.utils.common_upscale(latents, wanted[1], wanted[0], "bilinear", "disabled")


def _pixels(side: torch.Size | tuple[int, ...]) -> str:
    return f"{side[1] * LATENT_SCALE} x {side[0] * LATENT_SCALE}"


def _beside_first_convolution(executor, x: torch.Tensor, t: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """APPLY_MODEL wrapper: add the convolution of the given layers' latents to the first one's output, for this call."""
    args, at = list(args), 3  # c_concat, c_crossattn, control, transformer_options
    options = args[at] if len(args) > at else kwargs["transformer_options"]
    given: _Given | None = options.get(ON_LAYERS)
    shown = kwargs.pop(ON_LAYERS, None)
    if given is None:
        raise ValueError("the model of LayerFusion Condition on Layers was called outside of a sampler: it needs the given layers")
    given.called = True
    shown = given.of(x.shape[0]) if shown is None else shown
    if shown.shape[0] != x.shape[0] or shown.shape[-2:] != x.shape[-2:]:
        raise ValueError(
            f"a node shows the UNet {x.shape[0]} x {_pixels(x.shape[-2:])} pixels where the given layers are {shown.shape[0]} x "
            f"{_pixels(shown.shape[-2:])}: it cuts the latent up without the layers; {_advice(executor.class_obj.current_patcher)}"
        )
    kernel = given.kernel

    def patch(h: torch.Tensor, transformer_options: dict) -> torch.Tensor:
        if transformer_options["block"] != ("input", 0):
            return h
        return h + torch.nn.functional.conv2d(shown.to(h), kernel.to(h), padding=kernel.shape[-1] // 2)

    patches = options.get("patches", {})  # first in line: other patches see the whole output
    options = {**options, "patches": {**patches, "input_block_patch": [patch, *patches.get("input_block_patch", [])]}}
    if len(args) > at:
        args[at] = options
    else:
        kwargs["transformer_options"] = options
    return uncompiled(executor, x, t, *args, **kwargs)


def _watched(executor, x: torch.Tensor, timestep: torch.Tensor, model_options: Any = None, seed=None, **kwargs):
    """PREDICT_NOISE wrapper: ValueError when a node ran the UNet past `_beside_first_convolution`, so without the layers."""
    options = model_options["transformer_options"]
    given: _Given = options[ON_LAYERS]
    given.called = False
    out = executor(x, timestep, model_options, seed, **kwargs)
    if not given.called and not getattr(options.get("easycache"), "skip_current_step", False):
        raise ValueError(
            "a node answers for the UNet or runs its blocks itself (DeepCache and its like), so that the given layers would be "
            f"left out: {_advice(executor.class_obj.model_patcher)}"
        )
    return out


def _advice(model: ModelPatcher) -> str:
    """Which node to remove: what on the MODEL can decide how its UNet is called, but for our own."""
    others = model.clone()
    for kind in (WrappersMP.SAMPLER_SAMPLE, WrappersMP.PREDICT_NOISE, WrappersMP.APPLY_MODEL):
        others.remove_wrappers_with_key(kind, ON_LAYERS)
    return found_on_model(callers(others))
