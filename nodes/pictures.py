"""What pictures that belong together must have in common."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..layerfusion_core.method.streams import by_sample
from ..layerfusion_core.vae.findings import opaque_finding

LAYERS = ("foreground", "background", "blended")


def picture_inputs(blended: str = "The blended picture from LayerFusion Decode.") -> list[io.Image.Input]:
    """foreground, background, blended: the layers' pictures; `blended`: that one's tooltip."""
    return [
        io.Image.Input("foreground", tooltip="The foreground, or foregrounds, with alpha (RGBA) from LayerFusion Decode."),
        io.Image.Input("background", tooltip="The background from LayerFusion Decode."),
        io.Image.Input("blended", tooltip=blended),
    ]


def count_input(tooltip: str) -> io.Int.Input:
    """foregrounds_per_picture: optional, 0 for what the other inputs say."""
    return io.Int.Input("foregrounds_per_picture", default=0, min=0, max=64, optional=True, tooltip=tooltip)


def of_pictures(foreground: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    """K tensors (N, ...), the rearmost foreground first, of what comes for each foreground of N = `count` pictures, (N * K, ...).

    ValueError unless there are as many for each picture.
    """
    if count < 1 or len(foreground) % count:
        raise ValueError(
            f"Got {len(foreground)} foreground(s) for {count} picture(s); expected one for each, or several, as many for each."
        )
    return by_sample(foreground, len(foreground) // count).unbind(1)


def check_pictures(*pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The foregrounds (B, K, H, W, 4) from the rearmost to the front one, background and blended picture (B, H, W, 3).

    IMAGE: (B, H, W, 3 | 4), of foregrounds K for each picture, as LayerFusion Decode gives them. ValueError unless all are
    of one size, and background and blended picture as many.
    """
    shapes = {name: tuple(picture.shape[:3]) for name, picture in zip(LAYERS, pictures, strict=True)}
    (cutouts, *size), *scenes = shapes.values()
    count = scenes[0][0]
    if len(set(scenes)) > 1 or tuple(size) != scenes[0][1:] or cutouts < count or cutouts % count:
        listed = ", ".join(f"{name} {count} x {width}x{height}" for name, (count, height, width) in shapes.items())
        raise ValueError(
            "The layers must have the same number of pictures and the same size (several foregrounds: as many times that "
            f"number); got {listed}."
        )
    foreground, background, blended = pictures
    if foreground.shape[-1] == 3:  # an ordinary picture: opaque
        foreground = torch.cat([foreground, torch.ones_like(foreground[..., :1])], dim=-1)
    return by_sample(foreground, cutouts // count), background[..., :3], blended[..., :3]


def check_effects(effects: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The effects, ValueError unless they are RGBA and as many and as large as the pictures (B, H, W, C) they belong to."""
    if effects.shape[-1] != 4:
        raise ValueError(
            f"The effects have {effects.shape[-1]} channels, so no transparency, and would cover the background; connect "
            "the effects of LayerFusion Match Layers."
        )
    if effects.shape[:3] != like.shape[:3]:
        (count, height, width), (n, h, w) = effects.shape[:3], like.shape[:3]
        raise ValueError(
            f"The effects are {count} x {width}x{height}, the layers {n} x {w}x{h}; connect the effects that LayerFusion "
            "Match Layers makes of the same layers."
        )
    return effects


def opaque_cutout(alpha: torch.Tensor, per_picture: int = 1) -> str | None:
    """What to say of foregrounds (pictures * per_picture, H, W), 1 = opaque, that are no cut-outs; None when all are."""
    found = opaque_finding(alpha, per_picture)
    return found and f"{found} If it should be a cut-out: in a MASK 1 (white) means transparent; invert one that is the other way."
