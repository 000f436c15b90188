"""IPAdapters one after another: the second stacks its image on whatever replace patch it finds at its place, in place.

A stand-in does as IPAdapter_plus does. Where that pack is in the host's custom_nodes, or IPADAPTER_PLUS names its folder,
the same runs go through its own code, with made-up weights.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import lru_cache
from pathlib import Path

import comfy
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from compat import different, pair_of
from runs import NAMES, close, layered, models, prompts, stock
from test_compat_patches import limited

LATENT = {"samples": torch.zeros(2, 4, 16, 16)}  # every image prompt here has an entry for each of the two latents
PLACES = [*(("input", n, i) for n in (4, 5, 7, 8) for i in range(2)), *(("output", n, i) for n in range(6) for i in range(2))]


class Stacked:
    """A replace patch that adds what its callbacks make, as IPAdapter_plus's: `add` changes the object itself."""

    def __init__(self, callback, **kwargs):
        self.callback, self.kwargs = [callback], [kwargs]

    def add(self, callback, **kwargs):
        self.callback.append(callback)
        self.kwargs.append(kwargs)

    def __call__(self, q, k, v, extra_options):
        out = optimized_attention(q, k, v, extra_options["n_heads"])
        for callback, kwargs in zip(self.callback, self.kwargs):
            out = out + callback(out, q, k, v, extra_options, **kwargs)
        return out


def image_attention(out, q, k, v, extra_options, seed):
    """Attention to an image for each latent; none for the negative's rows."""
    chunks = extra_options["cond_or_uncond"]
    count = q.shape[0] // len(chunks)
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 6, 4, v.shape[-1], generator=generator)[:, :count]
    return torch.cat([
        0.8 * optimized_attention(part, keys, values, extra_options["n_heads"]) if chunk == 0 else torch.zeros_like(part)
        for chunk, part in zip(chunks, q.chunk(len(chunks)))
    ])  # fmt: skip


def stand_in(model, seed: int):
    model = model.clone()
    options = model.model_options["transformer_options"]
    replace = options.setdefault("patches_replace", {}).setdefault("attn2", {})
    for place in PLACES:
        if place in replace:
            replace[place].add(image_attention, seed=seed)
        else:
            replace[place] = Stacked(image_attention, seed=seed)
    return model


@lru_cache(maxsize=1)
def ipadapter_plus():
    """The pack's module, or None where it is not there."""
    folders = [os.environ.get("IPADAPTER_PLUS"), Path(comfy.__path__[0]).parent / "custom_nodes" / "ComfyUI_IPAdapter_plus"]
    folder = next((Path(f) for f in folders if f and (Path(f) / "IPAdapterPlus.py").is_file()), None)
    if folder is None:
        return None
    spec = importlib.util.spec_from_file_location("ipadapter_plus", folder / "__init__.py")
    sys.modules["ipadapter_plus"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["ipadapter_plus"])
    return sys.modules["ipadapter_plus.IPAdapterPlus"]


def real(model, seed: int):
    pack = ipadapter_plus() or pytest.skip("no IPAdapter_plus here")
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    places = [("input", n, i) for n in (4, 5, 7, 8) for i in range(2 if n < 6 else 10)]
    places += [("output", n, i) for n in range(6) for i in range(10 if n < 3 else 2)]
    layers = {"101.to_k_ip.weight": rand(1, 1)}
    for number, (side, n, i) in enumerate(places):
        if i < 2:  # as deep as the tiny model is
            width = 64 if (side, n) in (("input", 4), ("input", 5)) or (side == "output" and n > 2) else 128
            layers |= {f"{2 * number + 1}.to_{x}_ip.weight": rand(width, 2048) for x in "kv"}
    projection = {
        "proj.weight": rand(4 * 2048, 8), "proj.bias": rand(4 * 2048), "norm.weight": torch.ones(2048), "norm.bias": rand(2048)
    }  # fmt: skip
    found = pack.ipadapter_execute(
        model.clone(), {"image_proj": projection, "ip_adapter": layers}, None, pos_embed=rand(2, 8) * 8,
        weight=[0.9, 0.6], unfold_batch=True, attn_mask=torch.rand(2, 16, 16, generator=generator),
    )  # fmt: skip
    return found[0]


def layers_are(pair, *expected) -> None:
    """Assert that the layers are stock runs of these base models, with foreground weights where the layer has them."""
    layers, _ = layered(pair, latent=LATENT, strength=0.0, steps=2)
    for i, (name, layer, model) in enumerate(zip(NAMES, layers, expected)):
        assert close(layer, stock(pair_of(model)[0 if i else 1], prompts()[i], LATENT, steps=2)), name


@pytest.mark.parametrize("image", [stand_in, real])
def test_behind_limit_patches(image):
    plain = models()[0].clone()
    first = limited(plain, image(plain, 1), "foreground", "blended")
    second = image(first, 2)
    layers_are(pair_of(second), image(image(plain, 1), 2), image(image(plain, 1), 2), image(plain, 2))
    both = limited(first, second, "background")
    layers_are(pair_of(both), image(plain, 1), image(plain, 1), image(plain, 2))
    alone, after, stacked = (stock(m, prompts()[1], LATENT, steps=1) for m in (image(plain, 1), first, second))
    assert torch.equal(alone, after) and different(after, stacked)  # the first MODEL is untouched by the second


def test_two_without_limit_patches_between():
    """On newer hosts the first MODEL has the second image, too, and nobody can tell them apart."""
    plain = models()[0].clone()
    first = stand_in(plain, 1)
    second = stand_in(first, 2)
    try:
        found = limited(first, second, "background")
    except ValueError as error:
        assert "put a Limit Patches to Layers right behind each" in str(error)
    else:
        layers_are(pair_of(found), stand_in(plain, 1), stand_in(plain, 1), stand_in(stand_in(plain, 1), 2))


def test_over_patches_of_another_kind():
    plain = models()[0].clone()
    patched = plain.clone()
    patched.set_model_attn2_replace(lambda q, k, v, options: v, *PLACES[0])
    with pytest.raises(ValueError, match="patches are of another kind and cannot be stacked: put the IPAdapter before"):
        stand_in(limited(plain, patched, "foreground"), 1)
