"""The host's MultiGPU work units: conditionings run on several devices, each with its copies of models and controls.

Two names of the CPU stand for two GPUs, so the host's own scheduling, copies and threads run, but no tensor is ever on
another device: what must be moved is tested on its own.
"""

from __future__ import annotations

import comfy.model_management
import pytest
import tiny
import torch
from compat import core
from runs import NEGATIVE, close, layered, prompts
from test_compat_control import controlled

from layerfusion_pack.layerfusion_core.host.sampling.stream_control import StreamControl

multigpu = pytest.importorskip("comfy.multigpu") if hasattr(comfy.model_management, "get_all_torch_devices") else None
SECOND = torch.device("cpu", 0)


@pytest.mark.skipif(multigpu is None, reason="this host has no MultiGPU work units")
def test_equals_one_device(monkeypatch):
    """Two foreground prompts and a ControlNet on the background: chunks and controls go to both devices."""
    monkeypatch.setattr(
        comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: [torch.device("cpu"), SECOND]
    )
    monkeypatch.setattr(comfy.model_management, "set_torch_device", lambda device: None)
    base = tiny.tiny_sdxl()
    base.cached_patcher_init = (tiny.tiny_sdxl, ())
    file = tiny.foreground_file(base)
    streams, negative = controlled("controlnet", 2)
    streams[0] = core("ConditioningCombine", prompts()[0], tiny.conditioning(40))
    run = dict(streams=streams, negatives=[None, None, negative], negative=NEGATIVE, steps=2, prior_mode="previous_step")
    expected, one = layered((base, tiny.with_foreground(base, file)), **run)

    spread = multigpu.create_multigpu_deepclones(base, 2)
    other = spread.additional_models["multigpu"][0].model.diffusion_model
    devices = set()
    blocks = [model.input_blocks[0][0] for model in (base.model.diffusion_model, other)]
    hooks = [b.register_forward_pre_hook(lambda m, a, i=i: devices.add(i)) for i, b in enumerate(blocks)]
    try:
        found, two = layered((spread, tiny.with_foreground(spread, file)), **run)
    finally:
        for hook in hooks:
            hook.remove()
    assert devices == {0, 1}
    assert all(close(a, b) for a, b in zip(found, expected))
    assert torch.allclose(two.maps[1].structure, one.maps[1].structure, atol=2e-3)


def test_controls_of_the_device_that_a_call_runs_on():
    class Control:
        def __init__(self, value: float):
            self.value = value

        def get_instance_for_device(self, device):
            return Control(self.value + 10) if device == SECOND else self

        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            return {"output": [torch.full((1, 1, 1, 1), self.value)]}

    control = StreamControl((Control(1.0), None, Control(2.0)), {})
    rows = torch.zeros(3, 4, 2, 2)
    for options, values in (({}, [1, 0, 2]), ({"multigpu_thread_device": SECOND}, [11, 0, 12])):
        found = control.get_control(rows, torch.ones(3), {}, 1, options)
        assert found["output"][0].flatten().tolist() == values
