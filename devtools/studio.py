"""Pictures out of runs of the miniature models, and how they are laid out for help pages and docs."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

from . import graph
from .client import Client
from .console import Problem
from .examples import parts
from .sheet import Node, Output, Sheet

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 256  # pixels the miniature models were trained at
GAP = 4
DARK, LIGHT = (32, 32, 32), (240, 240, 240)  # labels, which read on a dark page and on a light one
Tile = tuple[str, "Image"]
"""A picture under its label, which may have two lines."""


class Scene(NamedTuple):
    """A sheet with the miniature models and prompts on it, to which a run is added."""

    sheet: Sheet
    models: parts.Models
    size: Node
    text: Node

    def run(self, latent: Output | None = None, **widgets: Any) -> Node:
        """A LayerFusion KSampler; `options` may be a dict of widgets of LayerFusion Options."""
        if isinstance(widgets.get("options"), dict):
            widgets["options"] = self.sheet.add("LayerFusionOptions", **widgets["options"])["options"]
        return parts.sampler(self.sheet, self.models, self.text, latent or self.size["LATENT"],
                             **{"seed": 7, **parts.DEMO, **widgets})

    def advanced(self, latent: Output | None = None, **widgets: Any) -> Node:
        """A LayerFusion KSampler (Advanced) with a sampler that has no memory, so that parts make the whole."""
        prompts = parts.outputs(self.text, parts.PROMPTS)
        return self.sheet.add("LayerFusionKSamplerAdvanced", base_model=self.models.base, foreground_model=self.models.foreground,
                              latent_image=latent or self.size["LATENT"], **prompts,
                              **{"noise_seed": 7, **parts.DEMO, "sampler_name": "euler", **widgets})

    def stock(self, model: Output, prompt: str, **widgets: Any) -> Node:
        """A KSampler with one of the prompts."""
        return self.sheet.add("KSampler", model=model, positive=self.text[prompt], negative=self.text["negative"],
                              latent_image=self.size["LATENT"], **{"seed": 7, **parts.DEMO, **widgets})

    def decoded(self, latents: Node, **more: Any) -> Node:
        return parts.decode(self.sheet, self.models, latents, **more)

    def picture(self, latent: Output) -> Output:
        """A latent as the ordinary VAE decodes it."""
        return self.sheet.add("VAEDecode", samples=latent, vae=self.models.vae)["IMAGE"]


class Studio:
    """A server on which scenes are run."""

    def __init__(self, client: Client) -> None:
        self.client, self.info = client, client.server.json("/object_info")

    def scene(self, foreground: str, background: str, **more: Any) -> Scene:
        sheet = Sheet(self.info)
        models, _ = parts.demo_models(sheet)
        size = sheet.add("EmptyLatentImage", width=SIZE, height=SIZE)
        return Scene(sheet, models, size, parts.prompts(sheet, models, foreground, background, **more))

    def develop(self, sheet: Sheet, shown: dict[str, Output]) -> dict[str, list[Image]]:
        """Run a sheet; the pictures of outputs (IMAGE or MASK) by the given names. Problem where the run fails."""
        from PIL import Image

        keys = {}
        for name, output in shown.items():
            if output.node.info["output"][output.slot] == "MASK":
                output = sheet.add("MaskToImage", mask=output)["IMAGE"]
            keys[name] = str(sheet.add("PreviewImage", images=output).id)
        done = self.client.follow(self.client.queue(graph.to_api(sheet.graph(), self.info)))
        if done.status != "success":
            raise Problem(f"A picture's graph did not finish ({done.status}). {done.error}")
        return {name: [Image.open(io.BytesIO(self.client.fetch(file))) for file in done.images(key)]
                for name, key in keys.items()}


def tile(label: str, picture: Image, width: int, font: int) -> Image:
    """A picture, so wide, under its label; transparency as a checkerboard, masks keep their cells."""
    from PIL import Image, ImageDraw, ImageFont

    from layerfusion_core.layers import compositing

    height = round(picture.height * width / picture.width)
    large = picture.resize((width, height), Image.Resampling.NEAREST if picture.width < width else Image.Resampling.LANCZOS)
    large = compositing.on_checkerboard(large, max(4, width // 8)) if "A" in large.getbands() else large.convert("RGB")
    lines = label.split("\n") if label else []
    head = len(lines) * (font + 4) + (4 if lines else 0)
    whole = Image.new("RGB", (width, head + height), DARK)
    whole.paste(large, (0, head))
    if lines:
        draw, letters = ImageDraw.Draw(whole), ImageFont.load_default(font)
        if max(draw.textlength(line, letters) for line in lines) > width:
            raise Problem(f"The label {label!r} is wider than its picture of {width} pixels.")
        draw.multiline_text((width // 2, head // 2), label, LIGHT, letters, "mm", spacing=4, align="center")
    return whole


def rows(tiles: list[list[Tile]], width: int, font: int) -> Image:
    """Rows of tiles that share a width, as high as their pictures ask for; what is between them is transparent."""
    from PIL import Image

    made = []
    for row in tiles:
        side = (width - GAP * (len(row) - 1)) // len(row)
        made.append([tile(label, picture, side, font) for label, picture in row])
    height = sum(max(one.height for one in row) + GAP for row in made) - GAP
    whole, y = Image.new("RGBA", (width, height)), 0
    for row in made:
        for index, one in enumerate(row):
            whole.paste(one, (index * (one.width + GAP), y))
        y += max(one.height for one in row) + GAP
    return whole
