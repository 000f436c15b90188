"""The foreground denoiser as a difference: what its patches add to the base model's attention projections.

The foreground rows of a shared forward get base(x) + up(down(x)), so the base weights are never read or rewritten
and may be offloaded, quantised or patched as the host likes. The difference is a model of its own under the host's
memory management.
"""

from __future__ import annotations

import logging
import re

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.weight_adapter import LoRAAdapter

from ..prior_maps import Block
from .management import managed

log = logging.getLogger(__name__)

_ATTENTION_KEY = re.compile(
    r"diffusion_model\.(?:(input|output)_blocks\.(\d+)|(middle)_block)\.1\."
    r"transformer_blocks\.(\d+)\.(attn[12])\.(to_q|to_k|to_v|to_out)(?:\.0)?\.weight"
)


def attention_site(key: str) -> tuple[Block, str, str] | None:
    """Parse a weight key to (block, "attn1" | "attn2", projection), or None when it is no attention projection."""
    match = _ATTENTION_KEY.fullmatch(key)
    if match is None:
        return None
    side, number, middle, index, attention, projection = match.groups()
    return (side or middle, int(number or 0), int(index)), attention, projection


class _LowRank(torch.nn.Module):
    """x -> up(down(x)) * scale, or x -> full(x) * scale for a full-rank difference."""

    def __init__(self, weights: list[torch.Tensor], scale: float):
        super().__init__()
        linear = comfy.ops.manual_cast.Linear
        self.layers = torch.nn.ModuleList(
            [linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype, device=w.device) for w in weights]
        )
        # load_state_dict, not a plain assignment: hosts with dynamic memory create the weights only here.
        self.load_state_dict({f"layers.{i}.weight": w for i, w in enumerate(weights)}, assign=True)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x * self.scale


class ForegroundDelta(torch.nn.Module):
    """Per attention projection, the terms that the foreground model adds to the base model's."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = torch.nn.ModuleDict()
        self._sites: dict[tuple[Block, str], dict[str, torch.nn.ModuleList]] = {}

    def add(self, site: tuple[Block, str, str], term: _LowRank) -> None:
        """Add a term to a projection."""
        block, attention, projection = site
        name = "_".join(map(str, (*block, attention, projection)))
        if name not in self.terms:
            self.terms[name] = torch.nn.ModuleList()
            self._sites.setdefault((block, attention), {})[projection] = self.terms[name]
        self.terms[name].append(term)

    def at(self, block: Block, attention: str) -> dict[str, torch.nn.ModuleList]:
        """Terms of one attention by projection name ("to_q", "to_k", "to_v", "to_out"); empty where nothing differs."""
        return self._sites.get((block, attention), {})

    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """Wrap the difference so that the host loads, counts and offloads it like any model."""
        return managed(
            self,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )


def apply_terms(terms: torch.nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    """Sum of the terms of one projection on its input x (..., in) -> (..., out)."""
    out = terms[0](x)
    for term in list(terms)[1:]:
        out = out + term(x)
    return out


def _term(key: str, entry: tuple, sign: float) -> _LowRank:
    strength, patch, strength_model, offset, function = entry
    plain = strength_model == 1.0 and offset is None and function is None
    if plain and isinstance(patch, LoRAAdapter):
        up, down, alpha, mid, dora, reshape = patch.weights
        if mid is None and dora is None and reshape is None:
            rank = down.shape[0]
            scale = strength * (1.0 if alpha is None else float(alpha) / rank)
            return _LowRank([down.flatten(1), up.flatten(1)], sign * scale)
    if plain and isinstance(patch, tuple) and patch[0] == "diff" and len(patch[1]) == 1:
        return _LowRank([patch[1][0].flatten(1)], sign * strength)
    kind = patch[0] if isinstance(patch, tuple) else type(patch).__name__
    raise ValueError(
        f"the patch of type {kind} on {key} differs between foreground_model and base_model, and only plain LoRAs and "
        "full differences can act on the foreground alone; apply it to the base model before Apply Foreground Weights"
    )


def _differences(base: dict[str, list], foreground: dict[str, list]) -> list[tuple[str, tuple, float]]:
    """Patch entries that only one of the two models has: (key, entry, +1 for the foreground's, -1 for the base's)."""
    found = []
    for key in dict.fromkeys([*foreground, *base]):
        ours, theirs = (
            [e for e in entries.get(key, []) if e[0] != 0] for entries in (foreground, base)
        )  # strength 0: none

        def same(a: tuple, b: tuple) -> bool:
            return a[1] is b[1] and a[0] == b[0] and a[2:] == b[2:]

        found += [(key, entry, 1.0) for entry in ours if not any(same(entry, other) for other in theirs)]
        found += [(key, entry, -1.0) for entry in theirs if not any(same(entry, other) for other in ours)]
    return found


def foreground_delta(base: comfy.model_patcher.ModelPatcher, foreground: comfy.model_patcher.ModelPatcher):
    """Return the host patcher of the `ForegroundDelta` that turns `base` into `foreground`.

    It is kept on the foreground model, so that a second queue finds it loaded. ValueError when the two do not share
    weights, do not differ, or differ outside the attention projections.
    """
    if not foreground.is_clone(base):
        raise ValueError(
            "base_model and foreground_model do not share their weights: expected the foreground model to be the base "
            "model with foreground weights on top. Make it with Apply Foreground Weights from the same checkpoint "
            "(in Load LayerFusion Models choose foreground_checkpoint 'same as base')"
        )
    differences = _differences(base.patches, foreground.patches)
    if not differences:
        raise ValueError(
            "foreground_model carries no foreground weights, so the foreground would come out opaque: connect the "
            "foreground_model output of Load LayerFusion Models, Apply Foreground Weights or Load Demo Models "
            "(with a strength above 0)"
        )
    outside = [key for key, _, _ in differences if attention_site(key if isinstance(key, str) else key[0]) is None]
    if outside:
        raise ValueError(
            f"base_model and foreground_model differ in {len(outside)} weights outside the attention projections, first "
            f"{outside[0]}: only attention differences can act on the foreground rows alone. Use the 'attn' foreground "
            "weights (layer_xl_transparent_attn), and apply other LoRAs before Apply Foreground Weights so that both "
            "models have them"
        )

    kept = foreground.attachments.get("layerfusion_delta")
    signature = (base.patches_uuid, foreground.patches_uuid)
    if kept is not None and kept[0] == signature:
        return kept[1]
    delta = ForegroundDelta()
    for key, entry, sign in differences:
        delta.add(attention_site(key), _term(key, entry, sign))
    patcher = delta.patcher()
    foreground.set_attachments("layerfusion_delta", (signature, patcher))
    return patcher
