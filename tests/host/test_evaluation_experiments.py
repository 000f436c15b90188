"""Experiments act as they say."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from layerfusion_pack.evaluation import experiments, generate, methods, models, prompts
from layerfusion_pack.layerfusion_core.host.sampling.ksampler import sample_layers
from layerfusion_pack.layerfusion_core.method.blending import blend
from layerfusion_pack.layerfusion_core.method.masks import masks_of, norm
from layerfusion_pack.layerfusion_core.method.options import BackgroundMode, LayerFusionOptions
from layerfusion_pack.layerfusion_core.method.streams import Layers, StreamLayout

STEPS = 3
LONG = experiments.FROZEN_AFTER + 2  # steps in which masks are frozen and stay so


@pytest.fixture(scope="module")
def maker() -> generate.Generator:
    return generate.Generator(models.load("demo"), models.Settings(size=64, steps=STEPS, cfg=4.5, ensemble=1))


def run(maker: generate.Generator, name: str, mode: str = "share", steps: int = STEPS):
    """(latents of foreground, blended, background; the priors) of one pair with an experiment, "" for none."""
    pair = prompts.read(prompts.FOLDER / "demo.txt")[0]
    texts = [maker.conditioning([text]) for text in (pair.foreground, pair.blended_text, pair.background)]
    s = maker.settings
    foreground, blended, background = texts
    if name == experiments.WORDS:
        foreground = experiments.with_words(foreground)
    layers, record = sample_layers(
        maker.models.base, maker.models.foreground, Layers((foreground,), blended, background), maker.conditioning([""]),
        maker.latent([pair]), s.seed, steps, s.cfg, s.sampler, s.scheduler, 1.0, LayerFusionOptions(background_mode=mode),
        blending=experiments.BLENDINGS[name],
    )  # fmt: skip
    return [layer["samples"] for layer in layers.streams], record


@pytest.fixture(scope="module")
def plain(maker):
    """A function: the run without an experiment, by mode and steps."""
    return cache(lambda *how: run(maker, "", *how))


@pytest.mark.parametrize("name", [name for name in experiments.BLENDINGS if name])
def test_an_experiment_changes_the_layers(maker, plain, name):
    how = "share", LONG if name == "frozen" else STEPS
    layers, _ = run(maker, name, *how)
    assert max((a - b).abs().max() for a, b in zip(layers, plain(*how)[0])) > 0.05


def test_masks_are_kept_from_the_evaluation_that_is_named(maker):
    record = run(maker, "frozen", steps=LONG)[1]
    kept = [torch.equal(a.structure, b.structure) for a, b in zip(record.maps, record.maps[1:])]
    assert kept == [False] * (experiments.FROZEN_AFTER - 1) + [True] * (LONG - experiments.FROZEN_AFTER)


def test_masks_of_one_prior(maker):
    for name in ("structure", "content"):
        found = run(maker, f"{name}_only")[1].images(2)
        assert torch.allclose(found["soft"], norm(found[name].flatten(1)).view_as(found["soft"]), atol=1e-5)


def test_words_are_not_the_end(maker, plain):
    ours, theirs = run(maker, "words")[1].images(0), plain("share")[1].images(0)
    assert torch.equal(ours["structure"], theirs["structure"])
    assert not torch.allclose(ours["content"], theirs["content"], atol=0.05)


def test_without_feedback_only_the_foreground_is_left_alone():
    a, options = torch.randn(2, 3, 16, 8), LayerFusionOptions(background_mode="adapt")
    masks = masks_of(*(torch.full(shape, 0.7) for shape in [(2, 1, 16), (2, 1, 16), (2, 16)])).over_channels()
    out = experiments.NoFeedback(StreamLayout(), options).attention(a.clone(), masks, "attn1")
    plain = blend(a.clone(), masks, BackgroundMode.ADAPT, "attn1")
    assert torch.equal(out[:, 0], a[:, 0])
    assert torch.equal(out[:, 1:], plain[:, 1:])


def test_every_experiment_is_a_method():
    assert {m.experiment for m in methods.EXPERIMENTS} == set(experiments.BLENDINGS) - {""}
    assert all(m.experiment == "" for m in (*methods.MAIN, *methods.CHOICES))
