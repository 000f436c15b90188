"""From a decoded foreground and its latent to colour and alpha: any size, test-time ensemble, tiles."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoder import LATENT_SCALE

DecodeFn = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]

ENSEMBLES: dict[int, tuple[tuple[bool, int], ...]] = {
    # (flip left-right, quarter turns). Each set is a group: turning the input turns the result and nothing else.
    1: ((False, 0),),
    2: ((False, 0), (True, 0)),
    4: ((False, 0), (True, 0), (False, 2), (True, 2)),
    8: tuple((flip, turns) for flip in (False, True) for turns in range(4)),
}


def decode_transparent(
    decode_fn: DecodeFn,
    pixels: Tensor,
    latent: Tensor,
    ensemble: int = 8,
    progress: Progress | None = None,
    multiple: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Straight colour and alpha of foregrounds of any size divisible by 8.

    decode_fn: (1, 3, h, w) pixels and (1, 4, h/8, w/8) latent -> (1, 4, h, w) as A, R, G, B (a `TransparentDecoder`, or
        a function that runs one); it sees one picture at a time, with sides that are multiples of `multiple`.
    pixels: (B, 3, H, W) in [0, 1]; latent: (B, 4, H/8, W/8), unscaled VAE latent.
    ensemble: 1, 2 (left-right flip), 4 (flips) or 8 (flips and quarter turns) passes per picture. Every pass is clipped
        to [0, 1] and turned back; the result is their median, for even counts the mean of the two middle values (the
        published code takes the lower one, which pulls alpha down a little).
    progress: called with (passes done, passes in all) after every pass; an exception in it stops the work.
    multiple: default `decode_fn.config.multiple`, else 64.

    Returns rgb (B, 3, H, W) and alpha (B, 1, H, W), both in [0, 1], fp32, on the device of `pixels`. Sizes the network
    cannot take are padded by replication at the right and bottom and cropped back; others are left as they are.
    """
    check_sizes(pixels, latent)
    if ensemble not in ENSEMBLES:
        raise ValueError(f"The ensemble must be one of {', '.join(map(str, ENSEMBLES))} passes, not {ensemble}.")
    if multiple is None:
        multiple = int(getattr(getattr(decode_fn, "config", None), "multiple", 64))

    passes, height, width = ENSEMBLES[ensemble], *pixels.shape[-2:]
    out = torch.empty((len(pixels), 4, height, width), dtype=torch.float32, device=pixels.device)
    for row in range(len(pixels)):
        image, code = pad_to_multiple(pixels[row : row + 1], latent[row : row + 1], multiple)
        kept = out.new_full((len(passes) // 2 + 1, *out.shape[1:]), torch.inf)
        for done, (flip, turns) in enumerate(passes):
            argb = decode_fn(_turn(image, flip, turns), _turn(code, flip, turns))
            argb = _turn_back(argb.float().clamp(0.0, 1.0), flip, turns)[..., :height, :width]
            keep_smallest(kept, argb[0].to(out.device))
            if progress is not None:
                progress(row * len(passes) + done + 1, len(pixels) * len(passes))
        out[row] = kept[-1] if len(passes) % 2 else (kept[-1] + kept[-2]) / 2
    return out[:, 1:], out[:, :1]


def keep_smallest(kept: Tensor, new: Tensor) -> None:
    """Sort one more tensor into the elementwise smallest values seen so far: `kept` (count, ...), ascending, at first inf.

    In place; the largest falls out. With count = n // 2 + 1 the last (two) of n give the median, and only that many
    pictures are held at once.
    """
    for slot in kept:
        larger = torch.maximum(slot, new)
        torch.minimum(slot, new, out=slot)
        new = larger


def check_sizes(pixels: Tensor, latent: Tensor) -> None:
    """Raises ValueError unless pixels (B, 3, H, W) and latent (B, 4, H/8, W/8) belong together."""
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"Expected decoded pixels of shape (batch, 3, height, width), got {tuple(pixels.shape)}.")
    if latent.ndim != 4 or latent.shape[1] != 4:
        raise ValueError(
            f"Expected a latent of shape (batch, 4, height / 8, width / 8), got {tuple(latent.shape)}. "
            "The transparent VAE works on SDXL and SD 1.5 latents."
        )
    height, width = pixels.shape[-2:]
    if len(pixels) != len(latent) or (height, width) != tuple(LATENT_SCALE * side for side in latent.shape[-2:]):
        raise ValueError(
            f"Pixels and latent do not belong together: {len(pixels)} picture(s) of {width}x{height} and {len(latent)} "
            f"latent(s) of {latent.shape[-1]}x{latent.shape[-2]}, which decode to "
            f"{LATENT_SCALE * latent.shape[-1]}x{LATENT_SCALE * latent.shape[-2]}. Give the latent that the pixels "
            "were decoded from; upscale the result, not the pixels."
        )


def pad_to_multiple(pixels: Tensor, latent: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Replicates the right and bottom edge of both until the pixel sides are multiples of `multiple`."""
    right, bottom = -pixels.shape[-1] % multiple, -pixels.shape[-2] % multiple
    if right == 0 and bottom == 0:
        return pixels, latent
    return (
        F.pad(pixels, (0, right, 0, bottom), mode="replicate"),
        F.pad(latent, (0, right // LATENT_SCALE, 0, bottom // LATENT_SCALE), mode="replicate"),
    )


def _turn(x: Tensor, flip: bool, turns: int) -> Tensor:
    return torch.rot90(x.flip(-1) if flip else x, turns, dims=(-2, -1))


def _turn_back(x: Tensor, flip: bool, turns: int) -> Tensor:
    x = torch.rot90(x, -turns, dims=(-2, -1))
    return x.flip(-1) if flip else x
