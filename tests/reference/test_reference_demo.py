"""The demonstration model through the reference: files in, three layers out."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1]))

from reference import generate as command
from reference.demo import MODELS, ROOT, encode, generate, load_demo, make_noise, read
from reference.pipeline import Options
from reference.text import EOS, START, tokenize
from reference.weights import module_table, to_diffusers

WORDS = {"a": [320], "red": [736], "apple": [3055], ",": [267], "checkerboard": [1113, 2352, 1972]}


@cache
def models():
    return load_demo()


def test_tokenizer_uses_the_word_table_and_one_unknown_id():
    (ids,) = tokenize("A red, zzz apple", WORDS, unknown_id=1, pad=0)
    assert ids == [START, 320, 736, 267, 1, 3055, EOS] + [0] * 70
    (empty,) = tokenize("", WORDS, unknown_id=1, pad=EOS)
    assert empty == [START] + [EOS] * 76


def test_long_text_goes_to_further_chunks():
    first, second = tokenize("red " * 80, WORDS, unknown_id=1, pad=0)
    assert first == [START] + [736] * 75 + [EOS]
    assert second == [START] + [736] * 5 + [EOS] + [0] * 70


def test_prompts_have_sdxls_form():
    prompt = encode(models(), "a red apple", 128, 96)
    assert prompt.context.shape == (1, 77, 128)
    assert prompt.y.shape == (1, 64 + 6 * 256)
    assert prompt.eos == [4]
    assert torch.isfinite(prompt.context).all() and prompt.context.std() > 0
    # height, width, crop top, crop left, target height, target width; a cosine of zero is one
    sizes = prompt.y[0, 64:].reshape(6, 256)
    torch.testing.assert_close(sizes[0], sizes[4])
    torch.testing.assert_close(sizes[1], sizes[5])
    assert torch.equal(sizes[2], torch.cat([torch.ones(128), torch.zeros(128)]))
    torch.testing.assert_close(sizes[0, 0], torch.tensor(96.0).cos())
    long = encode(models(), "red " * 80, 128, 128)
    assert long.context.shape == (1, 154, 128)
    assert long.eos == [77 + 6]


def test_text_encoders_are_causal():
    """What follows a word must not change it: only so the EOS column speaks for the prompt."""
    one, other = (encode(models(), text, 128, 128).context for text in ("a red apple", "a red ball"))
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert (one[:, 3:] - other[:, 3:]).abs().max() > 1e-3


def test_key_names_agree_with_the_training_codes_table():
    spec = importlib.util.spec_from_file_location("demo_keys_for_reference", ROOT / "demo" / "keys.py")
    keys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(keys)
    weights, metadata = read(MODELS / "unet.safetensors")
    host = json.loads(metadata["config"])["host"]
    config = {**host, "num_res_blocks": host["num_res_blocks"][0]}
    assert "middle_block.1" in module_table(config)
    ours = dict(zip(weights, to_diffusers(weights, config), strict=True))
    theirs = {keys.PREFIX + ldm: diffusers for ldm, diffusers in keys.ldm_to_diffusers().items()}
    assert ours == theirs


def test_the_noise_of_a_seed_is_the_hosts():
    assert torch.equal(make_noise(7, 128, 64), torch.randn(1, 4, 8, 16, generator=torch.manual_seed(7)))
    first, second, third = make_noise(7, 128, 64, "independent")
    assert torch.equal(first, make_noise(7, 128, 64))
    assert not torch.equal(second, third)


def test_the_foreground_strength_reaches_the_weights():
    half = load_demo(foreground_strength=0.5)
    deltas, _ = read(MODELS / "foreground_lora.safetensors")
    ldm = "diffusion_model.output_blocks.5.1.transformer_blocks.0.attn1.to_q.weight"
    name = "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_q.weight"
    base, foreground = (unet.state_dict()[name] for unet in (half.eps, half.eps_fg))
    torch.testing.assert_close(foreground, base + 0.5 * deltas[f"{ldm}::lora::0"] @ deltas[f"{ldm}::lora::1"])


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"unet\.safetensors .* is missing"):
        load_demo(ROOT / "demo" / "nowhere")


def test_the_command_writes_three_layers_masks_and_a_record(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--foreground", "a red apple", "--background", "blue checkerboard", "--steps", "2", "--seed", "3"]
    assert command.main([*arguments, "--height", "64", "--ensemble", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == ["step 1/2", "step 2/2"]
    expected = {"foreground": "RGBA", "background": "RGB", "blended": "RGB", "masks/soft": "L", "masks/hard": "L"}
    for name, mode in expected.items():
        with Image.open(out / f"{name}.png") as image:
            assert (image.mode, image.size) == (mode, (128, 64))
    soft = np.asarray(Image.open(out / "masks" / "soft.png"))
    assert soft.min() == 0 and soft.max() == 255
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["settings"]["blended"] == "a red apple, blue checkerboard"
    assert record["settings"]["steps"] == 2
    assert {"python", "torch", "diffusers", "transformers"} == record["versions"].keys()

    assert command.main([*arguments, "--height", "64", "--ensemble", "1", "--strength", "0", "--out", str(out)]) == 0
    assert not (out / "masks" / "soft.png").exists()


def test_a_seed_gives_the_same_layers_again():
    def once():
        options = Options(prior_mode="previous_step")
        settings = {"seed": 5, "steps": 2, "ensemble": 1, "noise": "independent", "width": 64, "height": 64}
        return generate(models(), "a red apple", "blue sky", options=options, **settings)

    one, two = once(), once()
    for stream in ("foreground", "background", "blended"):
        assert torch.equal(one.latents[stream], two.latents[stream])
    with pytest.raises(ValueError, match="multiples of 8"):
        generate(models(), "a red apple", "blue sky", width=100)
