"""Short lines and a progress bar for the terminal."""

from __future__ import annotations

import sys


class Problem(Exception):
    """Something the user can act on; the message says what happened and what to do."""


def say(text: str) -> None:
    """Print one line at once, also when the output goes to a file."""
    print(text, flush=True)


class Bar:
    """A progress bar: redrawn in place on a terminal, a line per quarter elsewhere."""

    WIDTH = 30

    def __init__(self, label: str) -> None:
        self.label = label
        self.on_terminal = sys.stdout.isatty()
        self.quarter = 0
        self.open = False

    def show(self, value: int, total: int) -> None:
        """Show ``value`` of ``total`` steps done."""
        total = max(total, 1)
        if not self.on_terminal:
            if value * 4 // total > self.quarter:
                self.quarter = value * 4 // total
                say(f"  {self.label} {value}/{total}")
            return
        filled = self.WIDTH * value // total
        sys.stdout.write(f"\r  {self.label} [{'#' * filled}{'.' * (self.WIDTH - filled)}] {value}/{total} ")
        sys.stdout.flush()
        self.open = True

    def close(self) -> None:
        """End the line of the bar."""
        if self.open:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self.open = False
