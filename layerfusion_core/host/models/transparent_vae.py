"""The transparent VAE on the host: loaded from `layer_model`, held, cast and offloaded by its model management."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management as mm
import comfy.ops
import torch
from torch import Tensor, nn

from ...vae.checkpoint import decoder_config, encoder_config
from ...vae.decode import DecodeFn, Progress, decode_transparent
from ...vae.decoder import TransparentDecoder
from ...vae.encode import OffsetEncoder
from ...vae.tiling import tiled
from ...weights.formats import PAGE
from .folders import layer_model_path
from .management import managed
from .weight_files import read_weight_file

log = logging.getLogger(__name__)

DECODER = ("transparent VAE decoder", "vae_transparent_decoder.safetensors", PAGE)  # for messages about a missing file
ENCODER = ("transparent VAE encoder", "vae_transparent_encoder.safetensors", PAGE)
NO_ENCODER = "none"

ACTIVATION_FACTOR = 16
"""Working memory of one pass, in feature maps of the first width at full size (12 on a CPU, and what kernels need elsewhere)."""

RESCUE_TILE = 512
"""Tile size when a picture does not fit into memory in one piece."""


class TransparentVAE:
    """Decoder (and encoder, when given) of a transparent VAE under the host's model management.

    decoder, encoder: state dicts; ValueError when one is something else. Weights keep the dtype of their file and are
    cast to the working dtype layer by layer, which is fp16, bf16 or fp32 as the host chooses for a VAE.
    """

    def __init__(self, decoder: Mapping[str, Tensor], encoder: Mapping[str, Tensor] | None = None) -> None:
        config = decoder_config(decoder)
        self.load_device = mm.vae_device()
        self.dtype = mm.vae_dtype(self.load_device, [torch.float16, torch.bfloat16, torch.float32])
        self.config = config
        self.decoder = _managed(TransparentDecoder, config, decoder)
        self.encoder = None
        if encoder is not None:
            self.encoder = _managed(OffsetEncoder, encoder_config(encoder), encoder)

    def decode(
        self, pixels: Tensor, latent: Tensor, ensemble: int = 8, progress: Progress | None = None, tile: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Straight colour (B, H, W, 3) and alpha (B, H, W), 1 = opaque, fp32 on the host's intermediate device.

        pixels: (B, H, W, 3) in [0, 1] as the host's VAE decodes them; latent: (B, 4, H/8, W/8), a LATENT's samples.
        ensemble, progress: see `decode_transparent`. tile: 0 decodes in one piece (in tiles of 512 when that does not
        fit into memory), else the side of the tiles in pixels, see `tiled`. A pass whose result holds NaN or Inf is
        done again in fp32.
        """
        pixels, latent = pixels.movedim(-1, 1).float(), latent.float()
        layers = None
        try:
            layers = self._decode_all(pixels, latent, ensemble, progress, tile)
        except Exception as error:
            if tile or not _out_of_memory(error):
                raise
            log.warning("The alpha decoder ran out of memory; decoding in tiles of %d pixels.", RESCUE_TILE)
        if layers is None:  # not inside the except block, whose error keeps the tensors alive
            mm.soft_empty_cache()
            layers = self._decode_all(pixels, latent, ensemble, progress, RESCUE_TILE)
        rgb, alpha = layers
        device = mm.intermediate_device()
        return rgb.movedim(1, -1).to(device), alpha[:, 0].to(device)

    def offset(self, argb: Tensor) -> Tensor:
        """The encoder's latent offset (B, 4, H/8, W/8), fp32, of (B, 4, H, W) A, R, G, B; ValueError without one."""
        if self.encoder is None:
            raise ValueError(
                f"This transparent VAE was loaded without an encoder; choose {ENCODER[1]} in its loader."
            )
        widest = self.encoder.model.config.channels[0]
        mm.load_models_gpu([self.encoder], memory_required=4 * widest * argb.shape[-2] * argb.shape[-1] * 4)
        with torch.inference_mode():
            rows = [self.encoder.model(row.to(self.load_device, torch.float32)).cpu() for row in argb.split(1)]
        return torch.cat(rows)

    def _decode_all(
        self, pixels: Tensor, latent: Tensor, ensemble: int, progress: Progress | None, tile: int
    ) -> tuple[Tensor, Tensor]:
        multiple = self.config.multiple
        sides = [-(-side // multiple) * multiple for side in pixels.shape[-2:]]
        area = sides[0] * sides[1] if tile == 0 else min(sides[0], tile) * min(sides[1], tile)
        memory = ACTIVATION_FACTOR * self.config.widths[0] * area * self.dtype.itemsize
        mm.load_models_gpu([self.decoder], memory_required=memory)
        decode: DecodeFn = self._decode_once if tile == 0 else tiled(self._decode_once, tile, multiple)
        with torch.inference_mode():
            return decode_transparent(decode, pixels, latent, ensemble, progress, multiple)

    def _decode_once(self, pixels: Tensor, latent: Tensor) -> Tensor:
        mm.throw_exception_if_processing_interrupted()
        network = self.decoder.model
        out = network(pixels.to(self.load_device, self.dtype), latent.to(self.load_device, self.dtype))
        if not bool(torch.isfinite(out).all()) and self.dtype != torch.float32:
            log.warning("The transparent decoder gave NaN or Inf in %s; decoding again in fp32.", self.dtype)
            self.dtype = torch.float32  # the weights are cast layer by layer, so nothing needs to be loaded again
            out = network(pixels.to(self.load_device, torch.float32), latent.to(self.load_device, torch.float32))
        if not bool(torch.isfinite(out).all()):
            raise ValueError(
                "The transparent decoder gave NaN or Inf even in fp32: the foreground latent or the decoder file is "
                "damaged. Check that the foreground latent decodes to a sound picture with VAE Decode."
            )
        return out


def load_transparent_vae(decoder: str | None, encoder: str | None = None) -> TransparentVAE:
    """Loads a transparent VAE from files of the `layer_model` folder (names as the host lists them).

    encoder: a file name, or None / "none". ValueError says which file is missing and where to put it, or what a wrong
    file looks like.
    """
    decoder_path = layer_model_path(decoder, *DECODER)
    encoder_path = None
    if encoder and encoder != NO_ENCODER:
        encoder_path = layer_model_path(encoder, *ENCODER)
    weights = read_weights(decoder_path, decoder_config)
    return TransparentVAE(weights, None if encoder_path is None else read_weights(encoder_path, encoder_config))


def read_weights(path: str, read_config: Callable[[Mapping[str, Any]], object]) -> dict[str, Tensor]:
    """The tensors of a weight file (safetensors, or a pickle read safely).

    read_config: `decoder_config` or `encoder_config`. ValueError, with the file's name, as that and `read_weight_file`.
    """

    def check(tensors: Mapping[str, Any]) -> None:
        try:
            read_config(tensors)
        except ValueError as error:
            raise ValueError(f"{os.path.basename(path)}: {error}") from error

    return read_weight_file(path, check, pickles=True)


def _managed(kind: type[nn.Module], config, weights: Mapping[str, Tensor]):
    """The network on the host's casting layers, wrapped in the host's own model patcher.

    Weights of several types are kept in fp32, which holds all of them.
    """
    types = {weight.dtype for weight in weights.values()}
    dtype = types.pop() if len(types) == 1 else torch.float32
    network = kind(config, operations=comfy.ops.manual_cast, dtype=dtype, device=mm.vae_offload_device()).eval()
    network.load_state_dict(dict(weights))
    return managed(network, load_device=mm.vae_device(), offload_device=mm.vae_offload_device())


def _out_of_memory(error: Exception) -> bool:
    """Whether an error means that the device's memory is full (newer hosts know more kinds than torch's own)."""
    known = getattr(mm, "is_oom", None)
    return bool(known(error)) if known is not None else isinstance(error, torch.OutOfMemoryError)
