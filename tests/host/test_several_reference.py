"""Two and three foregrounds in the engine equal the method written plainly on diffusers, on the same weights."""

from __future__ import annotations

import comfy.samplers
import pairs
import pytest
import tiny
import torch
from runs import NEGATIVE, SEED, close, empty_latent, layered, models, prompts, slow

pytest.importorskip(
    "diffusers", reason="DIFFUSERS IS NOT INSTALLED: pip install diffusers to compare with the reference"
)
from reference.several import Foreground, SeveralOptions, several
from test_engine_reference import TOLERANCE, reference_prompt, unets
from test_lockstep_reference import unets as unlike_unets

from layerfusion_pack.layerfusion_core.host.sampling.foregrounds import Regions

SCALE = 0.13025  # of SDXL's latents in model space


CANVAS = torch.tensor([0.9, -1.4, 0.3, 2.0])


def compare(
    count: int, size=(16, 16), batch: int = 1, steps: int = 2, sampler: str = "euler", regions=None, pair=None, eps=None,
    lengths=(77,), **options,
):  # fmt: skip
    base, _ = pair or models()
    tokens = [lengths[k % len(lengths)] for k in range(count - 1)]
    streams = [*(tiny.conditioning(20 + k, n, eos=n - 72 + k) for k, n in enumerate(tokens)), *prompts()]
    latent = empty_latent(batch, *size)
    held = regions and Regions(tuple(None if r is None else r[None] for r in regions), CANVAS.view(1, 4, 1, 1))
    ours, _ = layered(pair, streams=streams, latent=latent, steps=steps, sampler=sampler, regions=held, **options)
    *foregrounds, blended, background, negative = (reference_prompt(base, c, size) for c in (*streams, NEGATIVE))
    chosen = SeveralOptions(options.get("background_mode", "share"), strength=options.get("strength", 1.0))
    theirs = several(
        *(eps or unets()), list(map(Foreground, foregrounds, regions or [None] * count)), blended, background, negative,
        torch.randn(latent["samples"].shape, generator=torch.manual_seed(SEED)),
        comfy.samplers.KSampler(base, steps, "cpu", sampler, "normal", 1.0).sigmas, 5.0, CANVAS * SCALE, chosen, sampler,
    )  # fmt: skip
    for i, (found, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert close(found * SCALE, expected, TOLERANCE), f"stream {i} of {count + 2}"


@pytest.mark.parametrize("options", [{}, {"background_mode": "off"}, *slow({"strength": 0.4})], ids=str)
def test_two_foregrounds(options):
    compare(2, **options)


def test_three_foregrounds_in_a_batch_on_an_odd_grid():
    compare(3, size=(15, 19), batch=2)


def half(size: tuple[int, int], left: bool) -> torch.Tensor:
    """A region (h, w): the left part, with a column that it covers by 0.6, or the right part."""
    region = torch.zeros(size)
    middle = size[1] // 2
    region[:, :middle] = 1.0
    region[:, middle] = 0.6
    return region if left else 1.0 - region


@pytest.mark.parametrize(("size", "batch"), [((16, 16), 2), ((15, 19), 1)])
def test_two_foregrounds_in_regions(size, batch):
    compare(2, size, batch, steps=3, regions=[half(size, True), half(size, False)])


def test_one_foreground_in_a_region_and_two_that_overlap():
    compare(1, regions=[half((16, 16), True)])
    wide = torch.zeros(16, 16)
    wide[4:, :12] = 1.0
    compare(3, regions=[half((16, 16), False), None, wide], sampler="dpmpp_2m", steps=3)


def test_one_behind_the_other_in_the_same_region_of_an_odd_canvas():
    """The rear one is hidden wholly; prompts of unlike lengths; 9 x 13 cells, which the UNet halves unevenly."""
    region = half((9, 13), True)
    compare(3, size=(9, 13), batch=2, regions=[region, region, None], lengths=(154, 77))


def test_two_in_regions_from_two_checkpoints_in_lock_step():
    compare(2, (12, 16), regions=[half((12, 16), True), half((12, 16), False)], pair=pairs.unlike(), eps=unlike_unets())
