"""Low-rank terms of an attention's projections, in as few products as they need.

A term adds up(down(x)) * scale to the foreground rows of one projection (`row_terms`). Projections that read the same
tensor share one product with all their downs, and the ups are added in place to the rows where they lie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ops
import torch

from ...weights.changes import LowRank
from .row_terms import Difference, linear

SHARED_INPUT = {"attn1": (("to_q", "to_k", "to_v"), ("to_out",)), "attn2": (("to_q",), ("to_k", "to_v"), ("to_out",))}
"""Projections of an attention that read one tensor, unless a patch of another node gives them several."""


class LowRankTerms(torch.nn.Module):
    """The low-rank terms of some projections of one attention, one each.

    differences: low-rank ones, by projection name. dtype: of the factors, the one they are used in.
    """

    def __init__(self, differences: dict[str, Difference], dtype: torch.dtype | None):
        super().__init__()
        changes = [found.change for found in differences.values() if isinstance(found.change, LowRank)]
        self.names = tuple(differences)
        self.scales = [found.factor * change.scale for found, change in zip(differences.values(), changes)]
        self.ranks = [len(change.down) for change in changes]
        self.down = linear(torch.cat([change.down.flatten(1) for change in changes]).to(dtype))  # (sum of ranks, C)
        self.ups = torch.nn.ModuleList([linear(change.up.flatten(1).to(dtype)) for change in changes])  # (C', rank) each

    def add_to(self, outs: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor], foreground_rows: Callable) -> None:
        """Add the terms of the inputs (rows, M, C) to the outputs (rows, M, C'), by projection name, in place.

        foreground_rows: the view (G, K, ...) of the foreground rows of a tensor (rows, ...).
        """
        given = [inputs[name] for name in self.names]
        down = _weight(self.down, given[0])
        ups = [_weight(up, given[0]) for up in self.ups]
        if all(x is given[0] for x in given):
            shared = [_products(x, down) for x in _batches(foreground_rows(given[0]))]
            low = zip(*(products.split(self.ranks, dim=-1) for products in shared))
        else:
            downs = down.split(self.ranks)
            low = [[_products(x, own) for x in _batches(foreground_rows(each))] for each, own in zip(given, downs)]
        for name, up, scale, parts in zip(self.names, ups, self.scales, low):
            for out, part in zip(_batches(foreground_rows(outs[name])), parts):
                out.baddbmm_(part, up.t().expand(out.shape[0], -1, -1), alpha=scale)


def grouped(
    differences: dict[str, list[Difference]], site: str, dtype: torch.dtype | None
) -> tuple[list[LowRankTerms], dict[str, list[Difference]]]:
    """Of one attention's differences, by projection name: low-rank terms by input, one a projection, and what is left."""
    taken = {
        name: next(found for found in own if isinstance(found.change, LowRank))
        for name, own in differences.items()
        if any(isinstance(found.change, LowRank) for found in own)
    }
    shared = [{name: taken[name] for name in names if name in taken} for names in SHARED_INPUT[site]]
    left = {name: [found for found in own if found is not taken.get(name)] for name, own in differences.items()}
    return [LowRankTerms(own, dtype) for own in shared if own], left


def _batches(x: torch.Tensor) -> list[torch.Tensor]:
    """Rows (G, K, M, C) as batches (B, M, C) that need no copy: all at once where they lie side by side."""
    return [x.flatten(0, 1)] if x.is_contiguous() else list(x.unbind(1))


def _products(x: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """down(x): (B, M, C), (R, C) -> (B, M, R); rows may lie apart."""
    return torch.bmm(x, down.t().expand(x.shape[0], -1, -1))


def _weight(layer: Any, like: torch.Tensor) -> torch.Tensor:
    """The layer's weight on the device and in the type of `like`; the host brings it there where it is not already."""
    weight = layer.weight
    if weight is not None and weight.device == like.device and weight.dtype == like.dtype and not layer.weight_function:
        return weight
    return comfy.ops.cast_bias_weight(layer, like)[0]
