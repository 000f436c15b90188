"""`once` answers from memory only what would run alike."""

from __future__ import annotations

import pytest
import tiny
import torch
from once import again, once
from runs import NEGATIVE, empty_latent, models, prompts


class Counted:
    """Stands for `runs.stock`; counts its runs."""

    __name__ = "counted"

    def __init__(self):
        self.runs = 0

    def __call__(self, model, positive, latent=None, cfg=5.0):
        self.runs += 1
        return torch.full((2,), float(self.runs))


@pytest.fixture
def run():
    counted = Counted()
    counted.__name__ = f"counted {id(counted)}"
    return counted


def test_equal_arguments_run_once_and_results_are_copies(run):
    base, _ = models()
    for _ in range(2):
        found = once(run, base, prompts()[0], latent=empty_latent())
        assert found.tolist() == [1.0, 1.0]
        found += 1
    equal = tiny.with_foreground(base, tiny.foreground_file(base)), tiny.with_foreground(base, tiny.foreground_file(base))
    assert once(run, equal[0], prompts()[0]).tolist() == once(run, equal[1], prompts()[0], cfg=5.0).tolist() == [2.0, 2.0]
    assert again(run, base, prompts()[0], empty_latent()).tolist() == once(run, base, prompts()[0], empty_latent()).tolist()
    assert run.runs == 3


def test_whatever_makes_another_run_is_run(run):
    base, foreground = models()
    patched, wrapped, sampled = base.clone(), base.clone(), base.clone()
    patched.set_model_attn1_output_patch(lambda n, options: n)
    wrapped.add_wrapper_with_key("apply_model", "guest", lambda executor, *args: executor(*args))
    sampled.add_object_patch("model_sampling", object())
    models_ = [base, foreground, patched, wrapped, sampled, tiny.tiny_sdxl(), tiny.tiny_sdxl(),
               tiny.with_foreground(base, tiny.foreground_file(base), 0.5),
               tiny.with_foreground(base, tiny.foreground_file(base, seed=2))]  # fmt: skip
    for model in models_:
        once(run, model, prompts()[0])
    for arguments in ((prompts()[1],), (prompts()[0] + prompts()[1],), (NEGATIVE,), (prompts()[0], empty_latent(2)),
                      (prompts()[0], empty_latent(1, 16, 8)), (prompts()[0], None, 4.0)):  # fmt: skip
        once(run, base, *arguments)
    assert run.runs == len(models_) + 6


def test_a_network_that_was_got_at_is_always_run(run, monkeypatch):
    base, _ = models()
    handle = base.model.diffusion_model.middle_block[1].register_forward_pre_hook(lambda module, args: None)
    try:
        assert once(run, base, prompts()[0]).tolist() != once(run, base, prompts()[0]).tolist()
    finally:
        handle.remove()
    monkeypatch.setattr(base.model, "memory_required", lambda *args, **kwargs: float("inf"))
    assert once(run, base, prompts()[0]).tolist() != once(run, base, prompts()[0]).tolist()
    assert run.runs == 4
