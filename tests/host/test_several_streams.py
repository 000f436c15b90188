"""Several foregrounds with other nodes on the graph: each stream's rows are those of that stream alone."""

from __future__ import annotations

import pairs
import pytest
import tiny
import torch
from compat import core, pair_of
from once import once
from runs import NEGATIVE, SEED, close, empty_latent, layered, models, prompts, slow, stock
from test_compat_control import apply
from test_compat_patches import limited
from test_patches_per_stream import KINDS, LATENT, with_patches
from test_several import OTHER, REGIONS, refused, sampled

from layerfusion_pack.layerfusion_core.host.sampling.foregrounds import Foreground
from layerfusion_pack.nodes.foregrounds import LayerFusionAddForeground
from layerfusion_pack.nodes.priors import LayerFusionPreviewPriors

THIRD = tiny.conditioning(21, tokens=154, eos=90)


def streams() -> list[list]:
    """Foreground 1, foreground 2, blended, background."""
    return [prompts()[0], OTHER, *prompts()[1:]]


def equal_stock(pair, positives, negatives=None, **run) -> None:
    """Assert that without blending each of the K + 2 layers is the stock run of its stream, and that no two are alike."""
    base, foreground = pair
    found, _ = layered(pair, positives, negatives=negatives, strength=0.0, steps=2, **run)
    run.pop("noise", None)
    for i, layer in enumerate(found):
        model = foreground if i < len(found) - 2 else base
        own = negatives and negatives[i]
        assert close(layer, stock(model, positives[i], negative=own, steps=2, **run)), f"stream {i} of {len(found)}"
        assert not any(close(layer, other, 1e-2) for other in found[:i])


@pytest.mark.parametrize("pair", [models, *slow(pairs.unlike)])
def test_a_control_on_one_foreground(pair):
    """With a picture for each of two latents; a timestep range on another foreground, and prompts of unlike lengths."""
    positives = [*streams()[:2], THIRD, *streams()[2:]]
    positives[1], negative = apply("controlnet", OTHER, NEGATIVE, count=2)
    positives[0] = core("ConditioningCombine", core("ConditioningSetTimestepRange", positives[0], 0.0, 0.5),
                        core("ConditioningSetTimestepRange", tiny.conditioning(31), 0.5, 1.0))  # fmt: skip
    equal_stock(pair(), positives, [None, negative, None, None, None], latent=empty_latent(2))


def test_patches_of_other_nodes():
    """Every kind, with an entry for each of two latents."""
    pair = pair_of(with_patches(models()[0], *KINDS))
    equal_stock(pair, streams(), latent=LATENT)


def test_limited_patches():
    plain = models()[0]
    pair = pair_of(limited(plain, with_patches(plain, "attn2 replace"), "foreground"))
    found, _ = layered(pair, streams(), LATENT, strength=0.0, steps=2)
    patched = pair_of(with_patches(plain, "attn2 replace"))[1]
    for model, positive, layer in zip((patched, patched, plain, plain), streams(), found):
        assert close(layer, stock(model, positive, LATENT, steps=2))


def test_noise_of_their_own():
    found, _ = layered(streams=streams(), noise="independent", strength=0.0, steps=2)
    for i, (model, layer) in enumerate(zip((models()[1],) * 2 + (models()[0],) * 2, found)):
        assert close(layer, stock(model, streams()[i], seed=SEED + i, steps=2))


@pytest.mark.parametrize("mode", ["exact", *slow("previous_step")])
def test_priors_of_the_first_step_are_those_of_each_foreground_alone(mode):
    """Also of one with a control: what a foreground shows before anything was blended is its own rows'."""
    controlled, negative = apply("controlnet", OTHER, NEGATIVE, count=2)
    both = [prompts()[0], controlled, *prompts()[1:]]
    latent = empty_latent(2, 9, 13)
    _, record = layered(streams=both, latent=latent, steps=2, prior_mode=mode)
    strip = LayerFusionPreviewPriors.execute(record, "output 3", 1).result[0]
    assert record.foreground_count == 2 and strip.shape == (4, 72, 4 * 104, 3)
    for k, positive in enumerate(both[:2]):
        _, alone = layered(streams=[positive, *prompts()[1:]], latent=latent, steps=2, prior_mode=mode)
        for name, maps in record.images(0, ("output", 3, 0)).items():
            assert torch.allclose(maps[k::2], alone.images(0, ("output", 3, 0))[name], atol=2e-3), (k, name)
        shown = LayerFusionPreviewPriors.execute(alone, "output 3", 1).result[0]
        assert torch.allclose(strip[k::2], shown, atol=1e-2) and not torch.allclose(strip[1 - k :: 2], shown, atol=0.1)


def test_many_foregrounds():
    """Nine; of more there is no limit but memory."""
    added = ()
    for k in range(8):
        (added,) = LayerFusionAddForeground.execute(tiny.conditioning(50 + k, eos=5), 0.0, 0.0, 1.0, 1.0, 1, None, added).result
    foreground, background, blended = sampled(added, latent=empty_latent(1, 8, 8), steps=1)
    assert foreground["samples"].shape[0] == 9 and foreground["samples"].isfinite().all()
    expected, _ = layered(streams=[prompts()[0], *(one.conditioning for one in added), *prompts()[1:]],
                          latent=empty_latent(1, 8, 8), steps=1)  # fmt: skip
    assert all(torch.equal(a[None], b) for a, b in zip(foreground["samples"], expected))


def test_what_cannot_be_kept_to_one_foreground_is_refused_by_its_number():
    area = core("ConditioningSetArea", OTHER, 64, 64, 0, 0, 1.0)
    refused("foreground 2: the conditioning carries an area.*Set Mask", sampled, (Foreground(area),))
    refused("foreground 1: the conditioning carries an area.*Set Mask", sampled, (Foreground(area, order=-1),))
    refused("foreground 2: its timestep ranges leave the schedule empty", sampled, (
        Foreground(core("ConditioningSetTimestepRange", OTHER, 0.0, 0.5)),))  # fmt: skip


def test_a_batch_of_prompts_and_regions_under_a_second_order_sampler():
    """Two pictures with a prompt each (two rows of a conditioning) are the two runs with one."""
    one, two = tiny.conditioning(60, eos=5), tiny.conditioning(61, eos=5)
    both = [[torch.cat([one[0][0], two[0][0]]), {
        **one[0][1], "pooled_output": torch.cat([c[0][1]["pooled_output"] for c in (one, two)])}]]  # fmt: skip
    run = {"steps": 2, "sampler": "dpmpp_2m", "regions": REGIONS}
    found, _ = layered(streams=[prompts()[0], both, *prompts()[1:]], latent={**empty_latent(2), "batch_index": [0, 1]}, **run)
    for i, prompt in enumerate((one, two)):
        single, _ = once(layered, streams=[prompts()[0], prompt, *prompts()[1:]],
                         latent={**empty_latent(), "batch_index": [i]}, **run)  # fmt: skip
        assert all(close(b[i : i + 1], s) for b, s in zip(found, single))
