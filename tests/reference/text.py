"""The demonstration model's two CLIP text encoders on transformers, and its tokenizer by word table."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

START, EOS = 49406, 49407
VOCABULARY = 49408
LENGTH = 77  # tokens of one chunk
WORD = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_+")  # CLIP's pattern: letters, single digits, or other signs


def tokenize(text: str, words: dict[str, list[int]], unknown_id: int, pad: int) -> list[list[int]]:
    """Chunks of 77 ids: start, up to 75 words, end, padding. A word outside the table becomes the one unknown id."""
    ids = [i for word in WORD.findall(text.lower()) for i in words.get(word, [unknown_id])]
    parts = [ids[i : i + LENGTH - 2] for i in range(0, len(ids), LENGTH - 2)] or [[]]
    chunks = [[START, *part, EOS] for part in parts]
    return [chunk + [pad] * (LENGTH - len(chunk)) for chunk in chunks]


class TextEncoder(nn.Module):
    """One CLIP text encoder: ids of a chunk -> (penultimate hidden state (1, 77, D), pooled EOS state (1, D))."""

    def __init__(self, model: nn.Module, projection: Tensor | None) -> None:
        super().__init__()
        self.model, self.projection = model, projection

    @classmethod
    def load(cls, weights: dict[str, Tensor], name: str, used_ids: Tensor, config: dict[str, Any]) -> TextEncoder:
        """Build the encoder called `name` ("clip_l" or "clip_g") from the shared file's weights and config."""
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        model = CLIPTextModel(
            CLIPTextConfig(
                **{key: config[key] for key in sizes},
                max_position_embeddings=LENGTH,
                hidden_act=config["hidden_act"][name],
                vocab_size=VOCABULARY,
                projection_dim=config["projection_dim"],
                bos_token_id=START,
                eos_token_id=EOS,
                pad_token_id=EOS,
            )
        )
        inner = getattr(model, "text_model", model)  # transformers 5 has no level between
        prefix = f"{name}.text_model."
        own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        table = "embeddings.token_embedding.weight"
        rows = own[table]
        own[table] = rows[-1].repeat(VOCABULARY, 1)  # every id that is not stored shares the last row
        own[table][used_ids] = rows[:-1]
        own.pop("embeddings.position_ids", None)
        missing, unexpected = inner.load_state_dict(own, strict=False)
        if unexpected or [key for key in missing if not key.endswith("position_ids")]:
            raise ValueError(f"The weights of {name} do not fit: missing {missing}, unexpected {unexpected}.")
        return cls(inner.eval().requires_grad_(False), weights.get(f"{name}.text_projection.weight"))

    def forward(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        out = self.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        pooled = out.last_hidden_state[:, ids.index(EOS)]  # after all layers and the final norm
        if self.projection is not None:
            pooled = pooled @ self.projection.T
        return out.hidden_states[-2], pooled
