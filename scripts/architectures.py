#!/usr/bin/env python
"""docs/architectures.md from results/architectures.csv; with --measure the table is measured anew (ten minutes)."""

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA, PAGE = ROOT / "results" / "architectures.csv", ROOT / "docs" / "architectures.md"
TEMPLATE = ROOT / "tests" / "conformance" / "page.md.jinja"


def measure() -> None:
    """One row for each architecture of the installed transformers."""
    import transformers

    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "conformance")]
    from architectures import names
    from checks import examine

    rows = [examine(name).row() | {"transformers": transformers.__version__} for name in names()]
    with DATA.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def page() -> str:
    """The page as Markdown."""
    from jinja2 import Template

    with DATA.open(newline="", encoding="utf-8") as file:
        return Template(TEMPLATE.read_text("utf-8")).render(rows=list(csv.DictReader(file)))


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        measure()
    PAGE.write_text(page() + "\n", encoding="utf-8")
