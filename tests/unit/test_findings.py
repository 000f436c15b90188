"""What is said of foregrounds that did not come out transparent, where the pictures of a batch differ."""

from __future__ import annotations

import pytest
import torch

from layerfusion_core.vae.findings import effect_warning, opaque_finding, which


def grey_with_object(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, alpha = torch.full((1, 3, size, size), 0.51), torch.zeros(1, 1, size, size)
    pixels[..., 16:48, 16:48], alpha[..., 16:48, 16:48] = 0.9, 1.0
    return pixels, alpha


def test_effect_warning():
    pixels, alpha = grey_with_object()
    assert effect_warning(pixels, alpha) is None
    opaque = effect_warning(pixels, torch.ones_like(alpha))
    assert opaque.startswith("Foreground is opaque: 100.0 % of it") and "border" not in opaque
    order = [opaque.index(word) for word in ("not connected", "Illustrious", "names a scene")]
    assert order == sorted(order)
    scene = effect_warning(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), alpha)
    assert "border" in scene and "is opaque" not in scene
    both = effect_warning(pixels.repeat(2, 1, 1, 1), torch.cat([alpha, torch.ones_like(alpha)]))
    assert "Foreground is opaque: picture 2 of 2, 100.0 % of it." in both and "object itself fills the picture" in both


def test_an_object_that_leaves_the_picture_is_no_reason_to_warn():
    pixels, alpha = grey_with_object()
    pixels[..., 16:, 8:56], alpha[..., 16:, 8:56] = 0.9, 1.0
    assert effect_warning(pixels, alpha) is None


def test_one_opaque_foreground_among_others_is_found_and_named():
    _, alpha = grey_with_object()
    cut, opaque = alpha[0], torch.ones_like(alpha[0])
    assert opaque_finding(torch.cat([cut, cut])) is None
    assert opaque_finding(torch.cat([cut, opaque])) == "Foreground is opaque: picture 2 of 2, 100.0 % of it."
    assert opaque_finding(torch.cat([opaque, cut, opaque]), 3) == "Foreground is opaque: foregrounds 1, 3 of 3, 100.0 % of it."
    one_of_four = torch.cat([cut, cut, opaque, cut])
    assert opaque_finding(one_of_four, 2) == "Foreground is opaque: foreground 1 of picture 2, 100.0 % of it."


def test_a_foreground_is_judged_within_its_region():
    _, alpha = grey_with_object()
    alpha = alpha[0].repeat(2, 1, 1)
    within = torch.zeros_like(alpha, dtype=torch.bool)
    within[:, 24:40, 24:40] = True  # inside the object
    assert opaque_finding(alpha, 2) is None
    assert opaque_finding(alpha, 2, within) == "Foreground is opaque: all 2 foregrounds, 100.0 % of its region."
    within[0] = True
    assert opaque_finding(alpha, 2, within) == "Foreground is opaque: foreground 2 of 2, 100.0 % of its region."
    within[1] = False
    assert opaque_finding(alpha, 2, within) is None  # its canvas is empty everywhere


@pytest.mark.parametrize(
    ("rows", "per_picture", "words"),
    [
        ([True], 1, ""),
        ([True, False, True], 1, "pictures 1, 3 of 3, "),
        ([True] * 9 + [False], 1, "pictures 1, 2, 3, 4, 5, 6 and 3 more of 10, "),
        ([False, True, True, False], 2, "foreground 2 of picture 1, foreground 1 of picture 2, "),
    ],
)
def test_which(rows, per_picture, words):
    assert which(torch.tensor(rows), per_picture) == words
