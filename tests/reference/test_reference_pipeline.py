"""The walked UNet against diffusers' own forward, and the three streams against plain runs."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

import reference
from reference import Options, Prompt, Prompts, Schedule, Streams, layerfusion, walk_unet
from reference.demo import sinusoids
from reference.pipeline import plain_pass
from reference.walk import advance

CONFIG = {
    "model_channels": 32, "channel_mult": [1, 2, 4], "num_res_blocks": 2, "transformer_depth": [0, 0, 1, 1, 2, 2],
    "context_dim": 24, "adm_in_channels": 16 + 6 * 256, "num_head_channels": 16,
}  # fmt: skip
SDXL_DEPTHS = {**CONFIG, "transformer_depth": [0, 0, 2, 2, 10, 10]}
SIGMAS = Schedule().karras(3)[:3]  # two evaluations, not down to zero


@cache
def unets():
    weights = reference.random_state_dict(CONFIG, seed=0)
    return reference.build_unets(weights, reference.random_deltas(weights, seed=1), CONFIG)


def random_prompt(seed: int, tokens: int = 77, eos: list[int] | None = None, rows: int = 1) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(rows, tokens, CONFIG["context_dim"], generator=generator)
    return Prompt(context, torch.randn(1, CONFIG["adm_in_channels"], generator=generator), eos)


PROMPTS = Prompts(random_prompt(1, eos=[5]), random_prompt(2), random_prompt(3, tokens=154), random_prompt(4))
NOISE = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def run(
    options: Options | None = None, cfg: float = 3.0, noise=NOISE, prompts: Prompts = PROMPTS, sampler: str = "euler"
):
    return layerfusion(*unets(), prompts, noise, SIGMAS, cfg, options, sampler)


@cache
def default_run() -> dict:
    return run()


@cache
def run_without_blending() -> dict:
    return run(Options(strength=0))


def assert_same(a: dict, b: dict, **tolerance) -> None:
    for stream in ("foreground", "background", "blended"):
        torch.testing.assert_close(a[stream], b[stream], **tolerance)


@pytest.mark.parametrize(("config", "size"), [(CONFIG, (8, 8)), (CONFIG, (11, 9)), (SDXL_DEPTHS, (8, 8))])
@torch.no_grad()
def test_walk_without_blending_is_diffusers_forward(config, size):
    weights = reference.random_state_dict(config, seed=0)
    unet = reference.build_unet(weights, config)
    x, context, pooled = torch.randn(2, 4, *size), torch.randn(2, 77, 24), torch.randn(2, 16)
    numbers = torch.tensor([[64.0, 80.0, 0.0, 0.0, 64.0, 80.0]]).expand(2, 6)
    y = torch.cat([pooled, torch.cat([sinusoids(float(n)) for n in numbers[0]]).expand(2, -1)], dim=-1)
    timestep = torch.tensor(400.0)

    expected = unet(x, timestep, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": numbers}).sample
    assert expected.std() > 0.05
    torch.testing.assert_close(plain_pass(walk_unet(unet, x, timestep, y, context)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_walk_stops_at_every_attention_in_order_and_uses_what_it_is_sent():
    unet, _ = unets()
    prompt, timestep = PROMPTS.foreground, torch.tensor(400.0)
    seen = []
    plain = plain_pass(walk_unet(unet, NOISE, timestep, prompt.y, prompt.context), seen.append)
    assert [at.site for at in seen] == ["attn1", "attn2"] * 17  # 2 + 4 on the way down, 2, 6 + 3 on the way up
    assert seen[0].block == "down_blocks.1.attentions.0.transformer_blocks.0"
    assert seen[-1].block == "up_blocks.1.attentions.2.transformer_blocks.0"
    for at in seen:
        assert at.output.shape[1] == at.grid[0] * at.grid[1] == at.probabilities.shape[2]
        torch.testing.assert_close(at.probabilities.sum(-1), torch.ones(at.probabilities.shape[:-1]))

    walk = walk_unet(unet, NOISE, timestep, prompt.y, prompt.context)
    at, noise = advance(walk, None)
    while at is not None:
        at, noise = advance(walk, torch.zeros_like(at.output))
    assert (noise - plain).abs().max() > 1e-3


def test_foreground_unet_is_the_base_plus_up_times_down():
    weights = reference.random_state_dict(CONFIG)
    key = "diffusion_model.output_blocks.5.1.transformer_blocks.0.attn1.to_out.0.weight"
    deltas = {f"{key}::lora::0": torch.randn(64, 2), f"{key}::lora::1": torch.randn(2, 64)}
    merged = reference.merge_deltas(weights, deltas, 0.5)
    torch.testing.assert_close(merged[key], weights[key] + 0.5 * deltas[f"{key}::lora::0"] @ deltas[f"{key}::lora::1"])
    assert all(torch.equal(merged[k], weights[k]) for k in weights if k != key)
    with pytest.raises(ValueError, match="no place"):
        reference.merge_deltas(weights, {"diffusion_model.nowhere.weight::lora::0": torch.zeros(1, 1)})


def test_keys_go_to_ldm_names_and_back():
    weights = reference.random_state_dict(CONFIG)
    there = reference.to_diffusers(weights, CONFIG)
    back = reference.to_ldm(there, CONFIG)
    assert back.keys() == weights.keys()
    assert "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_k.weight" in there
    with pytest.raises(ValueError, match="fit together"):
        reference.to_diffusers({"diffusion_model.input_blocks.99.0.weight": torch.zeros(1)}, CONFIG)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_strength_zero_is_three_runs_on_their_own(cfg, sampler):
    eps, eps_fg = unets()
    noise = list(torch.randn(3, 1, 4, 8, 8))
    together = run(Options(strength=0), cfg, noise, sampler=sampler)
    assert not any(evaluation.soft for evaluation in together["priors"])

    schedule = Schedule()
    streams = {"foreground": eps_fg, "blended": eps, "background": eps}
    for (name, unet), own in zip(streams.items(), noise, strict=True):
        prompt, negative = getattr(PROMPTS, name), PROMPTS.negative

        @torch.no_grad()
        def denoise(x, sigma, unet=unet, prompt=prompt, negative=negative):
            def noise_of(p):
                timestep = schedule.timestep(sigma)
                return plain_pass(walk_unet(unet, x / (sigma**2 + 1).sqrt(), timestep, p.y, p.context))

            eps = noise_of(prompt)
            if cfg != 1:
                eps = noise_of(negative) + cfg * (eps - noise_of(negative))
            return x - sigma * eps

        alone = reference.SAMPLERS[sampler](denoise, own * torch.sqrt(1 + SIGMAS[0] ** 2), SIGMAS)
        torch.testing.assert_close(together[name], alone, atol=1e-4, rtol=1e-4)


def test_every_mode_gives_its_own_finite_result_and_leaves_alone_what_it_should():
    results = {mode: run(Options(background_mode=mode)) for mode in reference.BACKGROUND_MODES}
    for result in results.values():
        assert all(torch.isfinite(result[s]).all() for s in ("foreground", "background", "blended"))
    plain = run_without_blending()
    for mode in ("off", "from_background"):  # the background goes its own way
        torch.testing.assert_close(results[mode]["background"], plain["background"])
    for mode in ("adapt", "adapt_self", "literal"):
        assert (results[mode]["background"] - plain["background"]).abs().max() > 1e-2
        assert_same({**results[mode], "background": 0}, {**results["off"], "background": 0})  # nothing flows back
    assert (results["adapt"]["blended"] - plain["blended"]).abs().max() > 1e-2
    assert (results["adapt"]["foreground"] - plain["foreground"]).abs().max() > 1e-2
    backgrounds = [results[mode]["background"] for mode in ("adapt", "adapt_self", "literal", "off")]
    for i, one in enumerate(backgrounds):
        assert all((one - other).abs().max() > 1e-3 for other in backgrounds[:i])


def test_previous_step_differs_from_exact_only_after_the_first_evaluation():
    exact, previous = default_run(), run(Options(prior_mode="previous_step"))
    first = [r["priors"][0] for r in (exact, previous)]
    assert torch.equal(first[0].structure, first[1].structure)
    assert all(torch.equal(first[0].soft[block], first[1].soft[block]) for block in first[0].soft)
    assert (exact["priors"][1].structure - previous["priors"][1].structure).abs().max() > 1e-4

    one_step = [
        layerfusion(*unets(), PROMPTS, NOISE, SIGMAS[:2], 3.0, Options(prior_mode=mode))
        for mode in ("exact", "previous_step")
    ]
    assert_same(*one_step, atol=0, rtol=0)
    assert (exact["blended"] - previous["blended"]).abs().max() > 1e-3


def test_record_holds_a_map_for_every_block_and_both_masks():
    record = default_run()["priors"]
    assert [e.sigma for e in record] == SIGMAS[:-1].tolist()
    for evaluation in record:
        assert evaluation.structure.shape == (1, 4, 4)
        assert evaluation.content.keys() == evaluation.soft.keys() == evaluation.hard.keys()
        assert len(evaluation.soft) == 17
        for soft in evaluation.soft.values():
            assert soft.min() == 0 and soft.max() == 1


def test_start_and_end_say_which_evaluations_blend():
    def blended(**window: float) -> list[bool]:
        return [bool(e.soft) for e in run(Options(**window), cfg=1.0)["priors"]]

    assert blended() == [True, True]  # at 0 % and, karras(3)[1] being 1.8, about 40 % of the schedule
    assert blended(start_percent=0.05) == [False, True]
    assert blended(end_percent=0.05) == [True, False]
    assert blended(start_percent=0.05, end_percent=0.2) == [False, False]


def test_previous_step_begins_with_a_prior_pass_where_blending_begins():
    late = run(Options(prior_mode="previous_step", start_percent=0.05), cfg=1.0)["priors"]
    exact = run(Options(start_percent=0.05), cfg=1.0)["priors"]
    assert torch.equal(late[1].structure, exact[1].structure)


def test_only_the_chosen_attentions_blend():
    both, first, none = default_run(), run(Options(attentions=("attn1",))), run(Options(attentions=()))
    assert (both["blended"] - first["blended"]).abs().max() > 1e-3
    assert_same(none, run_without_blending())


def test_a_batch_is_its_samples_one_by_one():
    noise = torch.randn(2, 4, 8, 8)
    prompts = replace(PROMPTS, foreground=random_prompt(6, eos=[5], rows=2))
    both = run(noise=noise, prompts=prompts)
    for i in range(2):
        own = replace(prompts, foreground=replace(prompts.foreground, context=prompts.foreground.context[i : i + 1]))
        single = run(noise=noise[i : i + 1], prompts=own)
        sample = {s: both[s][i : i + 1] for s in ("foreground", "background", "blended")}
        assert_same(sample, single, atol=2e-3, rtol=0)  # latents reach 60


def test_shared_noise_is_the_same_noise_three_times():
    assert_same(default_run(), run(noise=Streams(NOISE, NOISE, NOISE)), atol=0, rtol=0)


def test_guidance_needs_a_negative_and_cfg_1_does_not_use_it():
    without = replace(PROMPTS, negative=None)
    assert_same(run(cfg=1.0, prompts=without), run(cfg=1.0), atol=0, rtol=0)
    with pytest.raises(ValueError, match="negative"):
        run(cfg=2.0, prompts=without)
