"""Regions: where on the canvas a foreground may be, as masks of 1 inside and 0 outside."""

from __future__ import annotations

from typing import NamedTuple

import torch

SIDE = 1024  # pixels of a box's mask: it is stretched over the canvas, whose sides rarely have more latent cells
PLACES = {
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 0.5, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 0.5),
}
_EXAMPLE = "a red apple | 0, 0, 0.5, 1"


class Part(NamedTuple):
    """One object of a text: its prompt, and its box (x, y, width, height) as shares of the canvas, or None."""

    text: str
    box: tuple[float, float, float, float] | None


def box_mask(x: float, y: float, width: float, height: float, name: str = "region") -> torch.Tensor:
    """A box as a MASK (1, SIDE, SIDE), 1 inside; x, y (of the left upper corner), width and height are shares of the canvas.

    ValueError unless the box has a size and lies on the canvas.
    """
    across = all(size > 0 and 0 <= start and start + size <= 1 + 1e-6 for start, size in ((x, width), (y, height)))
    if not across:
        raise ValueError(
            f"{name}: expected a box on the canvas, x + width and y + height at most 1 and both sides above 0, got x {x:g}, "
            f"y {y:g}, width {width:g}, height {height:g}"
        )
    return torch.outer(_covered(y, height), _covered(x, width)).unsqueeze(0)


def _covered(start: float, size: float) -> torch.Tensor:
    """The share of each of SIDE pixels that lies between start and start + size."""
    pixel = torch.arange(SIDE, dtype=torch.float64)
    end = torch.clamp(pixel + 1, max=(start + size) * SIDE)
    return (end - torch.clamp(pixel, min=start * SIDE)).clamp(0.0, 1.0).float()


def parse_parts(text: str) -> list[Part]:
    """Objects of a text with one per line, from the rear to the front: `prompt`, or `prompt | x, y, width, height`.

    The box may be a word of `PLACES`; empty lines do not count. ValueError names the line that is none of these.
    """
    parts = []
    for number, line in enumerate(text.splitlines(), start=1):
        prompt, bar, place = (piece.strip() for piece in line.rpartition("|"))
        prompt, place = (prompt, place) if bar else (place, "")
        if not prompt and not place:
            continue
        if not prompt or (bar and not place):
            raise ValueError(f"foregrounds, line {number}: expected a prompt and a region such as '{_EXAMPLE}', got '{line}'")
        parts.append(Part(prompt, _box(place, number) if bar else None))
    if not parts:
        raise ValueError(f"foregrounds: expected one object per line, such as '{_EXAMPLE}', got an empty text")
    return parts


def _box(place: str, number: int) -> tuple[float, float, float, float]:
    if place.lower() in PLACES:
        return PLACES[place.lower()]
    try:
        x, y, width, height = (float(value) for value in place.replace(",", " ").split())
    except ValueError:
        raise ValueError(
            f"foregrounds, line {number}: expected a region as x, y, width, height in shares of the canvas, or "
            f"{', '.join(PLACES)}; got '{place}'"
        ) from None
    box_mask(x, y, width, height, f"foregrounds, line {number}")
    return x, y, width, height


def joined(objects: list[str], background: str) -> str:
    """The prompt of the whole picture: "a, b and c, background"; an empty background is left out."""
    *most, last = objects
    scene = f"{', '.join(most)} and {last}" if most else last
    return f"{scene}, {background}" if background.strip() else scene
