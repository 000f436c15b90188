"""LayerDiffuse's models that are conditioned on layers: fg2ble, bg2ble, fgble2bg, bgble2fg, recognised and read.

Each is a difference to SDXL's UNet whose first convolution is widened: behind the noisy latent come the given layers'
latents, scaled as the noisy one is, the object's or the scene's first and the blended picture's last (sd-forge-layerdiffuse,
`process_before_every_sampling`). A convolution is linear in its channels, so the widened one is the checkpoint's own,
changed like every other weight, plus a convolution of the given layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .formats import LATENT_CHANNELS, PAGE, WANTED, ForegroundWeights, Packaging, lora_named, other_content

AUTO = "auto"
TITLE = "Conditional weights"
FILE = "layer_xl_fg2ble.safetensors"
FILES = "layer_xl_fg2ble, layer_xl_bg2ble, layer_xl_fgble2bg or layer_xl_bgble2fg"
SD15_PAGE = "docs/coming-from-layerdiffuse.md"


@dataclass(frozen=True)
class Kind:
    """What one of the models makes, and of which layers, in the order of their channels behind the noisy latent."""

    name: str
    given: tuple[str, ...]
    makes: str

    @property
    def channels(self) -> int:
        """Input channels of the widened first convolution: 8 or 12."""
        return LATENT_CHANNELS * (1 + len(self.given))

    @property
    def task(self) -> str:
        """In words, such as "makes the background from foreground and blended"."""
        return f"makes the {self.makes} from {' and '.join(self.given)}"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("fg2ble", ("foreground",), "blended picture"),
        Kind("bg2ble", ("background",), "blended picture"),
        Kind("fgble2bg", ("foreground", "blended"), "background"),
        Kind("bgble2fg", ("background", "blended"), "foreground"),
    )
}
_EXPECTED = f"Expected one of LayerDiffuse's SDXL files {', '.join(f'layer_xl_{name}' for name in KINDS)} (from {PAGE})"
_FIRST = {  # the first convolution's weight in a file, and in the naming of its packaging
    "diffusion_model.input_blocks.0.0.weight::diff::0": "diffusion_model.input_blocks.0.0.weight",
    "conv_in.weight": "conv_in.weight",
}


@dataclass(frozen=True)
class ConditionalWeights:
    """One of the files, read.

    weights: the differences of the checkpoint's own parameters, with the first convolution's of its 4 channels; kernel: the
    convolution of the given layers' latents, (out, 4 * layers, 3, 3).
    """

    kind: Kind
    weights: ForegroundWeights
    kernel: Tensor

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.weights.name


def recognise_conditional(shapes: Mapping[str, tuple[int, ...]], name: str = "the file", kind: str = AUTO) -> Kind:
    """Return which of the four models a file is, from its tensor names and shapes, its name and the user's word.

    fg2ble and bg2ble hold the same tensors, so their file's name tells them apart; of the two with 12 channels only bgble2fg
    changes transformer blocks. kind: a name of KINDS overrules the file's name. ValueError, naming what the file is and what
    is expected, for anything else, for a kind that does not fit the content, and where nothing tells the kind.
    """
    keys = list(shapes)
    other = other_content(keys)
    if other is not None:
        see = f" {SD15_PAGE} says what runs it." if "SD1.5" in other else ""
        raise ValueError(f"{name} is {other}. {_EXPECTED}.{see}")
    found = [shapes[key] for key in _FIRST if key in shapes]
    if not found:
        first = ", ".join(sorted(keys)[:3])
        raise ValueError(
            f"{name} does not change SDXL's first convolution (its {len(keys)} tensors are named {first}, ...), so it takes no "
            f"layers. {_EXPECTED}; LayerDiffuse's {WANTED} belongs into Apply Foreground Weights."
        )
    channels = found[0][1] if len(found[0]) == 4 else 0
    fitting = [known for known in KINDS.values() if known.channels == channels]
    if channels == LATENT_CHANNELS:
        raise ValueError(f"{name} takes no layers: its first convolution has 4 channels, as in foreground weights (choose "
                         f"those in Apply Foreground Weights); expected 8 or 12. {_EXPECTED}.")  # fmt: skip
    if not fitting:
        raise ValueError(
            f"{name}: its first convolution has the shape {found[0]}; expected 8 or 12 channels (2 or 3 latents). {_EXPECTED}."
        )
    told = kind if kind != AUTO else _named(name)
    if told:
        if KINDS[told] not in fitting:
            whose = "chosen as" if kind != AUTO else "named as"
            raise ValueError(
                f"{name} is {whose} {told}, which has {KINDS[told].channels} channels in its first convolution, but its own has "
                f"{channels}, as {' and '.join(known.name for known in fitting)} have: choose the kind that it is"
            )
        return KINDS[told]
    if channels == KINDS["bgble2fg"].channels:
        return KINDS["bgble2fg" if any("transformer_blocks" in key for key in keys) else "fgble2bg"]
    raise ValueError(
        f"{name} may be fg2ble or bg2ble, which hold the same tensors: choose its kind, or give the file one of these names"
    )


def _named(name: str) -> str | None:
    """The kind in a file's name, the longest that fits; None without one."""
    return max((kind for kind in KINDS if kind in name.lower()), key=len, default=None)


def parse_conditional(tensors: Mapping[str, Tensor], name: str = "the file", kind: str = AUTO) -> ConditionalWeights:
    """Read the tensors of one of the four files; nothing is copied. ValueError as `recognise_conditional` and `parse`."""
    found = recognise_conditional({key: tuple(tensor.shape) for key, tensor in tensors.items()}, name, kind)
    packaging = Packaging.LAYERDIFFUSE if any("::" in key for key in tensors) else Packaging.DIFFUSERS
    named = lora_named(tensors, packaging, name, _EXPECTED)
    first = next(f"{key}.diff" for file, key in _FIRST.items() if file in tensors)
    widened = named[first]
    named[first] = widened[:, :LATENT_CHANNELS]
    weights = ForegroundWeights(packaging, name, named, title=TITLE, expected=_EXPECTED)
    return ConditionalWeights(found, weights, widened[:, LATENT_CHANNELS:])
