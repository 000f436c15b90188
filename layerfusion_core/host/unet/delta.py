"""The foreground denoiser as a difference: what its patches add to the outputs of the base model's modules.

The foreground rows of a shared forward get base(x) + term(x), so the base weights are never read or rewritten and may
be offloaded, quantised or patched as the host likes. The difference is a model of its own under the host's memory
management.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from ...method.prior_maps import Block
from ..models.management import keep_in_memory, managed
from .low_rank import LowRankTerms, grouped
from .row_terms import Difference, add_terms, difference, make_term

log = logging.getLogger(__name__)

ATTACHMENT = "layerfusion_delta"  # of the foreground model: the difference that a run has made, for the next
UNET = "diffusion_model."  # what the host's weight keys of the UNet start with
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


class ForegroundDelta(torch.nn.Module):
    """The terms that the foreground model adds to the base model's modules.

    module_terms: those by the module's name in the UNet, but for the attention projections, which `add_to_attention` adds:
    they are called by attention patches. dtype: the one the UNet computes in.
    """

    def __init__(self, differences: Iterable[Difference], dtype: torch.dtype | None) -> None:
        super().__init__()
        self.terms = torch.nn.ModuleList()  # what the host moves and counts
        self._low_rank: dict[tuple[Block, str], list[LowRankTerms]] = {}
        self._others: dict[tuple[Block, str], dict[str, torch.nn.ModuleList]] = {}

        sites: dict[tuple[Block, str], dict[str, list[Difference]]] = {}
        modules: dict[str, list[Difference]] = {}
        for found in differences:
            site = attention_site(found.key)
            if site is None:
                modules.setdefault(found.key.removeprefix(UNET).rpartition(".")[0], []).append(found)
            else:
                block, attention, name = site
                sites.setdefault((block, attention), {}).setdefault(name, []).append(found)
        for (block, attention), own in sites.items():
            self._low_rank[block, attention], left = grouped(own, attention, dtype)
            self.terms.extend(self._low_rank[block, attention])
            self._others[block, attention] = self._made(left)
        self.module_terms = self._made(modules)

    def _made(self, differences: dict[str, list[Difference]]) -> dict[str, torch.nn.ModuleList]:
        made = {name: torch.nn.ModuleList(map(make_term, own)) for name, own in differences.items() if own}
        self.terms.extend(made.values())
        return made

    def add_to_attention(
        self,
        block: Block,
        attention: str,
        outs: dict[str, torch.Tensor],
        inputs: dict[str, torch.Tensor],
        foreground_rows: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Add the terms of one attention's projections to what they gave out, for the foreground rows, in place.

        outs, inputs: (rows, M, C) by projection name ("to_q", "to_k", "to_v" together, or "to_out"); foreground_rows:
        the view (G, K, ...) of the foreground rows of a tensor (rows, ...).
        """
        for group in self._low_rank.get((block, attention), ()):
            if group.names[0] in outs:
                group.add_to(outs, inputs, foreground_rows)
        for name, terms in self._others.get((block, attention), {}).items():
            if name in outs:
                add_terms(terms, foreground_rows(outs[name]), foreground_rows(inputs[name]))

    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """Wrap the difference so that the host loads, counts and offloads it like any model."""
        return managed(
            self,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )


def _differing(base: dict[str, list], foreground: dict[str, list]) -> list[tuple[str, tuple, float]]:
    """Patch entries that only one of the two models has: (key, entry, +1 for the foreground's, -1 for the base's)."""
    found = []
    for key in dict.fromkeys([*foreground, *base]):
        # Strength 0 adds nothing; the third value is what the weight itself is multiplied by (UNet Self-Attention Multiply).
        ours, theirs = (
            [e for e in entries.get(key, []) if e[0] != 0 or e[2] != 1] for entries in (foreground, base)
        )

        def same(a: tuple, b: tuple) -> bool:
            return a[1] is b[1] and a[0] == b[0] and a[2:] == b[2:]

        found += [(key, entry, 1.0) for entry in ours if not any(same(entry, other) for other in theirs)]
        found += [(key, entry, -1.0) for entry in theirs if not any(same(entry, other) for other in ours)]
    return found


def _compute_dtype(model: comfy.model_patcher.ModelPatcher) -> torch.dtype | None:
    """The type that a model's UNet computes in, or None when it is not told by the model's attributes."""
    dtype = getattr(model.model, "manual_cast_dtype", None) or model.model_dtype()
    return dtype if dtype in (torch.float32, torch.float16, torch.bfloat16) else None


def foreground_delta(base: comfy.model_patcher.ModelPatcher, foreground_model: comfy.model_patcher.ModelPatcher):
    """Return the host patcher of the `ForegroundDelta` that turns `base` into `foreground`.

    The two share their weights. The difference is kept on the foreground model, so that a second queue finds it loaded.
    ValueError when the two do not differ, or differ by patches that cannot act on some rows alone.
    """
    entries = _differing(base.patches, foreground_model.patches)
    if all(sign < 0 for _, _, sign in entries):
        raise ValueError(
            "foreground_model carries no foreground weights, so the foreground would come out opaque: connect the "
            "foreground_model output of Load LayerFusion Models, Apply Foreground Weights or Load Demo Models "
            "(with a strength above 0)"
            + (", or swap the two: base_model carries patches that foreground_model lacks" if entries else "")
        )
    outside = [key for key, _, _ in entries if not key.startswith(UNET)]
    if outside:
        raise ValueError(
            f"foreground_model changes {outside[0]}, which is no weight of the UNet: only those can act on the foreground "
            "alone; apply the change to the base model before Apply Foreground Weights"
        )

    kept = foreground_model.attachments.get(ATTACHMENT)
    signature = (base.patches_uuid, foreground_model.patches_uuid)
    if kept is not None and kept[0] == signature:
        return kept[1]
    modules = {key: comfy.utils.get_attr(base.model, key.rpartition(".")[0]) for key, _, _ in entries}
    differences = [difference(modules[key], key, entry, sign) for key, entry, sign in entries]
    dtype = _compute_dtype(base)

    def make(**_) -> comfy.model_patcher.ModelPatcher:
        delta = ForegroundDelta(differences, dtype)
        keep_in_memory(delta, (tensor for found in differences for tensor in found.change.tensors))
        return delta.patcher()

    patcher = make()
    if hasattr(patcher, "cached_patcher_init"):  # how newer hosts make a copy for another GPU
        patcher.cached_patcher_init = (make, ())
    foreground_model.set_attachments(ATTACHMENT, (signature, patcher))
    return patcher
