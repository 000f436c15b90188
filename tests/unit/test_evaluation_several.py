"""The judgement of runs with several foregrounds, on drawn rectangles."""

from __future__ import annotations

import torch

from layerfusion_pack.evaluation import several


def cutout(colour, left: int, right: int) -> torch.Tensor:
    """An RGBA picture (32, 32, 4) with a rectangle of a colour in columns left to right."""
    picture = torch.zeros(32, 32, 4)
    picture[8:24, left:right] = torch.tensor([*colour, 1.0])
    return picture


def test_the_classifier_sees_an_object_as_it_learnt_it():
    red = cutout((1.0, 0.0, 0.0), 0, 10)  # at the picture's border, which is repeated
    seen = several.around(red[..., :3], red[..., 3])
    side = round(several.AROUND * 16)
    assert seen.shape == (side, side, 3)
    rows = torch.nonzero(seen[..., 0].amax(dim=1)).flatten()
    assert (rows[0].item(), rows[-1].item() + 1) == (round(several.FOOT * side) - 16, round(several.FOOT * side))
    assert torch.equal(several.around(red[..., :3], torch.zeros(32, 32)), red[..., :3])


def test_who_is_seen_in_front():
    red, blue = cutout((1.0, 0.0, 0.0), 4, 20), cutout((0.0, 0.0, 1.0), 12, 28)
    background = torch.full((32, 32, 3), 0.5)
    shows_blue = background.clone()
    shows_blue[8:24, 4:20], shows_blue[8:24, 12:28] = red[8, 4, :3], blue[8, 12, :3]
    assert several.order([red, blue], background, shows_blue)["seen"] == "front"
    assert several.order([blue, red], background, shows_blue)["seen"] == "rear"
    assert several.order([red, blue], background, background + 0.1)["seen"] == "neither"
    assert several.order([red, cutout((0.0, 0.0, 1.0), 20, 28)], background, shows_blue)["seen"] is None


def test_the_order_is_followed_when_it_is_both_ways_round():
    seen = {"overlap": ("front", "front", "neither"), "swapped": ("front", "rear", None)}
    lists = dict.fromkeys(("shape", "colour", "other", "outside", "iou", "shown_shape"), [0.0])
    table = several.tables([
        {"kind": kind, "index": index, "background_clean": True, "seen": one, **lists}
        for kind, each in seen.items() for index, one in enumerate(each)
    ])  # fmt: skip
    assert "256: where both are, the front one is seen in 2 of 3 runs, the rear one in 0, neither in 1." in table
    assert "other in front: where both are, the front one is seen in 1 of 2 runs, the rear one in 1, neither in 0." in table
    assert "followed both ways round for 1 of 2 pairs." in table


def test_every_kind_of_run_and_its_row():
    scenes = several.scenes(3, 2)
    assert {scene.kind for scene in scenes} == set(several.LABELS) and scenes == several.scenes(3, 2)
    assert sum(scene.kind == "two" for scene in scenes) == 3 and len(scenes) == 3 + 2 * 9
    assert all(len(scene.boxes) in (0, len(scene.foregrounds)) for scene in scenes)
    each = {name: [value] * 2 for name, value in (("shape", True), ("colour", True), ("other", False), ("outside", 0.0),
                                                  ("iou", 0.25), ("shown_shape", False))}  # fmt: skip
    table = several.tables([{"kind": "two", "index": 0, "background_clean": True, **each}])
    assert "| 1 | 100 % | 100 % | 0 % | 0.0 % | 0.25 | 100 % | 0 % | 0 % |" in table
