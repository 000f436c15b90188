"""Foreground differences on any weight of the UNet act on the foreground's rows alone, as the merged model would."""

from __future__ import annotations

import comfy.lora
import comfy.model_management
import pytest
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.torch_helpers.torch_compile import set_torch_compile_wrapper
from compat import streams_equal_stock
from once import once
from runs import close, empty_latent, layered, models, prompts, slow, stock

from layerfusion_pack.layerfusion_core.host.unet.delta import foreground_delta
from layerfusion_pack.nodes.conditioning import LayerFusionTextEncode
from layerfusion_pack.nodes.demo import LayerFusionLoadDemo

BLOCK = "diffusion_model.output_blocks.2"
PLACES = {  # one weight of every kind of module in the UNet, by what its key holds
    "first convolution": "input_blocks.0.0.",
    "convolutions of a residual block": f"{BLOCK}.0.in_layers.2.",
    "skip convolution": f"{BLOCK}.0.skip_connection.",
    "residual block's embedding": f"{BLOCK}.0.emb_layers.1.",
    "group norm": f"{BLOCK}.0.in_layers.0.",
    "downsampling": "input_blocks.3.0.op.",
    "upsampling": f"{BLOCK}.2.conv.",
    "transformer's group norm": f"{BLOCK}.1.norm.",
    "layer norms": f"{BLOCK}.1.transformer_blocks.0.norm",
    "projections of the transformer": f"{BLOCK}.1.proj_",
    "gated linear": f"{BLOCK}.1.transformer_blocks.0.ff.net.0.proj.",
    "feed-forward": f"{BLOCK}.1.transformer_blocks.0.ff.net.2.",
    "attention output": f"{BLOCK}.1.transformer_blocks.0.attn1.to_out.0.",
    "time embedding": "time_embed.",
    "label embedding": "label_emb.",
    "last layers": "diffusion_model.out.",
}


def conv_model(base, strength=1.0):
    """The base with weights in the conv packaging's shape."""
    return tiny.with_deltas(base, tiny.deltas(base, tiny.in_conv_file), strength)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_every_kind_of_module(place):
    base, _ = models()
    differences = tiny.deltas(base, lambda key: PLACES[place] in key, scale=1.0)
    assert differences
    foreground = tiny.with_deltas(base, differences)
    assert not close(*(once(stock, model, prompts()[0], steps=2) for model in (foreground, base)), 1e-3)
    streams_equal_stock((base, foreground))


def test_whole_unet():
    base, _ = models()
    streams_equal_stock((base, tiny.with_deltas(base, tiny.deltas(base, scale=0.1))))


def test_conv_and_attention_together():
    base, foreground = models()
    streams_equal_stock((base, tiny.with_deltas(foreground, tiny.deltas(base, tiny.in_conv_file), 0.5)))


@pytest.mark.parametrize(
    "options", [{"latent": empty_latent(2, 15, 19)}, {"cfg": 1.0}, {"sampler": "dpmpp_2m_sde"}], ids=str
)
def test_batches_odd_sizes_and_samplers(options):
    base, _ = models()
    streams_equal_stock((base, conv_model(base)), **options)


def test_cond_and_uncond_apart_equal_together(monkeypatch):
    base, _ = models()
    pair = (base, conv_model(base))
    together = layered(pair, steps=2)[0]
    monkeypatch.setattr(base.model, "memory_required", lambda *args, **kwargs: float("inf"))
    assert all(close(a, b) for a, b in zip(layered(pair, steps=2)[0], together))


def test_difference_of_the_base_model():
    """The base carries a patch that the foreground lacks: its term is taken off the foreground's rows."""
    base, foreground = models()
    streams_equal_stock((conv_model(base, 0.4), foreground))


def kohya_lora(base, mid: bool = False) -> dict[str, torch.Tensor]:
    """A user's LoRA on convolutions, feed-forward and projections, as trainers write it."""
    generator, file, rank = torch.Generator().manual_seed(50), {}, 3
    targets = comfy.lora.model_lora_keys_unet(base.model, {})
    names = {target: name for name, target in targets.items() if name.startswith("lora_unet_")}
    for key, weight in base.model.state_dict().items():
        if weight.ndim < 2 or "attn" in key or key not in names or "middle" not in key and "output_blocks.2" not in key:
            continue
        out, into, *kernel = weight.shape
        inner = mid and kernel == [3, 3]
        down = torch.randn(rank, into, *([1, 1] if inner else kernel), generator=generator) / (into**0.5)
        file[f"{names[key]}.lora_down.weight"] = down
        file[f"{names[key]}.lora_up.weight"] = torch.randn(out, rank, *[1 for _ in kernel], generator=generator) / rank
        file[f"{names[key]}.alpha"] = torch.tensor(2.0)
        if inner:
            file[f"{names[key]}.lora_mid.weight"] = torch.randn(rank, rank, 3, 3, generator=generator) / rank
    return file


@pytest.mark.parametrize("mid", [False, True], ids=["plain", "with a middle convolution"])
def test_users_lora_outside_attention_on_the_foreground_only(mid):
    base, foreground = models()
    patches = comfy.lora.load_lora(kohya_lora(base, mid), comfy.lora.model_lora_keys_unet(base.model, {}))
    assert {len(base.model.state_dict()[key].shape) for key in patches} == {2, 4}
    foreground = foreground.clone()
    assert len(foreground.add_patches(patches, 0.8)) == len(patches)
    assert not close(*(once(stock, model, prompts()[0], steps=2) for model in (foreground, models()[1])), 1e-2)
    streams_equal_stock((base, foreground))


def test_nothing_is_left_on_the_models():
    base, _ = models()
    foreground = conv_model(base)
    before = [once(stock, base, prompts()[1], steps=2), stock(foreground, prompts()[0], steps=2)]
    expected = layered((base, foreground), steps=2)[0]
    assert not any(module._forward_hooks for module in base.model.modules())
    after = [stock(base, prompts()[1], steps=2), stock(foreground, prompts()[0], steps=2)]
    assert all(torch.equal(a, b) for a, b in zip(before, after))

    calls = []

    def interrupt(module, args):
        calls.append(1)
        if len(calls) == 4:  # half way through the network
            raise comfy.model_management.InterruptProcessingException()

    handle = base.model.diffusion_model.output_blocks[1][0].register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            layered((base, foreground), steps=2)
    finally:
        handle.remove()
    assert not any(module._forward_hooks for module in base.model.modules())
    after = [stock(base, prompts()[1], steps=2), stock(foreground, prompts()[0], steps=2)]
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert all(torch.equal(a, b) for a, b in zip(layered((base, foreground), steps=2)[0], expected))


def test_demo_models():
    base, foreground, clip, *_ = LayerFusionLoadDemo.execute().result
    on_foreground, on_background, on_blended, negative = LayerFusionTextEncode.execute(
        clip, "a red apple", "blue checkerboard", "", ""
    ).result
    foreground = tiny.with_deltas(foreground, tiny.deltas(base, tiny.in_conv_file))
    streams = [on_foreground, on_blended, on_background]
    found = (once(stock, model, on_foreground, negative=negative, steps=2) for model in (foreground, base))
    assert not close(*found, 0.1)
    streams_equal_stock((base, foreground), streams, negative)


def test_differences_that_the_host_leaves_offloaded(monkeypatch):
    """Short of memory the host flags modules instead of moving them; every kind of term must live with the flags."""
    base, _ = models()
    foreground = conv_model(base)
    expected = layered((base, foreground), steps=1)[0]
    delta = foreground_delta(base, foreground)
    comfy.model_management.free_memory(1e30, torch.device("cpu"))  # so that it is loaded again, partly
    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_use_more_vram", lambda *args, **kwargs: 0)
    delta.patch_model(device_to=torch.device("cpu"), lowvram_model_memory=1)
    assert delta.model.model_lowvram
    assert all(torch.equal(a, b) for a, b in zip(layered((base, foreground), steps=1)[0], expected))
    assert delta.model.model_lowvram, "the run has loaded it whole"


def test_differences_are_copied_once():
    """Into memory of the run's own: the tensors of a patch are, as a rule, views of a file."""
    base, _ = models()
    differences = tiny.deltas(base, tiny.in_conv_file)
    foreground = tiny.with_deltas(base, differences)
    layered((base, foreground), steps=1)
    delta = foreground.attachments["layerfusion_delta"][1].model
    held = {parameter.data_ptr() for parameter in delta.parameters()}
    assert len(held) == len(differences) and not held & {tensor.data_ptr() for tensor in differences.values()}
    assert sum(p.nbytes for p in delta.parameters()) == sum(tensor.nbytes for tensor in differences.values())


def layerdiffuse(base, names) -> tuple[ModelPatcher, dict[str, torch.Tensor]]:
    """A MODEL as ComfyUI-layerdiffuse's conv injection makes it, and what it changes."""
    differences = tiny.deltas(base, lambda key: any(name in key for name in names))
    foreign = base.clone()
    foreign.add_patches({key: ("diff", [delta, {"pad_weight": True}]) for key, delta in differences.items()}, 0.5)
    return foreign, differences


def test_another_packs_convolution_weights():
    """Their second part lets the host pad a weight of another shape; here the shapes are the model's own."""
    base, _ = models()
    foreign, differences = layerdiffuse(base, ("input_blocks.3.0.op.", "output_blocks.2.0.in_layers"))
    found, expected = (layered((base, m), steps=1)[0] for m in (foreign, tiny.with_deltas(base, differences, 0.5)))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    wider, _ = layerdiffuse(base, ())
    key = "diffusion_model.input_blocks.0.0.weight"
    weight = base.model.state_dict()[key]
    wider.add_patches({key: ("diff", [torch.cat([weight, weight], dim=1), {"pad_weight": True}])})
    with pytest.raises(ValueError, match=f"the patch on {key} has shape .*, the model's is .*made for another model"):
        layered((base, wider), steps=1)


@pytest.mark.parametrize("checkpoints", [1, 2])
def test_another_packs_attention_weights_do_nothing_on_this_host(checkpoints):
    """ComfyUI-layerdiffuse's attention injection: tuples that hosts since April 2025 leave out with a line in the log."""
    base, _ = models()
    other = base if checkpoints == 1 else tiny.tiny_sdxl(seed=3)
    file = tiny.foreground_file(base)
    key = next(iter(file)).split("::")[0]
    foreign = other.clone()
    foreign.add_patches({key: ("lora", [file[f"{key}::lora::0"], file[f"{key}::lora::1"], *[None] * 14])}, 1.0)
    with pytest.raises(ValueError, match=f"foreground_model carries .*'lora' on {key}.*Apply Foreground Weights instead of it"):
        layered((base, foreign), steps=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, *slow(torch.float16)])
def test_half_precision(dtype):
    base = tiny.tiny_sdxl(dtype=dtype)
    half = layered((base, conv_model(base)), steps=2)[0]
    base, _ = models()
    full = once(layered, (base, conv_model(base)), steps=2)[0]
    for a, b in zip(half, full):
        assert a.isfinite().all() and (a - b).std() < 0.1 * b.std()


def test_compiled_layers_run_as_written():
    """torch.compile neither sees hooks that come later nor their going: our runs do without it, the stock's keep it.

    The last layers alone are compiled, which takes a second; for the whole model it is a minute.
    """
    compiled_parts = []

    def backend(graph, inputs):
        compiled_parts.append(graph)
        return graph.forward

    base, _ = models()
    plain = once(layered, (base, conv_model(base)), steps=2)[0]
    expected = once(stock, base, prompts()[1], steps=2)
    base = base.clone()
    set_torch_compile_wrapper(base, backend=backend, keys=["diffusion_model.out"])
    pair = (base, conv_model(base))
    for _ in range(2):
        before = len(compiled_parts)
        assert all(close(a, b) for a, b in zip(layered(pair, steps=2)[0], plain))
        assert len(compiled_parts) == before
        assert close(stock(base, prompts()[1], steps=2), expected)
    assert compiled_parts
