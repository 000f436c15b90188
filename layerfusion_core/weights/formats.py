"""Foreground weight files (LayerDiffuse and its repackagings): recognised by content, brought to one naming.

The key grammars (which file uses which is nowhere written in the files, so names of tensors decide):
- LayerDiffuse: `<model key>::lora::0` (up, `[out, r]`), `::lora::1` (down, `[r, in]`), `::lora::2` (alpha) and
  `<model key>::diff::0` (full delta); model keys carry ComfyUI's `diffusion_model.` prefix.
- Diffusers deltas: parameter names of diffusers' UNet, each tensor a full delta.
- LoRA files (kohya, diffusers, PEFT, ...): the naming that all are brought to, which the host's own reader knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from .changes import LowRank

LATENT_CHANNELS = 4
WANTED = "layer_xl_transparent_attn.safetensors"
PAGE = "https://huggingface.co/LayerDiffusion/layerdiffusion-v1"
_EXPECTED = f"Expected LayerDiffuse's SDXL foreground weights ({WANTED} from {PAGE})"


class Packaging(str, Enum):
    """How the tensors of a foreground weight file are named."""

    LAYERDIFFUSE = "LayerDiffuse"
    DIFFUSERS = "Diffusers deltas"
    LORA = "LoRA"


@dataclass(frozen=True)
class ForegroundWeights:
    """A foreground weight file, read.

    tensors: named as in a LoRA file, `<what is changed>.lora_up.weight`, `.lora_down.weight`, `.alpha`, `.diff`, ...; what is
    changed is a module or, in the files that are no LoRAs, a parameter. name: the file's; title and expected: what messages
    call it, and ask for.
    """

    packaging: Packaging
    name: str
    tensors: dict[str, Tensor]
    title: str = "Foreground weights"
    expected: str = _EXPECTED


def recognise(shapes: Mapping[str, tuple[int, ...]], name: str = "the file") -> Packaging:
    """Return the packaging of a file from its tensor names and shapes.

    ValueError, naming what the file is and what is expected, for anything but SDXL foreground weights: SD1.5 and Flux
    LayerDiffuse, a transparent decoder or encoder, a VAE, a checkpoint, LayerDiffuse's conditional (8- or 12-channel)
    models, and unknown content.
    """
    keys = list(shapes)
    other = other_content(keys)
    if other is not None:
        raise ValueError(f"{name} is {other}. {_EXPECTED}.")
    for key in ("diffusion_model.input_blocks.0.0.weight::diff::0", "conv_in.weight"):
        shape = shapes.get(key)
        if shape is not None and len(shape) == 4 and shape[1] != LATENT_CHANNELS:
            raise ValueError(
                f"{name} is one of LayerDiffuse's conditional models (fg2ble, bg2ble, fgble2bg, bgble2fg): its first "
                f"convolution takes {shape[1]} channels, expected {LATENT_CHANNELS}. Choose it in LayerFusion Condition on "
                f"Layers; here: {_EXPECTED}."
            )
    if any("::" in key for key in keys):
        return Packaging.LAYERDIFFUSE
    if any(_LORA_SUFFIX.search(key) for key in keys):
        return Packaging.LORA
    if any(re.match(r"(down_blocks|mid_block|up_blocks)\.", key) for key in keys):
        return Packaging.DIFFUSERS
    first = ", ".join(sorted(keys)[:3])
    raise ValueError(f"{name} holds no foreground weights: its {len(keys)} tensors are named {first}, ... {_EXPECTED}.")


def parse(tensors: Mapping[str, Tensor], name: str = "the file") -> ForegroundWeights:
    """Bring the tensors of a foreground weight file to the naming of LoRA files; nothing is copied.

    ValueError as `recognise`, and for a missing up or down half, a difference given both as lora and as diff, an alpha that is
    no number, and in LayerDiffuse's files for halves that do not fit together and unknown patch types.
    """
    packaging = recognise({key: tuple(tensor.shape) for key, tensor in tensors.items()}, name)
    return ForegroundWeights(packaging, name, lora_named(tensors, packaging, name))


def lora_named(
    tensors: Mapping[str, Tensor], packaging: Packaging, name: str, expected: str = _EXPECTED
) -> dict[str, Tensor]:
    """The tensors of a file of this packaging, named as in a LoRA file; ValueError as `parse`, ending in `expected`."""
    named = dict(tensors)
    if packaging is Packaging.LAYERDIFFUSE:
        named = {_lora_name(key, name, expected): tensor for key, tensor in tensors.items()}
    elif packaging is Packaging.DIFFUSERS:
        named = {f"{key}.diff": tensor for key, tensor in tensors.items()}
    _check(named, name, halves_fit=packaging is Packaging.LAYERDIFFUSE)
    return named


def other_content(keys: list[str]) -> str | None:
    """Say what a file is when it is certainly not SDXL foreground weights; None otherwise."""

    def any_starts(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    if any_starts("hookers.layers.", "hookers.", "kwargs_encoder."):
        return "LayerDiffuse for SD1.5, which works with Stable Diffusion 1.5 only"
    if any(re.search(r"(^|[._])(double_blocks|single_blocks|single_transformer_blocks)[._]", key) for key in keys) or (
        any_starts("transformer.transformer_blocks.", "transformer_blocks.")
    ):
        return "made for Flux or another transformer model, not for SDXL"
    if "latent_conv_in.weight" in keys:
        return "LayerDiffuse's transparent decoder: choose it in Load Transparent VAE instead"
    if keys and all(re.match(r"blocks\.\d+\.(weight|bias)$", key) for key in keys):
        return "LayerDiffuse's transparent encoder: choose it in Load Transparent VAE instead"
    if any_starts("model.diffusion_model.", "conditioner.embedders.", "cond_stage_model."):
        return "a whole checkpoint: choose it as the checkpoint instead"
    if any_starts("first_stage_model.", "encoder.down", "decoder.up", "encoder.conv_in.", "decoder.conv_in."):
        return "a VAE"
    if any_starts("time_embedding.", "add_embedding.", "time_embed.", "diffusion_model.time_embed.") and not any(
        "::" in key or _LORA_SUFFIX.search(key) for key in keys
    ):
        return "a whole diffusion model, not a difference to one: load it as a model instead"
    return None


_SLOTS = {"lora::0": "lora_up.weight", "lora::1": "lora_down.weight", "lora::2": "alpha", "diff::0": "diff"}


def _lora_name(key: str, file: str, expected: str) -> str:
    """The name in a LoRA file of what LayerDiffuse's file calls `key`."""
    parts = key.split("::")
    if len(parts) != 3 or not re.fullmatch("[0-9]{1,3}", parts[2]):
        raise ValueError(f"{file}: expected '<model key>::<lora or diff>::<number>', got '{key}'. {expected}.")
    slot = _SLOTS.get(f"{parts[1]}::{int(parts[2])}")
    if slot is None:
        raise ValueError(
            f"{file}: unknown patch '{key}'; expected ::lora::0, ::lora::1 and, as an alpha, ::lora::2, or ::diff::0."
        )
    return f"{parts[0]}.{slot}"


# Every spelling of a LoRA tensor known to ComfyUI's reader (comfy/weight_adapter/*.py `load`), after the module name.
_LORA_SUFFIX = re.compile(
    r"(?:\.lora_(?P<kohya>up|down|mid)\.weight"
    r"|[._]lora\.(?P<old>up|down)\.weight"
    r"|\.lora_linear_layer\.(?P<linear>up|down)\.weight"
    r"|\.lora_(?P<peft>[AB])(?:\.default)?(?:\.weight)?"
    r"|\.(?P<full>diff)"
    r"|\.(?:hada_w\w+|hada_t\d|lokr_w\w+|lokr_t\d|a1\.weight|a2\.weight|b1\.weight|b2\.weight|oft_blocks|oft_diag"
    r"|dora_scale|alpha|diff_b|w_norm|b_norm|set_weight|reshape_weight))$"
)


def lora_modules(keys: Iterable[str]) -> list[str]:
    """Return the module names (as the file spells them, in order, each once) that the tensors of a LoRA file change."""
    modules: dict[str, None] = {}
    for key in keys:
        match = _LORA_SUFFIX.search(key)
        modules[key[: match.start()] if match else key] = None
    return list(modules)


def _check(tensors: Mapping[str, Tensor], name: str, halves_fit: bool) -> None:
    """ValueError for what the host's reader would leave out in silence, or fail on. halves_fit: whether that is looked at."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.endswith(".alpha") and tensor.numel() != 1:
            raise ValueError(f"{name}: '{key}' is an alpha, expected one number, got the shape {tuple(tensor.shape)}.")
        match = _LORA_SUFFIX.search(key)
        if match is None:
            continue
        part = match["kohya"] or match["old"] or match["linear"] or match["peft"] or match["full"]
        if part:
            found.setdefault(key[: match.start()], {})[{"A": "down", "B": "up"}.get(part, part)] = tensor
    for changed, parts in found.items():
        missing = {"up", "down"} - set(parts)
        if "diff" in parts and missing != {"up", "down"}:
            raise ValueError(f"{name}: '{changed}' is given both as lora and as diff; expected one of them.")
        if len(missing) == 1:
            raise ValueError(
                f"{name}: the {missing.pop()} half of '{changed}' is missing, so the file is incomplete. Download it again."
            )
        if halves_fit and not missing and not LowRank(parts["up"], parts["down"]).fits_together:
            raise ValueError(
                f"{name}: the halves of '{changed}' do not fit: expected up (out, rank) and down (rank, in) of rank 1 or more, "
                f"got {tuple(parts['up'].shape)} and {tuple(parts['down'].shape)}."
            )


def likely_family(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Guess the base family a file was made for, from names and shapes; None when nothing speaks against SDXL.

    Cross-attention keys take the text width: 768 SD1.5, 1024 SD2, 2048 SDXL; and only SD1.5 / SD2 have attention at the
    finest level (input_blocks.1.1, down_blocks.0.attentions).
    """
    widths = {shape[-1] for key, shape in shapes.items() if re.search(r"attn2[._](processor[._])?to_k", key) and shape}
    if 768 in widths:
        return "Stable Diffusion 1.5"
    if 1024 in widths:
        return "Stable Diffusion 2"
    if any(re.search(r"input_blocks[._]1[._]1[._]|down_blocks[._]0[._]attentions[._]", key) for key in shapes):
        return "Stable Diffusion 1.5 or 2"
    return None


def unbound_message(
    name: str,
    total: int,
    unbound: list[str],
    model_family: str,
    weights_family: str | None,
    title: str = "Foreground weights",
    expected: str = _EXPECTED,
) -> str:
    """Say how many entries fit the model, which do not, and the likely cause.

    total: entries in the file. unbound: 'key' or 'key (why)' of those that do not fit, in file order.
    """
    first = ", ".join(unbound[:3]) + (", ..." if len(unbound) > 3 else "")
    if weights_family is not None:
        cause = f"the weights are made for {weights_family}"
    elif model_family != "SDXL":
        cause = f"the model is {model_family}, whose blocks differ from SDXL's, for which the weights are made"
    elif any(re.match(r"(lora_te|text_encoder|clip_)", key) for key in unbound):
        cause = "the file also changes text encoders, which foreground weights must not"
    else:
        cause = f"the weights are made for another model family, or the file holds no {title.lower()}"
    return (
        f"{title} {name}: only {total - len(unbound)} of {total} entries fit the model. "
        f"First that do not: {first}. Likely cause: {cause}. {expected} and a full SDXL checkpoint."
    )
