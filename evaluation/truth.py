"""Do the demo's layers show what their prompts name? Judged by a classifier trained on drawn scenes.

    python evaluation/truth.py DIR [--quick]     adds truth.jsonl, accuracy.md and the classifier to the results in DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from report import part

LINES = "truth.jsonl"
FIELDS = (
    "fg_shape", "fg_colour", "bg_pattern", "bg_tone", "bg_object", "bl_shape", "bl_colour", "bl_pattern", "bl_tone"
)  # fmt: skip


def named(foreground: str, background: str) -> list[int]:
    """Classes that a demo prompt pair names, in the order of the classifier's heads."""
    scenes, prompts = part("drawings").scenes_module(), part("prompts")
    words, place = foreground.split(), background
    tone = 0
    if background not in prompts.PLACES:
        first, place = background.split()
        tone = 1 + tuple(scenes.TONES).index(first)
    backdrop = (*prompts.PLACES, *prompts.PATTERNS).index(place)
    colour = next(i for i, name in enumerate(scenes.COLOURS) if name in words)
    return [1 + tuple(scenes.OBJECTS).index(words[-1]), 1 + colour, 1 + backdrop, tone]


def judge(model, out: Path, rows: list[dict]) -> list[dict]:
    """One dict per row with 1.0 / 0.0 for every field: right answers, and whether an object was found in BG."""
    classifier, results = part("classifier"), part("results")
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
        judged.append({**row, **{name: float(answer) for name, answer in zip(FIELDS, answers)}})
    return judged


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true", help="a classifier of a few seconds, which knows little")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    results, out = part("results"), options.out
    model = _classifier(out, options.quick)
    judged = judge(model, out, results.latest(out))
    (out / LINES).write_text("".join(json.dumps(row) + "\n" for row in judged), encoding="utf-8")
    scores = part("classifier").accuracy(model)
    text = ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in scores.items())
    (out / "accuracy.md").write_text(f"The classifier on drawn scenes it has not seen: {text}\n", encoding="utf-8")
    return 0


def _classifier(out: Path, quick: bool):
    """The classifier kept in `out`, or one trained now and kept."""
    classifier, weights = part("classifier"), out / ("classifier-quick.pt" if quick else "classifier.pt")
    if weights.is_file():
        model = classifier.Classifier()
        model.load_state_dict(torch.load(weights, weights_only=True))
        return model.eval()
    model = classifier.train(scenes=100, steps=20) if quick else classifier.train()
    torch.save(model.state_dict(), weights)
    return model


if __name__ == "__main__":
    sys.exit(main())
