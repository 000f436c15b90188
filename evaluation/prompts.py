"""Prompt lists: one `foreground | background` or `foreground | background | blended` per line, `#` starts a comment."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "prompts"

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple")
OBJECTS = ("apple", "ball", "balloon", "bottle", "mug", "lantern", "star", "heart", "fish", "leaf", "ring", "house",
           "tree", "mushroom", "flower", "car")  # fmt: skip
OF_GLASS = frozenset(("apple", "ball", "bottle", "mug", "star", "heart", "fish", "ring"))
PLACES = ("a wooden table", "a meadow", "a beach at sunset", "a night street", "a snowy field", "a brick wall", "a desert",
          "a forest", "a theatre stage", "the sea floor")  # fmt: skip
PATTERNS = ("sky", "checkerboard", "stripes", "dots", "hills", "clouds")
TONES = ("blue", "green", "yellow", "pink")
DEMO_PAIRS = 216


@dataclass(frozen=True)
class Pair:
    """One trio to generate. index: its place in the list, which also chooses its noise; blended "" = both texts."""

    index: int
    foreground: str
    background: str
    blended: str = ""

    @property
    def blended_text(self) -> str:
        """The blended stream's prompt."""
        return self.blended or f"{self.foreground}, {self.background}"


def read(path: Path) -> list[Pair]:
    """The pairs of a prompt file; ValueError names the line that is no pair."""
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        parts = [part.strip() for part in line.split("|")]
        if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
            raise ValueError(f'{path.name}, line {number}: expected "foreground | background", got "{line}"')
        pairs.append(Pair(len(pairs), *parts))
    if not pairs:
        raise ValueError(f"{path.name} holds no prompts")
    return pairs


def demo_lines(count: int = DEMO_PAIRS) -> list[str]:
    """The lines of prompts/demo.txt: all different, about a quarter glass; the same every time.

    Each attribute walks through shuffled rounds of its words, so that a short run is balanced too.
    """
    rng = random.Random(2412)

    def rounds(words: tuple):
        while True:
            yield from rng.sample(words, len(words))

    walks = [rounds(words) for words in (OBJECTS, COLOURS, (*PLACES, *PATTERNS), TONES, (True, False))]
    lines: dict[str, None] = {}
    while len(lines) < count:
        name, colour, place, tone, glass = (next(walk) for walk in walks)
        material = "glass " if glass and name in OF_GLASS else ""
        article = "an" if colour == "orange" else "a"
        where = f"{tone} {place}" if place in PATTERNS else place
        lines[f"{article} {colour} {material}{name} | {where}"] = None
    return list(lines)


def main(argv: list[str] | None = None, path: Path = FOLDER / "demo.txt") -> int:
    """Write prompts/demo.txt."""
    head = "# Made by evaluation/prompts.py (python evaluation prompts). foreground | background\n"
    path.write_text(head + "\n".join(demo_lines()) + "\n", encoding="utf-8")
    return 0
