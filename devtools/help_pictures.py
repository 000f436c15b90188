"""The pictures of the help pages, web/docs/*.webp: each from runs of the miniature models, small as the panel is narrow."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import demo
from .client import Client
from .console import Problem
from .examples import parts
from .sheet import Node
from .studio import DARK, LIGHT, Scene, Studio, Tile, rows

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "web/docs"
WIDTH, FONT = 336, 17  # pixels; a panel shows 190 to 280 of them
LARGEST = 10_000  # bytes of a file; they are published
LANTERN, APPLE = ("a yellow lantern", "a night street"), ("a red apple", "a wooden table")
BLUE, VIOLET, GREEN, LINE = "#2f6186", "#5d4a86", "#33634a", "#b29dff"  # boxes of a drawing, and what connects them
HALF_WAY = 8  # of 20 steps
FILES = ("demo_fg2ble.safetensors", "demo_fgble2bg.safetensors")


def lend_files(base: Path, checkout: Path) -> None:
    """Put the demonstration files of Condition on Layers where a server looks for them."""
    for name in FILES:
        shutil.copy(checkout / "demo" / "layer_model" / name, base / "models" / "layer_model" / name)


def make(name: str, client: Client) -> dict[str, Image]:
    """A picture of `MAKERS`, by its file."""
    return {f"{FOLDER}/{name}.webp": rows(MAKERS[name](Studio(client)), WIDTH, FONT)}


def save(picture: Image, file: Path) -> None:
    """Write a WebP file of at most `LARGEST` bytes, as good as that allows; Problem where it is too large at any quality."""
    for quality in (80, 75, 70, 65, 60, 55, 50, 40, 30):
        data = io.BytesIO()
        picture.save(data, format="WEBP", quality=quality, method=6)
        if data.tell() <= LARGEST:
            file.write_bytes(data.getvalue())
            return
    raise Problem(f"{file.name} takes {data.tell()} bytes, more than {LARGEST}; show fewer pictures in it.")


def _layers(scene: Scene, run: Node) -> dict[str, Any]:
    pictures = scene.decoded(run)
    return {name: pictures[name] for name in demo.STREAMS}


def _one(found: dict[str, list[Image]]) -> dict[str, Image]:
    return {name: pictures[0] for name, pictures in found.items()}


def layers(studio: Studio) -> list[list[Tile]]:
    """What a run gives."""
    scene = studio.scene(*LANTERN)
    run = scene.run()
    maps = scene.sheet.add("LayerFusionPreviewPriors", priors=run["priors"], step=5)["image"]
    found = _one(studio.develop(scene.sheet, {**_layers(scene, run), "maps": maps}))
    found["soft mask"] = demo.split_strip(found.pop("maps"))["soft mask"]
    names = ("foreground", "background", "blended", "soft mask")
    return [[(name, found[name]) for name in names[:2]], [(name, found[name]) for name in names[2:]]]


def prompts(studio: Studio) -> list[list[Tile]]:
    """A prompt and what it makes."""
    scene = studio.scene(*LANTERN)
    found = _one(studio.develop(scene.sheet, _layers(scene, scene.run())))
    words = {"foreground": "a yellow\nlantern", "background": "a night\nstreet", "blended": "the two,\njoined"}
    return [[(words[name], found[name]) for name in demo.STREAMS]]


def decode(studio: Studio) -> list[list[Tile]]:
    """The object on grey, and the two pictures that are made of it."""
    scene = studio.scene("a blue glass bottle", "a wooden table")
    run = scene.run()
    pictures = scene.decoded(run)
    found = _one(studio.develop(scene.sheet, {
        "latent": scene.picture(run["foreground"]), "foreground": pictures["foreground"], "alpha": pictures["alpha"]}))
    return [[("from the\nsampler", found["latent"]), ("foreground,\ncut out", found["foreground"]),
             ("alpha,\na mask", found["alpha"])]]


def weights(studio: Studio) -> list[list[Tile]]:
    """One prompt, drawn by the model without and with foreground weights."""
    scene = studio.scene(*APPLE)
    found = _one(studio.develop(scene.sheet, {name: scene.picture(scene.stock(model, "foreground")["LATENT"]) for name, model in (
        ("base_model", scene.models.base), ("foreground_model", scene.models.foreground))}))
    return [[("model", found["base_model"]), ("with the weights", found["foreground_model"])]]


def known(studio: Studio) -> list[list[Tile]]:
    """A few of the things that the miniature models know."""
    row = []
    for foreground, background in (("red mushroom", "meadow"), ("blue car", "desert"), ("glass mug", "brick wall")):
        scene = studio.scene(f"a {foreground}".replace("glass", "green glass"), f"a {background}")
        found = _one(studio.develop(scene.sheet, {"blended": scene.decoded(scene.run())["blended"]}))
        row.append((f"{foreground.split()[-1]},\n{background}", found["blended"]))
    return [row]


def encode(studio: Studio) -> list[list[Tile]]:
    """A cut-out, and the picture that is encoded."""
    scene = studio.scene(*APPLE)
    cut_out = scene.decoded(scene.run())["foreground"]
    latent = scene.sheet.add("LayerFusionEncode", image=cut_out, vae=scene.models.vae)["foreground"]
    found = _one(studio.develop(scene.sheet, {"image": cut_out, "encoded": scene.picture(latent)}))
    return [[("your cut-out", found["image"]), ("as it is encoded", found["encoded"])]]


def place(studio: Studio) -> list[list[Tile]]:
    """A cut-out where it was and where it goes."""
    scene = studio.scene(*APPLE)
    cut_out = scene.decoded(scene.run())["foreground"]
    placed = scene.sheet.add("LayerFusionPlaceForeground", image=cut_out, x=48, y=40, scale=0.6)["image"]
    found = _one(studio.develop(scene.sheet, {"before": cut_out, "after": placed}))
    return [[("image", found["before"]), ("x 48, y 40, scale .6", found["after"])]]


def given(studio: Studio) -> list[list[Tile]]:
    """A cut-out that is kept and the scene around it; a scene that is kept and the object in it."""
    scene = studio.scene("a red apple", "a meadow")
    cut_out = scene.stock(scene.models.foreground, "foreground", seed=42)
    same = dict.fromkeys(demo.STREAMS, cut_out["LATENT"])
    alone = scene.decoded(cut_out, **same)
    kept = scene.sheet.add("LayerFusionGivenLayers", foreground=cut_out["LATENT"], blended=cut_out["LATENT"],
                           mask_blended=alone["alpha"], keep_blended=0.4)
    around = _one(studio.develop(scene.sheet, {
        "given": alone["foreground"], "blended": scene.decoded(scene.run(kept["latent"]))["blended"]}))
    scene = studio.scene("a red heart", "a wooden table")
    empty = scene.stock(scene.models.base, "background", seed=42)
    kept = scene.sheet.add("LayerFusionGivenLayers", background=empty["LATENT"], blended=empty["LATENT"], keep_blended=0.15)
    into = _one(studio.develop(scene.sheet, {
        "given": scene.picture(empty["LATENT"]), "blended": scene.decoded(scene.run(kept["latent"]))["blended"]}))
    return [[("given: foreground", around["given"]), ("blended", around["blended"])],
            [("given: background", into["given"]), ("blended", into["blended"])]]


def composite(studio: Studio) -> list[list[Tile]]:
    """Foreground over background, the blended picture, and where they differ."""
    scene = studio.scene(*APPLE)
    pictures = _layers(scene, scene.run())
    node = scene.sheet.add("LayerFusionComposite", **pictures)
    found = _one(studio.develop(scene.sheet, {"image": node["image"], "blended": pictures["blended"],
                                              "difference": node["difference"]}))
    return [list(found.items())]


def match(studio: Studio) -> list[list[Tile]]:
    """Layers as they are and matched."""
    scene = studio.scene(*APPLE)
    pictures = _layers(scene, scene.run())
    matched = scene.sheet.add("LayerFusionMatchLayers", **pictures)
    pasted = scene.sheet.add("LayerFusionComposite", foreground=pictures["foreground"], background=pictures["background"])
    found = _one(studio.develop(scene.sheet, {"pasted": pasted["image"], "blended": pictures["blended"],
                                              "effects": matched["effects"], "image": matched["image"]}))
    return [[("not matched", found["pasted"]), ("blended", found["blended"])],
            [("effects", found["effects"]), ("image: matched", found["image"])]]


def maps(studio: Studio) -> list[list[Tile]]:
    """The maps that a run blended with."""
    scene = studio.scene(*APPLE)
    strip = scene.sheet.add("LayerFusionPreviewPriors", priors=scene.run()["priors"], step=5)["image"]
    found = [*demo.split_strip(_one(studio.develop(scene.sheet, {"maps": strip}))["maps"]).items()]
    return [found[:2], found[2:]]


def extract(studio: Studio) -> list[list[Tile]]:
    """The same of a finished latent."""
    scene = studio.scene(*APPLE)
    latent = scene.stock(scene.models.foreground, "foreground")["LATENT"]
    node = scene.sheet.add("LayerFusionExtractPriors", foreground_model=scene.models.foreground,
                           foreground=scene.text["foreground"], latent_image=latent)
    found = [*_one(studio.develop(scene.sheet, {name: node[name] for name in ("structure", "content", "soft", "hard")})).items()]
    return [found[:2], found[2:]]


def several(studio: Studio) -> list[list[Tile]]:
    """Two foregrounds, each in its half."""
    scene = studio.scene("", "a desert")
    text = scene.sheet.add("LayerFusionTextEncodeSeveral", clip=scene.models.clip, background="a desert",
                           foregrounds="a green leaf on the left | left\na yellow house on the right | right")
    run = scene._replace(text=text).run(seed=42, foregrounds=text["foregrounds"], region=text["region"], vae=scene.models.vae)
    found = studio.develop(scene.sheet, _layers(scene, run))
    first, second = found["foreground"]
    return [[("a green leaf | left", first), ("a yellow house | right", second)],
            [("background", found["background"][0]), ("blended", found["blended"][0])]]


def halves(studio: Studio) -> list[list[Tile]]:
    """A run in two parts: what leaves the first, and the second."""
    scene = studio.scene(*LANTERN)
    first = scene.advanced(end_at_step=HALF_WAY, return_with_leftover_noise="enable")
    second = scene.advanced(first["latent"], start_at_step=HALF_WAY, add_noise="disable")
    found = _one(studio.develop(scene.sheet, {
        "first": scene.picture(first["blended"]), "second": scene.picture(second["blended"])}))
    return [[(f"steps 0 to {HALF_WAY}", found["first"]), (f"steps {HALF_WAY} to 20", found["second"])]]


def stacked(studio: Studio) -> list[list[Tile]]:
    """The three rows that a guider makes of a picture."""
    scene = studio.scene(*LANTERN)
    sheet, (base, foreground, *_) = scene.sheet, scene.models
    guider = sheet.add("LayerFusionGuider", base_model=base, foreground_model=foreground, cfg=4.5,
                       **parts.outputs(scene.text, parts.PROMPTS))
    latent = sheet.add("LayerFusionStackLatents", latent=scene.size["LATENT"])["latent"]
    run = sheet.add("SamplerCustomAdvanced", noise=sheet.add("RandomNoise", noise_seed=7)["NOISE"], guider=guider["guider"],
                    sampler=sheet.add("KSamplerSelect", sampler_name="dpmpp_2m")["SAMPLER"], latent_image=latent,
                    sigmas=sheet.add("BasicScheduler", model=base, scheduler="karras", steps=20)["SIGMAS"])
    found = studio.develop(sheet, {"rows": scene.picture(run["output"])})["rows"]
    return [[(f"row {index + 1},\n{name}", picture) for index, (name, picture) in enumerate(
        zip(("foreground", "blended", "background"), found, strict=True))]]


def options(studio: Studio) -> list[list[Tile]]:
    """Background and blended picture without blending, with the paper's and with the default mode."""
    columns = {"strength 0": {"strength": 0.0}, "adapt": {"background_mode": "adapt"}, "share": {}}
    upper, lower = [], []
    for label, chosen in columns.items():
        scene = studio.scene(*APPLE)
        found = _one(studio.develop(scene.sheet, _layers(scene, scene.run(options=chosen))))
        upper.append((label, found["background"]))
        lower.append(("", found["blended"]))
    return [upper, lower]


def on_layers(studio: Studio) -> list[list[Tile]]:
    """One layer after another."""
    scene = studio.scene(*APPLE)
    sheet, model = scene.sheet, scene.models.base
    first = scene.stock(scene.models.foreground, "foreground")["LATENT"]
    blend = sheet.add("LayerFusionConditionOnLayers", model=model, weights=FILES[0], foreground=first)
    blended = scene.stock(blend["model"], "blended")["LATENT"]
    behind = sheet.add("LayerFusionConditionOnLayers", model=model, weights=FILES[1], foreground=first, blended=blended)
    background = scene.stock(behind["model"], "background")["LATENT"]
    found = _one(studio.develop(sheet, {"first": scene.picture(first), "second": scene.picture(blended),
                                        "third": scene.picture(background)}))
    return [[("1\nforeground", found["first"]), ("2  fg2ble\nblended", found["second"]),
             ("3  fgble2bg\nbackground", found["third"])]]


def limit(studio: Studio) -> list[list[Tile]]:
    """How the node is wired: drawn, as there is no IPAdapter for the miniature models."""
    from PIL import Image, ImageDraw, ImageFont

    whole = Image.new("RGB", (WIDTH, 132), DARK)
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(FONT - 2)
    for way in (((80, 98), (202, 98)), ((80, 98), (98, 98), (98, 40), (112, 40)), ((190, 40), (196, 40), (196, 70), (202, 70))):
        draw.line(way, LINE, 3, "curve")
    for box, color in (((4, 76, 80, 120), BLUE), ((110, 18, 190, 62), VIOLET), ((202, 12, WIDTH - 4, 120), GREEN)):
        draw.rounded_rectangle(box, 6, color)
    for place, text, anchor in (((42, 98), "MODEL", "mm"), ((150, 40), "IPAdapter", "mm"), ((267, 34), "Limit Patches", "mm"),
                                ((210, 70), "patched_model", "lm"), ((210, 98), "model", "lm")):
        draw.text(place, text, LIGHT, font, anchor)
    return [[("", whole)]]


MAKERS: dict[str, Callable[[Studio], list[list[Tile]]]] = {function.__name__: function for function in (
    layers, prompts, decode, weights, known, encode, place, given, composite, match, maps, extract, several, halves, stacked,
    options, on_layers, limit)}
