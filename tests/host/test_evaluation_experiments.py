"""Experiments act as they say."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from layerfusion_pack.evaluation import experiments, generate, methods, models, prompts
from layerfusion_pack.layerfusion_core.host.sampling.ksampler import sample_layers
from layerfusion_pack.layerfusion_core.method import blending
from layerfusion_pack.layerfusion_core.method.blending import blend
from layerfusion_pack.layerfusion_core.method.masks import Masks, masks_of, norm
from layerfusion_pack.layerfusion_core.method.options import BackgroundMode, LayerFusionOptions
from layerfusion_pack.layerfusion_core.method.streams import Layers, StreamLayout

STEPS = 3
LONG = experiments.FROZEN_AFTER + 2  # steps in which masks are frozen and stay so


@pytest.fixture(scope="module")
def maker() -> generate.Generator:
    return generate.Generator(models.load("demo"), models.Settings(size=64, steps=STEPS, cfg=4.5, ensemble=1))


def run(maker: generate.Generator, name: str, mode: str = "adapt", steps: int = STEPS):
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
    mode = "one_scene" if name in ("scene_tight", "scene_low") else "adapt"
    how = mode, LONG if name == "frozen" else STEPS
    layers, _ = run(maker, name, *how)
    assert max((a - b).abs().max() for a, b in zip(layers, plain(*how)[0])) > 0.05


@pytest.mark.parametrize("name, own", [("once", 1), ("frozen", experiments.FROZEN_AFTER)])
def test_masks_are_kept_from_the_evaluation_that_is_named(maker, name, own):
    record = run(maker, name, steps=LONG)[1]
    kept = [torch.equal(a.structure, b.structure) for a, b in zip(record.maps, record.maps[1:])]
    assert kept == [False] * (own - 1) + [True] * (LONG - own)


def test_masks_of_one_prior(maker):
    for name in ("structure", "content"):
        found = run(maker, f"{name}_only")[1].images(2)
        assert torch.allclose(found["soft"], norm(found[name].flatten(1)).view_as(found["soft"]), atol=1e-5)


def test_words_are_not_the_end(maker, plain):
    ours, theirs = run(maker, "words")[1].images(0), plain("adapt")[1].images(0)
    assert torch.equal(ours["structure"], theirs["structure"])
    assert not torch.allclose(ours["content"], theirs["content"], atol=0.05)


@pytest.mark.parametrize("name, tokens", [("fine", {16}), ("coarse", {4}), ("", {4, 16})])
def test_resolutions_that_blend(maker, name, tokens, monkeypatch):
    seen = set()

    def spy(a, *rest):
        seen.add(a.shape[2])
        return blend(a, *rest)

    monkeypatch.setattr(blending, "blend", spy)
    run(maker, name)
    assert seen == tokens


def masks(level: float) -> Masks:
    """Masks of one value."""
    return masks_of(*(torch.full(shape, level) for shape in [(2, 1, 16), (2, 1, 16), (2, 16)])).over_channels()


@pytest.mark.parametrize("name", experiments.UPDATES)
def test_updates_leave_the_foreground_alone_and_fit_where_masks_are_plain(name):
    """With a mask of zeros everywhere blended and background agree as the update says; with ones each keeps its own."""
    a = torch.randn(2, 3, 16, 8)

    def update(a: torch.Tensor, level: float, strength: float = 1.0) -> torch.Tensor:
        options = LayerFusionOptions(background_mode="adapt", strength=strength)
        return experiments.BLENDINGS[name](StreamLayout(), options).attention(a, masks(level), "attn1")

    for level in (0.0, 1.0):
        out = update(a.clone(), level)
        plain = blend(a.clone(), masks(level), BackgroundMode.OFF, "attn1")
        assert torch.allclose(out[:, 0], plain[:, 0])
        if level:
            assert torch.allclose(out, plain, atol=1e-6)
        else:
            assert torch.allclose(out[:, 1], out[:, 2], atol=1e-6)
    assert torch.equal(update(a.clone(), level, 0.0), a)


def test_without_feedback_only_the_foreground_is_left_alone():
    a, options = torch.randn(2, 3, 16, 8), LayerFusionOptions(background_mode="adapt")
    out = experiments.NoFeedback(StreamLayout(), options).attention(a.clone(), masks(0.7), "attn1")
    plain = blend(a.clone(), masks(0.7), BackgroundMode.ADAPT, "attn1")
    assert torch.equal(out[:, 0], a[:, 0])
    assert torch.equal(out[:, 1:], plain[:, 1:])


def test_attention_as_in_adapt_self(maker):
    for a, b in zip(run(maker, "scene_self")[0], run(maker, "", "adapt_self")[0]):
        assert torch.equal(a, b)


def test_every_experiment_is_a_method():
    assert {m.experiment for m in methods.EXPERIMENTS} == set(experiments.BLENDINGS) - {""}
    assert all(m.experiment == "" for m in (*methods.MAIN, *methods.CHOICES))
