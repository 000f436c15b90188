"""Conditionings of the streams as one: entries of all streams in step, stacked over the interleaved rows.

The host runs every entry of a conditioning on the whole batch and takes the mean of the predictions, weighted by mask
and strength. Stacked entries carry these weights per stream, so that every stream gets its own mean.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from typing import NamedTuple, NewType

import comfy.samplers
import torch
from comfy.conds import CONDCrossAttn
from comfy.controlnet import ControlBase

from ...method.streams import interleave
from ..unet.text_lengths import Lengths, fill_up
from .stream_control import StreamControl

LayerEntry = NewType("LayerEntry", dict)
"""One entry of one layer's conditioning, for that layer's N rows, as the host has processed it: "model_conds", "mask", ..."""
RowEntry = NewType("RowEntry", dict)
"""One entry for the N * S rows of all layers, as the host takes it: "model_conds", "mask", "control" and a "uuid"."""


class StackedEntry(NamedTuple):
    """An entry for the rows of all streams, and the entries it was made of, in the order of the streams."""

    rows: RowEntry
    parts: tuple[LayerEntry, ...]


def is_active(entry: LayerEntry, sigma: float) -> bool:
    """Whether the entry's timestep range holds `sigma`; the host's rule, ends included."""
    return entry.get("timestep_end", -math.inf) <= sigma <= entry.get("timestep_start", math.inf)


@dataclass
class StreamStack:
    """Stacks the entries of some streams, keeping every stack and every `StreamControl` for the next evaluation.

    names: of the streams, in row order, for messages; streams: each one's processed entries; lengths: where those of
    the texts of every stacked entry go, by its uuid and the text's key.
    """

    names: tuple[str, ...]
    streams: list[list[LayerEntry]]
    lengths: dict[object, dict[str, Lengths]]
    controls: dict[tuple[int, ...], StreamControl] = field(default_factory=dict)
    _stacks: dict[tuple[tuple[int, ...], ...], list[StackedEntry]] = field(default_factory=dict)

    def at(self, sigma: float) -> list[StackedEntry]:
        """The stacked entries of the evaluation at `sigma`; the same objects whenever the same entries are active."""
        active = tuple(tuple(i for i, e in enumerate(s) if is_active(e, sigma)) for s in self.streams)
        if active not in self._stacks:
            for name, entries in zip(self.names, active):
                if not entries:
                    raise ValueError(f"{name}: none of its timestep ranges holds the step at sigma {sigma:.4g}")
            streams = [[s[i] for i in entries] for s, entries in zip(self.streams, active)]
            self._stacks[active] = stack_entries(self.names, streams, self.lengths, self.controls)
        return self._stacks[active]


def stack_entries(
    names: tuple[str, ...],
    streams: list[list[LayerEntry]],
    lengths: dict[object, dict[str, Lengths]],
    controls: dict[tuple[int, ...], StreamControl],
) -> list[StackedEntry]:
    """Merge the streams' entries into as many as the longest list has; shorter lists are repeated.

    lengths: of the texts, by uuid of the stacked entry, to be added to; controls: the known `StreamControl`s by what they
    hold, kept by the caller: the host puts two conditionings into one forward only if they share the object.
    """
    count = max(map(len, streams))
    weights = [_weights(entries, count) for entries in streams]
    plain = all(_alike(column) for column in weights)
    stacked = []
    for i in range(count):
        parts = tuple(entries[i % len(entries)] for entries in streams)
        entry = RowEntry({"model_conds": _stack_conds(names, parts), "uuid": uuid.uuid4()})
        if not plain:
            entry["mask"] = _stack_masks(names, [column[i] for column in weights])
        lengths[entry["uuid"]] = _text_lengths(parts)
        held = tuple(part.get("control") for part in parts)
        if any(control is not None for control in held):
            entry["control"] = controls.setdefault(tuple(map(id, held)), StreamControl(held, lengths))
        stacked.append(StackedEntry(entry, parts))
    return stacked


def _weights(entries: list[LayerEntry], count: int) -> list[torch.Tensor]:
    """Weights (1 or N, h, w) or scalars of a stream's entries repeated to `count`, an entry's shared among its repeats."""
    out = []
    for i in range(count):
        entry = entries[i % len(entries)]
        repeats = len(range(i % len(entries), count, len(entries)))
        weight = torch.tensor(entry.get("strength", 1.0) / repeats)
        if "mask" in entry:
            weight = entry["mask"] * entry.get("mask_strength", 1.0) * weight
        out.append(weight)
    return out


def _alike(weights: list[torch.Tensor]) -> bool:
    """Whether the weights cancel out of the mean."""
    return all(w.ndim == 0 and w == weights[0] and w > 0 for w in weights)


def _stack_masks(names: tuple[str, ...], weights: list[torch.Tensor]) -> torch.Tensor:
    """Weights of one stacked entry as a mask over the interleaved rows, (S or N * S, h, w)."""
    like = next((w for w in weights if w.ndim), None)
    shape = (1, 1, 1) if like is None else (max(w.shape[0] for w in weights if w.ndim), *like.shape[1:])
    rows = []
    for name, weight in zip(names, weights):
        if weight.ndim and weight.shape[0] not in (1, shape[0]):
            raise ValueError(
                f"{name}: its mask has {weight.shape[0]} pictures where another stream's has {shape[0]}; give all masks "
                "one picture, or one per latent of the batch"
            )
        rows.append(weight.to("cpu" if like is None else like.device).expand(shape))
    return interleave(rows)


def _stack_conds(names: tuple[str, ...], parts: tuple[LayerEntry, ...]) -> dict:
    keys = parts[0]["model_conds"].keys()
    for name, part in zip(names, parts):
        if part["model_conds"].keys() != keys:
            raise ValueError(
                f"{name}: its conditioning carries {sorted(part['model_conds'])} where {names[0]}'s carries "
                f"{sorted(keys)}; make all streams' conditionings with the same kind of node"
            )
    return {key: _stack_value(key, [part["model_conds"][key] for part in parts]) for key in keys}


def _stack_value(key: str, values: list):
    tensors = [value.cond for value in values]
    if not all(isinstance(t, torch.Tensor) for t in tensors):
        if all(t is tensors[0] or t == tensors[0] for t in tensors):
            return values[0]
        raise ValueError(f"the streams' conditionings differ in '{key}', which cannot differ between streams")
    if isinstance(values[0], CONDCrossAttn):
        tensors = fill_up(tensors)
    batch = max(t.shape[0] for t in tensors)
    if any(t.shape[0] not in (1, batch) for t in tensors):
        raise ValueError(f"the streams' conditionings have different batch sizes in '{key}'; use 1 or the same for all")
    tensors = [t.expand(batch, *t.shape[1:]) for t in tensors]
    return type(values[0])(interleave(tensors))


def _text_lengths(parts: tuple[LayerEntry, ...]) -> dict[str, Lengths]:
    conds = [part["model_conds"] for part in parts]
    texts = [key for key, value in conds[0].items() if isinstance(value, CONDCrossAttn)]
    return {key: tuple(own[key].cond.shape[1] for own in conds) for key in texts}


def stream_negatives(
    positives: list[list[LayerEntry]], negatives: list[list[LayerEntry]], common: list[bool], shared: list[LayerEntry]
) -> list[list[LayerEntry]] | None:
    """Negative entries per stream with the control that belongs to each, or None if `shared` serves all as it is.

    negatives: each stream's, encoded for its rows; common: which of them are `shared`, the conditioning for all. A
    ControlNet on `shared` stands for "the negative of whoever has a ControlNet": each stream's copy gets the stream's
    own, so that no control reaches the rows of another. Where a positive asks for it (ControlNetApply), its control
    goes to a negative without one, by the host's own rule.
    """
    controlled = any(_controls(shared))
    asked = any(e.get("control_apply_to_uncond") for p in positives for e in p)
    if all(common) and not controlled and not asked and not _differs_by_row(shared):
        return None
    if controlled and not any(control for p in positives for control in _controls(p)):
        raise ValueError(
            "negative: it carries a ControlNet but no stream's conditioning does; connect the positive output of "
            "Apply ControlNet too, or give the negative without it"
        )
    found = []
    for positive, negative, is_shared in zip(positives, negatives, common):
        entries = _with_controls(negative, [c for c in _controls(positive) if c]) if is_shared else list(negative)
        asking = [e for e in positive if e.get("control_apply_to_uncond")]
        comfy.samplers.apply_empty_x_to_equal_area(asking, entries, "control", lambda nets, i: nets[i])
        found.append(entries)
    return found


def _differs_by_row(entries: list[LayerEntry]) -> bool:
    """Whether entries hold something of several rows, which cannot be tiled over interleaved streams as it is."""
    held = [entry["mask"] for entry in entries if "mask" in entry]
    held += [cond.cond for entry in entries for cond in entry["model_conds"].values()]
    return any(isinstance(x, torch.Tensor) and x.ndim > 0 and x.shape[0] > 1 for x in held)


def _controls(entries: list[LayerEntry]) -> list[ControlBase | None]:
    return [e.get("control") for e in entries]


def _with_controls(shared: list[LayerEntry], controls: list[ControlBase]) -> list[LayerEntry]:
    """Copies of the shared negative's entries: those with a control get the stream's instead, or none."""
    out = []
    for i, entry in enumerate(shared):
        copy = LayerEntry({k: v for k, v in entry.items() if k != "control"})
        if entry.get("control") is not None and controls:
            copy["control"] = controls[i % len(controls)]
        out.append(copy)
    return out
