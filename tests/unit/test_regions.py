"""Regions of foregrounds: boxes, and the text that gives one per object."""

from __future__ import annotations

import pytest
import torch

from layerfusion_pack.layerfusion_core.layers.regions import SIDE, Part, box_mask, joined, parse_parts
from layerfusion_pack.layerfusion_core.method.masks import area_average


def test_a_box_covers_its_share_of_every_cell():
    mask = box_mask(0.25, 0.0, 0.5, 0.5)
    assert mask.shape == (1, SIDE, SIDE) and mask.mean().item() == 0.25
    cells = area_average(mask, (6, 4))[0]
    assert torch.equal(cells[:3], torch.tensor([0.0, 1.0, 1.0, 0.0]).expand(3, 4)) and not cells[3:].any()
    third = box_mask(0, 0, 1 / 3, 1)[0, 0]
    assert third[341].item() == pytest.approx(1 / 3, abs=1e-3), "a pixel that the edge crosses counts by its share"
    assert torch.equal(box_mask(0, 0, 1, 1), torch.ones(1, SIDE, SIDE))


@pytest.mark.parametrize("box", [(0, 0, 0, 1), (0.6, 0, 0.5, 1), (-0.1, 0, 0.5, 1), (0, 0.5, 1, 0.6), (float("nan"), 0, 1, 1)])
def test_boxes_off_the_canvas_are_refused(box):
    with pytest.raises(ValueError, match="foreground 2: expected a box on the canvas, .* got x"):
        box_mask(*box, "foreground 2")


def test_text_of_several_objects():
    parts = parse_parts("a red apple | 0, 0, .5, 1\n\n  a blue star|right \na mug\na | b | 0.1 0.2 0.3 0.4")
    assert parts == [
        Part("a red apple", (0, 0, 0.5, 1)),
        Part("a blue star", (0.5, 0, 0.5, 1)),
        Part("a mug", None),
        Part("a | b", (0.1, 0.2, 0.3, 0.4)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "expected one object per line, such as 'a red apple . 0, 0, 0.5, 1', got an empty text"),
        ("a mug\na star | here", "line 2: expected a region as x, y, width, height .* or left, right, top, bottom; got 'here'"),
        ("a mug | 0 0 1", "line 1: expected a region as x, y, width, height"),
        ("| 0 0 1 1", "line 1: expected a prompt and a region"),
        ("a mug |", "line 1: expected a prompt and a region"),
        ("a mug | 0.5 0 0.6 1", "line 1: expected a box on the canvas"),
    ],
)
def test_text_that_says_something_else_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_parts(text)


def test_the_whole_pictures_prompt():
    assert joined(["a mug"], "a desert") == "a mug, a desert"
    assert joined(["a", "b", "c"], "a desert") == "a, b and c, a desert"
    assert joined(["a mug"], "") == "a mug" and joined(["a", "b"], " \n") == "a and b"
