"""The table of all tools: each is measured in a process of its own environment."""

import csv
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.tools import models
from benchmarks.tools.cases import TOOLS
from benchmarks.tools.laws import PARTS
from saliency_bench.core.errors import InputError, unknown
from saliency_bench.report.formats import to_csv, to_markdown
from saliency_bench.report.table import Column, Table
from saliency_bench.store.durable import replace_file
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.run import MANIFEST, write_json

ROOT = Path(__file__).parents[2]
RESULTS = ("repeat", "batch", "padding", "complete", "conserve", "restores")
RULES = ("forward", *(f"acts_{part}" for part in PARTS))
CASE = ("tool", "method", "model", "attention")

Answer = Mapping[str, Any]


def write_table(
    out: Path,
    pythons: Sequence[tuple[str, str]],
    *,
    command: Sequence[str],
    only: Collection[str] = (),
) -> None:
    """Writes `tools.csv` with a row a cell, `tools.md` with a row a method, and the manifest.

    Args:
        out: the folder.
        pythons: tools and interpreters of the environments where they are; a tool may stand in more than one, and one
            that is not named is measured in this environment.
        command: what was typed.
        only: the tools to measure, where not all are. The cells of the others are those that stand in the folder,
            whose manifest is kept in the new one, under `earlier`.

    Raises:
        InputError: a tool is not known, or its process ended without an answer.
    """
    for tool in (*(tool for tool, _ in pythons), *only):
        if tool not in TOOLS:
            raise unknown("tool", tool, list(TOOLS))
    kept = [] if not only else [one for one in read_cells(out) if one["tool"] not in only]
    started = datetime.now(UTC)
    places = {tool: [python for name, python in pythons if name == tool] for tool in TOOLS}
    answers = [
        answer
        for tool, own in places.items()
        if not only or tool in only
        for python in own or [sys.executable]
        for answer in asked(tool, python)
    ]
    measured_now = list(dict.fromkeys(answer["tool"] for answer in answers))
    answers = sorted([*answers, *kept], key=lambda answer: [*TOOLS].index(answer["tool"]))
    replace_file(out / "tools.csv", to_csv(cells_table(answers)).encode())
    replace_file(out / "tools.md", markdown(answers).encode())
    # The place of an environment is private, and changes no number.
    unnamed = {f"{tool}={python}": f"{tool}=PYTHON" for tool, python in pythons}
    shown = [unnamed.get(word, word) for word in command]
    about = {
        "name": "published_tools",
        "command": portable(shlex.join(shown)),
        "texts": [*models.PAIR, models.LONG],
        "seed": models.SEED,
        "tools": measured_now,
        "versions_of_tools": [
            {"tool": tool, **dict(versions)}
            for tool, versions in dict.fromkeys(
                (answer["tool"], tuple(answer["versions"].items()))
                for answer in answers
                if answer["tool"] in measured_now
            )
        ],
    }
    if kept:
        about["earlier"] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    computation = {"device": "cpu", "dtype": "float32", "threads": 1}
    provenance = collect(computation, command=shown, started=started, ended=datetime.now(UTC))
    write_json(out / MANIFEST, about | provenance)


def read_cells(out: Path) -> list[Answer]:
    """The cells of a table that was written before."""
    with (out / "tools.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return [
        {
            **{name: row[name] for name in (*CASE, "law", "verdict", "note")},
            **{name: float(row[name]) if row[name] else None for name in ("measured", "limit")},
            "versions": {
                TOOLS[row["tool"]][0]: row["version"],
                "transformers": row["transformers"],
                "torch": row["torch"],
            },
        }
        for row in rows
    ]


def asked(tool: str, python: str) -> list[Answer]:
    """All cells of a tool, measured by an interpreter that has it."""
    words = [python, "-W", "ignore", "-m", "benchmarks.tools", "every", tool, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise InputError(f"{tool}: {python} cannot be started ({error.strerror})") from error
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or not answers:
        last = done.stderr.strip().splitlines()[-1:]
        raise InputError(f"{tool}: {python} ended with {done.returncode}: {' '.join(last)}")
    return answers


def command_of(answer: Answer) -> str:
    """What shows a cell, in the environment of its tool."""
    narrowed = "".join(f" --{name} {answer[name]}" for name in CASE[1:] if answer[name])
    return f"python -m benchmarks.tools {answer['law']} {answer['tool']}{narrowed}"


def cells_table(answers: Sequence[Answer]) -> Table:
    """A row a cell, with everything that is known of it."""
    return Table(
        name="tools",
        title="Published tools under the laws",
        caption="",
        columns=tuple(
            Column(name, name)
            for name in (
                *CASE,
                "law",
                "verdict",
                "measured",
                "limit",
                "note",
                "version",
                "transformers",
                "torch",
                "command",
            )
        ),
        rows=tuple(
            (
                *(answer[name] for name in CASE),
                *(answer[name] for name in ("law", "verdict", "measured", "limit", "note")),
                *_versions(answer),
                answer["versions"]["torch"],
                command_of(answer),
            )
            for answer in answers
        ),
        marks_best=False,
    )


def markdown(answers: Sequence[Answer]) -> str:
    """The laws of every result, those of backward rules, what raises, and what is to be known of a number."""
    cells = [answer for answer in answers if answer["law"] != "loads"]
    rules = [answer for answer in cells if answer["law"] in RULES]
    have_rules = {_row(one) for one in rules if one["verdict"] != "not applicable"}
    tables = [
        _pivot(
            "results",
            "Every result",
            cells,
            RESULTS,
            "-: not applicable, with the number where one can be measured.",
        ),
        _pivot(
            "rules",
            "Backward rules",
            [answer for answer in rules if _row(answer) in have_rules],
            RULES,
            "-: the rule has no such part on this model.",
        ),
        _notes(answers),
    ]
    return "\n".join(to_markdown(table) for table in tables)


def _versions(answer: Answer) -> tuple[str, str]:
    package, _ = TOOLS[answer["tool"]]
    return answer["versions"][package], answer["versions"]["transformers"]


def _row(answer: Answer) -> tuple[str, ...]:
    return (*(answer[name] for name in CASE), *_versions(answer))


def _pivot(name: str, title: str, cells: Sequence[Answer], laws: Sequence[str], note: str) -> Table:
    found = {(_row(answer), answer["law"]): answer for answer in cells}
    labels = ("Tool", "Method", "Model", "Attention", "Version", "transformers")
    return Table(
        name=name,
        title=title,
        caption=f"The number is what was measured; what raised has its message in the notes. {note}",
        columns=tuple(Column(label.lower(), label) for label in (*labels, *laws)),
        rows=tuple(
            (*row, *(_printed(found[row, law]) for law in laws))
            for row in dict.fromkeys(_row(answer) for answer in cells)
        ),
        marks_best=False,
    )


def _printed(answer: Answer) -> str:
    number = answer["measured"]
    if answer["verdict"] == "not applicable":
        return "-" if number is None else f"- ({number:.1e})"
    if number is None:
        return str(answer["verdict"])
    return (
        f"{answer['verdict']}, {number:.0f}"
        if number == int(number)
        else f"{answer['verdict']}, {number:.1e}"
    )


def _notes(answers: Sequence[Answer]) -> Table:
    """One line for what several cells of a tool share."""
    grouped: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in answers:
        if answer["note"] and (answer["measured"] is not None or answer["verdict"] == "raises"):
            version = f"{answer['tool']} {_versions(answer)[0]}"
            grouped.setdefault((version, answer["verdict"], answer["note"]), []).append(answer)
    return Table(
        name="notes",
        title="Notes",
        caption="",
        columns=tuple(
            Column(label.lower(), label) for label in ("Tool", "Laws", "On", "Verdict", "Note")
        ),
        rows=tuple(
            (tool, _listed(one["law"] for one in cells), _listed(map(_place, cells)), verdict, note)
            for (tool, verdict, note), cells in grouped.items()
        ),
        marks_best=False,
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _place(answer: Answer) -> str:
    if not answer["method"]:
        return f"transformers {_versions(answer)[1]}"
    return f"{answer['method']} {answer['model']}/{answer['attention']}"
