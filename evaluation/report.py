"""Write table.md, table.csv and index.html of the results in a folder, and fill in a page of the documentation.

    python evaluation report DIR [--pairs N]
    python evaluation report DIR --page docs/evidence.md [--to FOLDER]

The page holds `<!-- table NAME -->` and `<!-- end -->`; what stands between them is replaced. Pictures go beside it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from . import methods, page, plan, results, table

MARK = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
MADE = ("alpha", "priors", "accuracy", "light")  # tables that other parts have written
SHEETS = {  # picture: methods, pairs
    "evidence-rival.jpg": ((methods.LAYERDIFFUSE, "share", "one_scene"), (60, 61, 62, 63)),
    "evidence-modes.jpg": ((*plan.MODES,), (60, 61, 62, 63)),
    "evidence-strength.jpg": (("share", "x_no_feedback", "end_50", "self_only"), (0, 1, 2)),
    "evidence-noise.jpg": (("share", "noise", "background_prompt"), (0, 1, 2)),
    "evidence-maps.jpg": (("share", "x_words", "x_structure_only", "x_content_only"), (0, 1, 2)),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=40, help="pairs whose pictures go into index.html")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--to", type=Path, help="folder of the filled page; default: the page itself is changed")
    options = parser.parse_args(argv)
    out, rows = options.out, merged(options.out)
    if not rows:
        parser.error(f"{out} holds no results")
    if options.page:
        folder = options.to or options.page.parent
        folder.mkdir(parents=True, exist_ok=True)
        filled = fill(options.page.read_text(encoding="utf-8"), tables(out, rows))
        (folder / options.page.name).write_text(filled, encoding="utf-8")
        pictures(out, folder)
    names = table.present(rows)
    head = "setting" + _counted(rows, names)
    found = [table.of_methods(rows, names, columns, head) for columns in (table.COLUMNS, table.MORE_COLUMNS)]
    (out / "table.md").write_text("\n".join(found), encoding="utf-8")
    (out / "table.csv").write_text(table.as_csv(rows), encoding="utf-8")
    text = page.document(out, "LayerFusion: measured", found, rows, names, options.pairs)
    (out / "index.html").write_text(text, encoding="utf-8")
    return 0


def _counted(rows: list[dict], names: list[str]) -> str:
    counts = sorted({sum(row["method"] == name for row in rows) for name in names})
    return f" ({' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} pairs)"


def merged(out: Path) -> list[dict]:
    """The results with what `truth` says of them, where it was asked."""
    judged = {(row["key"], row["method"], row["index"]): row for row in results.read(out, file=results.TRUTH)}
    return [{**row, **judged.get((row["key"], row["method"], row["index"]), {})} for row in results.latest(out)]


def tables(out: Path, rows: list[dict]) -> dict[str, str]:
    """Every table of the page by name; a table without results says so."""
    found = {question.name: answer(rows, question) for question in plan.QUESTIONS}
    for name in MADE:
        path = out / f"{name}.md"
        found[name] = path.read_text(encoding="utf-8") if path.is_file() else "not made yet\n"
    return found


def answer(rows: list[dict], question: plan.Question) -> str:
    """The table of a question, over the pairs that all its methods have."""
    by_method = {name: {row["index"] for row in rows if row["method"] == name} for name in question.methods}
    glass = {row["index"]: "glass" in row["foreground"].split() for row in rows}
    pairs = {index for index in set.intersection(*by_method.values())
             if index >= question.skip and question.glass in (None, glass[index])}  # fmt: skip
    if not pairs:
        return "not made yet\n"
    head = f"setting (the same {len(pairs)} pairs)" + (f"; differences to {question.against}" if question.against else "")
    columns = [table.KNOWN[key] for key in question.columns]
    return table.of_methods([row for row in rows if row["index"] in pairs], question.methods, columns, head, question.against)


def fill(text: str, found: dict[str, str]) -> str:
    """A page with the text between each pair of marks replaced. ValueError for a mark without a table, or the reverse."""
    named = [match[2] for match in MARK.finditer(text)]
    if sorted(named) != sorted(found):
        raise ValueError(f"the page has places for {', '.join(sorted(named))}; there are tables {', '.join(sorted(found))}")
    return MARK.sub(lambda match: match[1] + found[match[2]] + match[3], text)


def pictures(out: Path, folder: Path) -> None:
    """Write the sheets whose pictures are there, and the figure of the priors."""
    for name, (shown, pairs) in SHEETS.items():
        there = [index for index in pairs if all(page.strip(out, method, index) for method in shown)]
        if there:
            page.save(page.sheet(out, shown, there), folder / name)
    figure = out / "evidence-priors.jpg"
    if figure.is_file():
        (folder / figure.name).write_bytes(figure.read_bytes())
