"""Several foregrounds in one run of the demo's models: is every object in its own cut-out, at its place, and in the picture?

python evaluation --host ~/comfy/ComfyUI several DIR [--two N] [--three N] [--kinds a,b] [--shard I/N]   makes pictures in DIR
python evaluation several DIR --judge          judges them with the classifier of `truth`, writes several.md and several.jpg
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..layerfusion_core.layers.compositing import alpha_over, labelled_row, on_checkerboard
from ..layerfusion_core.layers.regions import box_mask, joined
from ..layerfusion_core.method.masks import area_average
from . import classifier, models, page, prompts, truth

Box = tuple[float, float, float, float]
HALVES: tuple[Box, ...] = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0))
THIRDS: tuple[Box, ...] = tuple((k / 3, 0.0, 1 / 3, 1.0) for k in range(3))
CLOSE: tuple[Box, ...] = tuple((x, 0.0, 0.42, 1.0) for x in (0.0, 0.29, 0.58))  # thirds that overlap by a half
OVERLAP: tuple[Box, ...] = ((0.0, 0.0, 2 / 3, 1.0), (1 / 3, 0.0, 2 / 3, 1.0))
WIDTH = {"wide": 512, "three": 768, "overlap": 384, "swapped": 384, "alone": 384}  # pixels; else as wide as high
SIDES = " on the left", " on the right"
COVERED = 0.5  # alpha from which a pixel counts as the object's
AROUND, FOOT = 1.56, 0.84  # side of a picture that the classifier learnt, by the object's; where its objects stand
EMPTY = 0.02  # share of the canvas below which a cut-out holds nothing


class Scene(NamedTuple):
    """One run. kind: which question it is for; index: of its prompts and noise; boxes: a region per foreground, or none."""

    kind: str
    index: int
    foregrounds: tuple[str, ...]
    background: str
    boxes: tuple[Box, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.index:03d}"


def scenes(two: int, three: int) -> list[Scene]:
    """All runs: `two` pairs side by side, their prompts naming the side; `three` triples on a wide canvas and on the usual one;
    and for as many also pairs with regions but no side in the prompt, with sides but no regions, with neither, on a wide canvas,
    in regions that overlap in both orders, and the rear one of these alone."""
    rng = random.Random(1512)
    found = []
    for index in range(max(two, three)):
        shapes, colours = rng.sample(prompts.OBJECTS, 3), rng.sample(prompts.COLOURS, 3)
        texts = tuple(
            f"{'an' if colour == 'orange' else 'a'} {colour} {shape}" for shape, colour in zip(shapes, colours)
        )
        where = rng.choice((*prompts.PLACES, *prompts.PATTERNS))
        where = f"{rng.choice(prompts.TONES)} {where}" if where in prompts.PATTERNS else where
        pair = texts[:2]
        sided = tuple(text + side for text, side in zip(pair, SIDES))
        if index < two:
            found.append(Scene("two", index, sided, where, HALVES))
        if index < three:
            found += [
                Scene("unsaid", index, pair, where, HALVES),
                Scene("said", index, sided, where, ()),
                Scene("anywhere", index, pair, where, ()),
                Scene("wide", index, pair, where, HALVES),
                Scene("three", index, texts, where, THIRDS),
                Scene("close", index, (sided[0], texts[2], sided[1]), where, CLOSE),
                Scene("overlap", index, pair, where, OVERLAP),
                Scene("swapped", index, pair[::-1], where, OVERLAP[::-1]),
                Scene("alone", index, pair[:1], where, OVERLAP[:1]),
            ]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--two", type=int, default=50)
    parser.add_argument("--three", type=int, default=20)
    parser.add_argument("--kinds", default=",".join(LABELS), help="only these: %(default)s")
    parser.add_argument("--steps", type=int, default=models.DEMO.steps)
    parser.add_argument("--shard", default="1/1", help="I/N: only every N-th run, from the I-th")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a classifier of a few seconds, which knows little")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    every = [scene for scene in scenes(options.two, options.three) if scene.kind in options.kinds.split(",")]
    if options.judge:
        made = [scene for scene in every if (options.out / f"{scene.name}-blended.png").is_file()]
        model = truth.classifier_of(options.out, options.quick)
        judged = [judge(model, options.out, scene) for scene in made]
        (options.out / "several.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged), encoding="utf-8")
        (options.out / "several.md").write_text(tables(judged), encoding="utf-8")
        picture(options.out, [scene for scene in made if scene.kind in ("two", "overlap", "swapped", "three")])
        return 0
    shard, shards = (int(part) for part in options.shard.split("/"))
    with torch.inference_mode():
        generate(options.out, every[shard - 1 :: shards], options.steps)
    return 0


def generate(out: Path, todo: list[Scene], steps: int) -> None:
    """Make the layers of every scene that has none yet."""
    from ..layerfusion_core.host.sampling.conditioning import encode_prompt
    from ..layerfusion_core.host.sampling.foregrounds import Foreground, emptied, gathered, join_foregrounds
    from ..layerfusion_core.host.sampling.ksampler import sample_layers
    from ..layerfusion_core.method.options import LayerFusionOptions
    from ..layerfusion_core.method.streams import Layers

    demo, s = models.load("demo"), models.DEMO
    for scene in todo:
        if (out / f"{scene.name}-blended.png").is_file():
            continue
        masks = [box_mask(*box) for box in scene.boxes] or [None] * len(scene.foregrounds)
        first, *others = (
            Foreground(encode_prompt(demo.clip, text), mask) for text, mask in zip(scene.foregrounds, masks)
        )
        conditionings, regions, _ = gathered(first.conditioning, first.region, tuple(others), demo.vae)
        blended, background = (
            encode_prompt(demo.clip, text)
            for text in (joined(list(scene.foregrounds), scene.background), scene.background)
        )
        latent = torch.zeros(1, 4, s.size // 8, WIDTH.get(scene.kind, s.size) // 8)
        layers, _ = sample_layers(
            demo.base, demo.foreground, Layers(conditionings, blended, background), encode_prompt(demo.clip, ""),
            {"samples": latent, "batch_index": [scene.index]}, s.seed, steps, s.cfg, s.sampler, s.scheduler, 1.0,
            LayerFusionOptions(), regions=regions,
        )  # fmt: skip
        cutouts = join_foregrounds(layers.foregrounds)
        colour, alpha = demo.transparent.decode(
            demo.vae.decode(cutouts["samples"]).float(), cutouts["samples"], s.ensemble
        )
        for k, rgba in enumerate(torch.cat([colour, emptied(alpha, cutouts)[..., None]], dim=-1)):
            _save(out / f"{scene.name}-foreground_{k + 1}.png", rgba)
        for name, own in (("background", layers.background), ("blended", layers.blended)):
            _save(out / f"{scene.name}-{name}.png", demo.vae.decode(own["samples"]).float()[0])


def _save(path: Path, picture: Tensor) -> None:
    part = path.with_suffix(".part")
    Image.fromarray((picture.cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(part, "PNG")
    part.rename(path)


def _load(path: Path) -> Tensor:
    return torch.from_numpy(np.asarray(Image.open(path), dtype=np.float32) / 255)


def judge(model: classifier.Classifier, out: Path, scene: Scene) -> dict:
    """What a run's layers hold: one dict, lists with an entry per foreground."""
    cutouts = [_load(out / f"{scene.name}-foreground_{k + 1}.png") for k in range(len(scene.foregrounds))]
    background, blended = (_load(out / f"{scene.name}-{name}.png") for name in ("background", "blended"))
    want = [truth.named(text.split(" on the ")[0], "a desert")[:2] for text in scene.foregrounds]
    size = tuple(blended.shape[:2])
    boxes = scene.boxes or ((0.0, 0.0, 1.0, 1.0),) * len(cutouts)
    masks = [area_average(box_mask(*box), size)[0] for box in boxes]
    row: dict = {
        "kind": scene.kind,
        "index": scene.index,
        "background_clean": _classes(model, background)[0] == classifier.NONE,
    }
    columns: dict[str, list] = {name: [] for name in (
        "there", "shape", "colour", "other", "outside", "iou", "shown_shape", "shown_colour")}  # fmt: skip
    for k, (cutout, mask) in enumerate(zip(cutouts, masks)):
        alpha = cutout[..., 3]
        there = alpha.mean().item() > EMPTY
        on_grey = cutout[..., :3] * cutout[..., 3:] + 0.5 * (1 - cutout[..., 3:])
        own = _classes(model, around(on_grey, alpha)) if there else [classifier.NONE] * 2
        shown = _classes(model, around(blended, alpha)) if there else [classifier.NONE] * 2
        others = [shape for i, (shape, _) in enumerate(want) if i != k]
        for name, value in {
            "there": there,
            "shape": own[0] == want[k][0],
            "colour": own[1] == want[k][1],
            "other": own[0] in others,
            "outside": (alpha * (1 - mask)).sum().item() / max(alpha.sum().item(), 1e-6),
            "iou": (torch.minimum(alpha, mask).sum() / torch.maximum(alpha, mask).sum()).item(),
            "shown_shape": shown[0] == want[k][0],
            "shown_colour": shown[1] == want[k][1],
        }.items():
            columns[name].append(value)
    row |= columns
    if scene.kind in ("overlap", "swapped"):
        row |= order(cutouts, background, blended)
        alone = out / f"alone-{scene.index:03d}-foreground_1.png"
        if scene.kind == "overlap" and alone.is_file():
            one, other = cutouts[0][..., 3], _load(alone)[..., 3]
            row["whole"] = (torch.minimum(one, other).sum() / torch.maximum(one, other).sum().clamp_min(1e-6)).item()
    return row


def order(cutouts: list[Tensor], background: Tensor, blended: Tensor) -> dict:
    """What the blended picture shows where both of two foregrounds are: "front", "rear" or "neither", by what is nearest to it.

    seen: that, or None where the two hardly meet.
    """
    both = (cutouts[0][..., 3] > COVERED) & (cutouts[1][..., 3] > COVERED)
    found: dict = {"both": both.float().mean().item(), "seen": None}
    if found["both"] < EMPTY / 4:
        return found
    errors = {}
    for name, layers in (("front", cutouts), ("rear", cutouts[::-1]), ("neither", [])):
        stack = background
        for layer in layers:
            stack = alpha_over(layer, stack)
        errors[name] = (stack - blended)[both].square().mean().item()
    return found | {"seen": min(errors, key=lambda name: errors[name])}


def around(picture: Tensor, alpha: Tensor) -> Tensor:
    """A square of a picture (H, W, 3) around what alpha covers, the object as large and as low in it as the classifier learnt.

    Beyond the picture its border is repeated.
    """
    spans = [torch.nonzero(alpha.amax(dim=dim) > COVERED).flatten() for dim in (1, 0)]
    if not all(map(len, spans)):
        return picture
    ends = [(int(span[0]), int(span[-1]) + 1) for span in spans]
    side = round(AROUND * max(end - start for start, end in ends))
    (_, foot), (left, right) = ends
    firsts = foot - round(FOOT * side), (left + right - side) // 2
    rows, columns = (torch.arange(side).add(first).clamp(0, size - 1) for first, size in zip(firsts, alpha.shape))
    return picture[rows][:, columns]


def _classes(model: classifier.Classifier, picture: Tensor) -> list[int]:
    return classifier.classify(model, picture[None])[0].tolist()


LABELS = {
    "two": "two, halves; prompts name the side",
    "unsaid": "two, halves; prompts do not",
    "said": "no regions; prompts name the side",
    "anywhere": "no regions; prompts do not",
    "wide": "two, halves of 512 x 256",
    "three": "three, thirds of 768 x 256",
    "close": "three side by side, 256 x 256; prompts name the sides",
    "overlap": "two, regions overlap by half, 384 x 256",
    "swapped": "the same, the other in front",
    "alone": "one in such a region",
}


def tables(rows: list[dict]) -> str:
    """The judgements as a Markdown table, a row per kind, shares in per cent."""
    head = ["runs", "own object", "own colour", "another's object", "alpha outside its region", "IoU with its region",
            "background without an object", "seen in the blended picture", "all seen"]  # fmt: skip
    lines = ["| | " + " | ".join(head) + " |", "|" + "---|" * (len(head) + 1)]
    for kind, label in LABELS.items():
        own = [row for row in rows if row["kind"] == kind]
        if not own:
            continue
        each = {name: [value for row in own for value in row[name]] for name in
                ("shape", "colour", "other", "outside", "iou", "shown_shape")}  # fmt: skip
        percent = {name: f"{100 * np.mean(values):.0f} %" for name, values in each.items()}
        lines.append("| " + " | ".join((
            label, str(len(own)), percent["shape"], percent["colour"], percent["other"], f"{100 * np.mean(each['outside']):.1f} %",
            f"{np.mean(each['iou']):.2f}", f"{100 * np.mean([row['background_clean'] for row in own]):.0f} %",
            percent["shown_shape"], f"{100 * np.mean([all(row['shown_shape']) for row in own]):.0f} %",
        )) + " |")  # fmt: skip
    seen = {kind: {row["index"]: row["seen"] for row in rows if row["kind"] == kind and row["seen"]}
            for kind in ("overlap", "swapped")}  # fmt: skip
    whole = [row["whole"] for row in rows if row.get("whole") is not None]
    for kind, own in seen.items():
        if own:
            counts = Counter(own.values())
            lines.append(
                f"\n{LABELS[kind]}: where both are, the front one is seen in {counts['front']} of {len(own)} runs, "
                f"the rear one in {counts['rear']}, neither in {counts['neither']}."
            )
    pairs = [[own[index] for own in seen.values()] for index in seen["overlap"].keys() & seen["swapped"].keys()]
    if pairs:
        followed = sum(pair == ["front", "front"] for pair in pairs)
        lines.append(f"\nThe asked order is followed both ways round for {followed} of {len(pairs)} pairs.")
    if whole:
        lines.append(
            f"\nRear cut-out against the same run of it alone: alpha IoU {np.mean(whole):.2f}, least {min(whole):.2f}."
        )
    return "\n".join(lines) + "\n"


def picture(out: Path, found: list[Scene], path: Path | None = None, count: int = 2) -> None:
    """Layers of the first scenes of every kind, a row each."""
    strips = []
    for kind in ("two", "overlap", "swapped", "three"):
        for scene in [scene for scene in found if scene.kind == kind][:count]:
            tiles = []
            for k, text in enumerate(scene.foregrounds):
                tiles.append((text, on_checkerboard(Image.open(out / f"{scene.name}-foreground_{k + 1}.png"))))
            tiles.append((scene.background, Image.open(out / f"{scene.name}-background.png")))
            tiles.append(("blended", Image.open(out / f"{scene.name}-blended.png")))
            strips.append(labelled_row(tiles))
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    page.save(sheet, path or out / "several.jpg")
