"""Foreground weights (LayerDiffuse and its repackagings): recognised by content, read into one typed structure.

The key grammars (which file uses which is nowhere written in the files, so names of tensors decide):
- LayerDiffuse: `<model key>::lora::0` (up, `[out, r]`), `::lora::1` (down, `[r, in]`), `::lora::2` (alpha) and
  `<model key>::diff::0` (full delta); model keys carry ComfyUI's `diffusion_model.` prefix.
- Diffusers deltas: parameter names of diffusers' UNet, each tensor a full delta.
- LoRA files (kohya, diffusers, PEFT, ...): left as they are, for the host's own reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor

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
class LowRank:
    """delta = scale * up @ down, scale = alpha / rank, or 1 without an alpha. up (out, r[, 1, 1]), down (r, in[, kh, kw])."""

    up: Tensor
    down: Tensor
    alpha: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight this changes: (out, in)."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def scale(self) -> float:
        """The factor on up @ down."""
        return 1.0 if self.alpha is None else self.alpha / self.down.shape[0]

    @property
    def fits_together(self) -> bool:
        """Whether the halves have the shapes above, and a rank of at least 1."""
        up, down = self.up.shape, self.down.shape
        return len(up) >= 2 and len(down) >= 2 and up[1] == down[0] > 0 and all(side == 1 for side in up[2:])

    @property
    def changes(self) -> bool:
        """Whether the delta can be other than zero."""
        return self.scale != 0 and bool(self.up.any()) and bool(self.down.any())


@dataclass(frozen=True)
class Delta:
    """A full-shape difference, added to the parameter of the same shape."""

    weight: Tensor

    @property
    def changes(self) -> bool:
        """Whether the delta is other than zero."""
        return bool(self.weight.any())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter this changes."""
        return tuple(self.weight.shape)


@dataclass(frozen=True)
class ForegroundWeights:
    """A foreground weight file, read.

    entries: {parameter name, in the naming of the packaging: change}; empty for Packaging.LORA, whose tensors stay as
    they came in `tensors`. name: the file's name; title and expected: what messages call it, and ask for.
    """

    packaging: Packaging
    name: str
    entries: dict[str, LowRank | Delta] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
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
    """Read the tensors of a foreground weight file into typed entries; nothing is copied.

    ValueError as `recognise`, and for a missing up or down half, halves that do not fit together, an alpha that is no
    number, and unknown patch types.
    """
    packaging = recognise({key: tuple(tensor.shape) for key, tensor in tensors.items()}, name)
    if packaging is Packaging.LAYERDIFFUSE:
        return ForegroundWeights(packaging, name, parse_layerdiffuse(tensors, name))
    if packaging is Packaging.DIFFUSERS:
        return ForegroundWeights(packaging, name, {key: Delta(tensor) for key, tensor in tensors.items()})
    _check_lora(tensors, name)
    return ForegroundWeights(packaging, name, tensors=dict(tensors))


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


def parse_layerdiffuse(
    tensors: Mapping[str, Tensor], name: str, expected: str = _EXPECTED
) -> dict[str, LowRank | Delta]:
    """Entries of a file in LayerDiffuse's own grammar, by model key; ValueError as `parse`, ending in `expected`."""
    slots: dict[tuple[str, str], dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        parts = key.split("::")
        if len(parts) != 3 or not re.fullmatch("[0-9]{1,3}", parts[2]):
            raise ValueError(f"{name}: expected '<model key>::<lora or diff>::<number>', got '{key}'. {expected}.")
        slots.setdefault((parts[0], parts[1]), {})[int(parts[2])] = tensor
    entries: dict[str, LowRank | Delta] = {}
    for (key, kind), slot in slots.items():
        if key in entries:
            raise ValueError(f"{name}: '{key}' is given both as lora and as diff; expected one of them.")
        known = {"lora": {0, 1, 2}, "diff": {0}}.get(kind, set())
        unknown = sorted(set(slot) - known)
        if unknown:
            raise ValueError(
                f"{name}: unknown patch '{key}::{kind}::{unknown[0]}'; expected ::lora::0, ::lora::1 and, as an alpha, "
                f"::lora::2, or ::diff::0."
            )
        entries[key] = _low_rank(key, slot, name) if kind == "lora" else Delta(slot[0])
    return entries


def _low_rank(key: str, slot: Mapping[int, Tensor], name: str) -> LowRank:
    for index, half in ((0, "up"), (1, "down")):
        if index not in slot:
            raise ValueError(
                f"{name}: the {half} half '{key}::lora::{index}' is missing, so the file is incomplete. "
                f"Download it again."
            )
    alpha = _alpha(f"{key}::lora::2", slot[2], name) if 2 in slot else None
    entry = LowRank(slot[0], slot[1], alpha)
    if not entry.fits_together:
        raise ValueError(
            f"{name}: the halves of '{key}' do not fit: expected up (out, rank) and down (rank, in) of rank 1 or more, "
            f"got {tuple(entry.up.shape)} and {tuple(entry.down.shape)}."
        )
    return entry


def _alpha(key: str, tensor: Tensor, name: str) -> float:
    if tensor.numel() != 1:
        raise ValueError(f"{name}: '{key}' is an alpha, expected one number, got the shape {tuple(tensor.shape)}.")
    return float(tensor)


# Every spelling of a LoRA tensor known to ComfyUI's reader (comfy/weight_adapter/*.py `load`), after the module name.
_LORA_SUFFIX = re.compile(
    r"(?:\.lora_(?P<kohya>up|down|mid)\.weight"
    r"|[._]lora\.(?P<old>up|down)\.weight"
    r"|\.lora_linear_layer\.(?P<linear>up|down)\.weight"
    r"|\.lora_(?P<peft>[AB])(?:\.default)?(?:\.weight)?"
    r"|\.(?:hada_w\w+|hada_t\d|lokr_w\w+|lokr_t\d|a1\.weight|a2\.weight|b1\.weight|b2\.weight|oft_blocks|oft_diag"
    r"|dora_scale|alpha|diff|diff_b|w_norm|b_norm|set_weight|reshape_weight))$"
)


def lora_modules(keys: Iterable[str]) -> list[str]:
    """Return the module names (as the file spells them, in order, each once) that the tensors of a LoRA file change."""
    modules: dict[str, None] = {}
    for key in keys:
        match = _LORA_SUFFIX.search(key)
        modules[key[: match.start()] if match else key] = None
    return list(modules)


def _check_lora(tensors: Mapping[str, Tensor], name: str) -> None:
    halves: dict[str, set[str]] = {}
    for key, tensor in tensors.items():
        if key.endswith(".alpha"):
            _alpha(key, tensor, name)
        match = _LORA_SUFFIX.search(key)
        half = match and (match["kohya"] or match["old"] or match["linear"] or match["peft"])
        if match and half in ("up", "down", "A", "B"):
            halves.setdefault(key[: match.start()], set()).add({"A": "down", "B": "up"}.get(half, half))
    for module, found in halves.items():
        if len(found) == 1:
            missing = ({"up", "down"} - found).pop()
            raise ValueError(
                f"{name}: the {missing} half of '{module}' is missing, so the file is incomplete. Download it again."
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
