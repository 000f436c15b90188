"""The checkerboard behind foregrounds in live previews: where the canvas is seen, and not where it would lie."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from layerfusion_core.layers.guessed_alpha import SIDE, guessed_alpha, on_guessed_board


def on_canvas(colour=(200, 40, 60), canvas=(139, 130, 128), noise: int = 0, size: int = 32) -> np.ndarray:
    """A ring of a colour around a disc of the canvas' own, on a canvas as previews show mid-grey."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    far = np.hypot(x, y) / size
    pixels = np.where(((far < 0.35) & (far > 0.15))[..., None], np.array(colour), np.array(canvas))
    return (pixels + np.random.default_rng(0).integers(-noise, noise + 1, pixels.shape)).astype(np.uint8)


@pytest.mark.parametrize("size", [32, 3 * SIDE])
def test_the_canvas_is_transparent_and_the_object_is_not(size):
    alpha = guessed_alpha(Image.fromarray(on_canvas(noise=5, size=size)))
    side = min(size, SIDE)
    assert alpha.shape == (side, side)
    assert alpha[0, 0] == alpha[-1, side // 2] == 0
    assert (alpha[side // 2, side // 4 : -side // 4] == 1).all()  # also the grey that the ring encloses


def test_the_preview_keeps_the_object_and_shows_the_board_elsewhere():
    picture = Image.fromarray(on_canvas()).resize((128, 128), Image.Resampling.BILINEAR)
    shown = np.asarray(on_guessed_board(picture))
    assert np.array_equal(shown[64, 32:96], np.asarray(picture)[64, 32:96])
    assert sorted(set(shown[0, :, 0])) == [110, 150] and (shown[..., 0] == shown[..., 1])[:16].all()


def test_no_board_where_no_canvas_is_seen():
    for other in (on_canvas(canvas=(60, 120, 220)), on_canvas(colour=(139, 130, 128), canvas=(240, 240, 240)),
                  np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)):  # fmt: skip
        picture = Image.fromarray(other)
        assert guessed_alpha(picture) is None and on_guessed_board(picture) is picture
    half = on_canvas()
    half[:, 12:] = (240, 240, 240)  # most of the border is something else
    assert guessed_alpha(Image.fromarray(half)) is None
