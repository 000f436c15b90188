"""A batch of pictures that scenes are painted on."""

from __future__ import annotations

import torch
from torch import Tensor

GROUND = 0.56
"""Where the ground of a scene meets what is behind it, as a fraction of the height."""


class Canvas:
    """A batch of pictures being painted; x, y (1 or B, S, S) in [0, 1], `phase` four numbers in [0, 1) a picture.

    Scenes are painted with their light on the left. Where `mirror` is set, x runs the other way.
    """

    def __init__(self, x: Tensor, y: Tensor, phase: Tensor, mirror: Tensor):
        self.side = x.shape[-1]
        self.x = torch.where(mirror, 1 - x, x)
        self.y = y.expand_as(self.x)
        self.phase = [phase[:, i, None, None] for i in range(4)]
        self.picture = self.x.new_zeros(len(phase), 3, self.side, self.side)

    def tone(self, colour) -> Tensor:
        return colour if isinstance(colour, Tensor) else self.x.new_tensor(colour).view(1, 3, 1, 1)

    def mask(self, distance: Tensor, soft: float = 0.0) -> Tensor:
        """Coverage of a distance in canvas units; `soft`: width of its edge."""
        return (0.5 - distance / max(soft, 1 / self.side)).clamp(0, 1)

    def paint(self, cover: Tensor, colour, amount: float = 1.0) -> None:
        self.picture = self.picture + amount * cover[:, None] * (self.tone(colour) - self.picture)

    def fade(self, top, bottom, start: float = 0.0, end: float = 1.0) -> Tensor:
        """Vertical gradient as a colour map (B, 3, S, S)."""
        t = ((self.y - start) / (end - start)).clamp(0, 1)[:, None]
        return torch.lerp(self.tone(top).expand(1, 3, 1, 1), self.tone(bottom).expand(1, 3, 1, 1), t)

    def glow(self, cx, cy, radius: float, colour, amount: float = 1.0) -> None:
        """A soft spot of light."""
        away = torch.hypot(self.x - cx, self.y - cy) / radius
        self.paint(torch.exp(-away * away), colour, amount)

    def below(self, line) -> Tensor:
        return self.mask(line - self.y)
