"""Pictures of the user's own through a whole run of the demonstration models: what was kept comes out to the pixel."""

from __future__ import annotations

import pytest
import torch
from compat import core
from runs import NAMES
from test_demo_nodes import models, prompts
from test_guider_nodes import advanced
from test_transparent_nodes import run

from layerfusion_pack.layerfusion_core.host.sampling.given_layers import KEEP_KEY, KEPT_KEY
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.nodes.given import LayerFusionGivenLayers
from layerfusion_pack.nodes.sampling import LayerFusionKSampler
from layerfusion_pack.nodes.transparent import LayerFusionDecode, LayerFusionEncode
from nodes import VAEEncode

SIDE = 64
LAYERS = ("foreground", "background", "blended")  # as the nodes give them


def noise(channels: int = 3, batch: int = 1, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """A picture that no VAE brings back."""
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(batch))


def encoded(name: str, picture: torch.Tensor) -> dict:
    vae = models()[3]
    if name == "foreground":
        return LayerFusionEncode.execute(picture, vae).result[0]
    return VAEEncode().encode(vae, picture)[0]


def sampled(keep: float = 1.0, masks: dict | None = None, **pictures) -> dict[str, dict]:
    """LATENTs of a run that was given the pictures."""
    latents = {name: encoded(name, picture) for name, picture in pictures.items()}
    strengths = {f"keep_{name}": keep for name in NAMES}
    latent = LayerFusionGivenLayers.execute(**strengths, **latents, **(masks or {})).result[0]
    base, foreground, *_ = models()
    out = LayerFusionKSampler.execute(
        base, foreground, *prompts(), latent, seed=3, steps=2, cfg=4.5, sampler_name="euler", scheduler="normal", denoise=1.0
    )
    return dict(zip(LAYERS, out.result))


def decoded(latents: dict[str, dict], **given) -> dict[str, torch.Tensor]:
    """Pictures of the layers, and the alpha MASK."""
    out = run(LayerFusionDecode, **latents, vae=models()[3], transparent_vae=models()[4], ensemble="1", **given)
    return dict(zip(("foreground", "alpha", "background", "blended"), out.result))


@pytest.mark.parametrize("name", LAYERS)
def test_a_kept_layer_comes_out_to_the_pixel(name):
    picture = noise(4 if name == "foreground" else 3)
    latents = sampled(**{name: picture})
    plain, pasted = decoded(latents), decoded(latents, **{f"given_{name}": picture})
    assert torch.equal(pasted[name], picture) and not torch.equal(plain[name], picture)
    assert torch.equal(pasted["alpha"], 1.0 - pasted["foreground"][..., 3])
    for other in set(LAYERS) - {name}:
        assert torch.equal(pasted[other], plain[other])


def test_masks_and_strengths_decide_by_cell():
    """A cell with one masked pixel was made anew, and so was all that is kept in part."""
    picture, mask = noise(), torch.zeros(1, SIDE, SIDE)
    mask[..., : SIDE // 2 + 1] = 1.0
    latents = sampled(masks={"mask_background": mask}, background=picture)
    plain, pasted = decoded(latents)["background"], decoded(latents, given_background=picture)["background"]
    cut = SIDE // 2 + 8
    assert torch.equal(pasted[:, :, cut:], picture[:, :, cut:]) and torch.equal(pasted[:, :, :cut], plain[:, :, :cut])
    latents = sampled(0.9, background=picture)
    assert torch.equal(decoded(latents, given_background=picture)["background"], decoded(latents)["background"])


def test_a_batch_and_the_hosts_crop():
    """One foreground for two scenes, whose sides are no multiples of 8: the VAE takes the middle."""
    scenes, cutout = noise(batch=2, height=SIDE + 5, width=SIDE + 2), noise(4)
    latents = sampled(background=scenes, foreground=cutout)
    pasted = decoded(latents, given_background=scenes, given_foreground=cutout)
    assert torch.equal(pasted["background"], scenes[:, 2 : SIDE + 2, 1 : SIDE + 1])
    assert torch.equal(pasted["foreground"], cutout.expand(2, -1, -1, -1))


def test_a_kept_layer_that_was_redrawn_since_shows_what_was_redrawn():
    """By the stock KSampler, the whole layer of the second picture and the left half of the first."""
    picture = noise(batch=2)
    latents = sampled(background=picture)
    mask = torch.ones(2, SIDE, SIDE)
    mask[0, :, SIDE // 2 :] = 0.0
    given = {**latents["background"], "noise_mask": mask}
    base, positive, negative = models()[0], prompts()[1], prompts()[3]
    latents["background"] = core("KSampler", base, 1, 2, 4.5, "euler", "normal", positive, negative, given, 0.6)
    plain, pasted = decoded(latents)["background"], decoded(latents, given_background=picture)["background"]
    assert torch.equal(pasted[1], plain[1]) and not torch.allclose(plain[1], picture[1], atol=0.1)
    assert torch.equal(pasted[0, :, SIDE // 2 :], picture[0, :, SIDE // 2 :])
    assert torch.equal(pasted[0, :, : SIDE // 2], plain[0, :, : SIDE // 2])


def test_split_latents_know_what_was_kept_too():
    kept = {"samples": torch.randn(1, 4, 16, 16)}
    latent = LayerFusionGivenLayers.execute(1.0, 0.5, 1.0, foreground=kept, background=kept).result[0]
    keeps = [layer[KEEP_KEY].unique().tolist() for layer in advanced("euler", latent, LayerFusionOptions())]
    assert keeps == [[1.0], [0.5], [0.0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"given_background": noise(height=SIDE + 8)}, "given_background: expected 1 or 1 pictures of 64 x 64 .* 64 x 72"),
        ({"given_background": noise(batch=2)}, "given_background: expected 1 or 1 pictures of 64 x 64 pixels, got 2"),
        ({"given_foreground": noise(3)}, "given_foreground: expected a picture with alpha .RGBA., got 3 channels"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(given, message):
    kept = {KEEP_KEY: torch.ones(1, 1, 8, 8), KEPT_KEY: torch.zeros(1, 4, 8, 8)}
    latents = {name: {"samples": torch.zeros(1, 4, 8, 8), **kept} for name in LAYERS}
    with pytest.raises(ValueError, match=message):
        decoded(latents, **given)


def test_a_latent_that_was_not_kept_or_was_resized_is_refused():
    latents = {name: {"samples": torch.zeros(1, 4, 8, 8)} for name in LAYERS}
    with pytest.raises(ValueError, match="given_blended is connected, but the blended latent does not say what"):
        decoded(latents, given_blended=noise())
    latents["blended"][KEEP_KEY] = torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="given_blended is connected, but the blended latent does not say what"):
        decoded(latents, given_blended=noise())
