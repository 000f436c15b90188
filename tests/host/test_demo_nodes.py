"""The nodes from prompt to picture, run on the demonstration models."""

from __future__ import annotations

import json
import time
from functools import lru_cache

import comfy.utils
import latent_preview
import numpy
import pytest
import torch
from PIL import Image

from layerfusion_pack.layerfusion_core.host.models import demo
from layerfusion_pack.layerfusion_core.host.sampling.conditioning import eos_column
from layerfusion_pack.layerfusion_core.host.sampling.foregrounds import Foreground
from layerfusion_pack.layerfusion_core.layers.guessed_alpha import on_guessed_board
from layerfusion_pack.nodes.conditioning import LayerFusionTextEncode
from layerfusion_pack.nodes.demo import LayerFusionLoadDemo
from layerfusion_pack.nodes.options import LayerFusionOptionsNode
from layerfusion_pack.nodes.priors import LayerFusionExtractPriors, LayerFusionPreviewPriors
from layerfusion_pack.nodes.sampling import LayerFusionKSampler

LATENT = {"samples": torch.zeros(1, 4, 16, 16), "downscale_ratio_spacial": 8}


@lru_cache(maxsize=1)
def models():
    return LayerFusionLoadDemo.execute().result


@lru_cache(maxsize=1)
def prompts():
    return LayerFusionTextEncode.execute(models()[2], "a red apple", "blue checkerboard", "", "").result


def sample(options=None, steps=2, latent=LATENT, **changed):
    base, foreground, *_ = models()
    arguments = dict(seed=3, steps=steps, cfg=4.5, sampler_name="euler", scheduler="normal", denoise=1.0, **changed)
    return LayerFusionKSampler.execute(base, foreground, *prompts(), latent, options=options, **arguments).result


def test_demo_models_load_quickly():
    start = time.process_time()  # of this process alone: a busy machine does not count
    demo.load_demo()
    assert time.process_time() - start < 3


def test_demo_models_name_a_missing_or_damaged_file(tmp_path):
    with pytest.raises(ValueError, match="unet.safetensors is missing from"):
        demo.load_demo(tmp_path)
    (tmp_path / "unet.safetensors").write_bytes(b"\x20\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ValueError, match="unet.safetensors is damaged"):
        demo.load_demo(tmp_path)


def test_text_encode_finds_the_end_of_the_foreground_prompt():
    foreground, background, blended, negative = prompts()
    assert foreground[0][1]["layerfusion_eos"] == [4]  # start a red apple end
    assert negative[0][1]["layerfusion_eos"] == [1]
    clip = models()[2]
    (default,) = [c for c in prompts()[2:3]]
    spelled_out = LayerFusionTextEncode.execute(clip, "x", "y", "a red apple, blue checkerboard", "").result[2]
    assert torch.equal(default[0][0], spelled_out[0][0])


@pytest.mark.parametrize(
    ("text", "column"),
    [("a photo of a cat, (red:1.3)", 8), ("", 1), ("red " * 75, 76), ("red " * 80, 77 + 6), ("red BREAK blue", 4)],
)
def test_end_columns_of_real_tokens(text, column):
    assert eos_column(models()[2].tokenize(text)) == column


def test_an_empty_foreground_prompt_is_said_to_be_one(caplog):
    said = LayerFusionTextEncode.execute(models()[2], " ", "a meadow", "", "")
    assert json.loads(said.ui["layerfusion_notices"][0])["line"] == "Foreground prompt is empty: nothing says what to cut out"
    assert "Foreground prompt is empty" in caplog.text
    assert torch.equal(said.result[2][0][0], said.result[1][0][0])  # blended: the background's prompt alone
    assert LayerFusionTextEncode.execute(models()[2], "a red apple", "a meadow", "", "").ui is None


def test_sampler_gives_three_latents_and_priors():
    foreground, background, blended, priors = sample()
    for layer in (foreground, background, blended):
        assert layer["samples"].shape == (1, 4, 16, 16) and layer["samples"].isfinite().all()
        assert "downscale_ratio_spacial" not in layer
    assert len(priors.maps) == 2 and priors.image_size == (128, 128)
    options = LayerFusionOptionsNode.execute(
        blend_self_attention=True, blend_cross_attention=True, background_mode="off", prior_mode="exact", hardness=10.0,
        strength=0.0, start_percent=0.0, end_percent=1.0, noise="shared",
    ).result[0]  # fmt: skip
    assert not torch.equal(sample(options)[2]["samples"], blended["samples"])


def test_priors_can_be_looked_at():
    foreground, _, _, priors = sample()
    for block in ("last self-attention", "middle 0", "input 4"):
        (image,) = LayerFusionPreviewPriors.execute(priors, block, 99).result
        assert image.shape == (1, 128, 512, 3) and 0 <= image.min() and image.max() <= 1
    structure, content, soft, hard = LayerFusionExtractPriors.execute(
        models()[1], prompts()[0], foreground, 1, 0.8
    ).result
    assert structure.shape == content.shape == (1, 128, 128, 3) and soft.shape == hard.shape == (1, 128, 128)
    assert soft.max() == 1 and soft.min() == 0
    with pytest.raises(ValueError, match="noise_percent: expected above 0"):
        LayerFusionExtractPriors.execute(models()[1], prompts()[0], foreground, 1, 0.0)


def test_extracted_priors_are_those_of_the_sampler():
    """At full noise both see the same latent, so the maps agree."""
    priors = sample(steps=1)[3]
    _, _, soft, _ = LayerFusionExtractPriors.execute(models()[1], prompts()[0], LATENT, 3, 1.0).result
    grid = soft[:, 8::16, 8::16]
    assert torch.allclose(grid, priors.images(0)["soft"], atol=2e-3)


@pytest.mark.parametrize(("batch", "cutouts"), [(1, 1), (2, 2)])
def test_preview_shows_the_layers_of_a_sample_in_a_row_and_changes_nothing(monkeypatch, batch, cutouts):
    updates = []
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", lambda self, *update: updates.append(update))

    def run(method):
        monkeypatch.setattr(latent_preview.args, "preview_method", method)
        latent = {"samples": torch.zeros(batch, 4, 16, 16), "downscale_ratio_spacial": 8}
        return sample(steps=3, latent=latent, foregrounds=(Foreground(prompts()[0]),) * (cutouts - 1))

    layers = run(latent_preview.LatentPreviewMethod.Latent2RGB)
    assert [update[:2] for update in updates] == [(1, 3), (2, 3), (3, 3)]
    kind, image, size = updates[-1][2]
    columns = cutouts + 2
    assert kind == "JPEG" and size >= columns * 512
    assert image.size == (columns * 128 + (columns - 1) * 5, 16 + 128 * batch + 5 * (batch - 1))
    base, same = models()[0], run(latent_preview.LatentPreviewMethod.NoPreviews)
    assert all(torch.equal(layer["samples"], other["samples"]) for layer, other in zip(layers[:3], same))
    previewer = latent_preview.Latent2RGBPreviewer(
        base.model.latent_format.latent_rgb_factors, base.model.latent_format.latent_rgb_factors_bias
    )
    boards = 0
    for row in range(batch):
        own = layers[0]["samples"][row * cutouts : (row + 1) * cutouts]
        for column, latent in enumerate([*own, *(layer["samples"][row] for layer in layers[1:3])]):
            clean = base.model.process_latent_in(latent.unsqueeze(0))
            alone = previewer.decode_latent_to_preview(clean).resize((128, 128), Image.Resampling.BILINEAR)
            cut = on_guessed_board(alone) if column < cutouts else alone
            boards += cut is not alone
            shown = image.crop((column * 133, 16 + row * 133, column * 133 + 128, 16 + row * 133 + 128))
            assert numpy.abs(numpy.asarray(cut, float) - numpy.asarray(shown, float)).mean() < 3, (row, column)
    assert boards > 0
