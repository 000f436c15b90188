"""What a run holds on its device is gone when it ends, however it ends, in the guider that the host keeps for the next run."""

from __future__ import annotations

import gc
import weakref

import comfy.samplers
import pairs
import pytest
import torch
from runs import SEED, empty_latent, models, slow
from test_guider_nodes import guider_of, schedule, stacked

from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions


class Interrupted(Exception):
    pass


def run(guider, seen: list, fails: bool) -> None:
    """One run of a guider as SamplerCustomAdvanced starts it; `seen` gets what it held in its second step."""

    def callback(step: int, *_) -> None:
        if step == 1:
            held, maps = guider.run, guider.run.maps
            seen.extend(map(weakref.ref, (held, maps, maps.structure, *maps.content.values())))
            if fails:
                raise Interrupted

    latent = stacked(empty_latent(2))
    guider.sample(
        torch.randn(latent["samples"].shape, generator=torch.manual_seed(SEED)), latent["samples"],
        comfy.samplers.sampler_object("euler"), schedule(steps=2), latent["noise_mask"], callback, True, SEED,
    )  # fmt: skip


@pytest.mark.parametrize("prior_mode", ["previous_step", *slow("exact")])
@pytest.mark.parametrize("pair", [models, pairs.unlike], ids=["one checkpoint", "two checkpoints"])
@pytest.mark.parametrize("fails", [False, True], ids=["well", "interrupted"])
def test_nothing_is_held_after_a_run(pair, prior_mode, fails):
    guider, seen = guider_of(LayerFusionOptions(prior_mode=prior_mode), pair()), []
    if fails:
        with pytest.raises(Interrupted):
            run(guider, seen, fails)
    else:
        run(guider, seen, fails)
    gc.collect()
    assert len(seen) > 4 and [ref() for ref in seen if ref() is not None] == []
    assert not {"run", "conds", "inner_model", "loaded_models"} & set(vars(guider))
    assert hasattr(guider, "record") != fails
    if not fails:  # the masks for Preview Priors are copies in main memory, at half the size
        maps = guider.record.maps[-1]
        assert maps.structure.dtype == torch.float16 and maps.structure.device.type == "cpu"
