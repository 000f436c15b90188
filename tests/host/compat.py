"""What the compatibility tests share: at strength 0, every stream must be the stock KSampler's picture of that stream."""

from __future__ import annotations

import inspect

import runs
import tiny
import torch
from once import again, once
from runs import NAMES, models, prompts

import nodes

TWO_STEPS = 2


def node(cls, *args, **kwargs):
    """Outputs of one of the host's own nodes, old style or new; a single output alone."""
    if hasattr(cls, "define_schema"):
        result = cls.execute(*args, **kwargs)
        result = getattr(result, "result", result)
    else:
        result = getattr(cls(), cls.FUNCTION)(*args, **kwargs)
    return result[0] if len(result) == 1 else result


def core(name: str, *args, **kwargs):
    """Run a node of the host's `nodes.py` by class name."""
    return node(getattr(nodes, name), *args, **kwargs)


def pair_of(base=None):
    """(base, foreground) MODELs of a base that other nodes have worked on."""
    base = base or models()[0]
    return base, tiny.with_foreground(base, tiny.foreground_file(base))


def streams_equal_stock(pair=None, streams=None, negative=None, negatives=None, cfgs=None, tolerance=1e-4, **run) -> None:
    """Assert that the layers of a run without blending are stock runs of each stream.

    negatives: the streams' own, else `negative`; cfgs: the streams' own guidance scales in layout order.
    """
    run = {"steps": TWO_STEPS, **run}
    base, foreground = pair or models()
    streams = streams or prompts()
    own = {} if cfgs is None else dict(zip(("cfg_foreground", "cfg_blended", "cfg_background"), cfgs))
    layers, _ = again(
        runs.layered, (base, foreground), streams, negative=negative, negatives=negatives, strength=0.0, **own, **run
    )
    for i, (name, model, layer) in enumerate(zip(NAMES, (foreground, base, base), layers)):
        alone = dict(run) if cfgs is None else {**run, "cfg": cfgs[i]}
        alone = {k: v for k, v in alone.items() if k in inspect.signature(runs.stock).parameters}
        expected = once(runs.stock, model, streams[i], negative=(negatives or [None] * 3)[i] or negative, **alone)
        assert expected.isfinite().all()
        gap = ((layer - expected).abs().max() / expected.std()).item()
        assert gap <= tolerance, f"{name} differs from the stock KSampler's by {gap:.1e}"


def blends(pair=None, streams=None, **run) -> None:
    """Assert that a run with blending is finite and that its layers differ from those without."""
    run = {"steps": TWO_STEPS, **run}
    quiet, _ = once(runs.layered, pair, streams, strength=0.0, **run)
    for mode in ("exact", "previous_step"):
        layers, record = runs.layered(pair, streams, prior_mode=mode, **run)
        assert len(record.maps) == run["steps"]
        for a, b in zip(quiet, layers):
            assert b.isfinite().all() and not runs.close(a, b, 1e-2)


def different(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two results differ visibly."""
    return not runs.close(a, b, 1e-2)


def has_effect(model, positive=None, **stock) -> None:
    """Assert that `model` and the plain one make different pictures, so that an equality test proves something."""
    stock = {"steps": TWO_STEPS, **stock}
    positive = positive or prompts()[1]
    with_it, plain = (once(runs.stock, each, positive, **stock) for each in (model, models()[0]))
    assert different(with_it, plain), "no effect"
