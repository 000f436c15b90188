"""A guess of a foreground's alpha from its picture on mid-grey: good enough to look at while it is being made."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .compositing import checkerboard

SIDE = 64  # pixels of the picture that is looked at
GREY, GREY_TOLERANCE = 0.5, 0.15  # a preview's colours are rough
NEAR, FAR = 0.05, 0.13  # from the canvas' colour: transparent, opaque
CANVAS_TOLERANCE, CANVAS_SHARE = 0.12, 0.5  # of the border that must be canvas


def guessed_alpha(picture: Image.Image) -> np.ndarray | None:
    """Alpha (h, w), 1 = opaque, of an RGB picture whose border is a canvas of about mid-grey; None where it is not.

    At most SIDE pixels wide. What has the canvas' colour and is seen from an edge along a row or column is transparent, so
    that grey inside the object is not.
    """
    if picture.width > SIDE:
        picture = picture.resize((SIDE, max(1, round(SIDE * picture.height / picture.width))), Image.Resampling.BOX)
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    canvas = np.median(border, axis=0)
    like_canvas = np.abs(border - canvas).max(axis=-1) < CANVAS_TOLERANCE
    if np.abs(canvas - GREY).max() > GREY_TOLERANCE or like_canvas.mean() < CANVAS_SHARE:
        return None
    alpha = np.clip((np.abs(pixels - canvas).max(axis=-1) - NEAR) / (FAR - NEAR), 0.0, 1.0)
    return np.where(_seen_from_edges(alpha < 0.5), alpha, 1.0)


def _seen_from_edges(clear: np.ndarray) -> np.ndarray:
    """Where (h, w) nothing but `clear` lies between a pixel and an edge of the picture, in one of the four directions."""
    turned = (clear, clear[::-1], clear.T, clear.T[::-1])
    down, up, right, left = (np.logical_and.accumulate(view, axis=0) for view in turned)
    return down | up[::-1] | right.T | left[::-1].T


def on_guessed_board(picture: Image.Image) -> Image.Image:
    """An RGB picture of a foreground over a checkerboard where `guessed_alpha` finds its canvas; itself where there is none."""
    alpha = guessed_alpha(picture)
    if alpha is None:
        return picture
    mask = Image.fromarray((alpha * 255).astype(np.uint8)).resize(picture.size, Image.Resampling.BILINEAR)
    board = checkerboard(picture.height, picture.width, max(1, picture.width // 16), light=150, dark=110)
    return Image.composite(picture, board, mask)
