"""From JSON lines to tables with bootstrap confidence intervals, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .methods import ALL

DRAWS = 2000


@dataclass(frozen=True)
class Column:
    """A measure in the table: its key in the JSON lines, heading, digits after the point and factor of display."""

    key: str
    heading: str
    digits: int = 2
    factor: float = 1.0


COLUMNS = (
    Column("outside_psnr", "outside PSNR, dB", 1),
    Column("outside_ssim", "outside SSIM"),
    Column("outside_corr", "outside corr"),
    Column("leak_corr", "leak corr"),
    Column("leak_psnr", "BG vs FG inside, dB", 1),
    Column("leak_share", "object in BG, %", 0, 100.0),
    Column("shown_share", "object in BL, %", 0, 100.0),
    Column("inside_psnr", "BL vs FG inside, dB", 1),
    Column("over_psnr", "alpha-over vs BL, dB", 1),
    Column("alpha_iou", "alpha IoU"),
    Column("flicker", "mask flicker", 3),
)
MORE_COLUMNS = (
    Column("matched_psnr", "matched layers vs BL, dB", 1),
    Column("film", "mean alpha of their effects outside, %", 2, 100.0),
    Column("coverage", "coverage, %", 1, 100.0),
    Column("components", "pieces", 2),
    Column("border", "border, %", 1, 100.0),
    Column("semi", "semi-transparent, %", 0, 100.0),
    Column("shadow", "shadow, %", 1, 100.0),
    Column("seconds", "seconds a trio", 2),
    Column("cpu_seconds", "CPU seconds a trio", 2),
    Column("memory", "GPU memory at the peak, GB", 2),
)
TRUTH_COLUMNS = (
    Column("fg_shape", "FG shape, %", 0, 100.0),
    Column("fg_colour", "FG colour, %", 0, 100.0),
    Column("bg_pattern", "BG pattern, %", 0, 100.0),
    Column("bg_tone", "BG tone, %", 0, 100.0),
    Column("bg_object", "classifier finds an object in BG, %", 0, 100.0),
    Column("bl_shape", "BL shape, %", 0, 100.0),
    Column("bl_colour", "BL colour, %", 0, 100.0),
    Column("bl_pattern", "BL pattern, %", 0, 100.0),
    Column("bl_tone", "BL tone, %", 0, 100.0),
    Column("shadow_found", "shadow found, % of the scenes that have one", 0, 100.0),
)
KNOWN = {column.key: column for column in (*COLUMNS, *MORE_COLUMNS, *TRUTH_COLUMNS)}


@dataclass(frozen=True)
class Estimate:
    """Mean of `count` values with the bounds of its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    median: float
    count: int


def bootstrap(values: Sequence[float], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean and percentile bootstrap interval (Efron 1979): `draws` resamples, 2.5 and 97.5 %; NaN without values."""
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0)
    picks = np.random.default_rng(seed).integers(data.size, size=(draws, data.size))
    low, high = np.percentile(data[picks].mean(axis=1), [2.5, 97.5])
    return Estimate(float(data.mean()), float(low), float(high), float(np.median(data)), int(data.size))


def values(rows: list[dict], method: str, key: str) -> dict[int, float]:
    """Value of one measure by pair, where it exists."""
    return {row["index"]: row[key] for row in rows if row["method"] == method and row.get(key) is not None}


def estimate(rows: list[dict], method: str, key: str, against: str = "") -> Estimate:
    """Bootstrap of a measure of a method, or of its paired difference to the method `against`."""
    own = values(rows, method, key)
    if against:
        other = values(rows, against, key)
        own = {index: own[index] - other[index] for index in sorted(own.keys() & other.keys())}
    return bootstrap(list(own.values()))


def present(rows: list[dict]) -> list[str]:
    """Methods that have rows, in the order of the list of methods."""
    names = {row["method"] for row in rows}
    return [name for name in ALL if name in names]


def markdown(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; every table of the evaluation is written by this."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines).replace("| ---", "|---").replace("--- |", "---|") + "\n"


def of_methods(rows: list[dict], names: Sequence[str], columns: Sequence[Column], head: str, against: str = "") -> str:
    """A row per method: mean ± half the width of its 95 % interval; of methods after `against` the difference to it."""
    return markdown(
        [head, *(column.heading for column in columns)],
        ([ALL[name].label, *(cell(estimate(rows, name, c.key, against if name != against else ""), c,
                                  "+" if against and name != against else "-") for c in columns)]
         for name in names),
    )  # fmt: skip


def cell(found: Estimate, column: Column = Column("", ""), sign: str = "-") -> str:
    """Mean ± half the width of its 95 % interval, as the column shows them; sign "+": with its sign, for differences."""
    if not found.count:
        return "-"
    half = (found.high - found.low) / 2 * column.factor
    mean = round(found.mean * column.factor, column.digits) + 0.0  # no "-0.0"
    return f"{mean:{sign}.{column.digits}f} ± {half:.{column.digits}f}"


def as_csv(rows: list[dict]) -> str:
    """All estimates: a line per method and measure, undisplayed factors, full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "measure", "n", "mean", "low_95", "high_95", "median"])
    for name in present(rows):
        for column in (*COLUMNS, *MORE_COLUMNS):
            e = estimate(rows, name, column.key)
            if e.count:
                writer.writerow([name, column.key, e.count, *(f"{v:.5f}" for v in (e.mean, e.low, e.high, e.median))])
    return file.getvalue()
