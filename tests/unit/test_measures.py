"""Measures against cases whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from layerfusion_pack.evaluation import measures

SIDE = 64


def disc(radius: float = 0.3, level: float = 1.0, x: float = 0.5) -> torch.Tensor:
    """Alpha (1, S, S) of a disc."""
    v, u = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    return level * (torch.hypot(u - x, v - 0.5) < radius).float()[None]


def plain(*colour: float) -> torch.Tensor:
    return torch.tensor(colour).expand(1, SIDE, SIDE, 3).clone()


def stripes(period: int = 8, phase: int = 0) -> torch.Tensor:
    wave = ((torch.arange(SIDE) + phase) % period < period // 2).float()
    return wave[None, None, :, None].expand(1, SIDE, SIDE, 3) * 0.5 + 0.25


def test_psnr_of_a_known_error_and_its_ceiling():
    a = plain(0.5, 0.5, 0.5)
    assert measures.psnr(a, a + 0.1).item() == pytest.approx(20.0, abs=1e-3)
    assert measures.psnr(a, a).item() == measures.BEST_PSNR


def test_a_region_hides_everything_else():
    alpha = disc()
    far = measures.outside(alpha)
    a, b = stripes(), stripes()
    b[measures.inside(alpha)] = 0.0
    assert measures.psnr(a, b, far).item() == measures.BEST_PSNR
    assert measures.ssim(a, b, far).item() == pytest.approx(1.0, abs=1e-4)
    assert measures.high_pass_correlation(a, b, far).item() == pytest.approx(1.0, abs=1e-4)
    assert measures.ssim(a, b).item() < 0.95


def test_outside_keeps_a_distance_of_a_sixteenth():
    far = measures.outside(disc())[0, SIDE // 2]
    edge = int(measures.inside(disc())[0, SIDE // 2].nonzero()[0])
    assert not far[edge - 4 :].any() or not far[edge - 4 : SIDE // 2].any()
    assert far[edge - 5]


def test_correlation_tells_pattern_from_phase_and_flatness():
    assert measures.high_pass_correlation(stripes(), stripes(phase=4)).item() == pytest.approx(-1.0, abs=0.01)
    assert abs(measures.high_pass_correlation(stripes(), stripes(phase=2)).item()) < 0.1
    assert math.isnan(measures.high_pass_correlation(stripes(), plain(0.2, 0.4, 0.6)).item())


def test_an_empty_region_measures_nothing():
    nothing = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    a = plain(0.1, 0.2, 0.3)
    assert math.isnan(measures.psnr(a, a, nothing).item())
    assert math.isnan(measures.ssim(a, a, nothing).item())
    assert math.isnan(measures.object_share(a, a, torch.zeros(1, SIDE, SIDE)).item())


def test_soft_iou():
    assert measures.soft_iou(disc(), disc()).item() == pytest.approx(1.0)
    assert measures.soft_iou(disc(), disc(level=0.5)).item() == pytest.approx(0.5)
    assert measures.soft_iou(disc(0.1, x=0.2), disc(0.1, x=0.8)).item() == 0.0
    assert math.isnan(measures.soft_iou(disc(0.0), disc(0.0)).item())


@pytest.mark.parametrize("level", [1.0, 0.45], ids=["opaque", "glass"])
def test_object_share_finds_the_object_where_it_is(level):
    alpha, red, scene = disc(level=level), plain(0.9, 0.1, 0.1), stripes() * torch.tensor([0.5, 0.8, 1.0])
    blended = red * alpha[..., None] + scene * (1 - alpha[..., None])
    assert measures.object_share(blended, red, alpha).item() > 0.98
    assert measures.object_share(scene, red, alpha).item() < 0.02
    half = torch.where(torch.arange(SIDE)[:, None, None] < SIDE // 2, blended, scene)
    assert measures.object_share(half, red, alpha).item() == pytest.approx(0.5, abs=0.05)


def test_measures_of_a_perfect_trio():
    alpha, red, scene = disc(), plain(0.9, 0.1, 0.1), stripes()
    found = measures.layer_measures(red, alpha, scene, red * alpha[..., None] + scene * (1 - alpha[..., None]))
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(found, (1,))
    for name in ("outside_psnr", "inside_psnr", "over_psnr"):
        assert found[name].item() == measures.BEST_PSNR
    assert found["leak_share"].item() == 0.0
    assert found["shown_share"].item() == 1.0
    assert found["leak_psnr"].item() < 10.0


def test_shadow_is_what_is_darker_beside_the_object_alone():
    alpha, scene = disc(0.2), plain(0.8, 0.8, 0.8)
    beside = measures.dilate(alpha > 0, 6) & ~measures.inside(alpha)
    shaded = scene - 0.2 * beside[..., None].float()
    assert measures.shadow(scene, shaded - 0.1, alpha).item() > 0.15
    assert measures.shadow(scene, scene - 0.1, alpha).item() == pytest.approx(0.0, abs=1e-6)


def test_alpha_statistics():
    two = torch.maximum(disc(0.1, x=0.25), disc(0.1, x=0.75))
    two[0, 0, 0] = 1.0  # a speck below 0.1 % of the picture is no piece
    found = measures.alpha_measures(torch.cat((two, torch.full((1, SIDE, SIDE), 0.5))))
    assert found["components"].tolist() == [2.0, 1.0]
    assert found["border"].tolist() == pytest.approx([1 / (4 * SIDE - 4), 1.0])
    assert found["semi"].tolist() == [0.0, 1.0]
    assert found["coverage"].tolist() == pytest.approx([two.mean().item(), 0.5])


def test_components_of_a_large_picture_and_of_nothing():
    large = torch.zeros(1, 300, 200)
    large[:, 10:80, 10:60] = 1.0
    large[:, 150:290, 100:190] = 0.6
    assert measures.components(large).item() == 2.0
    assert measures.components(torch.zeros(1, 40, 40)).item() == 0.0


def test_flicker():
    steady = [torch.full((2, 4, 4), 0.3)] * 3
    assert measures.mask_flicker(steady).tolist() == [0.0, 0.0]
    assert measures.mask_flicker([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]).tolist() == [1.0]
    assert math.isnan(measures.mask_flicker([torch.zeros(1, 4, 4)]).item())


def test_matched_layers_add_up_and_leave_no_film_where_the_scenes_agree():
    alpha, scene = disc(), stripes()
    rgba = torch.cat((plain(0.9, 0.1, 0.1), alpha[..., None]), dim=-1)
    blended = plain(0.6, 0.2, 0.1) * alpha[..., None] + scene * (1 - alpha[..., None])
    found = measures.matched(rgba, scene, blended)
    assert found["matched_psnr"].item() > 45.0 and found["film"].item() == 0.0
    darker = measures.matched(rgba, scene, (blended - 0.3).clamp_min(0.0))
    assert 0.0 < darker["film"].item() < 0.006 and darker["matched_psnr"].item() < 20.0  # a thin film, whatever is missing
