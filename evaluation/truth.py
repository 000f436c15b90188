"""Do the demo's layers show what their prompts name? Judged by a classifier trained on drawn scenes.

    python evaluation/truth.py DIR        adds truth.md and classifier.pt to the results in DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from report import part

FIELDS = {
    "fg_shape": "FG shape", "fg_colour": "FG colour", "bg_pattern": "BG pattern", "bg_tone": "BG tone",
    "bg_object": "object found in BG", "bl_shape": "BL shape", "bl_colour": "BL colour", "bl_pattern": "BL pattern",
    "bl_tone": "BL tone",
}  # fmt: skip


def named(foreground: str, background: str) -> list[int]:
    """Classes that a demo prompt pair names, in the order of the classifier's heads."""
    scenes = part("classifier").scenes_module()
    *_, colour, shape = foreground.split()
    tone, pattern = background.split()
    return [1 + scenes.SHAPES.index(shape), 1 + tuple(scenes.OBJECT_COLOURS).index(colour),
            1 + scenes.BACKGROUNDS.index(pattern), 1 + tuple(scenes.BACKGROUND_COLOURS).index(tone)]  # fmt: skip


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
    out = parser.parse_args(argv).out
    torch.set_num_threads(1)
    classifier, results, table = part("classifier"), part("results"), part("table")
    model, weights = classifier.Classifier(), out / "classifier.pt"
    if weights.is_file():
        model.load_state_dict(torch.load(weights, weights_only=True))
        model.eval()
    else:
        model = classifier.train()
        torch.save(model.state_dict(), weights)
    rows = results.latest(out)
    scores = classifier.accuracy(model)
    columns = tuple(table.Column(name, f"{heading}, %", 0, 100.0) for name, heading in FIELDS.items())
    text = table.markdown(judge(model, out, rows), columns) + "\nThe classifier on drawn scenes it has not seen: "
    text += ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in scores.items()) + "\n"
    (out / "truth.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
