"""One HTML page with the table and all pictures inside; opens from disk, needs no network and no scripts."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from . import results, table
from .methods import ALL

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; color: #1c1c1c; background: #fff; }
table { border-collapse: collapse; } td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; } thead th { vertical-align: bottom; }
.wide { overflow-x: auto; } .pair { display: flex; flex-wrap: wrap; gap: .8rem; margin: .3rem 0 1.6rem; }
figure { margin: 0; } figcaption { color: #555; font-size: 12px; } img { display: block; image-rendering: pixelated; }
h2 { font-size: 1.1rem; } h3 { font-size: .95rem; margin: .6rem 0 .2rem; }
"""


def write(out: Path, rows: list[dict], title: str, pairs: int) -> Path:
    """Write index.html: the table, then a strip foreground | background | blended per method for `pairs` pairs."""
    path = out / "index.html"
    path.write_text(document(out, rows, title, pairs), encoding="utf-8")
    return path


def document(out: Path, rows: list[dict], title: str, pairs: int) -> str:
    """The page as text."""
    shown: dict[int, dict] = {row["index"]: row for row in sorted(rows, key=lambda row: row["index"], reverse=True)}
    picked = [shown[index] for index in sorted(shown)][:pairs]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        "<p>Means with half the width of their 95 % bootstrap intervals. FG foreground, BG background, BL blended.</p>",
        _table(rows, table.COLUMNS), _table(rows, table.MORE_COLUMNS),
        f"<h2>Pictures of the first {len(picked)} pairs: foreground, background, blended</h2>",
    ]  # fmt: skip
    for first in picked:
        prompts = html.escape(f"{first['foreground']} | {first['background']}")
        figures = "".join(_figure(out, name, first["index"]) for name in table.present(rows))
        parts.append(f"<h3>{first['index']}: {prompts}</h3><div class=pair>{figures}</div>")
    return "\n".join(parts) + "\n"


def _table(rows: list[dict], columns: tuple[table.Column, ...]) -> str:
    lines = [line.strip("|").split("|") for line in table.markdown(rows, columns).splitlines()]
    head, body = lines[0], lines[2:]
    cells = "".join(f"<th>{html.escape(cell.strip())}</th>" for cell in head)
    found = "".join("<tr>" + "".join(f"<td>{html.escape(c.strip())}</td>" for c in line) + "</tr>" for line in body)
    return f"<div class=wide><table><thead><tr>{cells}</tr></thead><tbody>{found}</tbody></table></div>"


def _figure(out: Path, method: str, index: int) -> str:
    picture = strip(out, method, index)
    if picture is None:
        return ""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    label = html.escape(ALL[method].label)
    return (f'<figure><img src="data:image/jpeg;base64,{data}" width={picture.width} height={picture.height} '
            f'alt="{label}"><figcaption>{label}</figcaption></figure>')  # fmt: skip


def strip(out: Path, method: str, index: int, height: int = 128) -> Image.Image | None:
    """Foreground on a checkerboard, background and blended side by side, `height` pixels high; None when not there."""
    if not results.picture_path(out, method, index, "blended").is_file():
        return None
    pictures = [results.load_picture(out, method, index, stream) for stream in results.STREAMS]
    pictures[0] = on_board(pictures[0])
    row = Image.fromarray(np.rint(np.concatenate(pictures, axis=1) * 255).astype(np.uint8))
    if row.height == height:
        return row
    return row.resize((row.width * height // row.height, height), Image.Resampling.LANCZOS)


def on_board(rgba: np.ndarray) -> np.ndarray:
    """Straight RGBA (H, W, 4) laid on a light checkerboard: (H, W, 3), floats in [0, 1]."""
    y, x = np.indices(rgba.shape[:2]) // max(1, rgba.shape[0] // 16)
    board, alpha = np.where((x + y) % 2, 0.8, 1.0)[..., None], rgba[..., 3:]
    return rgba[..., :3] * alpha + board * (1.0 - alpha)


def sheet(out: Path, methods: Sequence[str], indices: Sequence[int], gap: int = 6, head: int = 18) -> Image.Image:
    """A picture for the documentation: a row per pair, a labelled strip per method."""
    rows = [[strip(out, method, index) for method in methods] for index in indices]
    if any(picture is None for row in rows for picture in row):
        raise ValueError(f"{out} lacks a picture of {', '.join(methods)} for pairs {indices}")
    width, height = rows[0][0].size
    size = len(methods) * (width + gap) - gap, head + len(indices) * (height + gap) - gap
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for x, method in enumerate(methods):
        draw.text((x * (width + gap) + 2, 3), ALL[method].label, fill="black")
        for y, row in enumerate(rows):
            page.paste(row[x], (x * (width + gap), head + y * (height + gap)))
    return page
