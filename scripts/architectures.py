#!/usr/bin/env python
"""docs/architectures.md from results/architectures.csv; with --measure the tables are measured anew (ten minutes).

The heads of other tasks have results/heads.csv and causal language models results/causal.csv; --measure-heads measures these
alone (a minute), --measure-causal those (five minutes), --measure-rules the columns of backward rules (three minutes).
"""

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA, PAGE = ROOT / "results" / "architectures.csv", ROOT / "docs" / "architectures.md"
HEADS = ROOT / "results" / "heads.csv"
CAUSAL = ROOT / "results" / "causal.csv"
TEMPLATE = ROOT / "tests" / "conformance" / "page.md.jinja"


def measure() -> None:
    """One row for each architecture of the installed transformers."""
    from architectures import names
    from checks import examine

    write(DATA, [examine(name).row() for name in names()])


def measure_heads() -> None:
    """One row for each head of the other tasks."""
    from heads import every

    write(HEADS, [one.row() for one in every()])


def measure_causal() -> None:
    """One row for each causal language model of the installed transformers."""
    from causal import causal_names, examine_causal

    write(CAUSAL, [examine_causal(name).row() for name in causal_names()])


def measure_rules() -> None:
    """The columns of backward rules, of the architectures that have passed."""
    import warnings

    from architectures import build
    from backward import rules
    from checks import Ids, texts

    import saliency_bench as sb
    from saliency_bench.attribution.backward import RULES

    short, _ = texts()
    rows = read(DATA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in rows:
            passed = row["status"] == "passes"
            model = sb.wrap_model(build(row["name"]), Ids()) if passed else None
            none = dict.fromkeys(RULES, "")
            row |= none if model is None else rules(model, short["input_ids"])
            row["transformers"] = row.pop("transformers")  # the last column
    write(DATA, rows)


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """The rows, and what they are of."""
    import transformers

    rows = [row | {"transformers": transformers.__version__} for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def page() -> str:
    """The page as Markdown."""
    from jinja2 import Template

    return Template(TEMPLATE.read_text("utf-8")).render(
        rows=read(DATA), heads=read(HEADS), causal=read(CAUSAL)
    )


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), *(str(ROOT / "tests" / name) for name in ("", "conformance"))]
    if sys.argv[1:] == ["--measure"]:
        measure()
    if sys.argv[1:] == ["--measure-rules"]:
        measure_rules()
    if sys.argv[1:] in (["--measure"], ["--measure-heads"]):
        measure_heads()
    if sys.argv[1:] in (["--measure"], ["--measure-causal"]):
        measure_causal()
    PAGE.write_text(page() + "\n", encoding="utf-8")
