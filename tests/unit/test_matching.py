"""Layers that add up: exact where nothing is cleaned, least alpha, ranges, unlike rows, and what counts as noise."""

from __future__ import annotations

import pytest
import torch

from layerfusion_pack.layerfusion_core.layers.compositing import alpha_over
from layerfusion_pack.layerfusion_core.layers.matching import (
    CLEANLINESS,
    FILM,
    flattened,
    least_layer,
    match_layers,
    relit,
    seen_behind,
)


def random_layers(rows: int = 2, foregrounds: int = 1) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Pictures that have nothing to do with each other; alpha 0, 1 and all between, colours 0 and 1 among them."""
    generator = torch.Generator().manual_seed(rows)
    pictures = [torch.rand(rows, 12, 16, 4, generator=generator) * 1.4 - 0.2 for _ in range(foregrounds + 2)]
    pictures = [picture.clamp(0.0, 1.0) for picture in pictures]
    for layer in pictures[2:]:
        layer[:, 0, :, 3], layer[:, 1, :, 3] = 0.0, 1.0
    return pictures[2:], pictures[0][..., :3], pictures[1][..., :3]


def scene(side: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(foreground, background, blended, shadow): a square of soft edge, lit differently, with a shadow below it."""
    background = torch.linspace(0.5, 0.9, side).expand(1, side, side)[..., None].repeat(1, 1, 1, 3)
    foreground = torch.zeros(1, side, side, 4)
    foreground[..., :3] = torch.tensor([0.8, 0.1, 0.1])
    foreground[:, 20:40, 20:40, 3] = 1.0
    foreground[:, 19, 20:40, 3] = foreground[:, 40, 20:40, 3] = 0.5
    shadow = torch.zeros(1, side, side, 1)
    shadow[:, 41:45, 20:40] = 0.3
    lit = foreground.clone()
    lit[..., :3] = torch.tensor([0.6, 0.2, 0.1])
    return foreground, background, alpha_over(lit, background * (1 - shadow)), shadow


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("foregrounds", [1, 2, 3])
def test_without_cleaning_any_layers_give_the_blended_picture_exactly(linear, foregrounds):
    given, background, blended = random_layers(foregrounds=foregrounds)
    found = match_layers(given, background, blended, 0.0, linear)
    torch.testing.assert_close(flattened(found, background, linear), blended, atol=2e-5, rtol=0)
    for layer, before in zip(found.foregrounds, given, strict=True):
        assert torch.equal(layer[..., 3], before[..., 3])
    for layer in (*found.foregrounds, found.effects):
        assert layer.isfinite().all() and layer.min() >= 0 and layer.max() <= 1


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("cleanliness", [0.0, CLEANLINESS, 1.0])
def test_each_row_of_a_batch_is_matched_as_if_it_were_alone(linear, cleanliness):
    given, background, blended = random_layers(rows=3)
    given[0][1, ..., 3] = 0.0  # a row without an object
    both = match_layers(given, background, blended, cleanliness, linear)
    for row in range(3):
        one = slice(row, row + 1)
        alone = match_layers([given[0][one]], background[one], blended[one], cleanliness, linear)
        torch.testing.assert_close(both.foregrounds[0][one], alone.foregrounds[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(both.effects[one], alone.effects, atol=1e-5, rtol=0)


def test_effects_have_the_least_alpha_with_which_any_colour_gives_the_picture():
    _, behind, wanted = random_layers()
    behind[0, 0, :, 0] = wanted[0, 0, :, 0] = 1.0  # no room for a change, and no need of one
    effects = least_layer(behind, wanted)
    color, alpha = effects[..., :3], effects[..., 3:]
    torch.testing.assert_close(alpha_over(effects, behind), wanted, atol=1e-5, rtol=0)
    less = 0.99 * alpha
    needed = (wanted - (1 - less) * behind) / less.clamp_min(1e-6)
    outside = (needed - 1).clamp_min(0).amax(-1) + (-needed).clamp_min(0).amax(-1)
    assert (outside[alpha[..., 0] > 0.05] > 0).all()  # with less of it some channel would have to leave [0, 1]
    assert not least_layer(behind, behind).any() and color.min() >= 0 and color.max() <= 1


def test_shadows_become_a_dark_film_and_light_a_bright_one():
    behind = torch.tensor([0.8, 0.6, 0.4]).expand(1, 1, 2, 3)
    film = least_layer(behind, torch.stack([behind[0, 0, 0] * 0.7, 1 - (1 - behind[0, 0, 1]) * 0.7])[None, None])
    torch.testing.assert_close(film[0, 0], torch.tensor([[0.0, 0.0, 0.0, 0.3], [1.0, 1.0, 1.0, 0.3]]), atol=1e-5, rtol=0)


def test_the_change_is_the_least_that_makes_it_up_shared_by_colour_and_background():
    alpha = torch.linspace(0.05, 0.95, 10).view(1, 1, 10, 1)
    color, behind = torch.full((1, 1, 10, 3), 0.5), torch.full((1, 1, 10, 3), 0.4)
    wanted = alpha * color + (1 - alpha) * behind + 0.02
    new = relit(color, alpha, behind, wanted)
    dc, dt = new - color, seen_behind(new, alpha, behind, wanted) - behind
    torch.testing.assert_close(dc * (1 - alpha), dt * alpha, atol=1e-6, rtol=0)  # along (a, 1 - a)
    torch.testing.assert_close(alpha * dc + (1 - alpha) * dt, torch.full_like(dc, 0.02), atol=1e-6, rtol=0)
    assert dc.abs().max() < 1.21 * 0.02 and dc[0, 0, 0].max() < 0.0012 and dc[0, 0, -1].min() > 0.02


@pytest.mark.parametrize("linear", [False, True])
def test_a_lit_object_with_its_shadow_is_taken_apart(linear):
    foreground, background, blended, shadow = scene()
    found = match_layers([foreground], background, blended, linear_light=linear)
    object_color = found.foregrounds[0][0, 25:35, 25:35, :3]
    torch.testing.assert_close(object_color, torch.tensor([0.6, 0.2, 0.1]).expand_as(object_color), atol=1e-5, rtol=0)
    effects = found.effects[0]
    assert (effects[42:44, 22:38, :3] < 0.01).all() and (effects[42:44, 22:38, 3] > 0.25).all()  # black
    assert not effects[:14, :, 3].any() and not effects[50:, :, 3].any()
    if not linear:
        torch.testing.assert_close(effects[42:44, 22:38, 3:], shadow[0, 42:44, 22:38], atol=0.01, rtol=0)


def test_noise_becomes_no_film_but_the_shadow_stays_whole():
    foreground, background, blended, _ = scene(128)
    clean = match_layers([foreground], background, blended)
    generator = torch.Generator().manual_seed(0)
    noisy = (blended + 0.02 * torch.randn(blended.shape, generator=generator)).clamp(0, 1)
    found = match_layers([foreground], background, noisy)
    exact = match_layers([foreground], background, noisy, 0.0)
    far = torch.ones(128, 128, dtype=torch.bool)
    far[10:54, 10:50] = False
    assert exact.effects[0, ..., 3][far].mean() > 0.05
    assert found.effects[0, ..., 3][far].mean() < 0.002
    kept = found.effects[0, 42:44, 22:38, 3]
    assert (kept > 0.15).all()
    assert abs(kept.mean() - clean.effects[0, 42:44, 22:38, 3].mean()) < 0.05  # a maximum of three noisy channels


@pytest.mark.parametrize("linear", [False, True])
def test_two_scenes_that_differ_everywhere_get_a_thin_film_of_what_differs_most(linear):
    foreground, background, blended, _ = scene(128)
    other = background.expand(2, -1, -1, -1).clone()
    other[1, :, 64:] *= 0.8  # everywhere to the right, and most of all in one stripe
    other[1, :, 100:104] *= 0.5
    blended = alpha_over(foreground, torch.cat([blended, other[1:]]))
    both = match_layers([foreground.expand(2, -1, -1, -1)], background.expand(2, -1, -1, -1), blended, linear_light=linear)
    alpha = both.effects[..., 3]
    assert alpha[1, :, 60:].mean() < 2.5 * FILM  # the far part is about half of the picture
    assert alpha[1, :, 100:104].mean() > 10 * alpha[1, :, 70:90].mean()
    alone = match_layers([foreground], background, blended[:1], linear_light=linear)
    torch.testing.assert_close(alpha[0], alone.effects[0, ..., 3], atol=1e-5, rtol=0)  # a row's film is its own


def test_what_is_hidden_under_the_object_is_no_effect():
    foreground, background, blended, _ = scene()
    foreground[:, 20:40, 20:40, 3] = 0.99
    blended[:, 20:40, 20:40] = torch.tensor([1.0, 0.0, 0.0])  # out of reach of the colour alone: 0.01 of the scene shows
    found = match_layers([foreground], background, blended)
    assert found.effects[0, 25:35, 25:35, 3].max() < 0.01


def test_cleanliness_goes_from_exact_to_no_effects():
    foreground, background, blended, _ = scene()
    alphas = [match_layers([foreground], background, blended, level).effects[..., 3].sum() for level in (0.0, 0.5, 0.98, 1.0)]
    assert alphas[0] >= alphas[1] > alphas[2] > alphas[3] == 0


def test_relight_off_leaves_every_colour():
    given, background, blended = random_layers()
    found = match_layers(given, background, blended, 0.0, relight=False)
    torch.testing.assert_close(found.foregrounds[0], given[0], atol=0, rtol=0)
    clear = given[0][..., 3] == 0
    torch.testing.assert_close(flattened(found, background)[clear], blended[clear], atol=1e-5, rtol=0)


def test_small_pictures():
    for size in ((1, 1), (1, 9), (8, 8)):
        picture = torch.rand(1, *size, 4)
        found = match_layers([picture], picture[..., :3] * 0.5, picture[..., 1:])
        assert found.effects.shape == picture.shape and found.effects.isfinite().all()
