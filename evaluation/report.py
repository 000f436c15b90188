"""Write table.md, table.csv and index.html of the results in a folder.

    python evaluation/report.py DIR [--pairs N]
    python evaluation/report.py DIR --sheet FILE --methods adapt,adapt_self --rows 0,3     only a picture of these
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PACKAGE = "layerfusion_evaluation"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=40, help="pairs whose pictures go into the page")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--methods", default="independent,adapt")
    parser.add_argument("--rows", default="0,1,2,3")
    options = parser.parse_args(argv)
    page, results, table = (part(name) for name in ("page", "results", "table"))
    if options.sheet:
        rows = [int(index) for index in options.rows.split(",")]
        page.sheet(options.out, options.methods.split(","), rows).save(options.sheet, quality=80)
        return 0
    rows = results.latest(options.out)
    if not rows:
        parser.error(f"{options.out} holds no results")
    text = table.markdown(rows) + "\n" + table.markdown(rows, table.MORE_COLUMNS)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    (options.out / "table.csv").write_text(table.as_csv(rows), encoding="utf-8")
    page.write(options.out, rows, "LayerFusion: measured", options.pairs)
    return 0


def part(name: str):
    """A module of this folder, loaded as a package; none but run.py needs the host."""
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACKAGE, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = module
        spec.loader.exec_module(module)
    return importlib.import_module(f"{PACKAGE}.{name}")


if __name__ == "__main__":
    sys.exit(main())
