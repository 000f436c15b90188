"""Layers of the user's own in a run: held bit for bit, redrawn as img2img does it, and gone when nothing is kept."""

from __future__ import annotations

import copy

import comfy.sample
import comfy.samplers
import pairs
import pytest
import torch
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from once import once
from runs import NAMES, SEED, STEPS, close, empty_latent, layered, models, prompts, slow, stock
from test_guider_nodes import advanced, guider_of, stacked

from layerfusion_pack.layerfusion_core.host.sampling import given_layers as host_given
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.nodes.given import LayerFusionGivenLayers, LayerFusionPlaceForeground

SAMPLERS = ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "heun", "uni_pc", "ddim"]


def picture(seed: int = 0, batch: int = 1, size: int = 16) -> dict:
    """A LATENT that is no noise of the run."""
    return {"samples": 5 * torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(seed))}


def give(keep: float = 1.0, **inputs) -> dict:
    """The node's LATENT; keep for all layers, or keep_foreground etc. of their own."""
    strengths = {f"keep_{name}": keep for name in NAMES}
    return LayerFusionGivenLayers.execute(**{**strengths, **inputs}).result[0]


def left_half(size: int = 128) -> torch.Tensor:
    """A MASK: the left half is made anew."""
    mask = torch.zeros(1, size, size)
    mask[..., : size // 2] = 1.0
    return mask


@pytest.mark.parametrize(
    ("name", "sampler"),
    [*((name, "euler") for name in NAMES),
     *slow(*(("blended", sampler) for sampler in SAMPLERS[1:]))],
)  # fmt: skip
def test_kept_layers_come_back_bit_equal_and_act_on_the_others(name, sampler):
    latent = picture()
    found, record = layered(latent=give(**{name: latent}), sampler=sampler)
    plain, _ = once(layered, sampler=sampler)
    i = NAMES.index(name)
    assert torch.equal(found[i], latent["samples"])
    assert len(record.maps) >= STEPS
    other = {"foreground": 1, "blended": 2, "background": 1}[name]  # foreground -> blended <-> background
    assert not close(found[other], plain[other], 1e-2)


def test_a_kept_background_acts_on_the_blended_picture_in_modes_that_read_it():
    kept = give(background=picture())
    for mode in ("from_background", "share"):
        found, plain = (layered(background_mode=mode, steps=2, **latent)[0] for latent in ({"latent": kept}, {}))
        assert not close(found[1], plain[1], 1e-2), mode


def test_prior_pass_reads_the_given_foreground():
    """Its masks at the first step are those of the given foreground, noised to that level."""
    latent = picture()
    first = layered(latent=give(foreground=latent))[1].images(0)["soft"]
    assert not torch.allclose(first, once(layered)[1].images(0)["soft"], atol=1e-3)
    noisy = layered(latent=latent)[1].images(0)["soft"]  # all streams start from it, as img2img at denoise 1
    assert torch.allclose(first, noisy, atol=2e-2)


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_empty_given_layers_without_keep_are_a_plain_run(keep):
    """keep 0 of empty latents is the plain run bit for bit; with keep above 0 it is not."""
    latents = {name: empty_latent() for name in NAMES}
    found, plain = layered(latent=give(keep, **latents))[0], once(layered)[0]
    equal = [torch.equal(a, b) for a, b in zip(found, plain)]
    assert equal == [keep == 0.0] * 3


def test_keep_zero_starts_from_the_layer_as_img2img_does():
    latent = picture()
    found = layered(latent=give(0.0, background=latent), strength=0.0)[0]
    assert close(found[2], stock(models()[0], prompts()[2], latent))


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "ddim", *slow("euler", "uni_pc")])
def test_strength_zero_with_a_mask_is_the_stock_inpainting_of_that_stream(sampler):
    latent = picture()
    found = layered(latent=give(background=latent, mask_background=left_half()), sampler=sampler, strength=0.0)[0]
    # ddim is euler with other noise in the kept part; ours keeps the run's, which the other layers share
    name = "euler" if sampler == "ddim" else sampler
    expected = stock(models()[0], prompts()[2], {**latent, "noise_mask": left_half()}, sampler=name)
    kept = left_half(16)[0] == 0
    assert close(found[2][..., ~kept], expected[..., ~kept])
    assert torch.equal(found[2][..., kept], latent["samples"][..., kept])
    assert not close(found[2], latent["samples"], 1e-2)


@pytest.mark.parametrize(("keep", "start"), [(0.25, 1), *slow((0.5, 2), (0.74, 2)), (0.9, 3)])
def test_partly_kept_layers_are_stock_img2img_from_their_step_on(keep, start):
    """Euler from step floor(keep n) of the same schedule; 0.2 % apart, by which the host scales noise at the top level."""
    latent = picture()
    found = layered(latent=give(keep, background=latent), strength=0.0)[0][2]
    base = models()[0]
    sigmas = comfy.samplers.KSampler(base, STEPS, "cpu", "euler", "normal", 1.0).sigmas

    def from_step(i):
        return once(stock, base, prompts()[2], latent, sigmas=sigmas[i:])

    assert close(found, from_step(start), 0.02)
    assert not close(found, from_step(start - 1), 0.1)


def test_partly_kept_layers_below_the_top_level_are_exactly_img2img():
    """From a schedule that starts lower, the host adds noise * sigma everywhere, and nothing is apart."""
    latent, base = picture(), models()[0]
    sigmas = comfy.samplers.KSampler(base, STEPS, "cpu", "euler", "normal", 0.8).sigmas
    run = advanced("euler", give(0.5, background=latent), LayerFusionOptions(strength=0.0), sigmas=sigmas)
    assert close(run[1]["samples"], stock(base, prompts()[2], latent, sigmas=sigmas[2:]))


@pytest.mark.parametrize(("sampler", "batch"), [("euler", 1), ("dpmpp_2m_sde", 1), ("euler_ancestral", 2)])
def test_guider_path_is_the_ksampler_with_given_layers(sampler, batch):
    latent = give(0.5, keep_foreground=1.0, foreground=picture(1, batch), background=picture(2),
                  mask_background=left_half())  # fmt: skip
    foreground, background, blended = advanced(sampler, latent, LayerFusionOptions())
    expected, _ = layered(latent=latent, sampler=sampler)
    for found, layer in zip((foreground, blended, background), expected):
        assert torch.equal(found["samples"], layer)
        assert not {"batch_index", "noise_mask", host_given.GIVEN_KEY} & set(found)
    assert torch.equal(foreground["samples"], picture(1, batch)["samples"])


def test_layers_are_held_in_lock_step_of_two_checkpoints():
    latent = picture()
    found, plain = layered(pairs.unlike(), latent=give(foreground=latent))[0], once(layered, pairs.unlike())[0]
    assert torch.equal(found[0], latent["samples"]) and not close(found[1], plain[1], 1e-2)


def test_a_schedule_that_ends_early_leaves_noise_in_kept_layers_too():
    sigmas = comfy.samplers.KSampler(models()[0], STEPS, "cpu", "euler", "normal", 1.0).sigmas[:3]
    latent = picture()
    found = advanced("euler", give(background=latent), LayerFusionOptions(), sigmas=sigmas)[1]["samples"]
    noise = comfy.sample.prepare_noise(latent["samples"], SEED)
    scale = 0.13025  # SDXL's latent scale: noise levels count in scaled latents
    assert close(found, latent["samples"] + noise * float(sigmas[-1]) / scale, 1e-2)


def test_batches_broadcast_and_pictures_do_not_mix():
    latent = give(foreground=picture(1, 2), background=picture(2))
    both = layered(latent={**latent, "batch_index": [0, 1]}, steps=2)[0]
    for i in range(2):
        one = {"samples": picture(1, 2)["samples"][i : i + 1]}
        single = layered(latent={**give(foreground=one, background=picture(2)), "batch_index": [i]}, steps=2)[0]
        assert all(close(b[i : i + 1], s) for b, s in zip(both, single))
        assert torch.equal(both[2][i : i + 1], picture(2)["samples"])


def test_a_noise_mask_in_a_given_latent_counts_like_a_mask():
    latent = picture()
    masked = give(background={**latent, "noise_mask": left_half()})
    expected = give(background=latent, mask_background=left_half())
    found, expected = (layered(latent=latent, steps=2)[0] for latent in (masked, expected))
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_a_noise_mask_behind_the_node_acts_on_every_layer():
    latent = {**give(background=picture()), "noise_mask": left_half()}
    found = layered(latent=latent)[0]
    kept = left_half(16)[0] == 0
    assert not found[0][..., kept].abs().max() > 1e-3 and torch.equal(found[2], picture()["samples"])
    assert found[0][..., ~kept].std() > 1


def test_other_mask_functions_still_act():
    """Differential Diffusion on base_model sees its mask, and what is held stays held."""
    base, foreground = models()
    change = DifferentialDiffusion
    run = getattr(change, "execute", None) or change().apply
    (patched,) = getattr(run(base), "result", None) or run(base)
    soft = torch.linspace(0, 1, 128).expand(1, 128, 128)
    latent = {**give(background=picture()), "noise_mask": soft}
    found, plain = layered((patched, foreground), latent=latent, steps=2)[0], layered(latent=latent, steps=2)[0]
    assert torch.equal(found[2], picture()["samples"]) and not close(found[1], plain[1], 1e-2)


def test_inputs_and_models_are_left_as_they_were():
    base, _ = models()
    inputs = {name: {**picture(i), "noise_mask": left_half()} for i, name in enumerate(NAMES)}
    before, options = copy.deepcopy(inputs), repr(base.model_options)
    latent = give(0.5, **inputs, mask_foreground=left_half())
    kept = copy.deepcopy(latent)
    layered(latent=latent)
    for name in NAMES:
        assert all(torch.equal(inputs[name][key], before[name][key]) for key in before[name])
    for mine, theirs in zip(latent[host_given.GIVEN_KEY].layers.streams, kept[host_given.GIVEN_KEY].layers.streams):
        assert torch.equal(mine.samples, theirs.samples) and torch.equal(mine.keep, theirs.keep)
    assert repr(base.model_options) == options and "denoise_mask_function" not in base.model_options


def test_a_guider_forgets_the_layers_after_a_run_and_after_an_error(monkeypatch):
    guider = guider_of()
    before, latent = guider.model_options, stacked(give(background=picture()))
    start = latent["samples"], comfy.samplers.sampler_object("euler"), torch.tensor([5.0, 0.0]), latent["noise_mask"]
    seen = []
    monkeypatch.setattr(
        comfy.samplers.CFGGuider, "sample", lambda self, *args: seen.append(self.model_options) or args[1].new_ones(3, 4, 16, 16)
    )
    guider.sample(torch.zeros(1, 4, 16, 16), *start)
    assert "denoise_mask_function" in seen[0] and guider.model_options is before

    def fails(self, *args):
        raise RuntimeError

    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", fails)
    with pytest.raises(RuntimeError):
        guider.sample(torch.zeros(1, 4, 16, 16), *start)
    assert guider.model_options is before and "denoise_mask_function" not in before


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "at least one given layer .foreground, background or blended., got none"),
        (
            {"foreground": picture(size=16), "background": picture(size=24)},
            "one size, got foreground 1 x 128 x 128 pixels, background 1 x 192 x 192 pixels",
        ),
        ({"foreground": picture(batch=2), "background": picture(batch=3)}, "batches of 1 or one same number"),
        ({"background": {"samples": torch.zeros(1, 16, 16, 16)}}, "background: expected 4 latent channels .SDXL., got 16"),
        ({"blended": {"samples": torch.zeros(1, 4, 2, 16, 16)}}, r"blended: expected a picture latent .*\(1, 4, 2, 16, 16\)"),
        ({"foreground": picture(), "mask_foreground": torch.zeros(2, 128, 128)}, "foreground: expected 1 or 1 masks, got 2"),
    ],
)
def test_layers_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        give(**inputs)


def test_given_layers_are_not_given_again_nor_resized():
    with pytest.raises(ValueError, match="foreground: got the output of another Given Layers node"):
        give(foreground=give(foreground=picture()))
    flipped = give(foreground=picture(1), background=picture())
    flipped = {**flipped, "samples": flipped["samples"].flip(-1)}
    with pytest.raises(ValueError, match="a node between LayerFusion Given Layers and the sampler .* changed the latent"):
        layered(latent=flipped)
    resized = {**give(foreground=picture()), "samples": torch.zeros(1, 4, 24, 24)}
    with pytest.raises(ValueError, match="changed from .1, 4, 16, 16. to .1, 4, 24, 24. after LayerFusion Given Layers"):
        layered(latent=resized)


def test_placed_foreground_is_rgba_and_mask():
    image = torch.rand(1, 32, 32, 3)
    mask = torch.ones(1, 32, 32)
    mask[:, 8:24, 8:24] = 0.0
    placed, hidden, light = LayerFusionPlaceForeground.execute(image, 8, 0, 1.0, 64, 0, mask).result
    assert placed.shape == (1, 32, 64, 4) and torch.equal(hidden, 1.0 - placed[..., 3]) and not light.any()
    assert torch.equal(placed[:, :, 24:56, :3], image) and (placed[:, 8:24, 32:48, 3] == 1.0).all()
    assert placed[..., 3].sum() == 256
    with pytest.raises(ValueError, match="Nothing says which part is transparent"):
        LayerFusionPlaceForeground.execute(image, 0, 0, 1.0, 0, 0)
