"""From JSON lines to a table with bootstrap confidence intervals, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
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
    Column("coverage", "coverage, %", 1, 100.0),
    Column("components", "pieces", 2),
    Column("border", "border, %", 1, 100.0),
    Column("semi", "semi-transparent, %", 0, 100.0),
    Column("shadow", "shadow, %", 1, 100.0),
    Column("seconds", "seconds a trio", 2),
    Column("cpu_seconds", "CPU seconds a trio", 2),
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


def bootstrap(values: list[float], draws: int = DRAWS, seed: int = 0) -> Estimate:
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


def difference(rows: list[dict], method: str, other: str, key: str) -> Estimate:
    """Bootstrap of the paired difference method - other over the pairs both have."""
    a, b = values(rows, method, key), values(rows, other, key)
    return bootstrap([a[i] - b[i] for i in sorted(a.keys() & b.keys())])


def present(rows: list[dict]) -> list[str]:
    """Methods that have rows, in the order of the list of methods."""
    names = {row["method"] for row in rows}
    return [name for name in ALL if name in names]


def markdown(rows: list[dict], columns: tuple[Column, ...] = COLUMNS) -> str:
    """A Markdown table, a row per method: mean ± half the width of its 95 % interval."""
    lines = ["| setting | n | " + " | ".join(column.heading for column in columns) + " |",
             "|---|---|" + "---|" * len(columns)]  # fmt: skip
    for name in present(rows):
        count = sum(1 for row in rows if row["method"] == name)
        cells = [cell(bootstrap(list(values(rows, name, c.key).values())), c) for c in columns]
        lines.append(f"| {ALL[name].label} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(estimate: Estimate, column: Column, sign: str = "-") -> str:
    """Mean ± half the width of its 95 % interval, as the column shows them; sign "+": with its sign, for differences."""
    if not estimate.count:
        return "-"
    half = (estimate.high - estimate.low) / 2 * column.factor
    mean = round(estimate.mean * column.factor, column.digits) + 0.0  # no "-0.0"
    return f"{mean:{sign}.{column.digits}f} ± {half:.{column.digits}f}"


def as_csv(rows: list[dict]) -> str:
    """All estimates: a line per method and measure, undisplayed factors, full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "measure", "n", "mean", "low_95", "high_95", "median"])
    for name in present(rows):
        for column in (*COLUMNS, *MORE_COLUMNS):
            e = bootstrap(list(values(rows, name, column.key).values()))
            if e.count:
                writer.writerow([name, column.key, e.count, *(f"{v:.5f}" for v in (e.mean, e.low, e.high, e.median))])
    return file.getvalue()
