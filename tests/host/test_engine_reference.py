"""The engine inside ComfyUI equals the paper written plainly on diffusers, on the same weights."""

from __future__ import annotations

from functools import lru_cache

import comfy.samplers
import pytest
import runs
import tiny
import torch
from runs import NEGATIVE, SEED, empty_latent, layered, models, prompts, slow

pytest.importorskip(
    "diffusers", reason="DIFFUSERS IS NOT INSTALLED: pip install diffusers to compare with the reference"
)
import reference

from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions

TOLERANCE = 1e-3  # of the latents' deviation in model space; a trained model's latents have deviation 1
MODES = ["adapt", "adapt_self", "literal", "from_background", "off", "share", "one_scene"]
PRIOR_MODES = ["exact", *slow("previous_step")]
CONFIG = {
    "model_channels": 32, "channel_mult": [1, 2, 4], "num_res_blocks": 2, "transformer_depth": [0, 0, 1, 1, 2, 2],
    "context_dim": tiny.CONTEXT, "adm_in_channels": tiny.POOLED + 1536, "num_head_channels": tiny.HEAD,
}  # fmt: skip


def unet_weights(base) -> dict[str, torch.Tensor]:
    """The UNet's own weights, `diffusion_model.` keys."""
    return {key: value for key, value in base.model.state_dict().items() if key.startswith("diffusion_model.")}


@lru_cache(maxsize=2)
def unets(depth: tuple = tuple(CONFIG["transformer_depth"])):
    base = models()[0] if list(depth) == tiny.SHORT[0] else deep()[0]
    return reference.build_unets(unet_weights(base), tiny.foreground_file(base), {**CONFIG, "transformer_depth": depth})


@lru_cache(maxsize=1)
def deep():
    """The real topology: 70 transformer blocks."""
    base = tiny.tiny_sdxl(seed=5, depth=tiny.REAL)
    return base, tiny.with_foreground(base, tiny.foreground_file(base))


def reference_prompt(base, conditioning, size) -> reference.Prompt:
    context, extra = conditioning[0]
    y = base.model.encode_adm(pooled_output=extra["pooled_output"], height=8 * size[0], width=8 * size[1], device="cpu")
    return reference.Prompt(context, y, extra.get("layerfusion_eos"))


def compare(
    pair=None,
    eps=None,
    streams=None,
    size=(16, 16),
    batch=1,
    cfg=5.0,
    steps=3,
    sampler="euler",
    tolerance=TOLERANCE,
    **options,
):
    options = {"background_mode": LayerFusionOptions().background_mode.value, **options}
    base, _ = pair or models()
    streams = streams or prompts()
    latent = empty_latent(batch, *size)
    ours, record = layered(pair, streams, latent, cfg, sampler, steps=steps, **options)
    sigmas = comfy.samplers.KSampler(base, steps, "cpu", sampler, "normal", 1.0).sigmas
    foreground, blended, background, negative = (reference_prompt(base, c, size) for c in (*streams, NEGATIVE))
    if options.pop("noise", "shared") == "independent":
        noise = [torch.randn(latent["samples"].shape, generator=torch.manual_seed(SEED + i)) for i in range(3)]
    else:
        noise = torch.randn(latent["samples"].shape, generator=torch.manual_seed(SEED))
    switches = [options.pop(f"{kind}_attention", True) for kind in ("self", "cross")]
    attentions = tuple(site for site, on in zip(("attn1", "attn2"), switches) if on)
    theirs = reference.layerfusion(
        *(eps or unets()), reference.Prompts(foreground, background, blended, negative), noise, sigmas, cfg,
        reference.Options(**options, attentions=attentions), sampler,
    )  # fmt: skip
    for name, layer in zip(runs.NAMES, ours):
        expected = theirs[name]
        difference = (layer * 0.13025 - expected).abs().max() / expected.std()
        assert difference < tolerance, f"{name} differs by {difference:.2e} of its deviation"
    return record, theirs["priors"]


@pytest.mark.parametrize(
    ("mode", "prior_mode"),
    [*((mode, "exact") for mode in MODES), ("adapt", "previous_step"), ("one_scene", "previous_step"),
     *slow(*((mode, "previous_step") for mode in MODES if mode not in ("adapt", "one_scene")))],
)  # fmt: skip
def test_background_and_prior_modes(mode, prior_mode):
    compare(background_mode=mode, prior_mode=prior_mode)


@pytest.mark.parametrize("prior_mode", PRIOR_MODES)
def test_cfg_one_batch_of_two_and_portrait(prior_mode):
    compare(cfg=1.0, batch=2, size=(16, 12), prior_mode=prior_mode)


@pytest.mark.parametrize("prior_mode", PRIOR_MODES)
def test_batch_of_two_with_guidance(prior_mode):
    compare(batch=2, prior_mode=prior_mode, background_mode="adapt_self")


@pytest.mark.parametrize("prior_mode", PRIOR_MODES)
@pytest.mark.parametrize("tokens", [(154, 77, 77), (77, 154, 77), (154, 231, 77)])
def test_prompts_of_several_chunks(tokens, prior_mode):
    compare(streams=prompts(tokens), prior_mode=prior_mode, steps=2)


@pytest.mark.parametrize("mode", ["one_scene", *slow("adapt", "share")])
def test_odd_grid(mode):
    compare(size=(15, 19), steps=2, background_mode=mode)


def test_prompt_without_token_positions():
    streams = prompts((154, 77, 77))
    streams[0] = tiny.conditioning(0, tokens=154, eos=None)
    compare(streams=streams, steps=2)
    compare(streams=streams, steps=3, prior_mode="previous_step")


@pytest.mark.parametrize(
    "options",
    [
        {"hardness": 50.0},
        {"strength": 0.4},
        {"strength": 0.4, "background_mode": "adapt"},
        {"start_percent": 0.4, "prior_mode": "previous_step"},
        {"end_percent": 0.6},
        {"noise": "independent"},
        {"self_attention": False},
        {"cross_attention": False, "background_mode": "literal"},
    ],
    ids=str,
)
def test_options(options):
    compare(**options, steps=4)


def test_second_order_sampler():
    compare(sampler="dpmpp_2m", steps=5)


def test_real_topology_of_seventy_blocks():
    pair = deep()
    record, _ = compare(pair, unets(tuple(tiny.REAL[0])), steps=2)
    assert len(record.blocks) == 70 and record.last == ("output", 5, 1)


@pytest.mark.parametrize("prior_mode", PRIOR_MODES)
@pytest.mark.parametrize("mode", ["adapt", "literal"])
def test_conv_packaging(mode, prior_mode):
    """Full differences on convolutions, norms and linears instead of a LoRA on attention."""
    base, _ = models()
    differences = tiny.deltas(base, tiny.in_conv_file)
    file = {f"{key}::diff::0": delta for key, delta in differences.items()}
    eps = reference.build_unets(unet_weights(base), file, CONFIG, 0.8)
    compare((base, tiny.with_deltas(base, differences, 0.8)), eps, background_mode=mode, prior_mode=prior_mode)


def test_recorded_priors_are_the_references():
    record, evaluations = compare(steps=3)
    for step, evaluation in enumerate(evaluations):
        ours = record.images(step)
        block = next(reversed(evaluation.soft))  # the last block the reference passed
        for name, theirs in (
            ("structure", evaluation.structure),
            ("soft", evaluation.soft[block]),
            ("hard", evaluation.hard[block]),
        ):
            assert (ours[name] - theirs).abs().max() < 5e-3, name  # kept in half precision
