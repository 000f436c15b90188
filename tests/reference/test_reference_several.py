"""Several foregrounds in the reference: one is the paper's method, and regions hold what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from reference.pipeline import Options
from reference.several import (
    Foreground,
    SeveralOptions,
    composite,
    over_each_other,
    region_on,
    several,
    silhouette_in,
    soft_mask_in,
)
from reference.test_reference_pipeline import NOISE, PROMPTS, SIGMAS, random_prompt, run, run_without_blending, unets

FIRST, SECOND = Foreground(PROMPTS.foreground), Foreground(random_prompt(6, eos=[9]))
CANVAS = torch.tensor([0.1, -0.2, 0.3, 0.0])


def made(foregrounds, options=None, canvas=None) -> list[torch.Tensor]:
    return several(
        *unets(), foregrounds, PROMPTS.blended, PROMPTS.background, PROMPTS.negative, NOISE, SIGMAS, 3.0, canvas, options
    )


def test_one_foreground_anywhere_is_the_method_itself():
    expected = run(Options(background_mode="share"))
    for name, found in zip(("foreground", "blended", "background"), made([FIRST])):
        torch.testing.assert_close(found, expected[name])


def test_without_blending_every_stream_is_a_run_of_its_own():
    alone, found = run_without_blending(), made([SECOND, FIRST], SeveralOptions(strength=0))
    for name, stream in zip(("foreground", "blended", "background"), found[1:]):
        torch.testing.assert_close(stream, alone[name])
    assert not torch.allclose(found[0], found[1])


def test_outside_its_region_a_foreground_is_the_canvas():
    left = torch.zeros(8, 8)
    left[:, :4] = 1.0
    found = made([Foreground(FIRST.prompt, left), Foreground(SECOND.prompt, 1 - left)], canvas=CANVAS)
    empty = CANVAS[:, None, None].expand(1, 4, 8, 4)
    assert torch.equal(found[0][..., 4:], empty) and torch.equal(found[1][..., :4], empty)
    assert found[0][..., :4].std() > 0.5 and found[1][..., 4:].std() > 0.5


def test_region_on_tokens():
    left = torch.zeros(4, 8)
    left[:, :4] = 1.0
    assert region_on(left, (2, 4)).tolist() == pytest.approx([1, 2 / 3, 0, 0] * 2)
    found = soft_mask_in(torch.tensor([1.0, 0.5, 1.0, 0.0]), torch.tensor([[0.9, 0.5, 0.1, 1.0]]), torch.ones(1, 4))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.25, 0.0, 0.0]]))


def test_the_front_one_is_seen_and_the_rear_one_stays_whole():
    rear, front, bl, bg = (torch.full((1, 2, 1), value) for value in (4.0, 3.0, 2.0, 1.0))
    one = torch.ones(1, 2)
    over = torch.tensor([[1.0, 0.0]])  # the front one hides the first token
    found = composite([rear, front], bl, bg, [one, over], [one, over], one, SeveralOptions("off"))
    assert [x.flatten().tolist() for x in found] == [[4, 4], [3, 3], [3, 4], [1, 1]]
    part = composite([rear, front], bl, bg, [0.5 * one] * 2, [one] * 2, one, SeveralOptions("off"))
    assert part[2][0, 0] == 3.0 and part[0][0, 0] == 3.5  # of 4, 3 over 4 over 2: the rear one takes half of what is seen


def test_over_another_object_the_front_one_is_opaque():
    structure = torch.full((1, 5, 5), 0.2)
    structure[0, 0], structure[0, 2, 2] = 0.95, 0.8  # a lit border, and an object
    region = torch.ones(25)
    region[-1] = 0.0
    here = silhouette_in(region, structure.reshape(1, -1), (5, 5), 10.0)
    assert here[0, 12] > 0.99 and here[0, :5].max() < 0.01 and here[0, -1] == 0
    rear, front = torch.tensor([[0.8, 0.8]]), torch.tensor([[0.3, 0.3]])
    covered = over_each_other([rear, front], [torch.tensor([[1.0, 0.0]]), torch.ones(1, 2)])
    assert torch.equal(covered[0], rear) and covered[1].tolist() == [[1.0, pytest.approx(0.3)]]
