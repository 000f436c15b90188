"""A preference study as in the paper: two pages that ask for 1 to 5, and what the votes they collect say.

    python evaluation study DIR --methods adapt,share [--pairs N]      writes DIR/study and DIR/study-key.json
    python evaluation study DIR --votes FILE [FILE ...]                writes DIR/votes.md

Give people the folder `study` (open index.html); the pages work from disk, name no method, and save a file of votes. The
key stays with you.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from PIL import Image

from . import methods as known
from . import page, results
from .table import bootstrap, cell, markdown

PAGES = Path(__file__).resolve().parent / "study"
KEY = "study-key.json"
SIDE = 512  # pixels of a picture at most
SECONDS = 6  # a set takes
SCORES = range(1, 6)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", default="independent,adapt,share")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--votes", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args(argv)
    try:
        if options.votes:
            (options.out / "votes.md").write_text(summary(options.out, options.votes), encoding="utf-8")
        else:
            write(options.out, [method.name for method in known.select(options.methods)], options.pairs)
    except ValueError as error:
        parser.error(str(error))
    return 0


def write(out: Path, methods: list[str], pairs: int) -> None:
    """Write the two pages with the first `pairs` pairs that all methods have, and the key. ValueError if there is none."""
    rows = {(row["method"], row["index"]): row for row in results.latest(out)}
    indices = set.intersection(*({index for method, index in rows if method == name} for name in methods))
    picked = sorted(indices)[:pairs]
    if not picked:
        raise ValueError(f"{out} has no pair with results of all of {', '.join(methods)}")
    run = rows[methods[0], picked[0]]["key"]
    study = hashlib.sha256(f"{run} {methods} {picked}".encode()).hexdigest()[:12]
    items, key = [], {}
    for index in picked:
        for method in methods:
            name = hashlib.sha256(f"{study} {method} {index}".encode()).hexdigest()[:12]
            key[name] = {"method": method, "index": index}
            items.append({"id": name, "object": rows[method, index]["foreground"],
                          "scene": rows[method, index]["background"], **_pictures(out, method, index)})  # fmt: skip
    items.sort(key=lambda item: item["id"])  # their order in the file tells nothing
    data = json.dumps({"study": study, "items": items}).replace("<", "\\u003c")  # ends no script element
    words = {"@COUNT@": str(len(items)), "@MINUTES@": str(max(1, round(len(items) * SECONDS / 60))), "@STUDY@": data}
    folder = out / "study"
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(PAGES.glob("*.html")):
        text = file.read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        (folder / file.name).write_text(text, encoding="utf-8")
    (out / KEY).write_text(json.dumps({"study": study, "items": key}, indent=1), encoding="utf-8")


def _pictures(out: Path, method: str, index: int) -> dict[str, str]:
    """The three pictures as data addresses; the foreground lies on a checkerboard."""
    found = {}
    for stream in results.STREAMS:
        image = page.as_picture(results.load_picture(out, method, index, stream))
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        found[stream] = page.address(image, 92)
    return found


def summary(out: Path, files: list[Path]) -> str:
    """A table of mean scores by method, ± half a 95 % bootstrap interval over people and over sets.

    A person's later file replaces the earlier one. ValueError for a file that is not of this study.
    """
    if not (out / KEY).is_file():
        raise ValueError(f"{out / KEY} is missing: votes are read where the study was written")
    key = json.loads((out / KEY).read_text(encoding="utf-8"))
    people: dict[str, dict[str, int]] = {}
    for file in files:
        votes = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(votes, dict) or votes.get("study") != key["study"]:
            raise ValueError(f"{file} holds no votes of study {key['study']}")
        if not all(name in key["items"] and score in SCORES for name, score in votes["votes"].items()):
            raise ValueError(f"{file}: expected scores of 1 to 5 for sets of study {key['study']}")
        people[votes["participant"]] = votes["votes"]
    head = ("setting", "votes", "mean, interval over people", "mean, interval over sets")
    lines = []
    for method in dict.fromkeys(item["method"] for item in key["items"].values()):
        mine = [(person, name, score) for person, votes in people.items() for name, score in votes.items()
                if key["items"][name]["method"] == method]  # fmt: skip
        lines.append([known.ALL[method].label, len(mine), *(cell(bootstrap(_means(mine, by))) for by in (0, 1))])
    count = f"{len(people)} people, {sum(map(len, people.values()))} votes of 1 to 5"
    return f"{count}\n\n{markdown(head, lines)}"


def _means(votes: list[tuple], by: int) -> list[float]:
    """Mean score of each person (by = 0) or of each set (by = 1)."""
    groups: dict[str, list[int]] = {}
    for vote in votes:
        groups.setdefault(vote[by], []).append(vote[2])
    return [sum(scores) / len(scores) for scores in groups.values()]
