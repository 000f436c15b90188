"""The two generative priors of the paper (section 2.1), read from attention queries and keys.

Attention tensors come as ComfyUI and Diffusers project them: (B, tokens, heads * dim), heads side by side.
Everything is computed in fp32 and in row chunks: the M x M matrix of a self-attention is never whole in memory.
"""

from __future__ import annotations

import torch

CHUNK_BYTES = 64 * 2**20  # of one fp32 block of probabilities, heads x rows x M
CHUNK_BYTES_CPU = 4 * 2**20  # stays in a core's cache


def _split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, T, heads * d) -> (B, heads, T, d) in fp32."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2).float()


def _rows_per_chunk(heads: int, keys: int, device: torch.device) -> int:
    budget = CHUNK_BYTES_CPU if device.type == "cpu" else CHUNK_BYTES
    return max(1, budget // (4 * heads * keys))


def structure_scores(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    """Effective number of tokens that each token attends to: s_i = 1 / sum_j m_ij^2, m = mean over heads of softmax(QK^T / sqrt d).

    q, k: (B, M, heads * d) of the foreground denoiser's last self-attention. Returns (B, M) fp32 in [1, M].
    """
    queries, keys = _split_heads(q, heads), _split_heads(k, heads).transpose(2, 3)
    queries = queries * queries.shape[-1] ** -0.5
    scores = queries.new_empty(q.shape[:2])
    step = _rows_per_chunk(heads, keys.shape[-1], q.device)
    for b in range(q.shape[0]):
        for start in range(0, q.shape[1], step):
            rows = slice(start, start + step)
            m = torch.softmax(queries[b, :, rows] @ keys[b], dim=-1).mean(dim=0)  # (rows, M), heads averaged first
            scores[b, rows] = m.square().sum(dim=-1).reciprocal()
    return scores


def content_confidence(
    q: torch.Tensor, k: torch.Tensor, heads: int, columns: torch.Tensor | slice, tokens: int | None = None
) -> torch.Tensor:
    """Head-averaged cross-attention probability of the <EOS> token: c_i in [0, 1].

    q: (B, M, heads * d); k: (B, L, heads * d), of which the first `tokens` columns count (a host may repeat a prompt
    to another's length, which leaves the softmax over one copy unchanged). columns: (C,) long or a slice, the text columns
    whose mean probability is taken; one column, the <EOS>, is the paper's prior. Returns (B, M) fp32.
    """
    queries = _split_heads(q, heads)
    keys = _split_heads(k[:, :tokens], heads).transpose(2, 3)
    scale = keys.shape[-2] ** -0.5  # 1 / sqrt d
    queries, keys = queries.flatten(0, 1), keys.flatten(0, 1)  # one product for all samples: their texts are short
    confidence, nothing = queries.new_empty(q.shape[:2]), queries.new_empty(())
    columns = columns if isinstance(columns, slice) else columns.to(q.device)
    step = _rows_per_chunk(len(queries), keys.shape[-1], q.device)
    for start in range(0, q.shape[1], step):
        rows = slice(start, start + step)
        scores = torch.baddbmm(nothing, queries[:, rows], keys, beta=0, alpha=scale)  # scaled in the product
        p = torch.softmax(scores, dim=-1).unflatten(0, (-1, heads))  # (B, heads, rows, L)
        torch.mean(p[..., columns], dim=(1, 3), out=confidence[:, rows])
    return confidence
