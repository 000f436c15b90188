"""Pictures side by side, and one HTML page with tables and all pictures inside; it opens from disk, without scripts."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from . import results
from .methods import ALL

GAP, HEAD = 6, 18  # pixels between pictures of a sheet, and above them
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; color: #1c1c1c; background: #fff; }
table { border-collapse: collapse; } td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; } thead th { vertical-align: bottom; }
.wide { overflow-x: auto; } .pair { display: flex; flex-wrap: wrap; gap: .8rem; margin: .3rem 0 1.6rem; }
figure { margin: 0; } figcaption { color: #555; font-size: 12px; } img { display: block; image-rendering: pixelated; }
h2 { font-size: 1.1rem; } h3 { font-size: .95rem; margin: .6rem 0 .2rem; }
"""


def document(out: Path, title: str, tables: Sequence[str], rows: list[dict], methods: Sequence[str], pairs: int) -> str:
    """The page as text: Markdown tables, then a strip foreground | background | blended per method for `pairs` pairs."""
    shown = {row["index"]: row for row in rows}
    picked = [shown[index] for index in sorted(shown)][:pairs]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        "<p>Means with half the width of their 95 % bootstrap intervals. FG foreground, BG background, BL blended.</p>",
        *map(_table, tables),
        f"<h2>Pictures of the first {len(picked)} pairs: foreground, background, blended</h2>",
    ]
    for first in picked:
        prompts = html.escape(f"{first['foreground']} | {first['background']}")
        figures = "".join(_figure(out, name, first["index"]) for name in methods)
        parts.append(f"<h3>{first['index']}: {prompts}</h3><div class=pair>{figures}</div>")
    return "\n".join(parts) + "\n"


def _table(markdown: str) -> str:
    head, _, *body = [[html.escape(cell.strip()) for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    found = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in body)
    return f"<div class=wide><table><thead><tr>{cells}</tr></thead><tbody>{found}</tbody></table></div>"


def _figure(out: Path, method: str, index: int) -> str:
    picture, label = strip(out, method, index), html.escape(ALL[method].label)
    if picture is None:
        return ""
    return f'<figure><img src="{address(picture, 85)}" alt="{label}"><figcaption>{label}</figcaption></figure>'


def address(picture: Image.Image, quality: int) -> str:
    """A picture as the address of a JPEG within the page."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def as_picture(x: np.ndarray) -> Image.Image:
    """(H, W, 3), or (H, W, 4) with straight alpha, which is laid on a light checkerboard; floats in [0, 1]."""
    if x.shape[-1] == 4:
        rows, columns = np.indices(x.shape[:2]) // max(1, x.shape[0] // 16)
        board, alpha = np.where((rows + columns) % 2, 0.8, 1.0)[..., None], x[..., 3:]
        x = x[..., :3] * alpha + board * (1.0 - alpha)
    return Image.fromarray(np.rint(np.clip(x, 0.0, 1.0) * 255).astype(np.uint8))


def strip(out: Path, method: str, index: int, height: int = 128) -> Image.Image | None:
    """Foreground on a checkerboard, background and blended side by side, `height` pixels high; None when not there."""
    if not results.picture_path(out, method, index, "blended").is_file():
        return None
    pictures = [as_picture(results.load_picture(out, method, index, stream)) for stream in results.STREAMS]
    row = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    for place, picture in enumerate(pictures):
        row.paste(picture, (place * picture.width, 0))
    return row.resize((row.width * height // row.height, height), Image.Resampling.LANCZOS)


def sheet(out: Path, methods: Sequence[str], indices: Sequence[int]) -> Image.Image:
    """A picture for the documentation: a row per pair, a labelled strip per method."""
    rows = [[strip(out, method, index) for method in methods] for index in indices]
    if any(picture is None for row in rows for picture in row):
        raise ValueError(f"{out} lacks a picture of {', '.join(methods)} for pairs {indices}")
    return grid([ALL[method].label for method in methods], rows)


def grid(labels: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of pictures of one size below their labels."""
    width, height = rows[0][0].size
    page = Image.new("RGB", (len(labels) * (width + GAP) - GAP, HEAD + len(rows) * (height + GAP) - GAP), "white")
    draw = ImageDraw.Draw(page)
    for x, label in enumerate(labels):
        draw.text((x * (width + GAP) + 2, 3), label, fill="black")
        for y, row in enumerate(rows):
            page.paste(row[x], (x * (width + GAP), HEAD + y * (height + GAP)))
    return page


def save(picture: Image.Image, path: Path, largest: int = 200_000) -> None:
    """Write a JPEG of at most `largest` bytes, as good as that allows."""
    for quality in (85, 80, 75, 70, 60, 50):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        if file.tell() <= largest:
            break
    path.write_bytes(file.getvalue())
