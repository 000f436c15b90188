"""Conditionings of the streams: checks, <EOS> columns, and stacking them over the interleaved rows."""

from __future__ import annotations

import logging
import math
import uuid

import torch
from comfy.conds import CONDCrossAttn
from comfy.model_patcher import ModelPatcher

from ..streams import interleave
from .engine import TextColumns

log = logging.getLogger(__name__)

EOS_KEY = "layerfusion_eos"  # in a conditioning's dict: list of <EOS> columns, written by LayerFusionTextEncode
CHUNK = 77  # tokens of one CLIP chunk
_UNSUPPORTED = {
    "control": "a ControlNet",
    "area": "an area",
    "mask": "a mask",
    "gligen": "GLIGEN boxes",
    "hooks": "hooks",
    "start_percent": "a timestep range",
    "end_percent": "a timestep range",
}


def eos_column(tokens: dict) -> int | None:
    """Column of the <EOS> of the last chunk with content, from `clip.tokenize(text)`; None for a foreign tokenizer."""
    chunks = tokens.get("g") or tokens.get("l")
    if not chunks:
        return None
    found = None
    for number, chunk in enumerate(chunks):
        ids = [item[0] for item in chunk]
        end = next((i for i, token in enumerate(ids) if isinstance(token, int) and token == 49407), None)
        if end is not None and (number == 0 or end > 1):  # an <EOS> right behind the start token: an empty chunk
            found = number * CHUNK + end
    return found


def check_conditioning(model: ModelPatcher, conditioning: list, what: str) -> None:
    """ValueError unless `conditioning` can drive `model`'s UNet as one stream."""
    if not conditioning:
        raise ValueError(f"{what}: the conditioning is empty; connect a LayerFusion Text Encode or CLIP Text Encode")
    config = model.model.model_config.unet_config
    width = config.get("context_dim")
    for tensor, extra in conditioning:
        if tensor.ndim != 3 or tensor.shape[-1] != width:
            raise ValueError(
                f"{what}: expected text features of shape (1, tokens, {width}), got {tuple(tensor.shape)}; encode the "
                "prompt with the CLIP output of the same SDXL checkpoint"
            )
        pooled = extra.get("pooled_output")
        adm = model.model.adm_channels - 6 * 256
        if pooled is None or pooled.shape[-1] != adm:
            came = "none" if pooled is None else tuple(pooled.shape)
            raise ValueError(
                f"{what}: expected a pooled text vector of {adm} values beside the text features, got {came}; encode the "
                "prompt with the CLIP output of the same SDXL checkpoint"
            )
        for key, name in _UNSUPPORTED.items():
            if extra.get(key) is not None:
                raise ValueError(
                    f"{what}: the conditioning carries {name}, which LayerFusion cannot keep to one stream yet; remove "
                    "the node that adds it"
                )


def text_columns(conditioning: list, device: torch.device) -> TextColumns:
    """The content-confidence columns of one processed foreground conditioning entry.

    With the <EOS> column known (LayerFusion Text Encode), that one. Otherwise the documented fallback: the mean over
    every column but each chunk's start token, which holds the attention that the text does not claim.
    """
    tokens = conditioning["cross_attn"].shape[1]
    columns = [c for c in conditioning.get(EOS_KEY) or [] if 0 <= c < tokens]
    if not columns:
        log.info("foreground prompt without token positions: using all text columns for the content confidence prior")
        columns = [c for c in range(tokens) if c % CHUNK]
    return TextColumns(torch.tensor(columns, dtype=torch.long, device=device), tokens)


def stack_streams(names: tuple[str, ...], streams: list[list[dict]]) -> list[dict]:
    """Merge processed conds, one list per stream, into conds whose rows tile over the interleaved batch.

    names: the streams' names, for messages; streams: a list of entries with "model_conds" for each. Lists of several
    entries (Conditioning Combine) must be equally long, or of length 1, which counts for every entry of the others.
    """
    entries = max(map(len, streams))
    for name, stream in zip(names, streams):
        if len(stream) not in (1, entries):
            raise ValueError(
                f"{name}: {len(stream)} combined conditionings where another stream has {entries}; give every stream one "
                "conditioning, or the same number"
            )
    return [_stack_entry(names, [stream[i % len(stream)] for stream in streams]) for i in range(entries)]


def _stack_entry(names: tuple[str, ...], conds: list[dict]) -> dict:
    keys = conds[0]["model_conds"].keys()
    for name, cond in zip(names, conds):
        if cond["model_conds"].keys() != keys:
            raise ValueError(
                f"{name}: its conditioning carries {sorted(cond['model_conds'])} where {names[0]}'s carries "
                f"{sorted(keys)}; make all streams' conditionings with the same kind of node"
            )
    strengths = {cond.get("strength", 1.0) for cond in conds}
    if len(strengths) > 1:
        raise ValueError(f"the streams' conditioning strengths differ ({sorted(strengths)}); give all streams the same")
    stacked = {key: _stack_value(key, [cond["model_conds"][key] for cond in conds]) for key in keys}
    return {"model_conds": stacked, "uuid": uuid.uuid4(), "strength": strengths.pop()}


def _stack_value(key: str, values: list):
    tensors = [value.cond for value in values]
    if not all(isinstance(t, torch.Tensor) for t in tensors):
        if all(t is tensors[0] or t == tensors[0] for t in tensors):
            return values[0]
        raise ValueError(f"the streams' conditionings differ in '{key}', which cannot differ between streams")
    if isinstance(values[0], CONDCrossAttn):
        # Repeating a prompt's tokens leaves its softmax attention unchanged, so lengths can be evened out.
        length = math.lcm(*(t.shape[1] for t in tensors))
        tensors = [t.repeat(1, length // t.shape[1], 1) for t in tensors]
    batch = max(t.shape[0] for t in tensors)
    if any(t.shape[0] not in (1, batch) for t in tensors):
        raise ValueError(f"the streams' conditionings have different batch sizes in '{key}'; use 1 or the same for all")
    tensors = [t.expand(batch, *t.shape[1:]) for t in tensors]
    return type(values[0])(interleave(tensors))


def encode_prompt(clip, text: str) -> list:
    """Encode one prompt with a SDXL CLIP; the CONDITIONING carries the <EOS> column for the content-confidence prior."""
    if clip is None:
        raise ValueError("clip: the checkpoint brought no text encoder; load one with a CLIP loader for SDXL")
    tokens = clip.tokenize(text)
    column = eos_column(tokens)
    if column is not None and "l" in tokens and "g" in tokens and eos_column({"l": tokens["l"]}) != column:
        log.warning("the two text encoders place the end of %r differently (an embedding only one of them has?)", text)
    eos = {} if column is None else {EOS_KEY: [column]}
    return [[tensor, {**extra, **eos}] for tensor, extra in clip.encode_from_tokens_scheduled(tokens)]
