"""Graphs with layers of one's own; a first sampler stands in for the user's pictures, so that they run as they are."""

from __future__ import annotations

from ..sheet import BLUE, RED, VIOLET, Node, Sheet
from . import parts

KEPT = {**parts.DEMO, "seed": 7}

FOREGROUND_NOTE = """**Nothing to download: press Run.**

Group 3 makes a cut-out, in place of yours. **Given Layers** keeps it, bit for bit (keep_foreground 1); a scene is
painted around it. The same latent starts the object in the blended picture (keep_blended 0.4).

**Yours**: Load Image → **Place Foreground** → **LayerFusion Encode** → *foreground* and *blended* of Given Layers; the
mask of Place Foreground → *mask_blended*, its image → *given_foreground* of the last Decode."""

BACKGROUND_NOTE = """**Nothing to download: press Run.**

Group 3 makes a scene, in place of yours. **Given Layers** keeps it as the background, bit for bit (keep_background 1).
It also starts the blended picture (keep_blended 0.15), so that both show one scene; more hides the object.

**Yours**: Load Image → **VAE Encode** → *background* and *blended* of Given Layers; the picture itself →
*given_background* of Decode."""

HARMONISE_NOTE = """**Nothing to download: press Run.**

Group 3 makes layers, in place of yours. The object is moved and pasted over the background; the second run keeps both
and makes the blended picture anew from half way (keep_blended 0.5).

Own pictures: a **Load Image** for the cut-out → *Place Foreground*; one for the scene → *Composite Layers*, and through
**VAE Encode** → *background* of Given Layers."""


def given_foreground(sheet: Sheet) -> None:
    """A scene around a cut-out that is kept."""
    models, loaders, size, text, note = _start(sheet, "a red apple", "a meadow", FOREGROUND_NOTE)
    cut_out = sheet.add("KSampler", title="KSampler: the cut-out", model=models.foreground, positive=text["foreground"],
                        negative=text["negative"], latent_image=size["LATENT"], seed=42, **parts.DEMO)
    same = dict.fromkeys(parts.LAYERS, cut_out["LATENT"])
    alpha = parts.decode(sheet, models, cut_out, title="LayerFusion Decode: its alpha", **same)
    given = sheet.add("LayerFusionGivenLayers", foreground=cut_out["LATENT"], blended=cut_out["LATENT"],
                      mask_blended=alpha["alpha"], keep_blended=0.4)
    _rest(sheet, models, (loaders, size, text, note), ("3  A cut-out", [cut_out, alpha]), given,
          "layerfusion/given_foreground", relight=False)


def given_background(sheet: Sheet) -> None:
    """An object in a scene that is kept."""
    models, loaders, size, text, note = _start(sheet, "a red heart", "a wooden table", BACKGROUND_NOTE)
    scene = sheet.add("KSampler", title="KSampler: the scene", model=models.base, positive=text["background"],
                      negative=text["negative"], latent_image=size["LATENT"], seed=42, **parts.DEMO)
    picture = sheet.add("VAEDecode", samples=scene["LATENT"], vae=models.vae)
    shown = sheet.add("PreviewImage", title="Given: the scene", images=picture["IMAGE"])
    given = sheet.add("LayerFusionGivenLayers", background=scene["LATENT"], blended=scene["LATENT"], keep_blended=0.15)
    _rest(sheet, models, (loaders, size, text, note), ("3  A scene", [scene, picture, shown]), given,
          "layerfusion/given_background")


def harmonise(sheet: Sheet) -> None:
    """An object moved in its scene, and light and shadow made anew."""
    models, loaders, size, text, note = _start(sheet, "a red apple", "a wooden table", HARMONISE_NOTE)
    first = parts.sampler(sheet, models, text, size["LATENT"], title="LayerFusion KSampler: the layers", seed=42, **parts.DEMO)
    layers = parts.decode(sheet, models, first)
    placed = sheet.add("LayerFusionPlaceForeground", image=layers["foreground"], x=16, y=8, scale=0.9)
    encoded = sheet.add("LayerFusionEncode", title="LayerFusion Encode", image=placed["image"], vae=models.vae,
                        transparent_vae=models.transparent_vae)
    pasted = sheet.add("LayerFusionComposite", foreground=placed["image"], background=layers["background"])
    start = sheet.add("VAEEncode", pixels=pasted["image"], vae=models.vae)
    shown = sheet.add("PreviewImage", title="Pasted, not harmonised", images=pasted["image"], high=245)
    given = sheet.add("LayerFusionGivenLayers", foreground=encoded["foreground"], background=first["background"],
                      blended=start["LATENT"], keep_blended=0.5)
    run = parts.sampler(sheet, models, text, given["latent"], title="LayerFusion KSampler: harmonise", **{**KEPT, "seed": 43})
    pictures = parts.decode(sheet, models, run)
    matched = parts.match(sheet, pictures, foreground=placed["image"])
    saved = parts.save(sheet, pictures, matched, "layerfusion/harmonise", run["priors"])
    area = parts.start(sheet, loaders, size, text)
    sheet.place(area.below, [note], width=area.width)
    area = sheet.place(area.right, [first, layers], width=parts.NARROW, title="3  Layers to begin with", color=VIOLET)
    elsewhere = [placed, encoded, pasted, start, shown]
    area = sheet.place(area.right, elsewhere, width=parts.NARROW, title="4  The object elsewhere", color=BLUE)
    area = sheet.place(area.right, [given, run], width=parts.NARROW, title="5  Harmonised in one run", color=RED)
    parts.narrow_result(sheet, area.right, "6  Three layers", pictures, matched, saved)


def _start(sheet: Sheet, foreground: str, background: str, note: str) -> tuple[parts.Models, list[Node], Node, Node, Node]:
    models, loaders = parts.demo_models(sheet)
    size = sheet.add("EmptyLatentImage", width=256, height=256)
    text = parts.prompts(sheet, models, foreground, background)
    return models, loaders, size, text, sheet.note(note, high=225)


def _rest(sheet: Sheet, models: parts.Models, begun: tuple[list[Node], Node, Node, Node], makes: tuple[str, list[Node]],
          given: Node, prefix: str, **matching: bool) -> None:
    """From the given layers to the viewer, and where all of it lies."""
    loaders, size, text, note = begun
    note.high = 190
    run = parts.sampler(sheet, models, text, given["latent"], **KEPT)
    pictures = parts.decode(sheet, models, run)
    matched = parts.match(sheet, pictures, **matching)
    saved = parts.save(sheet, pictures, matched, prefix, run["priors"])
    area = parts.start(sheet, loaders, size, text, 390)
    sheet.place(area.below, [note], width=area.width)
    title, nodes = makes
    area = sheet.place(area.right, nodes, width=parts.NARROW, title=title, color=VIOLET)
    area = sheet.place(area.right, [given, run], width=parts.NARROW, title="4  Kept in one run", color=RED)
    parts.result(sheet, area.right, "5  Three layers", pictures, matched, saved)
