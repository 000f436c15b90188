"""Laying layers over each other: alpha-over in sRGB or linear light, checkerboards and rows of labelled pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor


def alpha_over(foreground: Tensor, background: Tensor, linear_light: bool = False) -> Tensor:
    """A foreground with straight alpha over a background, `c = a * f + (1 - a) * b`.

    foreground: (..., H, W, 4) RGBA, background: (..., H, W, 3), both sRGB in [0, 1]; returns (..., H, W, 3) sRGB.
    linear_light: blends light instead of sRGB values, as ComfyUI's own compositor does; most editors use sRGB values,
    and the two differ on soft edges.
    """
    color, alpha = foreground[..., :3], foreground[..., 3:4]
    if not linear_light:
        return color * alpha + background * (1.0 - alpha)
    mixed = srgb_to_linear(color) * alpha + srgb_to_linear(background) * (1.0 - alpha)
    return linear_to_srgb(mixed)


def srgb_to_linear(x: Tensor) -> Tensor:
    """sRGB values in [0, 1] to linear light in [0, 1] (IEC 61966-2-1)."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0.0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(x: Tensor) -> Tensor:
    """Linear light in [0, 1] to sRGB values in [0, 1] (IEC 61966-2-1)."""
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp_min(0.0) ** (1.0 / 2.4) - 0.055)


def difference_map(a: Tensor, b: Tensor, gain: float = 4.0) -> Tensor:
    """Where two pictures differ: `gain * |a - b|`, clipped to [0, 1]; (..., H, W, 3) sRGB values in [0, 1]."""
    return ((a - b).abs() * gain).clamp(0.0, 1.0)


def checkerboard(height: int, width: int, cell: int = 8, light: int = 255, dark: int = 204) -> Image.Image:
    """A grey checkerboard, the usual sign for transparency; RGB, squares of `cell` pixels, grey levels 0-255."""
    rows, columns = np.arange(height)[:, None] // cell, np.arange(width)[None, :] // cell
    board = np.where((rows + columns) % 2 == 0, light, dark).astype(np.uint8)
    return Image.fromarray(board).convert("RGB")


def on_checkerboard(foreground: Image.Image | np.ndarray, cell: int = 8) -> Image.Image:
    """An RGBA picture (straight alpha) over a checkerboard, as RGB."""
    picture = as_image(foreground).convert("RGBA")
    board = checkerboard(picture.height, picture.width, cell).convert("RGBA")
    return Image.alpha_composite(board, picture).convert("RGB")


def labelled_row(tiles: Sequence[tuple[str, Image.Image]], gap: int = 8, label_height: int = 22) -> Image.Image:
    """Pictures side by side, each under its label; RGB on white."""
    width = sum(picture.width for _, picture in tiles) + gap * (len(tiles) + 1)
    height = max(picture.height for _, picture in tiles) + label_height + gap
    sheet = Image.new("RGB", (width, height), "white")
    draw, x = ImageDraw.Draw(sheet), gap
    for label, picture in tiles:
        draw.text((x, 5), label, fill="black")
        sheet.paste(picture, (x, label_height))
        x += picture.width + gap
    return sheet


def as_image(picture: Image.Image | np.ndarray) -> Image.Image:
    """A PIL image of an array: (H, W) or (H, W, 1 | 3 | 4), uint8 or floats in [0, 1]; images pass through."""
    if isinstance(picture, Image.Image):
        return picture
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(f"Expected a picture of shape (H, W), (H, W, 3) or (H, W, 4), got {array.shape}.")
    if array.dtype != np.uint8:
        array = np.rint(np.clip(array.astype(np.float32), 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(array)
