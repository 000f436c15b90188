"""A walk in a thread: strict hand-over, errors and endings on both sides, and torch's state on the way."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from layerfusion_pack.layerfusion_core.host.unet.handover import Walk

CPU = torch.device("cpu")


@pytest.fixture
def threads():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_values_and_answers_alternate(threads):
    seen = []

    def function(stop):
        for i in range(3):
            seen.append(f"walk {i}")
            seen.append(stop(i))
        return "end"

    with Walk(threads, CPU, function) as walk:
        assert not seen, "it ran before the first advance"
        value, steps = walk.advance(), 0
        while not walk.ended:
            seen.append(f"caller {value}")
            value, steps = walk.advance(f"answer {value}"), steps + 1
    assert value == "end" and steps == 3
    assert seen == [text for i in range(3) for text in (f"walk {i}", f"caller {i}", f"answer {i}")]
    with pytest.raises(RuntimeError, match="has ended"):
        walk.advance()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_walk_reaches_the_caller(threads, error):
    def function(stop):
        stop(1)
        raise error("in the walk")

    with pytest.raises(error, match="in the walk"), Walk(threads, CPU, function) as walk:
        assert walk.advance() == 1
        walk.advance()
    assert walk.ended


@pytest.mark.parametrize("stops", [0, 1, 2])
def test_an_error_of_the_caller_ends_the_walk(threads, stops):
    ended = threading.Event()

    def function(stop):
        try:
            while True:
                try:
                    stop(1)
                except Exception:  # what code on the way may do
                    pass
        finally:
            ended.set()

    with pytest.raises(ValueError, match="in the caller"), Walk(threads, CPU, function) as walk:
        for _ in range(stops):
            walk.advance()
        raise ValueError("in the caller")
    assert ended.is_set() == (stops > 0)  # without an advance it never began
    assert threads.submit(lambda: "free").result(timeout=10) == "free"


def test_torch_state_and_context_come_along(threads):
    variable = contextvars.ContextVar("variable", default="lost")

    def state(stop=None):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        return variable.get(), torch.is_inference_mode_enabled(), torch.is_grad_enabled(), product.dtype

    def seen_by_the_walk():
        with Walk(threads, CPU, state) as walk:
            return walk.advance()

    variable.set("here")
    assert seen_by_the_walk() == state() == ("here", False, True, torch.float32)
    with torch.inference_mode():
        assert seen_by_the_walk() == state() == ("here", True, False, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert seen_by_the_walk() == state() == ("here", False, False, torch.bfloat16)
    assert threads.submit(state).result() == ("lost", False, True, torch.float32)  # nothing is left in the thread
