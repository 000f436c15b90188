"""Two unlike UNets in lock step equal the paper written plainly on diffusers, on the same weights."""

from __future__ import annotations

from functools import lru_cache

import pairs
import pytest
import tiny

pytest.importorskip(
    "diffusers", reason="DIFFUSERS IS NOT INSTALLED: pip install diffusers to compare with the reference"
)
import reference
from test_engine_reference import CONFIG, MODES, compare, unet_weights


@lru_cache(maxsize=1)
def unets():
    """(eps, eps_FG) of `pairs.unlike`: two networks with nothing in common."""
    base, other = tiny.tiny_sdxl(), tiny.tiny_sdxl(seed=pairs.OTHER)  # as loaded: sampling merges patches into weights
    eps, _ = reference.build_unets(unet_weights(base), tiny.foreground_file(base), CONFIG)
    _, eps_fg = reference.build_unets(unet_weights(other), tiny.foreground_file(other), CONFIG)
    return eps, eps_fg


def compare_unlike(**kwargs):
    compare(pairs.unlike(), unets(), **kwargs)


@pytest.mark.parametrize("mode", MODES)
def test_background_modes(mode):
    compare_unlike(background_mode=mode)


def test_previous_step_on_a_portrait_batch():
    compare_unlike(batch=2, size=(16, 12), prior_mode="previous_step")


def test_second_order_sampler_without_guidance():
    compare_unlike(sampler="dpmpp_2m", cfg=1.0, steps=5)


@pytest.mark.parametrize("options", [{"strength": 0.4}, {"end_percent": 0.6}, {"self_attention": False}], ids=str)
def test_options(options):
    compare_unlike(**options, steps=4)
