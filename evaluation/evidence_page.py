"""Fill the tables and pictures of docs/evidence.md from the results in a folder.

    python evaluation/evidence_page.py DIR --page docs/evidence.md [--to FOLDER]

The page holds `<!-- table NAME -->` and `<!-- end -->`; what stands between them is replaced. Pictures go beside it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from report import part

MARK = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
QUALITY = 80  # of JPEG
SHEETS = {  # picture: methods, pairs
    "evidence-modes.jpg": (("independent", "adapt", "adapt_self", "share", "one_scene"), (50, 51, 52, 53)),
    "evidence-masks.jpg": (("one_scene", "x_scene_low", "x_scene_tight", "share", "x_share_soft", "x_from_grown"), (0, 1, 2)),
    "evidence-prior.jpg": (("adapt", "adapt_previous", "x_frozen", "x_once_20"), (0, 1, 2)),
    "evidence-strength.jpg": (("adapt", "x_no_feedback", "hardness_2", "start_20", "end_50", "self_only"), (0, 1, 2)),
    "evidence-noise.jpg": (("adapt", "adapt_noise", "one_scene_noise", "background_prompt"), (0, 1, 2)),
    "evidence-maps.jpg": (("adapt", "x_words", "x_structure_only", "x_content_only"), (0, 1, 2)),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--to", type=Path, help="folder of the filled page; default: the page itself is changed")
    options = parser.parse_args(argv)
    folder = options.to or options.page.parent
    text = options.page.read_text(encoding="utf-8")
    filled = fill(text, tables(options.out))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / options.page.name).write_text(filled, encoding="utf-8")
    pictures(options.out, folder)
    return 0


def merged(out: Path) -> list[dict]:
    """The results with what the classifier says of them, where it was asked."""
    results, truth = part("results"), out / "truth.jsonl"
    lines = truth.read_text(encoding="utf-8").splitlines() if truth.is_file() else []
    judged = {(row["key"], row["method"], row["index"]): row for row in map(json.loads, lines)}
    return [{**row, **judged.get((row["key"], row["method"], row["index"]), {})} for row in results.latest(out)]


def tables(out: Path) -> dict[str, str]:
    """Every table of the page by name; a table without results says so."""
    rows = merged(out)
    found = {question.name: answer(rows, question) for question in part("plan").QUESTIONS}
    for name in ("alpha", "priors", "accuracy"):
        path = out / f"{name}.md"
        found[name] = path.read_text(encoding="utf-8") if path.is_file() else "not made yet\n"
    return found


def answer(rows: list[dict], question) -> str:
    """The table of a question, over the pairs that all its methods have."""
    table, all_methods = part("table"), part("methods").ALL
    by_method = {name: {row["index"] for row in rows if row["method"] == name} for name in question.methods}
    glass = {row["index"]: "glass" in row["foreground"].split() for row in rows}
    pairs = {index for index in set.intersection(*by_method.values())
             if index >= question.skip and question.glass in (None, glass[index])}  # fmt: skip
    if not pairs:
        return "not made yet\n"
    rows = [row for row in rows if row["index"] in pairs]
    columns = [table.KNOWN[key] for key in question.columns]
    head = f"setting (the same {len(pairs)} pairs)" + (f"; differences to {question.against}" if question.against else "")
    lines = [f"| {head} | " + " | ".join(column.heading for column in columns) + " |", "|---|" + "---|" * len(columns)]
    for name in question.methods:
        if question.against and name != question.against:
            cells = [table.cell(table.difference(rows, name, question.against, c.key), c, sign="+") for c in columns]
        else:
            cells = [table.cell(table.bootstrap(list(table.values(rows, name, c.key).values())), c) for c in columns]
        lines.append(f"| {all_methods[name].label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def fill(page: str, found: dict[str, str]) -> str:
    """`page` with the text between each pair of marks replaced. ValueError for a mark without a table, or the reverse."""
    named = [match[2] for match in MARK.finditer(page)]
    if sorted(named) != sorted(found):
        raise ValueError(f"the page has places for {', '.join(sorted(named))}; there are tables {', '.join(sorted(found))}")
    return MARK.sub(lambda match: match[1] + found[match[2]] + match[3], page)


def pictures(out: Path, folder: Path) -> None:
    """Write the sheets whose pictures are there, and the figure of the priors."""
    page = part("page")
    for name, (methods, pairs) in SHEETS.items():
        there = [index for index in pairs if all(page.strip(out, method, index) for method in methods)]
        if there:
            page.sheet(out, methods, there).save(folder / name, quality=QUALITY)
    figure = out / "evidence-priors.jpg"
    if figure.is_file():
        (folder / figure.name).write_bytes(figure.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
