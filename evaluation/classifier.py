"""A small classifier of the demo's pictures, trained on its drawn scenes: which object, which scene, or no object.

It judges what the ground-truth-free measures cannot: whether a layer shows what its prompt names. It learns pictures of
scenes without an object, with one, with a faint one (a leak), and objects on the grey canvas.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .drawings import scenes_module, single

SIDE = 64
SCENES, STEPS, BATCH = 4000, 1000, 64
FAINTEST = 0.35  # opacity of the faintest leak it is taught to find
NONE = 0  # class of "no object" and of "no scene" (grey canvas)
HEADS = {"shape": 17, "colour": 7, "pattern": 17, "tone": 5}  # classes, the first is NONE


def drawn(seeds: range) -> tuple[Tensor, Tensor]:
    """Four pictures per scene, uint8 (4 N, 64, 64, 3), and their classes (4 N, 4) in the order of HEADS.

    Without object, with it, with a faint one, and the object on grey.
    """
    scenes = scenes_module()
    chosen = itertools.islice(single(1_000_000 + 2 * seeds.start), len(seeds))  # far from those the models are trained on
    pictures, labels = [], []
    for part in iter(lambda: list(itertools.islice(chosen, 50)), []):
        d = scenes.draw_batch(part, SIDE)
        strength = np.random.default_rng(seeds.start + len(labels)).uniform(FAINTEST, 0.8, (len(part), 1, 1, 1))
        faint = torch.lerp(d.background, d.composite, torch.from_numpy(strength).float())
        pictures.append(torch.stack([d.background, d.composite, faint, d.on_grey], 1).flatten(0, 1))
        for scene in part:
            item, place = labels_of(scene)
            labels += [[NONE, NONE, *place], [*item, *place], [*item, *place], [*item, NONE, NONE]]
    stack = (torch.cat(pictures).permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8)
    return stack, torch.tensor(labels)


def labels_of(scene) -> tuple[list[int], list[int]]:
    """Classes of a scene's object (shape, colour) and of its backdrop (pattern, tone; no tone where it is a place)."""
    scenes = scenes_module()
    item = scene.items[0]
    tone = 1 + tuple(scenes.TONES).index(scene.tone) if scene.tone else NONE
    return (
        [1 + tuple(scenes.OBJECTS).index(item.kind), 1 + tuple(scenes.COLOURS).index(item.colour)],
        [1 + scenes.BACKDROPS.index(scene.backdrop), tone],
    )


class Classifier(nn.Module):
    """Four strided convolutions and a linear layer per question; (B, 3, 64, 64) in [0, 1] -> logits by head."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 96)
        self.features = nn.Sequential(*(
            layer for a, b in zip(widths, widths[1:])
            for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU())
        ), nn.Flatten(), nn.Linear(96 * 16, 128), nn.SiLU())  # fmt: skip
        self.heads = nn.ModuleDict({name: nn.Linear(128, count) for name, count in HEADS.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.features(x * 2 - 1)
        return {name: head(features) for name, head in self.heads.items()}


def train(seed: int = 0, scenes: int = SCENES, steps: int = STEPS) -> Classifier:
    """Train from nothing, two minutes on a core, on pictures as soft, grainy and off-colour as decoded ones."""
    torch.manual_seed(seed)
    pictures, labels = drawn(range(scenes))
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        pick = torch.randint(len(pictures), (BATCH,), generator=generator)
        x = pictures[pick].permute(0, 3, 1, 2).float() / 255
        logits = model(_worn(x, generator))
        loss = sum(F.cross_entropy(logits[name], labels[pick, i]) for i, name in enumerate(HEADS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _worn(x: Tensor, generator: torch.Generator) -> Tensor:
    """What sampling and an autoencoder do to a picture: softer edges, grain, slightly other tones, other places."""
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear", align_corners=False)
    amount = torch.rand(len(x), 1, 1, 1, generator=generator)
    x = torch.lerp(x, soft, amount)
    x = x * (1 + 0.1 * torch.randn(len(x), 3, 1, 1, generator=generator))
    x = x + 0.05 * torch.randn(len(x), 3, 1, 1, generator=generator)
    coarse = torch.randn(len(x), 3, 8, 8, generator=generator)
    x = x + 0.04 * torch.rand(len(x), 1, 1, 1, generator=generator) * F.interpolate(coarse, size=x.shape[-2:])
    dy, dx = torch.randint(-4, 5, (2,), generator=generator).tolist()
    x = F.pad(x, (4, 4, 4, 4), mode="replicate")[..., 4 + dy : 4 + dy + SIDE, 4 + dx : 4 + dx + SIDE]
    return (x + 0.02 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


@torch.no_grad()
def classify(model: Classifier, pictures: Tensor) -> Tensor:
    """Classes (B, 4) in the order of HEADS of pictures (B, H, W, 3) in [0, 1] of any size."""
    x = F.interpolate(pictures.permute(0, 3, 1, 2).float(), size=(SIDE, SIDE), mode="area")
    logits = model(x)
    return torch.stack([logits[name].argmax(dim=-1) for name in HEADS], dim=-1)


def accuracy(model: Classifier, wear=None) -> dict[str, float]:
    """Share of right answers on 500 drawn scenes it has not seen; wear: changes pictures (B, H, W, 3) first.

    object_found / object_missed: share of pictures without / with an object (faint ones too) said to have one / none.
    """
    pictures, labels = drawn(range(SCENES, SCENES + 500))
    x = pictures.float() / 255
    found = classify(model, wear(x) if wear else x)
    scores = {}
    for i, name in enumerate(HEADS):
        named = labels[:, i] != NONE
        scores[name] = (found[named, i] == labels[named, i]).float().mean().item()
    has, says = labels[:, 0] != NONE, found[:, 0] != NONE
    scores["object_found"] = says[~has].float().mean().item()
    scores["object_missed"] = (~says[has]).float().mean().item()
    return scores
