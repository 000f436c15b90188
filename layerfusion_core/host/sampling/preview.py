"""Live previews while sampling: the streams of every sample side by side."""

from __future__ import annotations

import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image, ImageDraw, ImageFont

from ...layers.guessed_alpha import on_guessed_board
from ...method.streams import Layers, StreamLayout

NARROWEST = 128


def strip_callback(model: ModelPatcher, steps: int, layout: StreamLayout):
    """Return a sampler callback that moves the progress bar and shows foregrounds | background | blended, a row per sample.

    Honours the host's preview method; the sheet is shown as wide as its pictures are many, so that each stays readable. All
    that is done with the pictures is done with the one that the host's previewer has brought to the CPU.
    """
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    bar = comfy.utils.ProgressBar(steps)
    foregrounds, blended, background = Layers.of(range(layout.count))
    order = [*foregrounds, background, blended]
    names = [layout.names[i] for i in order]

    def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
        preview = None
        if previewer is not None:
            rows = layout.grouped(x0)[:, order]  # (N, S, C, h, w)
            sheet = torch.cat([torch.cat([*row], dim=-1) for row in rows], dim=-2).unsqueeze(0)
            kind, image, size = previewer.decode_latent_to_preview_image("JPEG", sheet)
            side = size * max(len(order), len(rows)) if size else size
            preview = kind, spaced(image, len(rows), names, len(foregrounds), size or NARROWEST), side
        bar.update_absolute(step + 1, total_steps, preview)

    return callback


def spaced(sheet: Image.Image, rows: int, names: list[str], cutouts: int, widest: int) -> Image.Image:
    """The pictures of a sheet without gaps, `rows` x len(names), set apart under a line with the names of the columns.

    The first `cutouts` columns are on a checkerboard where they show their canvas. A picture comes out NARROWEST to `widest`
    pixels wide: a preview of one pixel per latent cell is too small to write on.
    """
    columns = len(names)
    scale = min(max(1.0, NARROWEST * columns / sheet.width), max(widest, NARROWEST) * columns / sheet.width)
    width, height = round(sheet.width * scale / columns), round(sheet.height * scale / rows)
    sheet = sheet.resize((width * columns, height * rows), Image.Resampling.BILINEAR)
    gap, line = width // 24, width // 8
    canvas = Image.new("RGB", ((width + gap) * columns - gap, line + (height + gap) * rows - gap), "#202020")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=line * 0.75)
    for column, name in enumerate(names):
        left = column * (width + gap)
        draw.text((left + width / 2, line / 2), name, fill="#b0b0b0", font=font, anchor="mm")
        for row in range(rows):
            part = sheet.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))
            part = on_guessed_board(part) if column < cutouts else part
            canvas.paste(part, (left, line + row * (height + gap)))
    return canvas
