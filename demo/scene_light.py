"""Names of the scenes, and their light: a direction and colours that an object takes when it stands there."""

from __future__ import annotations

from dataclasses import dataclass

TONES = {  # of the patterns: (dark, light)
    "blue": ((0.42, 0.66, 0.96), (0.86, 0.94, 1.00)),
    "green": ((0.48, 0.82, 0.44), (0.90, 0.98, 0.84)),
    "yellow": ((0.94, 0.84, 0.38), (1.00, 0.98, 0.84)),
    "pink": ((0.97, 0.58, 0.76), (1.00, 0.91, 0.95)),
}


@dataclass(frozen=True)
class Light:
    """Light of a scene that comes from the left (mirrored for the right): colours per channel, where 1 is neutral.

    towards: x, y (down), z (to the viewer) of the direction to the light. shadow: how much light it takes away.
    slant, fall: how far the shadow of a unit of height reaches sideways, and back (negative: towards the viewer).
    """

    key: tuple[float, float, float]
    ambient: tuple[float, float, float]
    towards: tuple[float, float, float] = (-0.55, -0.55, 0.63)
    shadow: float = 0.55
    slant: float = 0.7
    fall: float = 0.22


NEUTRAL = Light((0.62, 0.62, 0.62), (0.50, 0.50, 0.50), (-0.40, -0.55, 0.73))
LIGHTS = {
    "table": Light((0.72, 0.60, 0.44), (0.46, 0.40, 0.34), shadow=0.55, slant=0.75, fall=0.20),
    "meadow": Light((0.72, 0.70, 0.55), (0.45, 0.52, 0.42), shadow=0.50, slant=0.65, fall=0.22),
    "beach": Light((0.95, 0.48, 0.20), (0.42, 0.28, 0.32), (-0.80, -0.25, 0.45), 0.55, 1.25, -0.16),
    "street": Light((0.62, 0.50, 0.28), (0.27, 0.31, 0.50), (-0.75, -0.55, 0.30), 0.60, 0.95, -0.14),
    "snow": Light((0.52, 0.60, 0.70), (0.50, 0.58, 0.70), (-0.45, -0.65, 0.60), 0.40, 0.85, 0.22),
    "bricks": Light((0.62, 0.58, 0.52), (0.44, 0.42, 0.42), shadow=0.55, slant=0.7, fall=0.24),
    "desert": Light((0.90, 0.76, 0.46), (0.46, 0.42, 0.34), (-0.55, -0.75, 0.35), 0.55, 0.55, 0.16),
    "forest": Light((0.50, 0.62, 0.26), (0.32, 0.42, 0.26), (-0.50, -0.70, 0.50), 0.55, 0.6, 0.20),
    "stage": Light((0.95, 0.66, 0.60), (0.40, 0.22, 0.22), (-0.45, -0.70, 0.55), 0.62, 0.6, 0.18),
    "sea": Light((0.42, 0.60, 0.62), (0.28, 0.44, 0.52), (-0.35, -0.80, 0.48), 0.45, 0.5, 0.18),
}  # fmt: skip
SCENES = tuple(LIGHTS)
PATTERNS = ("sky", "checkerboard", "stripes", "dots", "hills", "clouds")
FLOATING = ("sky", "clouds")  # nothing there that a shadow could fall on


def light_of(backdrop: str, tone: str | None = None) -> Light:
    """The light of a scene; a pattern reflects a little of its tone."""
    if backdrop in LIGHTS:
        return LIGHTS[backdrop]
    if backdrop not in PATTERNS:
        raise ValueError(f"unknown background {backdrop!r}; known ones are {', '.join((*SCENES, *PATTERNS))}")
    r, g, b = TONES[tone][0]
    mean = (r + g + b) / 3
    return Light((0.58, 0.58, 0.58), tuple(0.48 * (0.45 + 0.55 * c / mean) for c in (r, g, b)), shadow=0.42)
