"""Layered and lossless formats beside PNG: Photoshop PSD (8 and 16 bit), OpenRaster, lossless WebP.

All take straight alpha. Layers from the bottom: Background, Light and shadow where there are effects, Foreground (several:
Foreground 1, the rearmost, and so on), Blended (hidden); the merged preview is the visible ones laid over each other in
sRGB values, as these programs do it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from typing import BinaryIO, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

from .export import LayerSet, Writer, png_set, png_writer, quantised, srgb_profile

XMP_METADATA, ICC_PROFILE = 1060, 1039
EXIF_MAKE, EXIF_MODEL = 0x010F, 0x0110
PSD_SIDE, WEBP_SIDE = 30000, 16383
"""Pixels that a side of these formats has at most."""
NO_PSD_TOOLS = (
    "Saving PSD needs the package psd-tools 1.26 or later in ComfyUI's Python: pip install -U psd-tools. "
    "PNG, OpenRaster and WebP work without it."
)


class Layer(NamedTuple):
    """One layer of a document: its name in editors, its name in files, (H, W, 3 | 4), whether it is visible."""

    name: str
    ending: str
    picture: np.ndarray
    visible: bool


def merged(layers: LayerSet) -> np.ndarray:
    """What a viewer shows of the layers: the visible ones over each other, (H, W, 3) sRGB in [0, 1]."""
    below = layers.background
    for layer in named_layers(layers)[1:]:
        if layer.visible:
            color, alpha = layer.picture[..., :3], layer.picture[..., 3:4]
            below = color * alpha + below * (1.0 - alpha)
    return below


def named_layers(layers: LayerSet) -> list[Layer]:
    """The layers from the bottom."""
    pictures = layers.pictures
    return [Layer(title, ending, pictures[ending], ending != "blended") for title, ending in layer_order(pictures)]


def layer_order(endings: Iterable[str]) -> list[tuple[str, str]]:
    """(name in editors, ending of its files) of each of a run's layers, from the bottom."""
    foregrounds = [(ending.replace("_", " ").capitalize(), ending) for ending in endings if ending.startswith("foreground")]
    effects = [("Light and shadow", "effects")] if "effects" in endings else []
    return [("Background", "background"), *effects, *foregrounds, ("Blended", "blended")]


def psd_set(layers: LayerSet, texts: Mapping[str, str], depth: int = 8) -> dict[str, Writer]:
    """The writer of one PSD file with `depth` bits per channel; it raises ValueError when psd-tools is missing."""

    def write(file: BinaryIO) -> None:
        if not has_psd_tools():
            raise ValueError(NO_PSD_TOOLS)
        from psd_tools import PSDImage
        from psd_tools.constants import Compression
        from psd_tools.psd.image_resources import ImageResource

        _check_side("PSD", layers.size, PSD_SIDE)
        document = PSDImage.new("RGB", layers.size, depth=8 if depth == 8 else 16)
        # RLE of 16-bit values is allowed, but Photoshop never writes it and libraries (ag-psd) read it wrongly.
        packing = Compression.RLE if depth == 8 else Compression.ZIP_WITH_PREDICTION
        for name, _, picture, visible in named_layers(layers):
            layer = document.create_pixel_layer_from_array(quantised(picture, depth), name=name, compression=packing)
            layer.visible = visible
        resources = document.image_resources
        resources[ICC_PROFILE] = ImageResource(key=ICC_PROFILE, data=srgb_profile())
        if texts:
            resources[XMP_METADATA] = ImageResource(key=XMP_METADATA, data=_xmp(texts))
        document.save(file)

    return {"layers.psd": write}


def has_psd_tools() -> bool:
    """Whether psd-tools is there, in a release that writes alpha as alpha (older ones made a layer mask of it)."""
    try:
        from psd_tools import PSDImage
    except ImportError:
        return False
    return hasattr(PSDImage, "create_pixel_layer_from_array")


def ora_set(layers: LayerSet, texts: Mapping[str, str]) -> dict[str, Writer]:
    """The writer of one OpenRaster file (Krita, GIMP, MyPaint)."""

    def write(file: BinaryIO) -> None:
        width, height = layers.size
        parts = named_layers(layers)
        entries = "".join(
            f'    <layer name={quoteattr(name)} src="data/{ending}.png" x="0" y="0" opacity="1.0" '
            f'visibility="{"visible" if visible else "hidden"}" composite-op="svg:src-over"/>\n'
            for name, ending, _, visible in reversed(parts)  # the topmost layer comes first
        )
        stack = (
            f'<?xml version=\'1.0\' encoding=\'UTF-8\'?>\n<image version="0.0.3" w="{width}" h="{height}">\n'
            f"  <stack>\n{entries}  </stack>\n</image>\n"
        )
        preview = merged(layers)
        thumbnail, small = Image.fromarray(quantised(preview)), io.BytesIO()
        thumbnail.thumbnail((256, 256))  # the largest that OpenRaster allows
        thumbnail.save(small, format="PNG", icc_profile=srgb_profile())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG does not get smaller
            archive.writestr("mimetype", "image/openraster")  # first and stored, so that programs recognise the file
            archive.writestr("stack.xml", stack)
            for _, ending, picture, _ in parts:
                archive.writestr(f"data/{ending}.png", _bytes(png_writer(picture, {})))
            archive.writestr("mergedimage.png", _bytes(png_writer(preview, texts)))
            archive.writestr("Thumbnails/thumbnail.png", small.getvalue())

    return {"layers.ora": write}


def webp_set(layers: LayerSet, texts: Mapping[str, str]) -> dict[str, Writer]:
    """The writers of a lossless WebP file per layer, with the host's metadata convention (EXIF Model and Make)."""

    def writer(picture: np.ndarray) -> Writer:
        def write(file: BinaryIO) -> None:
            _check_side("WebP", layers.size, WEBP_SIDE)
            image = Image.fromarray(quantised(picture))
            exif = image.getexif()
            tag = EXIF_MAKE
            for key, text in texts.items():
                if key == "prompt":
                    exif[EXIF_MODEL] = f"prompt:{text}"
                else:
                    exif[tag] = f"{key}:{text}"
                    tag -= 1
            # exact keeps the colour under alpha 0, which editors need for soft edges
            image.save(file, format="WEBP", lossless=True, exact=True, exif=exif, icc_profile=srgb_profile())

        return write

    return {f"{layer.ending}.webp": writer(layer.picture) for layer in named_layers(layers)}


DEPTHS = (8, 16)
"""Bits per channel of PNG and PSD files."""


def writers(
    layers: LayerSet, texts: Mapping[str, str], *, psd: bool = False, ora: bool = False, webp: bool = False, depth: int = 8
) -> dict[str, Writer]:
    """All files of one sample: PNG always, because the page shows it. `depth` is that of PNG and PSD, the others have 8."""
    made = [png_set(layers, texts, depth)]
    if psd:
        made.append(psd_set(layers, texts, depth))
    if ora:
        made.append(ora_set(layers, texts))
    if webp:
        made.append(webp_set(layers, texts))
    return {ending: write for files in made for ending, write in files.items()}


def _check_side(name: str, size: tuple[int, int], most: int) -> None:
    if max(size) > most:
        raise ValueError(f"{name} holds at most {most} x {most} pixels, these pictures have {size[0]} x {size[1]}")


def _bytes(write: Writer) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _xmp(texts: Mapping[str, str]) -> bytes:
    """The texts as an XMP packet in a namespace of their own."""
    fields = "".join(f"<comfy:{key}>{escape(text)}</comfy:{key}>" for key, text in texts.items() if key.isidentifier())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:comfy="urn:comfyui:metadata">{fields}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()
