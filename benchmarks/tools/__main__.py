"""LAW TOOL [--method M] [--model N] [--attention A] measures one law here; OUT [TOOL=PYTHON ...] writes the table.

OUT measures every tool in the environment of the interpreter that is given for it, and those without one here; with
--only TOOL that tool alone, and the rows of the others stay as they stand in OUT.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.tools import models
from benchmarks.tools.cases import TOOLS, Case, apart, cases, loads, measure, versions
from benchmarks.tools.laws import NAMES, Measurement


def main() -> None:
    """One line a cell, or a folder with the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tools", description=__doc__)
    known = {"every": NAMES, "loads": (), **{name: (name,) for name in NAMES}}
    parser.add_argument("first", metavar="LAW|OUT", help=f"{', '.join(known)}; or a folder")
    parser.add_argument("rest", nargs="*", metavar="TOOL", help=", ".join(TOOLS))
    for name in ("method", "model", "attention"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--json", action="store_true", help="lines of JSON")
    parser.add_argument("--only", action="append", default=[], metavar="TOOL", help="of the table")
    given = parser.parse_args()
    if given.first in known:
        if len(given.rest) != 1 or given.rest[0] not in TOOLS:
            parser.error(f"expected one tool of {', '.join(TOOLS)}; got {' '.join(given.rest)!r}")
        (tool,) = given.rest
        chosen = [case for case in cases(tool) if _is_meant(case, given)]
        if not chosen:
            places = ", ".join(f"{one.method} {one.model} {one.attention}" for one in cases(tool))
            parser.error(f"{tool} has no such cell; it has {places}")
        print_cells(known[given.first], tool, chosen, as_json=given.json)
    else:
        from benchmarks.tools.table import write_table

        pythons = [(tool, python) for tool, _, python in (one.partition("=") for one in given.rest)]
        command = ["python", "-m", "benchmarks.tools", *sys.argv[1:]]
        write_table(Path(given.first), pythons, command=command, only=given.only)


def _is_meant(case: Case, given: argparse.Namespace) -> bool:
    names = ("method", "model", "attention")
    return all(getattr(given, name) in (None, getattr(case, name)) for name in names)


def print_cells(laws: Sequence[str], tool: str, chosen: Sequence[Case], *, as_json: bool) -> None:
    """Measures each cell in a copy of the process, and prints it; what tools print goes to standard error."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # which warns of every copy otherwise
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    found = versions(tool)
    loaded = loads(tool)
    if loaded.verdict == "raises" or len(laws) != 1:
        answers.write(line("loads", Case(tool, "", "", ""), loaded, found, as_json=as_json))
    if loaded.verdict == "raises":
        chosen = []
    for name, attention in {(case.model, case.attention) for case in chosen}:
        models.build(name, attention)  # its imports, which every copy would otherwise make again
    for case in chosen:
        for law in laws:
            cell = apart(partial(measure, law, case))
            answers.write(line(law, case, cell, found, as_json=as_json))
            answers.flush()
    answers.flush()


def line(
    law: str, case: Case, cell: Measurement, found: Mapping[str, str], *, as_json: bool
) -> str:
    """A cell as JSON, or for people."""
    if as_json:
        return json.dumps({"law": law, **asdict(case), **asdict(cell), "versions": found}) + "\n"
    number = "" if cell.measured is None else f" {cell.measured:.1e}"
    limit = "" if cell.limit is None else f" (limit {cell.limit:g})"
    where = f"{case.tool} {case.method} {case.model}/{case.attention}".removesuffix(" /").strip()
    return f"{law}, {where}: {cell.verdict}{number}{limit} {cell.note}".rstrip() + "\n"


if __name__ == "__main__":
    main()
