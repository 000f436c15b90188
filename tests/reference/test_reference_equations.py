"""The paper's equations on tensors small enough to check by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from reference import (
    BACKGROUND_MODES,
    Streams,
    blend,
    content_confidence,
    grow,
    hard_mask,
    norm,
    one_scene,
    resize_structure,
    soft_mask,
    structure_prior,
    surround,
)


def test_norm_is_min_max_per_image_and_zeros_for_a_constant():
    x = torch.tensor([[2.0, 4.0, 3.0], [5.0, 5.0, 5.0]])
    assert torch.equal(norm(x), torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]))


def test_structure_prior_is_one_for_concentrated_rows_and_zero_for_diffuse_ones():
    rows = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    # effective numbers of tokens 1, 4, 2, 1
    expected = torch.tensor([[1.0, 0.0, 2 / 3, 1.0]])
    torch.testing.assert_close(structure_prior(rows[None, None]), expected)


def test_structure_prior_averages_the_heads_before_squaring():
    one, other = torch.eye(2), torch.eye(2).flip(0)
    uniform_row_one_sharp = torch.stack([torch.stack([one[0], one[1]]), torch.stack([other[0], one[1]])])[None]
    # row 0: heads disagree, the mean is uniform: diffuse; row 1: heads agree
    assert structure_prior(uniform_row_one_sharp).tolist() == [[0.0, 1.0]]


def test_content_confidence_takes_the_eos_column_unscaled():
    probabilities = torch.rand(2, 3, 5, 77).softmax(-1)
    expected = probabilities[..., 8].mean(dim=1)
    torch.testing.assert_close(content_confidence(probabilities, [8]), expected)
    both = content_confidence(probabilities, [8, 9])
    torch.testing.assert_close(both, (expected + probabilities[..., 9].mean(dim=1)) / 2)


def test_content_confidence_without_eos_leaves_out_the_start_of_every_chunk():
    probabilities = torch.rand(1, 2, 4, 154)
    kept = [*range(1, 77), *range(78, 154)]
    torch.testing.assert_close(content_confidence(probabilities, None), probabilities[..., kept].mean(dim=(1, 3)))


def test_structure_is_resized_by_area_average():
    s = torch.arange(16.0)[None]
    assert resize_structure(s, (4, 4), (2, 2)).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert torch.equal(resize_structure(s, (4, 4), (4, 4)), s)
    assert resize_structure(torch.rand(2, 45), (9, 5), (5, 3)).shape == (2, 15)


def test_masks():
    soft = soft_mask(torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[0.3, 0.2, 0.2]]))
    torch.testing.assert_close(soft, torch.tensor([[0.0, 0.5, 1.0]]))
    torch.testing.assert_close(hard_mask(soft, 10), torch.tensor([[0.00669285, 0.5, 0.99330715]]))


def test_growing_takes_the_largest_neighbour():
    hard = torch.zeros(1, 20)
    hard[0, [0, 13]] = torch.tensor([0.5, 0.9])  # a corner, and row 2 column 3 of 4 x 5
    expected = torch.zeros(4, 5)
    expected[:2, :2] = 0.5
    expected[1:4, 2:5] = 0.9
    assert torch.equal(grow(hard, (4, 5)), expected.reshape(1, 20))


A = Streams(*(torch.full((1, 3, 2), value) for value in (8.0, 4.0, 0.0)))  # FG 8, BL 4, BG 0
SOFT, HARD = torch.tensor([[0.0, 0.25, 1.0]]), torch.tensor([[0.0, 0.5, 1.0]])
GROWN = torch.tensor([[0.5, 1.0, 1.0]])
BL = [4.0, 5.0, 8.0]  # 8 soft + 4 (1 - soft)
FG = [8.0, 6.5, 8.0]  # BL hard + 8 (1 - hard)


@pytest.mark.parametrize(
    ("mode", "site", "blended", "background"),
    [
        ("adapt", "attn1", BL, [4.0, 3.75, 0.0]),  # BL (1 - soft)
        ("adapt", "attn2", BL, [4.0, 3.75, 0.0]),
        ("adapt_self", "attn1", BL, [4.0, 3.75, 0.0]),
        ("adapt_self", "attn2", BL, [0.0, 0.0, 0.0]),
        ("literal", "attn1", BL, [0.0, 1.25, 8.0]),  # BL soft
        ("from_background", "attn1", [0.0, 1.25, 8.0], [0.0, 0.0, 0.0]),
        ("off", "attn1", BL, [0.0, 0.0, 0.0]),
        ("one_scene", "attn1", [3.0, 5.0, 8.0], [1.0, 0.0, 0.0]),
        ("share", "attn1", [3.0, 5.0, 8.0], [1.0, 0.0, 0.0]),  # the scene of the first token is 2
    ],
)
def test_background_modes(mode, site, blended, background):
    out = blend(A, SOFT, HARD, GROWN, mode, site)
    for tensor, values in zip(out, (FG, blended, background), strict=True):
        torch.testing.assert_close(tensor, torch.tensor(values)[None, :, None].expand(1, 3, 2))


@pytest.mark.parametrize("mode", BACKGROUND_MODES)
def test_strength_moves_every_stream_from_its_own_output_to_the_full_update(mode):
    a = Streams(*torch.randn(3, 2, 3, 4).unbind())
    masks = torch.rand(3, 2, 3).unbind()
    full = blend(a, *masks, mode)
    for own, halved, updated in zip(a, blend(a, *masks, mode, g=0.5), full, strict=True):
        torch.testing.assert_close(halved, (own + updated) / 2)
    for own, untouched in zip(a, blend(a, *masks, mode, g=0.0), strict=True):
        assert torch.equal(own, untouched)


def test_one_scene_takes_the_mean_of_the_predictions_away_from_the_object():
    predictions = Streams(*(torch.full((1, 4, 12, 2), value) for value in (8.0, 4.0, 0.0)))
    around = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])  # 6 x 1 tokens
    fg, bl, bg = one_scene(predictions, around, (6, 1), 0.5)
    assert torch.equal(fg, predictions.foreground)
    for rows, m in ((slice(0, 3), 1.0), (slice(5, 12), 0.0)):
        torch.testing.assert_close(bl[:, :, rows], torch.full_like(bl[:, :, rows], 3.0 + m))  # half way to 2 + 2 m
        torch.testing.assert_close(bg[:, :, rows], torch.full_like(bg[:, :, rows], 1.0 - m))


def test_an_objects_surround_reaches_an_eighth_of_the_canvas_and_ends_softly():
    structure, soft = torch.zeros(3, 16, 16), torch.zeros(3, 16, 16)
    structure[0, 8, 3] = structure[1, :, 0] = structure[1, 8, 15] = structure[1, 8, 14] = 1.0  # the second: a lit border, too
    soft[2, 8, 3] = 0.5
    found = surround(structure.flatten(1), soft.flatten(1), (16, 16), 1000.0).unflatten(-1, (16, 16))
    ramp = torch.tensor([1.0, 1, 1, 1, 1, 1, 2 / 3, 1 / 3, 0, 0, 0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(found[0, 8], ramp)
    torch.testing.assert_close(found[2], found[0])
    torch.testing.assert_close(found[1, 8], torch.tensor([0.0] * 10 + [1 / 3, 2 / 3, 1, 1, 1, 1]))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="adapt_self"):
        blend(A, SOFT, HARD, GROWN, "both")
