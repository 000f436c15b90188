"""Conditionings of the streams: encoding, checks and <EOS> columns."""

from __future__ import annotations

import logging

import comfy.hooks
import torch
from comfy.model_patcher import ModelPatcher

from ..unet.run import TextColumns

log = logging.getLogger(__name__)

EOS_KEY = "layerfusion_eos"  # in a conditioning's dict: list of <EOS> columns, written by LayerFusionTextEncode
CHUNK = 77  # tokens of one CLIP chunk
_MASK = "use Conditioning (Set Mask) with set_cond_area 'default' instead"
_UNSUPPORTED = {  # keys of a conditioning's dict: what it is, and what to do
    "area": ("an area", f"areas crop the picture and with it the shared attention; {_MASK}"),
    "set_area_to_bounds": ("a mask with set_cond_area 'mask bounds'", f"that crops the picture; {_MASK}"),
    "gligen": ("GLIGEN boxes", "remove the node that adds them"),
    "hooks": ("hooks", "they give a prompt weights of its own; put LoRAs on the models instead"),
    "couple": ("hooks that draw several prompts at once (attention couple, COUPLE)", f"for parts of the picture {_MASK}"),
    "default": ("a default prompt", "use Conditioning (Set Mask) and Conditioning (Combine) instead"),
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
        control = extra.get("control")
        if control is not None and control.get_extra_hooks():
            extra = {**extra, "hooks": True}
        hooks = getattr(extra.get("hooks"), "hooks", [])
        if any(isinstance(hook, comfy.hooks.TransformerOptionsHook) for hook in hooks):
            extra = {**extra, "hooks": None, "couple": True}
        for key, (name, advice) in _UNSUPPORTED.items():
            if extra.get(key):
                raise ValueError(
                    f"{what}: the conditioning carries {name}, which LayerFusion cannot keep to one stream: {advice}"
                )
    _check_ranges([extra for _, extra in conditioning], what)


def _check_ranges(entries: list[dict], what: str) -> None:
    """ValueError unless the entries' timestep ranges cover the whole schedule together."""
    covered = 0.0
    for start, end in sorted((e.get("start_percent", 0.0), e.get("end_percent", 1.0)) for e in entries):
        if start <= covered:
            covered = max(covered, end)
    if covered < 1.0:
        raise ValueError(
            f"{what}: its timestep ranges leave the schedule empty at {covered:.0%}; give Conditioning (Combine) a prompt "
            "for every part from 0 to 1"
        )


def text_columns(prompt: dict, device: torch.device) -> TextColumns:
    """The content-confidence columns of one processed foreground conditioning entry.

    With the <EOS> column known (LayerFusion Text Encode), that one. Otherwise the documented fallback: the mean over
    every column but each chunk's start token, which holds the attention that the text does not claim.
    """
    tokens = prompt["cross_attn"].shape[1]
    eos = [c for c in prompt.get(EOS_KEY) or [] if 0 <= c < tokens]
    if not eos:
        log.info("foreground prompt without token positions: using all text columns for the content confidence prior")
    return TextColumns(eos, tokens, CHUNK, device)


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
