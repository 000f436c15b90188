"""Objects as maps that any light can be put on, painted part by part: coverage, colour, surface normal, gloss and glow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scene_shapes import swell
from torch import Tensor


@dataclass
class Maps:
    """`colour` and `glow` are (B, 3, S, S), the others (B, S, S).

    `alpha` covers all, `solid` only what throws a shadow; nx, ny: surface normal; `rim`: where glass is thick; `glass`: 1
    for objects of glass.
    """

    alpha: Tensor
    colour: Tensor
    nx: Tensor
    ny: Tensor
    gloss: Tensor
    glow: Tensor
    rim: Tensor
    solid: Tensor
    glass: Tensor


class Artist:
    """One batch of canvases: the object's coordinates and what has been painted so far."""

    def __init__(self, x: Tensor, y: Tensor, centre: Tensor, size: Tensor, colour: Tensor, turn: Tensor, glass: Tensor):
        """x, y (1, S, S); centre (B, 2, 1, 1); size, turn (B, 1, 1); colour (B, 3, 1, 1); glass (B, 1, 1) bool."""
        self.side = x.shape[-1]
        self.radius = size / 2
        self.u, self.v = (x - centre[:, 0]) / self.radius, (y - centre[:, 1]) / self.radius
        self.main, self.turn, self.glass = colour, turn, glass
        self.pixel = 1 / (self.radius * self.side)  # in object units
        zero = torch.zeros_like(self.u)
        plain = colour.expand(-1, -1, self.side, self.side)
        self.maps = Maps(zero, plain, zero, zero, zero, torch.zeros_like(plain), zero, zero, zero + glass)

    def mask(self, distance: Tensor) -> Tensor:
        """Anti-aliased coverage of a distance."""
        return (0.5 - distance / self.pixel).clamp(0, 1)

    def tone(self, colour) -> Tensor:
        """A colour given as three numbers, or as a tensor already."""
        return colour if isinstance(colour, Tensor) else self.u.new_tensor(colour).view(1, 3, 1, 1)

    def mix(self, colour, share: float) -> Tensor:
        """The object's own colour with `share` of another."""
        return torch.lerp(self.main, self.tone(colour).expand_as(self.main), share)

    def part(self, distance: Tensor, colour=None, bevel: float = 0.25, gloss: float = 0.0, normal=None) -> Tensor:
        """Paints a solid part over what is there; returns its coverage. `normal`: (nx, ny) instead of a round edge."""
        m, cover = self.maps, self.mask(distance)
        wide = self.mask(distance - 1.5 * self.pixel)  # colour runs on below the anti-aliased edge
        nx, ny = normal if normal is not None else swell(distance, bevel, self.pixel)
        colour = self.tone(self.main if colour is None else colour)
        m.alpha = m.alpha + cover * (1 - m.alpha)
        m.solid = m.solid + cover * (1 - m.solid)
        m.colour = m.colour + wide[:, None] * (colour - m.colour)
        m.nx, m.ny = torch.lerp(m.nx, nx.clamp(-1, 1), wide), torch.lerp(m.ny, ny.clamp(-1, 1), wide)
        m.gloss = torch.lerp(m.gloss, torch.full_like(m.gloss, gloss), wide)
        m.glow = m.glow * (1 - wide[:, None])
        return cover

    def paint(self, cover: Tensor, colour, amount: float = 1.0) -> None:
        """Changes the colour only, where `cover` is."""
        m = self.maps
        m.colour = m.colour + amount * cover[:, None] * (self.tone(colour) - m.colour)

    def sphere(self, cx=0.0, cy=0.0, rx=1.0, ry=1.0) -> tuple[Tensor, Tensor]:
        nx, ny = (self.u - cx) / rx, (self.v - cy) / ry
        long = torch.hypot(nx, ny).clamp(min=1.0)
        return 0.98 * nx / long, 0.98 * ny / long

    def opaque(self, cover: Tensor) -> Tensor:
        """`cover`, nothing where the object is of glass: what glass has not (labels, patterns)."""
        return cover * ~self.glass
