"""Encoding pictures with alpha on the host, and the round trip through the demonstration models."""

from __future__ import annotations

import json

import comfy.sd
import pytest
import torch

from layerfusion_pack.layerfusion_core.host.models.transparent_encode import (
    encode_transparent,
    join_alpha,
    posterior_deviation,
)
from layerfusion_pack.layerfusion_core.layers.compositing import alpha_over
from layerfusion_pack.layerfusion_core.vae.encode import over_grey, pad_color
from layerfusion_pack.nodes.given import LayerFusionPlaceForeground
from layerfusion_pack.nodes.transparent import LayerFusionEncode


class FlatVAE:
    """Stands in for the host's VAE: the latent is the picture's 8x8 means (and a zero channel)."""

    first_stage_model = None

    def encode(self, pixels):
        means = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([means, torch.zeros_like(means[:, :1])], dim=1)


def cutout(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A red square with alpha on black that must not show: (1, H, W, 3), (1, H, W)."""
    rgb, alpha = torch.zeros(1, size, size, 3), torch.zeros(1, size, size)
    rgb[:, 16:48, 16:48], alpha[:, 16:48, 16:48] = torch.tensor([0.9, 0.1, 0.1]), 1.0
    return rgb, alpha


def test_the_vae_sees_the_object_over_mid_grey():
    rgb, alpha = cutout()
    latent = encode_transparent(FlatVAE(), rgb, alpha)
    assert latent.shape == (1, 4, 8, 8)
    torch.testing.assert_close(latent[0, :3, 4, 4], torch.tensor([0.9, 0.1, 0.1]))
    torch.testing.assert_close(latent[0, :3, 0, 0], torch.full((3,), 0.5))


def test_image_with_alpha_equals_image_and_mask():
    rgb, alpha = cutout()
    rgba = torch.cat([rgb, alpha[..., None]], dim=-1)
    for got in (join_alpha(rgba, None), join_alpha(rgb, 1.0 - alpha), join_alpha(rgba, 1.0 - alpha[0])):
        assert torch.equal(got[0], rgb) and torch.equal(got[1], alpha)


def test_pictures_that_are_no_cut_outs_are_said_to_be(caplog):
    rgb, alpha = (x.repeat(2, 1, 1, *[1] * (x.ndim - 3)) for x in cutout())
    mask = 1.0 - alpha
    runs = (lambda: LayerFusionEncode.execute(rgb, FlatVAE(), mask),
            lambda: LayerFusionPlaceForeground.execute(rgb, 0, 0, 1.0, 0, 0, mask))  # fmt: skip
    assert [run().ui for run in runs] == [None, None]
    mask[1] = 0.0
    for run in runs:
        shown = json.loads(run().ui["layerfusion_notices"][0])
        assert shown["line"] == "Foreground is opaque: picture 2 of 2, 100.0 % of it" and "invert" in shown["text"]
    assert caplog.messages == [shown["text"]] * 2


def test_odd_sizes_masks_and_messages():
    rgb, alpha = join_alpha(torch.rand(2, 67, 45, 3), torch.zeros(1, 8, 8))
    assert rgb.shape == (2, 64, 40, 3) and alpha.shape == (2, 64, 40)
    with pytest.raises(ValueError, match="no alpha channel and no mask"):
        join_alpha(torch.rand(1, 8, 8, 3), None)
    with pytest.raises(ValueError, match="3 masks do not fit 2 pictures"):
        join_alpha(torch.rand(2, 8, 8, 3), torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="5x8; at least 8x8"):
        join_alpha(torch.rand(1, 8, 5, 3), torch.zeros(1, 8, 5))


class Offset:
    """A transparent VAE whose encoder always says the same."""

    encoder = object()

    def offset(self, argb):
        assert argb.shape[1] == 4 and argb[:, 0].max() == 1.0
        return torch.full((len(argb), 4, argb.shape[-2] // 8, argb.shape[-1] // 8), 0.01)


def kl_vae() -> comfy.sd.VAE:
    """The host's AutoencoderKL at small widths with random weights."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
              "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    torch.manual_seed(0)
    network = AutoencoderKL(ddconfig=config, embed_dim=4)
    weights = {k: 0.1 * torch.randn(v.shape) + (v.ndim == 1) for k, v in network.state_dict().items()}
    return comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": config, "embed_dim": 4}}, dtype=torch.float32)


def test_the_offset_is_scaled_by_the_posterior(caplog):
    rgb, alpha = cutout()
    vae = kl_vae()
    mean = encode_transparent(vae, rgb, alpha)
    grey = over_grey(pad_color(rgb.movedim(-1, 1), alpha[:, None]), alpha[:, None]).movedim(1, -1)
    torch.testing.assert_close(mean, vae.encode(grey))
    deviation = posterior_deviation(vae, grey)
    assert deviation.shape == mean.shape and (deviation > 0).all()
    torch.testing.assert_close(encode_transparent(vae, rgb, alpha, Offset(), 300.0), mean + 3.0 * deviation)
    assert torch.equal(encode_transparent(vae, rgb, alpha, Offset(), 0.0), mean)
    encode_transparent(FlatVAE(), rgb, alpha, Offset())
    assert "no posterior" in caplog.text


def test_round_trip_through_the_demonstration_models():
    from layerfusion_pack.layerfusion_core.host.models.demo import load_demo

    try:
        demo = load_demo()
    except ValueError as error:
        pytest.skip(f"NO DEMONSTRATION MODELS: {error}")
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 128)] * 2, indexing="ij")
    alpha = ((0.6 - (x**2 + y**2).sqrt()) * 32).clamp(0, 1)[None]
    rgb = torch.tensor([0.88, 0.10, 0.12]).expand(1, 128, 128, 3)
    latent = encode_transparent(demo.vae, rgb, alpha)
    color, got = demo.transparent_vae.decode(demo.vae.decode(latent), latent, 8)
    iou = torch.minimum(got, alpha).sum() / torch.maximum(got, alpha).sum()
    inside = (color - rgb).abs()[alpha > 0.99].mean()
    print(f"round trip: alpha error {(got - alpha).abs().mean():.4f}, soft IoU {iou:.3f}, colour error {inside:.4f}")
    assert iou > 0.9 and inside < 0.1

    # No fringe: the edge is nearer to the truth than with the VAE's own picture (over mid-grey) as colour, over anything.
    edge = ((alpha > 0.02) & (alpha < 0.98))[..., None].float()
    picture = demo.vae.decode(latent)[..., :3]
    for backdrop in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 1.0, 1.0)):
        behind = torch.tensor(backdrop).expand_as(rgb)
        want = alpha_over(torch.cat([rgb, alpha[..., None]], dim=-1), behind)
        ours, grey = (
            ((alpha_over(torch.cat([c, got[..., None]], dim=-1), behind) - want).abs() * edge).sum() / (3 * edge.sum())
            for c in (color, picture)
        )
        print(f"edge over {backdrop}: {ours:.3f}, with the picture over grey {grey:.3f}")
        assert ours < 0.1 and ours < 0.8 * grey
    empty = alpha[..., 1:] + alpha[..., :-1] == 0
    assert (color[..., 1:, :] - color[..., :-1, :]).abs()[empty].mean() < 0.02  # smooth where nothing is
