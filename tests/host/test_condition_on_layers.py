"""Condition on Layers: what the stock KSampler makes with it is what a UNet with a widened first convolution makes."""

from __future__ import annotations

import math
from functools import lru_cache

import comfy.samplers
import folder_paths
import pytest
import runs
import tiny
import torch
from compat import core
from runs import NEGATIVE, close, empty_latent, models, prompts, slow, stock
from safetensors.torch import save_file
from test_compat_control import apply as controlled

from layerfusion_pack.layerfusion_core.host.models.foreground import ON_LAYERS, apply_foreground
from layerfusion_pack.layerfusion_core.host.sampling.on_layers import condition_on_layers
from layerfusion_pack.layerfusion_core.weights.conditional import KINDS, parse_conditional
from layerfusion_pack.layerfusion_core.weights.formats import parse
from layerfusion_pack.nodes.on_layers import LayerFusionConditionOnLayers as Node

FIRST = "diffusion_model.input_blocks.0.0.weight"
STEPS = 2


@lru_cache
def differences(kind: str) -> dict[str, torch.Tensor]:
    """{weight key: delta} of a file like LayerDiffuse's: no transformer blocks but in bgble2fg, the first one widened."""

    def chosen(key: str) -> bool:
        in_attention = "transformer_blocks" in key or ".1.norm" in key or ".proj_" in key
        return tiny.in_conv_file(key) and (kind == "bgble2fg" or not in_attention)

    found = tiny.deltas(models()[0], chosen, seed=5)
    out, _, *sides = found[FIRST].shape
    generator = torch.Generator().manual_seed(6)
    more = torch.randn(out, KINDS[kind].channels - 4, *sides, generator=generator) / math.sqrt(36)
    return {**found, FIRST: torch.cat([found[FIRST], more], dim=1)}


def weights(kind: str, diffusers: bool = False):
    tensors = {f"{key}::diff::0": value for key, value in differences(kind).items()}
    if diffusers:
        reference = pytest.importorskip("reference.weights")
        table = reference.module_table(CONFIG)
        tensors = {
            reference.rename(key.removeprefix("diffusion_model."), table): value for key, value in differences(kind).items()
        }
    return parse_conditional(tensors, f"layer_xl_{kind}.safetensors")


def picture(seed: int, batch: int = 1, height: int = 16, width: int = 16) -> dict:
    """LATENT of random pictures, of the size that a trained VAE gives."""
    return {"samples": 7 * torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(seed))}


LAYERS = {name: picture(20 + i, 2) for i, name in enumerate(("foreground", "background", "blended"))}
CONFIG = {
    "model_channels": 32, "channel_mult": [1, 2, 4], "num_res_blocks": 2, "transformer_depth": [0, 0, 1, 1, 2, 2],
    "context_dim": tiny.CONTEXT, "adm_in_channels": tiny.POOLED + 1536, "num_head_channels": tiny.HEAD,
}  # fmt: skip


def given(kind: str, **changed) -> dict:
    """The layers that a kind takes, by name; the others None."""
    return {name: LAYERS[name] if name in KINDS[kind].given else None for name in LAYERS} | changed


def conditioned(kind: str = "fgble2bg", model=None, strength: float = 1.0, diffusers: bool = False, **changed):
    return condition_on_layers(model or models()[0], weights(kind, diffusers), given(kind, **changed), strength)


@lru_cache
def merged(kind: str):
    """The same model built by hand on diffusers: all differences added, the first convolution as wide as the file's."""
    reference = pytest.importorskip("reference.weights", reason="DIFFUSERS IS NOT INSTALLED: pip install diffusers")
    state = {k: v.float() for k, v in tiny.tiny_sdxl().model.state_dict().items() if k.startswith("diffusion_model.")}
    state[FIRST] = torch.nn.functional.pad(state[FIRST], (0, 0, 0, 0, 0, KINDS[kind].channels - 4))
    state = {key: value + differences(kind).get(key, 0) for key, value in state.items()}
    unet = reference.empty_unet(CONFIG)
    unet.conv_in = torch.nn.Conv2d(KINDS[kind].channels, 32, 3, padding=1)
    unet.load_state_dict(reference.to_diffusers(state, CONFIG), strict=True)
    return unet.eval()


def by_hand(kind: str, positive: list, layers: dict, batch: int, size=(16, 16), cfg: float = 5.0) -> torch.Tensor:
    """Euler's method with guidance on the UNet of `merged`: the latents beside the noisy one, in both halves alike."""
    base, unet = models()[0], merged(kind)
    beside = torch.cat([layers[name]["samples"].expand(batch, -1, -1, -1) for name in KINDS[kind].given], dim=1) * 0.13025
    sampling = base.get_model_object("model_sampling")
    sigmas = comfy.samplers.KSampler(base, STEPS, "cpu", "euler", "normal", 1.0).sigmas
    x = torch.randn(batch, 4, *size, generator=torch.manual_seed(runs.SEED))
    x = sampling.noise_scaling(sigmas[0], x, torch.zeros_like(x), max_denoise=True)
    for now, then in zip(sigmas[:-1], sigmas[1:]):
        seen = torch.cat([x / (now**2 + 1) ** 0.5, beside], dim=1)
        eps = []
        for context, extra in (positive[0], NEGATIVE[0]):
            y = base.model.encode_adm(pooled_output=extra["pooled_output"], height=8 * size[0], width=8 * size[1], device="cpu")
            emb = unet.time_embedding(unet.time_proj(sampling.timestep(now).float().reshape(1))) + unet.add_embedding(y)
            eps.append(_forward(unet, seen, emb, context.expand(batch, -1, -1)))
        x = x + (then - now) * (eps[1] + cfg * (eps[0] - eps[1]))
    return x / 0.13025


def _forward(unet, x, emb, context):
    emb = emb.expand(len(x), -1)
    h, kept = unet.conv_in(x), []
    kept.append(h)
    for block in unet.down_blocks:
        more = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
        h, rest = block(hidden_states=h, temb=emb, **more)
        kept += rest
    h = unet.mid_block(h, emb, encoder_hidden_states=context)
    for block in unet.up_blocks:
        count = len(block.resnets)
        rest, kept = tuple(kept[-count:]), kept[:-count]
        more = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
        h = block(hidden_states=h, temb=emb, res_hidden_states_tuple=rest, **more)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))


def run(model, latent=None, positive=None, **more) -> torch.Tensor:
    """What the stock sampler makes, of two pictures if nothing else is said."""
    return stock(model, positive or prompts()[1], latent or empty_latent(2), steps=STEPS, **more)


@pytest.mark.parametrize(
    ("kind", "diffusers"),
    [("fg2ble", False), ("bgble2fg", True), *slow(("bg2ble", True), ("fgble2bg", False), ("fgble2bg", True))],
)
def test_equals_a_widened_unet_on_diffusers(kind, diffusers):
    """In both packagings; two pictures with layers of their own, in one forward with the negative."""
    found = run(conditioned(kind, diffusers=diffusers))
    assert close(found, by_hand(kind, prompts()[1], LAYERS, 2)) and not close(found, run(models()[0]), 1e-1)


def test_one_layer_serves_a_batch_and_rows_keep_their_own():
    """Every row is that of a run alone: the given layers are not mixed up among pictures, nor with the negative's rows."""
    shared = {"background": {"samples": LAYERS["background"]["samples"][:1]}}
    noise = {"samples": torch.zeros(2, 4, 16, 16), "batch_index": [0, 1]}
    both = run(conditioned("bg2ble", **shared), noise)
    mixed = run(conditioned("bg2ble"), noise)
    assert torch.equal(both[:1], mixed[:1]) and not close(both[1:], mixed[1:], 1e-2)
    second = {"background": {"samples": LAYERS["background"]["samples"][1:]}}
    alone = run(conditioned("bg2ble", **second), {"samples": torch.zeros(1, 4, 16, 16), "batch_index": [1]})
    assert close(mixed[1:], alone)


def test_strength_0_is_the_model_and_the_model_stays():
    base = models()[0]
    before = run(base)
    quiet = conditioned("fg2ble", strength=0.0)
    assert torch.equal(run(quiet), before) and not quiet.patches and quiet.wrappers == base.wrappers
    loud = conditioned("fg2ble")
    first = run(loud)
    assert torch.equal(run(base), before) and not base.patches and base.get_attachment(ON_LAYERS) is None
    assert torch.equal(run(loud), first)
    assert loud.model_options["transformer_options"] == base.model_options["transformer_options"]


def test_strength_is_that_of_weights_and_layers():
    half, kind = {key: 0.5 * value for key, value in differences("fg2ble").items()}, "fg2ble"
    halved = parse_conditional({f"{key}::diff::0": value for key, value in half.items()}, f"{kind}.safetensors")
    assert close(run(conditioned(kind, strength=0.5)), run(condition_on_layers(models()[0], halved, given(kind))))


def test_loras_below_and_above_add_up():
    base = models()[0]
    lora = tiny.deltas(base, tiny.in_conv_file, seed=8, scale=0.1)
    below = conditioned("fg2ble", tiny.with_deltas(base, lora))
    above = tiny.with_deltas(conditioned("fg2ble"), lora)
    found = run(below)
    assert close(run(above), found) and not close(run(conditioned("fg2ble")), found, 1e-2)


def test_a_controlnet_acts_beside_the_layers():
    """As on a model with the weights merged the ordinary way and the layers' convolution written out: it sees 4 channels."""
    positive, negative = controlled("controlnet", prompts()[1], NEGATIVE)
    base, kind = models()[0], "fg2ble"
    plain = {key: value[:, :4] if key == FIRST else value for key, value in differences(kind).items()}
    written = tiny.with_deltas(base, plain)
    beside = 0.13025 * LAYERS["foreground"]["samples"].repeat(2, 1, 1, 1)
    term = torch.nn.functional.conv2d(beside, differences(kind)[FIRST][:, 4:], padding=1)
    written.set_model_input_block_patch(lambda h, options: h + term if options["block"] == ("input", 0) else h)
    found = run(conditioned(kind), positive=positive, negative=negative)
    assert close(found, run(written, positive=positive, negative=negative)) and not close(found, run(conditioned(kind)), 1e-2)


def test_areas_take_their_part_of_the_layers():
    """The host crops the latent to an area; the given layers are cropped alike, as its own c_concat is."""
    positive = core("ConditioningSetArea", prompts()[1], 64, 128, 64, 0, 1.0)
    seen = []

    def look(h, options):
        seen.append(h.shape)
        return h

    model = conditioned("bg2ble")
    model.set_model_input_block_patch(look)
    left = {"background": {"samples": LAYERS["background"]["samples"].clone()}}
    left["background"]["samples"][..., :8] = 1.0  # outside of the area
    found, other = (run(m, positive=positive, cfg=1.0) for m in (model, conditioned("bg2ble", **left)))
    assert any(shape[-2:] == (16, 8) for shape in seen)
    assert torch.equal(found[..., 8:], other[..., 8:])


def test_a_second_pass_at_another_size(caplog):
    """Scaled like the host's own latents beside the noisy one; another shape is refused."""
    model = conditioned("fg2ble")
    assert run(model, empty_latent(2, 24, 24)).isfinite().all() and "are scaled" in caplog.text
    scaled = torch.nn.functional.interpolate(LAYERS["foreground"]["samples"], size=(24, 24), mode="bilinear")
    encoded = conditioned("fg2ble", foreground={"samples": scaled})
    assert close(run(model, empty_latent(2, 24, 24)), run(encoded, empty_latent(2, 24, 24)))
    with pytest.raises(ValueError, match=r"128 x 128 pixels, the sampled latent is 192 x 128: expected one shape"):
        run(model, empty_latent(2, 16, 24))
    with pytest.raises(ValueError, match="batch of 2, the sampled latent one of 3"):
        run(model, empty_latent(3))


@pytest.mark.parametrize("sampler", ["dpmpp_2m", *slow("heun", "ddim", "euler_ancestral")])
def test_samplers_masks_and_denoise(sampler):
    """Inpainting a picture with the layers beside it: what the mask keeps is kept, whatever the sampler."""
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 64:] = 1
    latent = {**picture(40, 2), "noise_mask": mask}
    found = run(conditioned("fgble2bg"), latent, sampler=sampler)
    assert torch.allclose(found[..., :7], latent["samples"][..., :7], atol=1e-4) and not close(found, latent["samples"], 1e-1)


def test_crops_that_bring_their_layers_are_done_right():
    """Tiled Diffusion cuts every tensor of a conditioning as it cuts the latent; a node that cuts the latent alone is named."""

    def tiled(cut: bool):
        def apply(apply_model, args):
            def part(value, half):
                whole = cut and torch.is_tensor(value) and value.ndim == 4
                return value.chunk(2, dim=3)[half] if whole else value

            conds = [{key: part(value, half) for key, value in args["c"].items()} for half in range(2)]
            halves = zip(args["input"].chunk(2, dim=3), conds)
            return torch.cat([apply_model(x, args["timestep"], **c) for x, c in halves], dim=3)

        return apply

    model = conditioned("fg2ble")
    model.set_model_unet_function_wrapper(tiled(True))
    left = {"samples": LAYERS["foreground"]["samples"].clone()}
    left["samples"][..., :8] = 1.0
    other = conditioned("fg2ble", foreground=left)
    other.set_model_unet_function_wrapper(tiled(True))
    found, changed = run(model), run(other)
    assert torch.equal(found[..., 8:], changed[..., 8:]) and not close(found[..., :8], changed[..., :8], 1e-2)
    other.set_model_unet_function_wrapper(tiled(False))
    with pytest.raises(ValueError, match=r"shows the UNet 4 x 64 x 128 pixels.*model_function_wrapper of test_crops"):
        run(other)


def test_a_node_that_runs_the_blocks_itself_is_named():
    def own_blocks(apply_model, args):
        return args["input"] * 0.9

    model = conditioned("fg2ble")
    model.set_model_unet_function_wrapper(own_blocks)
    with pytest.raises(ValueError, match=r"layers would be left out: on the model are model_function_wrapper of test_a_node"):
        run(model)


def test_what_asks_the_model_once_more_in_a_step():
    """Perturbed attention guidance calls the UNet with conditionings of the run; a node's own conditioning gets the layers, too."""
    model = conditioned("fg2ble")

    def again(args):
        bare = [{k: v for k, v in entry.items() if k != "model_conds"} | {"model_conds": {
            k: v for k, v in entry["model_conds"].items() if k != ON_LAYERS}} for entry in args["cond"]]  # fmt: skip
        found = comfy.samplers.calc_cond_batch(args["model"], [bare], args["input"], args["sigma"], args["model_options"])
        assert close(found[0], args["cond_denoised"])
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(again)
    assert torch.equal(run(model), run(conditioned("fg2ble")))


def test_an_inpainting_checkpoint_keeps_its_own_channels():
    base = tiny.tiny_sdxl(in_channels=9)
    patched = condition_on_layers(base, weights("fg2ble"), given("fg2ble"))
    (strength, (_, (delta,)), *_), = patched.patches[FIRST]
    assert strength == 1 and torch.equal(delta[:, :4], differences("fg2ble")[FIRST][:, :4]) and not delta[:, 4:].any()


@pytest.mark.parametrize(
    ("kind", "layers", "said"),
    [
        ("fg2ble", {"foreground": None, "background": LAYERS["background"]},
         "layer_xl_fg2ble.safetensors makes the blended picture from foreground .*got background"),
        ("fgble2bg", {"blended": None}, "makes the background from foreground and blended .*got foreground"),
        ("bgble2fg", {"foreground": LAYERS["foreground"]}, "background and blended to be connected and nothing else"),
        ("bg2ble", {"background": None}, "got none of them"),
        ("bg2ble", {"background": {"samples": torch.zeros(1, 4, 16, 16)}}, "background: got an empty latent"),
        ("bg2ble", {"background": {"samples": torch.ones(1, 16, 16, 16)}}, r"expected 4 latent channels \(SDXL\), got 16"),
        ("bg2ble", {"background": {"samples": torch.ones(1, 4, 1, 16, 16)}}, "background: expected a picture latent"),
        ("fgble2bg", {"blended": picture(1, 2, 8, 8)}, "one size, .*foreground 2 x 128 x 128, blended 2 x 64 x 64"),
        ("fgble2bg", {"blended": picture(1, 3)}, "batches of 1 or one same number"),
    ],
)  # fmt: skip
def test_layers_that_the_weights_do_not_take(kind, layers, said):
    with pytest.raises(ValueError, match=said):
        conditioned(kind, **layers)


def test_models_that_carry_weights_already():
    base, foreground = models()[0], apply_foreground(models()[0], parse(tiny.foreground_file(models()[0]), "attn.safetensors"))
    with pytest.raises(ValueError, match="model carries attn.safetensors, and layer_xl_fg2ble"):
        conditioned("fg2ble", foreground)
    with pytest.raises(ValueError, match="model carries layer_xl_fg2ble"):
        conditioned("fg2ble", conditioned("fg2ble"))
    with pytest.raises(ValueError, match="carries layer_xl_fg2ble.*makes the blended picture.*KSampler"):
        apply_foreground(conditioned("fg2ble"), parse(tiny.foreground_file(base), "attn.safetensors"))
    for pair, name in (((conditioned("fg2ble"), foreground), "base_model"), ((base, conditioned("fg2ble")), "foreground_model")):
        with pytest.raises(ValueError, match=f"{name} carries layer_xl_fg2ble"):
            runs.layered(pair, steps=1)


def test_another_models_weights():
    other = weights("fg2ble")
    bias = FIRST.replace("weight", "bias")
    other.weights.tensors["diffusion_model.nowhere.weight.diff"] = other.weights.tensors.pop(f"{bias}.diff")
    with pytest.raises(ValueError, match="Conditional weights layer_xl_fg2ble.safetensors: only .*nowhere"):
        condition_on_layers(models()[0], other, given("fg2ble"))


def test_the_node_reads_a_file(tmp_path, monkeypatch):
    tensors = {f"{key}::diff::0": value for key, value in differences("fg2ble").items()}
    save_file(tensors, str(tmp_path / "layer_xl_fg2ble.safetensors"))
    save_file(tensors, str(tmp_path / "a_copy.safetensors"))
    extensions = {".safetensors"}
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "layer_model", ([str(tmp_path)], extensions))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    inputs = Node.INPUT_TYPES()
    assert inputs["required"]["weights"][1]["options"] == ["layer_xl_fg2ble.safetensors", "a_copy.safetensors"]
    base, latent = models()[0], LAYERS["foreground"]
    made = Node.execute(base, "layer_xl_fg2ble.safetensors", "auto", 1.0, foreground=latent).result[0]
    assert torch.equal(run(made), run(conditioned("fg2ble")))
    with pytest.raises(ValueError, match="a_copy.safetensors may be fg2ble or bg2ble"):
        Node.execute(base, "a_copy.safetensors", "auto", 1.0, foreground=latent)
    told = Node.execute(base, "a_copy.safetensors", "fg2ble", 1.0, foreground=latent).result[0]
    assert told.get_attachment(ON_LAYERS).kind is KINDS["fg2ble"]
    assert "Missing conditional weights" in Node.validate_inputs(weights="layer_xl_bg2ble.safetensors")
