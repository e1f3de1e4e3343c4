"""`saliency-bench throughput`: how fast ours is beside Captum and beside what the machine can do; conf/throughput.yaml."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.text import Text

from saliency_bench.attribution.quadrature import check as check_rule
from saliency_bench.core import conf as conf_files
from saliency_bench.core import overrides, ranges
from saliency_bench.core.errors import SaliencyBenchError, ValidationError, one_of, unknown
from saliency_bench.core.rows import DISAGREES, FAILED
from saliency_bench.core.text import Encoded
from saliency_bench.data import DATASETS
from saliency_bench.experiments.publish import name_of, refuse_a_run
from saliency_bench.experiments.throughput.contestants import CONTESTANTS
from saliency_bench.experiments.throughput.plots import FIGURES
from saliency_bench.experiments.throughput.report import frame, notes, tables, to_file
from saliency_bench.experiments.throughput.sections import SECTIONS, Bench, throughput
from saliency_bench.experiments.throughput.trial import Row
from saliency_bench.models import loading
from saliency_bench.models.model import Model
from saliency_bench.models.references import NAMES
from saliency_bench.models.tasks import sequence_classification as task
from saliency_bench.report.build import FORMATS
from saliency_bench.report.formats import to_markdown
from saliency_bench.report.style import pdf, png, styled
from saliency_bench.report.table import Table
from saliency_bench.report.terminal import to_rich
from saliency_bench.store.durable import replace_file, storing
from saliency_bench.store.manifest import collect, portable
from saliency_bench.store.run import MANIFEST, write_json
from saliency_bench.study.budget import check_budget

OUT = Path("results") / "throughput"
CONFIG = "throughput"

#: Columns that a terminal shows; the files have all.
SHOWN = (
    "case",
    "contestant",
    "gradients_per_second",
    "useful_gflop_per_second",
    "share_of_matmul",
    "share_of_bare_loop",
    "times_ours",
    "padding",
    "peak_mebibytes",
    "error",
)
_PLAIN_WIDTH = 190  # of a file or pipe, which has none

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What the command line gives; `config` is conf/throughput.yaml with its profile and the overrides."""

    out: Path
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The rows, and what they were measured on. `interrupt` came before all sections were done."""

    rows: pd.DataFrame
    model: Model
    encoded: Sequence[Encoded]
    started: datetime
    interrupt: KeyboardInterrupt | None = None


def options(words: Sequence[str]) -> Options:
    """The words of a command line, each `key=value`, a key within another as `sweep.n_examples`, values in YAML.

    Raises:
        InputError: a word is none of these, or its value is not usable.
    """
    given = dict(overrides.pair(CONFIG, word) for word in words)
    out = Path(given.pop("out", OUT))
    config = conf_files.read("", CONFIG)
    profiles = config.pop("profiles")
    profile = given.get("profile", config["profile"])
    if profile not in profiles:
        raise unknown("profile", profile, list(profiles))
    config = overrides.merged(config, profiles[profile])
    config["runtime"] = conf_files.runtime_defaults() | config["runtime"]
    for key, value in given.items():
        overrides.put(config, key, value, CONFIG)
    _check(config)
    refuse_a_run(out)
    return Options(out, config)


def benchmark(chosen: Options, progress: Progress = lambda *_: None) -> Outcome:
    """Loads the model and times every configured section; an interrupt leaves what has been measured.

    Raises:
        InputError: the model does not load, or cannot do what a section asks for.
        KeyboardInterrupt: it came before the first case was done.
    """
    started, config = datetime.now(UTC), chosen.config
    runtime = config["runtime"]
    if runtime["threads"]:
        torch.set_num_threads(runtime["threads"])

    def load(dtype: str) -> Model:
        return loading.load_model(
            config["model"],
            dtype=dtype,
            device=runtime["device"],
            attention=runtime["attention"],
        )

    progress("loading the model", 0, 0)
    model = load(runtime["dtype"])
    # The labels are the bundled data's, not those of any model.
    examples = [
        replace(one, label=None)
        for one in DATASETS["movie_reviews"](split="test")[: config["n_examples"]]
    ]
    encoded = task.encode(model, examples)
    rows: list[Row] = []
    interrupt = None
    try:
        for row in throughput(Bench(config, model, encoded, load, progress)):
            rows.append(row)  # noqa: PERF402, what came before an interrupt is kept
    except KeyboardInterrupt as error:
        if not rows:
            raise
        interrupt = error
    return Outcome(frame(rows), model, encoded, started, interrupt)


def conclude(
    chosen: Options, outcome: Outcome, command: Sequence[str], console: Console | None = None
) -> None:
    """Writes rows, tables, figures and the manifest, and prints what was found.

    Raises:
        ValidationError: a contestant that should agree with ours does not; everything has been written and printed.
        SaliencyBenchError: a contestant failed.
        KeyboardInterrupt: the one that ended the benchmark.
    """
    made = tables(outcome.rows)
    _write(chosen, outcome, made, command)
    show(made, _notes(outcome), chosen.out, console)
    if outcome.interrupt is not None:
        raise outcome.interrupt
    _refuse(outcome.rows)


def show(
    made: Sequence[Table], said: Sequence[str], out: Path, console: Console | None = None
) -> None:
    """Prints the tables and what the numbers depend on."""
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=_PLAIN_WIDTH)
    for table in made:
        console.print(to_rich(_shown(table), console.is_terminal))
    for line in (*said, f"Written to {out}."):
        console.print(Text(line), soft_wrap=True)


def _shown(table: Table) -> Table:
    """The columns for a terminal."""
    if table.name != "throughput":
        return table
    kept = [place for place, column in enumerate(table.columns) if column.key in SHOWN]
    return replace(
        table,
        columns=tuple(table.columns[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in table.rows),
    )


def _notes(outcome: Outcome) -> list[str]:
    lengths = sorted(map(len, outcome.encoded))
    listed = ", ".join(f"{length}" for length in lengths)
    cut = ["Interrupted: not all that was asked for was measured."] if outcome.interrupt else []
    return [f"{len(lengths)} texts of {listed} tokens.", *cut, *notes(outcome.rows)]


def _write(
    chosen: Options, outcome: Outcome, made: Sequence[Table], command: Sequence[str]
) -> None:
    said = _notes(outcome)
    replace_file(chosen.out / "rows.csv", to_file(outcome.rows).encode())
    parts = [
        "# saliency-bench throughput\n",
        *map(to_markdown, made),
        *(f"{one}\n" for one in said),
    ]
    replace_file(chosen.out / "throughput.md", "\n".join(parts).encode())
    for table in made:
        for suffix, write in FORMATS.items():
            replace_file(chosen.out / "tables" / f"{table.name}.{suffix}", write(table).encode())
    draw(outcome.rows, chosen.out / "figures")
    write_json(chosen.out / MANIFEST, _manifest(chosen, outcome, command))


def draw(rows: pd.DataFrame, folder: Path) -> None:
    """Every figure that the rows have data for, as PNG and PDF; what an earlier run left of others goes."""
    with styled():
        for name, plot in FIGURES.items():
            figure = plot(rows)
            for suffix, write in (("png", png), ("pdf", pdf)):
                path = folder / f"{name}.{suffix}"
                if figure is not None:
                    replace_file(path, write(figure))
                else:
                    with storing(path):
                        path.unlink(missing_ok=True)


def _manifest(chosen: Options, outcome: Outcome, command: Sequence[str]) -> dict[str, Any]:
    model, runtime = outcome.model, chosen.config["runtime"]
    device = model.device
    computation = {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": model.precision,
        "attention": runtime["attention"],
        "threads": torch.get_num_threads(),
        "token_budget": runtime["token_budget"],
    }
    provenance = collect(
        computation, command=command, started=outcome.started, ended=datetime.now(UTC)
    )
    return {
        "name": CONFIG,
        "command": portable(shlex.join(command)),
        "config": dict(chosen.config) | {"model": name_of(chosen.config["model"])},
        "model": dict(model.facts),
        "lengths": list(map(len, outcome.encoded)),
        "interrupted": outcome.interrupt is not None,
        "contestants": dict(
            outcome.rows[["contestant", "describe"]].dropna().itertuples(index=False)
        ),
    } | provenance


def _refuse(rows: pd.DataFrame) -> None:
    """An exit code for contestants that should have been timed and were not."""
    for status, error in ((DISAGREES, ValidationError), (FAILED, SaliencyBenchError)):
        wrong = rows[rows["status"] == status]
        if len(wrong):
            first = wrong.iloc[0]
            raise error(
                f"{first['contestant']} was not timed ({first['section']}, {first['case']}; {len(wrong)} such rows): "
                f"{first['reason']}"
            )


# --- the command line


def _check(config: Mapping[str, Any]) -> None:
    """Refuses names that nothing has and numbers that make no sense."""
    check_budget(config["runtime"]["token_budget"], "runtime.token_budget")
    ranges.check(config)
    for key, value in overrides.leaves(config):
        last = key.rpartition(".")[2]
        for one in value if isinstance(value, list) else [value]:
            if last == "sections":
                one_of("section", one, SECTIONS)
            if last == "contestants":
                one_of("contestant", one, CONTESTANTS.names())
            if last in ("dtypes", "dtype"):
                one_of(key, one, loading.DTYPES)
            if last == "baseline":
                one_of(key, one, NAMES)
    for own in (config, config["sweep"]):
        check_rule(own["quadrature"], 2)
