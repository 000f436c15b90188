"""Pairs of models that cannot run in lock step are refused in words, and what a run may not do ends it in words."""

from __future__ import annotations

import pairs
import pytest
import runs
import tiny
from runs import layered, models


def refuse(match: str, foreground, base=None, **options):
    with pytest.raises(ValueError, match=match):
        layered((base or models()[0], foreground), **options)


def test_models_of_unlike_structure():
    deeper = tiny.tiny_sdxl(seed=3, depth=([0, 0, 1, 1, 3, 3], 3, [0, 0, 0, 1, 1, 1, 3, 3, 3]))
    refuse(
        r"base_model .SDXL, 17 attention blocks. and foreground_model .SDXL, 23 attention blocks. differ in their "
        "structure",
        tiny.with_foreground(deeper, tiny.foreground_file(deeper)),
    )


def with_sampling(model, node: str, *args):
    import comfy_extras.nodes_model_advanced as nodes

    return getattr(nodes, node)().patch(model, *args)[0]


def test_noise_schedule_beyond_the_foreground_models():
    base, foreground = pairs.unlike()
    base = with_sampling(base, "ModelSamplingDiscrete", "v_prediction", True)
    refuse("sampling starts at sigma .*foreground_model knows noise up to 14.6 only", foreground, base)


def test_flow_sampling_beside_noise_prediction():
    base, foreground = pairs.unlike()
    foreground = with_sampling(foreground, "ModelSamplingSD3", 3.0)
    refuse("differ in their flow sampling", foreground)


def test_blocks_skipped_on_one_side(monkeypatch):
    """A forward that does not come by every attention: said, not waited for."""
    pair = pairs.fresh_pair()
    transformer = pair[1].model.diffusion_model.middle_block[1]
    monkeypatch.setattr(transformer, "forward", lambda x, *args, **kwargs: x)
    refuse("base_model came to .*skips or repeats blocks", pair[1], prior_mode="previous_step", start_percent=0.5)


def test_one_checkpoint_stays_in_the_single_pass():
    base, foreground = models()
    calls = []
    block = base.model.diffusion_model.input_blocks[0][0]
    handle = block.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape[0]))
    try:
        layered((base, foreground), strength=0.0)
    finally:
        handle.remove()
    assert calls == [2 * len(runs.NAMES)] * runs.STEPS
