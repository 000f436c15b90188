"""Two functions in lock step: one runs in a thread of its own and stops wherever it has something to hand over.

Only one of the two ever runs: the caller waits while the walk walks, and the walk waits for the caller's answer. So
nothing that is not thread-safe is at risk, and kernels of both reach the device in the order of the program.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import Any

import torch

_END, _ABANDON = object(), object()


class _Abandoned(BaseException):
    """Unwinds a walk whose caller has gone; no Exception, so that code on the way does not swallow it."""


class Walk:
    """A function under way in a thread. As a context manager it is ended on leaving, wherever it stands."""

    def __init__(self, threads: Executor, device: torch.device, function: Callable[[Callable[[Any], Any]], Any]):
        """Prepare function(stop) to run in `threads`; stop(value) hands a value over and returns the caller's answer.

        Nothing runs before the first `advance`. The thread gets this thread's contextvars and its torch state for
        `device`: inference mode, grad mode, autocast and CUDA stream, all of which torch keeps per thread.
        """
        self._answers, self._stops = SimpleQueue(), SimpleQueue()
        self.ended = False
        context, state = contextvars.copy_context(), _torch_state(device)
        self._done = threads.submit(context.run, self._run, function, state)

    def advance(self, answer: Any = None) -> Any:
        """Answer the last stop and wait for the next: its value, or at the end what the function returned (`ended`).

        Raises what the function raises.
        """
        if self.ended:
            raise RuntimeError("the walk has ended")
        self._answers.put(answer)
        value = self._stops.get()
        if value is not _END:
            return value
        self.ended = True
        return self._done.result()

    def close(self) -> None:
        """End the walk where it stands and wait until its thread is free; nothing happens when it has ended."""
        if self.ended:
            return
        self.ended = True
        self._answers.put(_ABANDON)
        while self._stops.get() is not _END:
            pass

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _run(self, function: Callable, state: Callable) -> Any:
        try:
            self._answer()
            with state():
                return function(self._stop)
        except _Abandoned:
            return None
        finally:
            self._stops.put(_END)

    def _stop(self, value: Any) -> Any:
        self._stops.put(value)
        return self._answer()

    def _answer(self) -> Any:
        answer = self._answers.get()
        if answer is _ABANDON:
            raise _Abandoned
        return answer


def _torch_state(device: torch.device) -> Callable:
    """A context manager that gives another thread what torch keeps per thread, as it is in this one."""
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    @contextmanager
    def state() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(inference))
            stack.enter_context(torch.set_grad_enabled(grad))
            if autocast is not None:
                stack.enter_context(torch.autocast(device.type, autocast))
            if stream is not None:
                stack.enter_context(torch.cuda.stream(stream))
            yield

    return state
