"""The patches of one attention in a run's UNet: the foreground's delta, the reading of priors, the blending.

They find the `Forward` they belong to in `extra_options`, so that forwards in several threads share nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...method.prior_maps import Block, Grid
from ...method.priors import content_confidence, structure_scores
from ...method.streams import interleave
from .forward import Forward
from .per_stream import COUPLES, KEY, MERGES, attend
from .text_lengths import TextLengths

SITES = ("attn1", "attn2")  # self-attention, cross-attention


class PriorsComplete(Exception):
    """Ends a prior pass after the last block's cross-attention: nothing behind it is needed."""


def _block(extra_options: dict) -> Block:
    """Name of the transformer block under way."""
    return (*extra_options["block"], extra_options["block_index"])


def _grid(extra_options: dict) -> Grid:
    """Token rows and columns of the block under way."""
    height, width = extra_options["activations_shape"][-2:]
    return height, width


def _require_all_tokens(forward: Forward, n: torch.Tensor, extra_options: dict) -> None:
    height, width = _grid(extra_options)
    rows, tokens = n.shape[:2]
    if (rows, tokens) != (forward.rows, height * width):
        raise ValueError(
            f"an attention got {rows} x {tokens} tokens where {forward.rows} pictures of {height} x {width} = "
            f"{height * width} tokens were expected: {COUPLES if tokens == height * width else MERGES}"
        )


def input_patch():
    """attn1_patch / attn2_patch: keep the inputs for the delta of q, k, v."""

    def patch(n, context, value, extra_options):
        forward: Forward = extra_options[KEY]
        _require_all_tokens(forward, n, extra_options)
        if forward.delta is not None:
            forward.inputs = {"to_q": n, "to_k": context, "to_v": value}
        return n, context, value

    return patch


def attention_patch(block: Block, site: str, attention: Callable):
    """Replace patch: add the delta to q, k, v, read the priors from them, then attend by `attention`."""

    def patch(q, k, v, extra_options):
        forward: Forward = extra_options[KEY]
        delta = forward.delta
        if delta is not None:  # in place: the projections are fresh and ours alone
            delta.add_to_attention(block, site, {"to_q": q, "to_k": k, "to_v": v}, forward.inputs, forward.foreground_rows)
        _read_priors(forward, block, site, q, k, extra_options)
        out = attention(q, k, v, extra_options)
        if delta is not None:
            forward.inputs = {"to_out": out}
        return out

    return patch


def _read_priors(forward: Forward, block: Block, site: str, q: torch.Tensor, k: torch.Tensor, extra_options: dict) -> None:
    """Read the priors of the foreground rows from one attention's queries and keys, of those conditionings that want it."""
    is_last, heads = block == forward.of_pass.settings.last, extra_options["n_heads"]
    if site == "attn1" and not is_last:
        return
    for chunk, columns, priors in forward.reads:
        queries, keys = (forward.foreground_rows_of(chunk, x) for x in (q, k))  # (N, K, M | L, C)
        grid = _grid(extra_options)
        if site == "attn1":
            priors.structure = structure_scores(queries.flatten(0, 1), keys.flatten(0, 1), heads), grid
        else:
            shown = [forward.text.shown(prompt.tokens, k.shape[1]) for prompt in columns]
            confidence = [
                content_confidence(queries[:, i], keys[:, i], heads, prompt.of(n), n)
                for i, (prompt, n) in enumerate(zip(columns, shown))
            ]
            priors.content[block] = interleave(confidence), grid
    if forward.ends_early and site == "attn2" and is_last and forward.reads:
        raise PriorsComplete


def delta_output_patch(site: str):
    """attn1_output_patch / attn2_output_patch, first in line: complete eps_FG's attention with the delta of to_out."""

    def patch(n, extra_options):
        forward: Forward = extra_options[KEY]
        if forward.delta is not None:  # in place: nobody has seen the projection's output yet
            outs, block = {"to_out": n}, _block(extra_options)
            forward.delta.add_to_attention(block, site, outs, forward.inputs, forward.foreground_rows)
            forward.inputs = {}
        return n

    return patch


def blend_patch(site: str):
    """attn1_output_patch / attn2_output_patch, last in line: blend what all other patches have made of the outputs."""

    def patch(n, extra_options):
        forward: Forward = extra_options[KEY]
        this, block, grid = forward.of_pass, _block(extra_options), _grid(extra_options)
        if not this.blends(site, grid):
            return n

        def blended(a: torch.Tensor) -> torch.Tensor:
            return this.settings.blending.attention(a, this.masks(block, grid, a), site)

        if forward.part is not None:
            return forward.part.meet((block, site), n, blended)
        return blended(this.settings.layout.grouped(n)).flatten(0, 1)

    return patch


def attend_to_own_text(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
    """The host's attention as a replace patch, each stream to its own text."""
    return extra_options[KEY].text.attend(attend, q, k, v, extra_options)


def own_text(args: list, streams: list[int], extra_options: dict) -> list:
    """A replace patch's arguments (q, k, v, options) for some of the streams, with nothing but their texts in k and v."""
    q, k, v, options = args
    text: TextLengths = extra_options[KEY].text
    return [q, text.of(k, streams), text.of(v, streams), options]
