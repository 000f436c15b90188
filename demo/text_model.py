"""The two tiny text encoders as plain torch modules with Hugging Face's CLIPTextModel names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from vocabulary import END, LENGTH, USED_IDS, row_index, tokenize

WIDTH, LAYERS, HEADS, HIDDEN = 64, 3, 4, 256


class Layer(nn.Module):
    def __init__(self, quick: bool):
        super().__init__()
        self.quick = quick
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.self_attn = nn.ModuleDict({f"{n}_proj": nn.Linear(WIDTH, WIDTH) for n in ("q", "k", "v", "out")})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, HIDDEN), "fc2": nn.Linear(HIDDEN, WIDTH)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        h = self.layer_norm1(x)
        q, k, v = (
            self.self_attn[n](h).view(batch, length, HEADS, -1).transpose(1, 2) for n in ("q_proj", "k_proj", "v_proj")
        )
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + self.self_attn["out_proj"](h)
        h = self.mlp["fc1"](self.layer_norm2(x))
        h = h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h)
        return x + self.mlp["fc2"](h)


class TextModel(nn.Module):
    """Rows of the stored embedding table (B, 77) to the hidden state after layer 2 of 3, (B, 77, 64), without the final
    norm, and the normed final state (B, 77, 64)."""

    def __init__(self, quick: bool):
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": nn.Embedding(len(USED_IDS) + 1, WIDTH),
                "position_embedding": nn.Embedding(LENGTH, WIDTH),
            }
        )
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(quick) for _ in range(LAYERS))})
        self.final_layer_norm = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.embeddings["position_embedding"].weight, std=0.3)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.embeddings["token_embedding"](rows) + self.embeddings["position_embedding"].weight[: rows.shape[1]]
        hidden = x
        for index, layer in enumerate(self.encoder["layers"]):
            x = layer(x)
            if index == LAYERS - 2:
                hidden = x
        return hidden, self.final_layer_norm(x)

    def rescale(self, factor: float) -> None:
        """Multiplies the residual stream by `factor`; every reader of it is a layer norm, so nothing else changes."""
        with torch.no_grad():
            for table in self.embeddings.values():
                table.weight.mul_(factor)
            for layer in self.encoder["layers"]:
                for linear in (layer.self_attn["out_proj"], layer.mlp["fc2"]):
                    linear.weight.mul_(factor)
                    linear.bias.mul_(factor)


class TextEncoders(nn.Module):
    """Both encoders. `forward(captions)` returns context (B, 77, 128), pooled (B, 64) and the EOS columns (B,).

    `length`: compute only so many positions, which must hold every caption.
    """

    def __init__(self):
        super().__init__()
        self.clip_l = nn.ModuleDict({"text_model": TextModel(quick=True)})
        self.clip_g = nn.ModuleDict(
            {"text_model": TextModel(quick=False), "text_projection": nn.Linear(WIDTH, WIDTH, bias=False)}
        )

    def rows(self, captions: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, right = ([tokenize(c, pad)[:length] for c in captions] for pad in (END, 0))
        columns = torch.tensor([ids.index(END) for ids in left])
        device = self.clip_g["text_projection"].weight.device
        tables = (torch.tensor([row_index(ids) for ids in side], device=device) for side in (left, right))
        return (*tables, columns)

    def forward(self, captions: list[str], length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, right, columns = self.rows(captions, length)
        hidden_l, _ = self.clip_l["text_model"](left)
        hidden_g, final_g = self.clip_g["text_model"](right)
        pooled = self.clip_g["text_projection"](final_g[torch.arange(len(captions)), columns])
        return torch.cat([hidden_l, hidden_g], dim=-1), pooled, columns
