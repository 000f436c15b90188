"""Do the demo's layers show what their prompts name, in the light of the scene? Judged by what the generator draws.

    python evaluation truth DIR [--quick]     adds truth.jsonl, accuracy.md, light.md and the classifier to the results in DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from . import classifier, light, plan, prompts, results
from .drawings import scenes_module

FIELDS = (
    "fg_shape", "fg_colour", "bg_pattern", "bg_tone", "bg_object", "bl_shape", "bl_colour", "bl_pattern", "bl_tone"
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true", help="a classifier of a few seconds, which knows little")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out, rows = options.out, results.latest(options.out)
    model = classifier_of(out, options.quick)
    judged = judge(model, out, rows)
    lit = lights(out, rows)
    for row in judged:
        row["shadow_found"] = lit[row["method"]][row["index"]].found if row["method"] in lit else None
    (out / results.TRUTH).unlink(missing_ok=True)
    results.append(out, judged, results.TRUTH)
    scores = classifier.accuracy(model)
    text = ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in scores.items())
    (out / "accuracy.md").write_text(f"The classifier on drawn scenes it has not seen: {text}\n", encoding="utf-8")
    (out / "light.md").write_text(light.table_of({method: list(found.values()) for method, found in lit.items()}), encoding="utf-8")
    return 0


def named(foreground: str, background: str) -> list[int]:
    """Classes that a demo prompt pair names, in the order of the classifier's heads."""
    scenes, words, place = scenes_module(), foreground.split(), background
    tone = 0
    if background not in prompts.PLACES:
        first, place = background.split()
        tone = 1 + tuple(scenes.TONES).index(first)
    backdrop = (*prompts.PLACES, *prompts.PATTERNS).index(place)
    colour = next(i for i, name in enumerate(scenes.COLOURS) if name in words)
    return [1 + tuple(scenes.OBJECTS).index(words[-1]), 1 + colour, 1 + backdrop, tone]


def lights(out: Path, rows: list[dict]) -> dict[str, dict[int, light.Light]]:
    """Light and shadow by method and pair, of the methods that the page asks for."""
    found: dict[str, dict[int, light.Light]] = {}
    for row in rows:
        if row["method"] in plan.LIT:
            one = light.judge(out, row, named(row["foreground"], row["background"]))
            found.setdefault(row["method"], {})[row["index"]] = one
    return found


def judge(model: classifier.Classifier, out: Path, rows: list[dict]) -> list[dict]:
    """One dict per row with 1.0 / 0.0 for every field: right answers, and whether an object was found in BG."""
    found: dict[str, list] = {}
    for stream in results.STREAMS:
        pictures = []
        for row in rows:
            picture = torch.from_numpy(results.load_picture(out, row["method"], row["index"], stream))
            if stream == "foreground":  # on grey, as it was trained
                picture = picture[..., :3] * picture[..., 3:] + 0.5 * (1 - picture[..., 3:])
            pictures.append(picture)
        found[stream] = classifier.classify(model, torch.stack(pictures)).tolist()
    judged = []
    for i, row in enumerate(rows):
        want = named(row["foreground"], row["background"])
        fg, bg, bl = (found[stream][i] for stream in ("foreground", "background", "blended"))
        answers = [fg[0] == want[0], fg[1] == want[1], bg[2] == want[2], bg[3] == want[3], bg[0] != 0,
                   *(a == b for a, b in zip(bl, want))]  # fmt: skip
        judged.append({name: row[name] for name in ("key", "method", "index")}
                      | {name: float(answer) for name, answer in zip(FIELDS, answers)})  # fmt: skip
    return judged


def classifier_of(out: Path, quick: bool) -> classifier.Classifier:
    """The classifier kept in `out`, or one trained now and kept."""
    weights = out / ("classifier-quick.pt" if quick else "classifier.pt")
    if weights.is_file():
        model = classifier.Classifier()
        model.load_state_dict(torch.load(weights, weights_only=True))
        return model.eval()
    model = classifier.train(scenes=100, steps=20) if quick else classifier.train()
    torch.save(model.state_dict(), weights)
    return model
