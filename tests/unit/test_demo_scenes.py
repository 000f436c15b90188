"""The drawn scenes: deterministic, objects on every place they can be, and composites that take the scene's light."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

DEMO = Path(__file__).resolve().parents[2] / "demo"
SIDE = 64


@pytest.fixture(scope="module")
def scenes(request):
    sys.path.insert(0, str(DEMO))
    request.addfinalizer(lambda: sys.path.remove(str(DEMO)))
    return importlib.import_module("scenes")


@pytest.fixture(scope="module")
def scene(scenes):
    """Makes a scene of one object."""

    def make(kind="mug", backdrop="table", glass=False, mirror=False, colour="blue"):
        item = scenes.Item(kind, colour, glass, (0.5, 0.52), 0.64, 0.5)
        return scenes.Scene((item,), backdrop, "blue", mirror, (0.2, 0.4, 0.6, 0.8))

    return make


def mean_inside(picture, alpha):
    return (picture * alpha).sum((0, 1)) / alpha.sum()


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_draws_the_same_pixels_alone_and_in_a_batch(scenes, seed):
    first, second = (scenes.draw(scenes.random_scene(seed), SIDE) for _ in range(2))
    batch = scenes.draw_batch([scenes.random_scene(seed + i) for i in range(3)], SIDE)
    for a, b, c in zip(first, second, batch):
        assert np.array_equal(a, b) and a.dtype == np.float32 and a.min() >= 0 and a.max() <= 1
        np.testing.assert_allclose(c[0].permute(1, 2, 0).numpy(), a, atol=1e-5)
    np.testing.assert_allclose(first.on_grey, first.colour * first.alpha + scenes.GREY * (1 - first.alpha), atol=1e-6)


def test_different_seeds_differ_and_some_scenes_hold_two_objects(scenes):
    drawn = [scenes.random_scene(seed) for seed in range(200)]
    assert len(set(drawn)) == 200
    assert 20 <= sum(len(s.items) == 2 for s in drawn) <= 60
    assert {item.kind for s in drawn for item in s.items} == set(scenes.OBJECTS)
    assert {s.backdrop for s in drawn} == set(scenes.BACKDROPS)


def test_every_object_is_clear_of_the_border_and_stands_on_the_ground(scenes, scene):
    drawn = scenes.draw_batch([scene(kind) for kind in scenes.OBJECTS], SIDE)
    for kind, alpha in zip(scenes.OBJECTS, drawn.alpha[:, 0]):
        assert 0.04 < alpha.mean() < 0.5, kind
        assert max(alpha[:4].max(), alpha[-4:].max(), alpha[:, :4].max(), alpha[:, -4:].max()) == 0, kind
        bottom = alpha.amax(1).gt(0.5).nonzero().max().item() / SIDE
        assert abs(bottom - 0.84) < 0.04, kind


def test_glass_is_translucent_with_a_dense_rim_and_shows_what_is_behind(scenes, scene):
    opaque, glass = (scenes.draw(scene("ball", "checkerboard", glass), 128) for glass in (False, True))
    middle = (slice(56, 84), slice(56, 84))
    assert opaque.alpha[middle].min() == 1 and 0.15 < np.median(glass.alpha[middle]) < 0.5
    assert glass.alpha.max() > 0.8
    unlike = [np.abs(d.composite - d.lit)[middle].mean() for d in (opaque, glass)]
    assert unlike[0] < 1e-6 and unlike[1] > 0.03


def test_a_composite_takes_the_colour_and_the_side_of_the_light(scenes, scene):
    day, sunset = (scenes.draw(scene("bottle", place, colour="green"), SIDE) for place in ("snow", "beach"))
    assert np.array_equal(day.colour, sunset.colour)  # the layer itself is in neutral light
    warmth = [mean_inside(d.composite, d.alpha) / mean_inside(d.colour, d.alpha) for d in (day, sunset)]
    assert warmth[1][0] / warmth[1][2] > 1.3 * warmth[0][0] / warmth[0][2]
    left, right = (scenes.draw(scene("heart", "beach", mirror=mirror), SIDE) for mirror in (False, True))
    side = [mean_inside(d.lit[:, :32], d.alpha[:, :32]) - mean_inside(d.lit[:, 32:], d.alpha[:, 32:]) for d in (left, right)]
    assert side[0].mean() > 0.03 and side[1].mean() < -0.03


def test_shadows_lie_on_the_ground_and_are_no_part_of_alpha(scenes, scene):
    d = scenes.draw(scene("apple", "table"), SIDE)
    assert d.shadow[50:].max() > 0.4 and d.shadow[:36].max() < 0.05
    outside = (d.alpha == 0)[..., 0] & (d.shadow[..., 0] > 0.2)
    assert outside.sum() > 40
    assert (d.composite[outside] < d.background[outside] - 0.02).mean() > 0.9
    assert scenes.draw(scene("apple", "clouds"), SIDE).shadow.max() == 0


def test_the_second_object_is_in_front_and_only_in_the_composite(scenes, scene):
    one = scene("apple", "meadow", colour="red")
    front = dataclasses.replace(one.items[0], kind="ball", colour="blue", centre=(0.6, 0.56))
    both, alone = scenes.draw(dataclasses.replace(one, items=(one.items[0], front)), SIDE), scenes.draw(one, SIDE)
    assert np.array_equal(both.on_grey, alone.on_grey) and np.array_equal(both.background, alone.background)
    assert np.abs(both.composite - alone.composite)[30:40, 40:50].mean() > 0.2


def test_an_unknown_object_or_background_is_named(scenes, scene):
    with pytest.raises(ValueError, match="hexagon.*apple"):
        scenes.draw(scene("hexagon"), 32)
    with pytest.raises(ValueError, match="moon.*table"):
        scenes.draw(scene("apple", "moon"), 32)


def test_captions_name_what_is_there(scenes, scene):
    vocabulary = importlib.import_module("vocabulary")
    known = scene("apple", "beach", colour="orange")
    assert vocabulary.foreground_caption(known) == "an orange apple"
    assert vocabulary.background_caption(known) == "beach at sunset"
    assert vocabulary.composite_caption(known) == "an orange apple on a beach at sunset"
    other = dataclasses.replace(known.items[0], kind="bottle", glass=True, centre=(0.8, 0.52))
    two = dataclasses.replace(known, items=(known.items[0], other))
    assert vocabulary.foreground_caption(two) == "an orange apple on the left"
    assert vocabulary.composite_caption(two) == "an orange apple and an orange glass bottle on a beach at sunset"
