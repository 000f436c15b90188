"""Every bad input is refused before sampling, in words that say what was expected, what came and what to do."""

from __future__ import annotations

import pytest
import runs
import tiny
import torch
from once import once
from runs import NEGATIVE, empty_latent, layered, models, prompts


def refuse(match: str, **kwargs):
    with pytest.raises(ValueError, match=match):
        layered(**kwargs)


def test_foreground_model_without_weights():
    base, _ = models()
    refuse("carries no foreground weights, so the foreground would come out opaque", pair=(base, base.clone()))
    refuse("carries no foreground weights", pair=(base, tiny.with_foreground(base, tiny.foreground_file(base), 0.0)))


FEED_FORWARD = "diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2"


def with_patch(key: str, patch) -> tuple:
    base, foreground = models()
    foreground = foreground.clone()
    assert foreground.add_patches({key: patch})
    return base, foreground


def test_patch_kind_that_cannot_act_on_rows():
    attention = tiny.attention_weights(models()[0])[0]
    for key in (f"{attention}.weight", f"{FEED_FORWARD}.weight", f"{FEED_FORWARD}.bias"):
        weight = models()[0].model.state_dict()[key]
        refuse(f"patch of type set on {key}", pair=with_patch(key, ("set", (torch.zeros_like(weight),))))


@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_difference_of_another_shape(parameter):
    """The host would log a line and leave it out, so that the foreground came out wrong."""
    key = f"{FEED_FORWARD}.{parameter}"
    found, expected = r"\(64,\)", r"\(128, 512\)" if parameter == "weight" else r"\(128,\)"
    refuse(f"patch on {key} has shape {found}, the model's is {expected}", pair=with_patch(key, ("diff", (torch.ones(64),))))


def test_latent_of_another_model_family():
    refuse("expected 4 latent channels .SDXL., got 16", latent={"samples": torch.ones(1, 16, 16, 16)})


def test_latent_of_a_video():
    refuse(
        r"expected a picture latent .batch, 4, height / 8, width / 8., got \(1, 4, 3, 16, 16\)",
        latent={"samples": torch.zeros(1, 4, 3, 16, 16)},
    )


def test_latent_too_small():
    refuse("expected at least 32 x 32 pixels, got 128 x 16", latent=empty_latent(1, 2, 16))


def test_conditioning_of_another_text_encoder():
    streams = prompts()
    streams[1] = [[torch.zeros(1, 77, 32), streams[1][0][1]]]
    refuse(r"blended: expected text features of shape \(1, tokens, 64\), got \(1, 77, 32\)", streams=streams)


def test_conditioning_without_pooled_vector():
    streams = prompts()
    streams[2] = [[streams[2][0][0], {}]]
    refuse("background: expected a pooled text vector of 32 values beside the text features, got none", streams=streams)


def test_empty_conditioning():
    refuse("foreground: the conditioning is empty", streams=[[], *prompts()[1:]])


def test_combined_conditionings_are_averaged():
    """Conditioning Combine on one stream: its prediction is the mean over its prompts, the others stay."""
    base, foreground = models()
    streams = prompts()
    streams[0] = streams[0] + tiny.conditioning(30)
    layers, record = layered(streams=streams, strength=0.0, steps=2)
    for model, prompt, layer in zip((foreground, base, base), streams, layers):
        assert runs.close(layer, once(runs.stock, model, prompt, steps=2))
    for mode in ("exact", "previous_step"):
        assert layered(streams=streams, prior_mode=mode, steps=2)[1].maps


def test_token_merging_on_the_model():
    base, _ = models()
    base = base.clone()
    base.set_model_attn1_patch(lambda n, context, value, options: (n[:, ::2], context, value))
    base.set_model_attn1_output_patch(lambda n, options: n.repeat_interleave(2, dim=1))
    pair = (base, tiny.with_foreground(base, tiny.foreground_file(base)))
    refuse(
        "an attention got 1 x 32 tokens where 1 pictures of 8 x 8 = 64 tokens were expected.*merges tokens",
        pair=pair,
        prior_mode="exact",
    )


def test_several_prompts_in_one_layer():
    """What attention couple does: rows of its own for each part of the picture, summed up behind the attention."""
    base, _ = models()
    base = base.clone()
    base.set_model_attn2_patch(lambda n, context, value, options: [x.repeat(2, 1, 1) for x in (n, context, value)])
    base.set_model_attn2_output_patch(lambda n, options: n[: n.shape[0] // 2])
    pair = (base, tiny.with_foreground(base, tiny.foreground_file(base)))
    refuse("made 2 rows of 1: a node that gives parts of the picture prompts of their own.*Set Mask", pair=pair)


def test_wrong_family():
    import comfy.supported_models

    class NotSDXL:
        """Stands for a MODEL of another family."""

        class model:
            model_config = comfy.supported_models.SD15({})

    with pytest.raises(ValueError, match="base_model is Stable Diffusion 1.5. Expected an SDXL checkpoint"):
        runs.sample_layers(
            NotSDXL(), models()[1], runs.Layers.of(prompts()), NEGATIVE, runs.empty_latent(), 0, 1, 1.0, "euler", "normal", 1.0,
            runs.LayerFusionOptions(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "message"),
    [({"hardness": 0.0}, "hardness: expected a number above 0"), ({"cfg_blended": -0.5}, "cfg_blended: expected -1 .as cfg. or"),
     ({"strength": 1.5}, "strength: expected 0 to 1, got 1.5"),
     ({"start_percent": 0.7, "end_percent": 0.2}, "start <= end"),
     ({"background_mode": "best"}, "expected one of adapt, adapt_self"),
     ({"prior_mode": "x"}, "expected one of exact, previous_step"), ({"noise": "loud"}, "expected one of shared, independent")],
)  # fmt: skip
def test_options(option, message):
    refuse(message, **option)
