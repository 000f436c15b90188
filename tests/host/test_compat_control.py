"""ControlNets and T2I adapters of single streams: they act on their own stream's rows and on no other's."""

from __future__ import annotations

from functools import lru_cache

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.t2i_adapter.adapter
import pytest
import tiny
import torch
from compat import blends, core, different, streams_equal_stock
from once import once
from runs import NAMES, NEGATIVE, empty_latent, layered, models, prompts, slow, stock

from layerfusion_pack.layerfusion_core.host.sampling.stream_control import StreamControl

STREAMS = [0, *slow(1), 2]


def picture(seed: int = 0, count: int = 1) -> torch.Tensor:
    """A control IMAGE (count, 128, 128, 3)."""
    return torch.rand(count, 128, 128, 3, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=2)
def control_net(kind: str) -> comfy.controlnet.ControlBase:
    """A tiny CONTROL_NET of random weights."""
    if kind == "t2i":
        adapter = comfy.t2i_adapter.adapter.Adapter(
            cin=3 * 256, channels=[32, 64, 128, 128], nums_rb=2, ksize=1, sk=True, use_conv=False, xl=True
        )
        tiny.randomize(adapter, 5)
        return comfy.controlnet.T2IAdapter(adapter, 3, 8, "nearest-exact")
    config = {k: v for k, v in tiny.unet_config().items() if k not in ("out_channels", "transformer_depth_output")}
    net = comfy.cldm.cldm.ControlNet(
        **config, num_head_channels=tiny.HEAD, hint_channels=3, operations=comfy.ops.manual_cast, dtype=torch.float32
    )
    tiny.randomize(net, 6)
    device = comfy.model_management.get_torch_device()
    return comfy.controlnet.ControlNet(net, load_device=device, manual_cast_dtype=torch.float32)


def apply(kind: str, positive, negative, seed: int = 0, strength: float = 0.5, start: float = 0.0, end: float = 1.0, count=1):
    return core("ControlNetApplyAdvanced", positive, negative, control_net(kind), picture(seed, count), strength, start, end)


def controlled(kind: str, stream: int, **how) -> tuple[list[list], list]:
    """The prompts with a control on one of them, and the negative with it."""
    streams = prompts()
    streams[stream], negative = apply(kind, streams[stream], NEGATIVE, **how)
    return streams, negative


KINDS = ["controlnet", "t2i"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", STREAMS, ids=NAMES)
def test_control_on_one_stream(kind, stream):
    streams, negative = controlled(kind, stream)
    model = models()[1 if stream == 0 else 0]
    alone = once(stock, model, streams[stream], negative=negative, steps=2)
    assert different(alone, once(stock, model, prompts()[stream], steps=2))
    negatives = [negative if i == stream else None for i in range(3)]
    streams_equal_stock(streams=streams, negatives=negatives)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", STREAMS, ids=NAMES)
def test_a_shared_negative_with_control_stays_on_the_stream(kind, stream):
    """Apply ControlNet's negative output, connected as the one negative of all streams."""
    streams, negative = controlled(kind, stream)
    found, _ = layered(streams=streams, negative=negative, strength=0.0, steps=2)
    expected, _ = layered(
        streams=streams, negatives=[negative if i == stream else None for i in range(3)], strength=0.0, steps=2
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_each_stream_its_own_control():
    """ControlNet, adapter, and both in a chain; one negative that went through all of them."""
    streams, negative = prompts(), NEGATIVE
    streams[0], negative = apply("controlnet", streams[0], negative, seed=1)
    streams[1], negative = apply("t2i", streams[1], negative, seed=2)
    for kind, seed in (("t2i", 3), ("controlnet", 4)):
        streams[2], negative = apply(kind, streams[2], negative, seed=seed)
    negatives = [[[NEGATIVE[0][0], {**NEGATIVE[0][1], "control": s[0][1]["control"]}]] for s in streams]
    streams_equal_stock(streams=streams, negatives=negatives)
    shared, _ = layered(streams=streams, negative=negative, strength=0.0, steps=2)
    own, _ = layered(streams=streams, negatives=negatives, strength=0.0, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(shared, own))


def test_the_same_control_on_every_stream():
    streams, negative = [], NEGATIVE
    for prompt in prompts():
        positive, negative = apply("controlnet", prompt, NEGATIVE)
        streams.append(positive)
    streams_equal_stock(streams=streams, negatives=[negative] * 3)


def test_simple_apply_reaches_the_negative_of_its_stream():
    """ControlNetApply asks for its control on the negative, too."""
    streams = prompts()
    streams[1] = core("ControlNetApply", streams[1], control_net("controlnet"), picture(), 0.5)
    streams_equal_stock(streams=streams)


@pytest.mark.parametrize("kind", KINDS)
def test_control_for_a_part_of_the_schedule(kind):
    streams, negative = controlled(kind, 2, start=0.3, end=0.7)
    streams_equal_stock(streams=streams, negatives=[None, None, negative], steps=4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_picture_for_each_latent_of_the_batch(kind):
    streams, negative = controlled(kind, 1, count=2)
    latent = {**empty_latent(2), "batch_index": [0, 1]}
    streams_equal_stock(streams=streams, negatives=[None, negative, None], latent=latent)
    blends(streams=streams, latent=latent)


def test_control_at_cfg_one_and_with_another_number_of_prompts():
    streams, negative = controlled("controlnet", 1)
    streams[0] = core("ConditioningCombine", streams[0], tiny.conditioning(40))
    streams_equal_stock(streams=streams, negatives=[None, negative, None], cfg=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_control_on_the_foreground_steers_the_masks(kind):
    """The prior pass sees the foreground's control and no other stream's."""
    plain = once(layered, steps=2)[1]
    streams, negative = controlled(kind, 0)
    blends(streams=streams)
    record = layered(streams=streams, negatives=[negative, None, None], steps=2)[1]
    assert not torch.allclose(record.maps[0].structure, plain.maps[0].structure)
    streams, negative = controlled(kind, 2)
    record = layered(streams=streams, negatives=[None, None, negative], steps=2)[1]
    assert torch.equal(record.maps[0].structure, plain.maps[0].structure)


def test_control_on_the_negative_alone_is_refused():
    _, negative = controlled("controlnet", 0)
    with pytest.raises(ValueError, match="negative: it carries a ControlNet but no stream's conditioning does"):
        layered(negative=negative)


def test_controls_of_different_length_meet_at_the_end():
    """The host takes residuals from the end of the lists, so a shorter list lacks the first ones."""

    class Fixed(comfy.controlnet.ControlBase):
        def __init__(self, *values):
            super().__init__()
            self.values = values

        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            return {"output": [None if v is None else torch.full((1, 2, 1, 1), float(v)) for v in self.values]}

    control = StreamControl((Fixed(1, 2, 3), None, Fixed(None, 5)), {})
    found = control.get_control(torch.zeros(6, 4, 2, 2), torch.ones(6), {}, 1, {})
    assert [out[:, 0, 0, 0].tolist() for out in found["output"]] == [[1, 0, 0] * 2, [2, 0, 0] * 2, [3, 0, 5] * 2]
