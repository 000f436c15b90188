"""The drawn scenes: deterministic, and composites are exactly alpha-over on the shadowed background."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

DEMO = Path(__file__).resolve().parents[2] / "demo"


@pytest.fixture(scope="module")
def scenes(request):
    sys.path.insert(0, str(DEMO))
    request.addfinalizer(lambda: sys.path.remove(str(DEMO)))
    return importlib.import_module("scenes")


@pytest.mark.parametrize("seed", [0, 7, 1234])
def test_the_same_seed_draws_the_same_pixels(scenes, seed):
    first, second = (scenes.draw(scenes.random_scene(seed), 64) for _ in range(2))
    for a, b in zip(first, second):
        assert np.array_equal(a, b)


def test_different_seeds_differ(scenes):
    assert scenes.random_scene(1) != scenes.random_scene(2)


@pytest.mark.parametrize("seed", range(6))
def test_composite_is_alpha_over_on_the_shadowed_background(scenes, seed):
    d = scenes.draw(scenes.random_scene(seed), 64)
    over = d.colour * d.alpha + d.background * (1 - d.shadow) * (1 - d.alpha)
    np.testing.assert_allclose(d.composite, over, atol=1e-6)
    np.testing.assert_allclose(d.on_grey, d.colour * d.alpha + scenes.GREY * (1 - d.alpha), atol=1e-6)
    for plane in d:
        assert plane.dtype == np.float32 and plane.min() >= 0 and plane.max() <= 1


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "star", "ring", "heart"])
def test_every_shape_is_central_and_clear_of_the_border(scenes, shape):
    scene = scenes.Scene(shape, "red", False, "sky", "blue", (0.5, 0.5), 0.72, (0.0, 0.0, 0.0, 0.0))
    alpha = scenes.draw(scene, 64).alpha[..., 0]
    assert 0.08 < alpha.mean() < 0.6
    assert alpha[:4].max() == alpha[-4:].max() == alpha[:, :4].max() == alpha[:, -4:].max() == 0


def test_glass_is_translucent_with_an_opaque_rim(scenes):
    scene = scenes.Scene("square", "red", True, "sky", "blue", (0.5, 0.5), 0.6, (0.0, 0.0, 0.0, 0.0))
    alpha = scenes.draw(scene, 128).alpha[..., 0]
    assert 0.3 < alpha[70, 70] < 0.55
    assert alpha.max() > 0.85


def test_an_unknown_shape_or_background_is_named(scenes):
    with pytest.raises(ValueError, match="hexagon"):
        scenes.draw(scenes.Scene("hexagon", "red", False, "sky", "blue", (0.5, 0.5), 0.6, (0.0,) * 4), 32)
    with pytest.raises(ValueError, match="desert"):
        scenes.draw(scenes.Scene("circle", "red", False, "desert", "blue", (0.5, 0.5), 0.6, (0.0,) * 4), 32)
