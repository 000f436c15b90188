"""Live previews while sampling: the streams of the first sample side by side."""

from __future__ import annotations

import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher

from ...method.streams import Layers, StreamLayout


def strip_callback(model: ModelPatcher, steps: int, layout: StreamLayout):
    """Return a sampler callback that moves the progress bar and shows foreground | blended | background as one strip.

    Honours the host's preview method; the strip is shown as wide as its pictures are many, so that each stays readable.
    """
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    bar = comfy.utils.ProgressBar(steps)
    foregrounds, blended, background = Layers.of(range(layout.count))
    order = [*foregrounds, background, blended]

    def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
        preview = None
        if previewer is not None:
            strip = torch.cat([x0[i : i + 1] for i in order], dim=-1)
            kind, image, size = previewer.decode_latent_to_preview_image("JPEG", strip)
            preview = (kind, image, size * len(order) if size else size)
        bar.update_absolute(step + 1, total_steps, preview)

    return callback
