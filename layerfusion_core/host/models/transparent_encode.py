"""A picture with alpha as a foreground latent, through the host's VAE and the transparent encoder."""

from __future__ import annotations

import logging

import comfy.model_management as mm
import torch
from torch import Tensor

from ...vae.decoder import LATENT_SCALE
from ...vae.encode import OFFSET_SCALE, over_grey, pad_color
from .latents import vae_crop
from .transparent_vae import TransparentVAE

log = logging.getLogger(__name__)


def encode_transparent(
    vae, rgb: Tensor, alpha: Tensor, transparent_vae: TransparentVAE | None = None, offset_scale: float = OFFSET_SCALE
) -> Tensor:
    """The foreground latent (B, 4, H/8, W/8), unscaled, of pictures with straight colour.

    vae: the host's VAE. rgb: (B, H, W, 3) and alpha: (B, H, W), 1 = opaque, both in [0, 1]; H and W multiples of 8.
    Colour is padded under alpha 0, laid over mid-grey and encoded (posterior mean). When transparent_vae holds an
    encoder, its offset times the posterior's standard deviation times offset_scale is added, which tells the decoder
    about the alpha; the posterior is read in a second pass of the VAE's encoder.
    """
    color, alpha = rgb.movedim(-1, 1).float(), alpha[:, None].float()
    padded = pad_color(color, alpha)
    grey = over_grey(padded, alpha).movedim(1, -1)  # (B, H, W, 3)
    mean = vae.encode(grey)
    if transparent_vae is None or transparent_vae.encoder is None or offset_scale == 0:
        return mean
    deviation = posterior_deviation(vae, grey)
    if deviation is None:
        log.warning("This VAE has no posterior, so the transparent encoder's offset is left out.")
        return mean
    offset = transparent_vae.offset(torch.cat([alpha, padded], dim=1))
    return mean + (deviation * offset.to(deviation.device) * offset_scale).to(mean)


def posterior_deviation(vae, pixels: Tensor) -> Tensor | None:
    """Standard deviation (B, 4, H/8, W/8) of the posterior of (B, H, W, 3) pixels; None when the VAE has none.

    The host's `encode` hands out the mean only, so this runs encoder and quant_conv of its AutoencoderKL.
    """
    network = vae.first_stage_model
    if not all(hasattr(network, name) for name in ("encoder", "quant_conv", "regularization")):
        return None
    deviations = []
    mm.load_models_gpu([vae.patcher], memory_required=vae.memory_used_encode((1, 3, *pixels.shape[1:3]), vae.vae_dtype))
    for row in range(len(pixels)):  # one at a time: memory does not grow with the batch
        picture = vae.process_input(pixels[row : row + 1].movedim(-1, 1)).to(vae.device, vae.vae_dtype)
        _, log_variance = network.quant_conv(network.encoder(picture)).float().chunk(2, dim=1)
        deviations.append(torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)).cpu())
    return torch.cat(deviations)


def join_alpha(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """`straight_alpha` with the sides cropped evenly to multiples of 8, as the host's VAE does it."""
    rgb, alpha = straight_alpha(image, mask)
    if min(image.shape[1:3]) < LATENT_SCALE:
        raise ValueError(f"The picture is {image.shape[2]}x{image.shape[1]}; at least 8x8 pixels are needed.")
    area = (slice(None), *vae_crop(*image.shape[1:3]))
    return rgb[area], alpha[area]


def straight_alpha(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Colour (B, H, W, 3) and alpha (B, H, W) of a picture with alpha, a picture and a mask, or both (multiplied).

    image: (B, H, W, 3 | 4). mask: (B, H, W) or (H, W) as the host has it, 1 = transparent; another size is scaled.
    ValueError when no alpha is given.
    """
    if image.shape[-1] != 4 and mask is None:
        raise ValueError(
            "Nothing says which part is transparent: the image has no alpha channel and no mask is connected. Connect "
            "the MASK output of Load Image, or an RGBA image."
        )
    alpha = image[..., 3] if image.shape[-1] == 4 else torch.ones_like(image[..., 0])
    if mask is not None:
        cut: Tensor = mask.reshape(-1, 1, *mask.shape[-2:]).to(alpha)
        if len(cut) not in (1, len(image)):
            raise ValueError(f"{len(cut)} masks do not fit {len(image)} pictures; give one mask, or as many.")
        if cut.shape[-2:] != alpha.shape[-2:]:
            cut = torch.nn.functional.interpolate(cut, size=alpha.shape[-2:], mode="bilinear", antialias=True)
        alpha = alpha * (1.0 - cut[:, 0])
    return image[..., :3], alpha
