"""Schedule and samplers against closed forms."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from reference import SAMPLERS, Schedule

SCHEDULE = Schedule()


def test_schedule_is_sdxls():
    assert float(SCHEDULE.sigmas[0]) == pytest.approx(0.0291675, rel=1e-4)
    assert float(SCHEDULE.sigmas[-1]) == pytest.approx(14.614642, rel=1e-5)


def test_schedulers_span_the_schedule_and_end_at_zero():
    for name in ("normal", "karras"):
        sigmas = SCHEDULE.make(name, 5)
        assert sigmas.shape == (6,)
        assert sigmas[0] == pytest.approx(float(SCHEDULE.sigmas[-1]), rel=1e-5)
        assert sigmas[4] == pytest.approx(float(SCHEDULE.sigmas[0]), rel=1e-4)
        assert sigmas[5] == 0
        assert (sigmas.diff() < 0).all()
    with pytest.raises(ValueError, match="karras"):
        SCHEDULE.make("beta", 5)


def test_timestep_and_sigma_are_inverse_on_training_steps():
    for t in (0, 1, 500, 999):
        sigma = SCHEDULE.sigma(torch.tensor(float(t)))
        assert SCHEDULE.timestep(sigma) == t
    between = SCHEDULE.sigma(torch.tensor(10.5))
    assert float(between) == pytest.approx(math.sqrt(SCHEDULE.sigmas[10] * SCHEDULE.sigmas[11]), rel=1e-6)


def test_percent_to_sigma():
    assert SCHEDULE.percent_to_sigma(0) == 999999999.9
    assert SCHEDULE.percent_to_sigma(1) == 0
    assert SCHEDULE.percent_to_sigma(0.2) == pytest.approx(float(SCHEDULE.sigma(torch.tensor(799.2))))


def test_initial_latent_adds_the_signals_share_at_the_top_only():
    noise, top = torch.ones(1), SCHEDULE.sigmas[-1]
    assert SCHEDULE.initial_latent(noise, top) == torch.sqrt(1 + top**2)
    assert SCHEDULE.initial_latent(noise, torch.tensor(2.0)) == 2.0


def test_euler_equals_its_closed_form():
    """D = c x gives dx/dsigma = (1 - c) x / sigma: every step multiplies x by 1 + (1 - c) (sigma' / sigma - 1)."""
    sigmas, c = SCHEDULE.karras(4), 0.3
    factor = math.prod(1 + (1 - c) * (float(b / a) - 1) for a, b in zip(sigmas[:-1], sigmas[1:], strict=True))
    x = torch.randn(2, 3)
    torch.testing.assert_close(SAMPLERS["euler"](lambda x, sigma: c * x, x, sigmas), factor * x)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_known_picture_is_reached_exactly(name):
    """The perfect denoiser of one picture: x keeps the line from noise to picture, x = picture + sigma * e."""
    picture, e = torch.randn(2, 3), torch.randn(2, 3)
    sigmas = torch.tensor([8.0, 3.0, 1.0, 0.5])
    x = SAMPLERS[name](lambda x, sigma: picture, picture + 8.0 * e, sigmas)
    torch.testing.assert_close(x, picture + 0.5 * e)
    to_zero = torch.cat([sigmas, torch.zeros(1)])
    torch.testing.assert_close(SAMPLERS[name](lambda x, sigma: picture, picture + 8.0 * e, to_zero), picture)


def test_dpmpp_2m_is_of_second_order():
    """For unit Gaussian data D = x / (1 + sigma^2), the exact flow is x sqrt((1 + sigma'^2) / (1 + sigma^2))."""

    def error(name: str, steps: int) -> float:
        sigmas = torch.logspace(1, -1, steps + 1, dtype=torch.float64)
        x = SAMPLERS[name](lambda x, sigma: x / (1 + sigma**2), torch.ones(1, dtype=torch.float64), sigmas)
        return abs(float(x) - math.sqrt((1 + float(sigmas[-1]) ** 2) / (1 + float(sigmas[0]) ** 2)))

    assert error("euler", 40) / error("euler", 80) == pytest.approx(2, rel=0.25)
    assert error("dpmpp_2m", 40) / error("dpmpp_2m", 80) == pytest.approx(4, rel=0.25)
