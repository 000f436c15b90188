"""Prompts of unlike length in one batch: each stream attends to its own text, at its own length.

The rows of a batch have one number of tokens, so shorter texts are filled up to the longest, by their own tokens once
more. Whole repeats leave softmax attention unchanged; what is left over is cut off before each attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Lengths = tuple[int, ...]  # tokens of each stream's own text in a stacked entry
TEXT = "c_crossattn"  # in an entry's model_conds


def fill_up(texts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Texts (B, L_i, C) at the length of the longest, repeated from their beginning."""
    longest = max(text.shape[1] for text in texts)
    return [text.repeat(1, -(-longest // text.shape[1]), 1)[:, :longest] for text in texts]


def even(texts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Texts (B, L_i, C) repeated to their least common multiple, as the host brings two conditionings together."""
    length = math.lcm(*(text.shape[1] for text in texts))
    return [text.repeat(1, length // text.shape[1], 1) for text in texts]


def _kept(own: Lengths | None, stream: int, tokens: int) -> int:
    """Of `tokens`, the longest of the texts repeated whole: all where they are whole repeats of the stream's, else its own."""
    return tokens if own is None or max(own) % own[stream] == 0 else own[stream]


class TextLengths:
    """How much of the text each row of one forward attends to.

    own: for every chunk of rows, the lengths of the texts that were filled up together, None for a text that was not;
    streams: which of them the forward holds; rows: of the forward; tokens: of the text in it, which the host may have
    repeated whole.
    """

    def __init__(self, own: list[Lengths | None], streams: range, rows: int, tokens: int, device: torch.device):
        self.tokens = tokens
        self._kept = [[_kept(chunk, i, tokens) for i in streams] for chunk in own]
        self.uneven = any(n != tokens for chunk in self._kept for n in chunk)
        self._rows: dict[int, torch.Tensor] = {}
        if self.uneven:  # made here: a copy to the device in every block would make the device wait
            by_row = torch.tensor(self._kept).repeat_interleave(rows // len(own) // len(streams), dim=0).flatten()
            self._rows = {n: (by_row == n).nonzero().flatten().to(device) for n in sorted(set(by_row.tolist()))}

    def shown(self, tokens: int, keys: int) -> int:
        """How many of the `keys` that an attention has got belong to the first `tokens` of the text.

        Another node may have made one key of several tokens (NegPip: of two), or added keys of its own behind them.
        """
        return tokens if keys >= self.tokens else tokens * keys // self.tokens

    def attend(self, attention: Callable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> torch.Tensor:
        """attention(q, k, v, options) for all rows, those of one length together."""
        if not self.uneven:
            return attention(q, k, v, options)
        out = torch.empty_like(q)
        for tokens, rows in self._rows.items():
            keys, values = (self._cut(x[rows], tokens) for x in (k, v))
            out[rows] = attention(q[rows], keys, values, options).to(out.dtype)
        return out

    def of(self, x: torch.Tensor, streams: list[int]) -> torch.Tensor:
        """Keys or values (rows of some of the streams, L, C) for a patch that knows one length: their texts alone, made even."""
        if not self.uneven:
            return x
        rows = x.unflatten(0, (len(self._kept), -1, len(streams)))  # (chunks, N, streams, L, C)
        texts = [self._cut(rows[c, :, i], kept[stream]) for c, kept in enumerate(self._kept) for i, stream in enumerate(streams)]
        return torch.stack(even(texts)).unflatten(0, (-1, len(streams))).transpose(1, 2).flatten(0, 2)

    def _cut(self, x: torch.Tensor, tokens: int) -> torch.Tensor:
        """Keys or values (B, L, C) of the first `tokens` of the text, and what a node has added behind the text."""
        if tokens == self.tokens:
            return x
        if x.shape[1] > self.tokens:
            return torch.cat([x[:, :tokens], x[:, self.tokens :]], dim=1)
        if tokens * x.shape[1] % self.tokens:
            raise ValueError(
                f"a cross-attention got {x.shape[1]} keys for {self.tokens} tokens of text: a node on the model leaves tokens "
                "of the prompts out, and which ones cannot be told where prompts are of unlike length; remove it, or give "
                "all prompts the same number of chunks (75 words each)"
            )
        return x[:, : self.shown(tokens, x.shape[1])]
