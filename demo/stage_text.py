"""Stage `text`: trains the text encoders to state every attribute of a caption in its EOS state and pooled vector.

They are frozen afterwards, so the U-Net meets separable text features from its first step and caption embeddings can be
computed once.
"""

from __future__ import annotations

import json
import random
import re

import torch
import torch.nn.functional as F
from common import Clock, Settings, export, log, rate
from safetensors.torch import load_file
from scene_light import TONES
from scene_objects import COLOURS, OBJECTS
from scenes import BACKDROPS, Item, random_scene
from text_model import TextEncoders
from torch import nn
from vocabulary import (
    GREY_CAPTION,
    OBJECT_WORDS,
    USED_IDS,
    WORDS,
    background_caption,
    composite_caption,
    foreground_caption,
)

CONFIG = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256,
    "max_position_embeddings": 77, "hidden_act": {"clip_l": "quick_gelu", "clip_g": "gelu"}, "projection_dim": 64,
    "hidden_state": -2, "final_layer_norm_on_hidden_state": False, "pad": {"clip_l": 49407, "clip_g": 0},
}  # fmt: skip
TRAINED = 28  # positions computed in training: no caption is longer, and later ones cannot change earlier ones
ITEM = (len(OBJECTS) + 1, len(COLOURS) + 1, 2, 3)  # kind, colour, glass, side
SIZES = (*ITEM, *ITEM, len(BACKDROPS) + 1, len(TONES) + 1)


def random_caption(rng: random.Random) -> tuple[str, list[int]]:
    """A caption with random parts and wording, and its labels (0 = absent) in the order of SIZES."""
    scene = random_scene(rng.randrange(2**40))
    kind = rng.random()
    if kind < 0.04:
        return rng.choice(["", GREY_CAPTION]), [0] * len(SIZES)
    has_front, has_back = kind < 0.75, kind > 0.35
    if has_front and has_back:
        text = composite_caption(scene, rng)
    else:
        text = foreground_caption(scene, rng) if has_front else background_caption(scene, rng)
    items = list(scene.items) if has_front and has_back else list(scene.items[:1]) if has_front else []
    labels = [label for item in _as_mentioned(text, items) for label in _item_labels(text, item)]
    labels += [0] * (2 * len(ITEM) - len(labels))
    labels += (
        [1 + BACKDROPS.index(scene.backdrop), 1 + list(TONES).index(scene.tone) if scene.tone else 0]
        if has_back
        else [0, 0]
    )
    if rng.random() < 0.1:  # an unknown word now and then: its shared embedding row must stay neutral
        words = text.split(" ")
        words.insert(rng.randrange(len(words)), "unknownword")
        text = " ".join(words)
    return text, labels


def _mention(text: str, item: Item) -> int:
    """Where the caption names the item."""
    found = (re.search(rf"\b{word}\b", text) for word in (*OBJECT_WORDS.get(item.kind, ()), item.kind))
    return min(match.start() for match in found if match)


def _as_mentioned(text: str, items: list[Item]) -> list[Item]:
    return sorted(items, key=lambda item: _mention(text, item))


def _item_labels(text: str, item: Item) -> list[int]:
    """Labels of an item as far as the caption says them."""
    at = _mention(text, item)
    before, after = text[:at].split()[-3:], text[at:].split()[:5]
    colour = 1 + list(COLOURS).index(item.colour) if item.colour in before else 0
    joined = " ".join(after)
    where = 1 if "on the left" in joined else 2 if "on the right" in joined else 0
    return [1 + list(OBJECTS).index(item.kind), colour, int("glass" in before and item.glass), where]


def train(settings: Settings, minutes: float, batch: int = 96) -> None:
    torch.manual_seed(settings.seed + 1)
    rng = random.Random(settings.seed)
    model = TextEncoders().to(settings.device)
    # one linear reader each of the clip_l EOS state, the clip_g EOS state and the pooled vector
    heads = nn.ModuleList(nn.Linear(64, sum(SIZES)) for _ in range(3)).to(settings.device)
    parameters = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-3)
    clock, step = Clock(minutes), 0
    while clock.progress() < 1:
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * rate(clock.progress())
        captions, labels = zip(*(random_caption(rng) for _ in range(batch)), strict=True)
        context, pooled, columns = model(list(captions), TRAINED)
        eos = context[torch.arange(batch), columns]
        target = torch.tensor(labels, device=settings.device)
        loss, right = 0.0, 0.0
        for features, head in zip((eos[:, :64], eos[:, 64:], pooled), heads, strict=True):
            logits = head(F.dropout(F.layer_norm(features, (64,)), 0.1)).split(SIZES, dim=-1)
            loss = loss + sum(F.cross_entropy(part, target[:, i]) for i, part in enumerate(logits))
            hits = sum((part.argmax(-1) == target[:, i]).float().mean() for i, part in enumerate(logits)).item()
            right += hits / (3 * len(SIZES))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            log.info("text: step %d, loss %.3f, attributes right %.3f", step, loss.item(), right)
    with torch.no_grad():  # unit standard deviation of what the U-Net reads
        captions = [random_caption(rng)[0] for _ in range(400)]
        context, pooled, columns = model(captions)
        used = torch.arange(77)[None] <= columns[:, None]
        for index, name in enumerate(("clip_l", "clip_g")):
            half = context[..., 64 * index : 64 * index + 64][used]
            getattr(model, name)["text_model"].rescale(1 / half.std().item())
        model.clip_g["text_projection"].weight.div_(pooled.std())
        context, pooled, _ = model(captions)
        log.info("text: context deviation %.3f, pooled %.3f", context[used].std().item(), pooled.std().item())
    save(settings, model)


def save(settings: Settings, model: TextEncoders) -> None:
    tensors = {**model.state_dict(), "clip_l.used_ids": torch.tensor(USED_IDS, dtype=torch.int64)}
    export(settings, "text_encoders", tensors, CONFIG, words=json.dumps(WORDS))


def load(settings: Settings) -> TextEncoders:
    model = TextEncoders()
    state = load_file(str(settings.models / "text_encoders.safetensors"))
    model.load_state_dict({k: v.float() for k, v in state.items() if k != "clip_l.used_ids"})
    return model.to(settings.device).eval().requires_grad_(False)
