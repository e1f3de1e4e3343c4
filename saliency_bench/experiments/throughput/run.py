"""`saliency-bench throughput`: how fast ours is beside Captum and beside what the machine can do; conf/throughput.yaml."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import SaliencyBenchError, ValidationError, counted
from saliency_bench.core.registry import REMOVALS
from saliency_bench.core.rows import DISAGREES, FAILED
from saliency_bench.core.text import Encoded
from saliency_bench.data import DATASETS
from saliency_bench.experiments.reports import ExperimentReport
from saliency_bench.experiments.scaffold import (
    Experiment,
    ExperimentOptions,
    Outcome,
    Progress,
    computation,
    quiet,
)
from saliency_bench.experiments.throughput.bench import Bench
from saliency_bench.experiments.throughput.captum_contestants import INTERFACES
from saliency_bench.experiments.throughput.contestants import CONTESTANTS
from saliency_bench.experiments.throughput.plots import FIGURES
from saliency_bench.experiments.throughput.report import frame, notes, tables, to_file
from saliency_bench.experiments.throughput.sections import SECTIONS, check, throughput
from saliency_bench.experiments.throughput.trial import Row
from saliency_bench.models import loading
from saliency_bench.models.references import NAMES
from saliency_bench.models.tasks.encoding import encode


def measure(options: ExperimentOptions, progress: Progress = quiet) -> Outcome:
    """Loads the model and times every configured section; an interrupt leaves what has been measured.

    Raises:
        InputError: the model does not load, or cannot do what a section asks for.
        KeyboardInterrupt: it came before the first case was done.
    """
    config, runtime = options.config, options.config["runtime"]
    if runtime["threads"]:
        torch.set_num_threads(runtime["threads"])
    load = partial(
        loading.load_model,
        config["model"],
        device=runtime["device"],
        attention=runtime["attention"],
    )
    progress("loading the model", 0, 0)
    model = load(dtype=runtime["dtype"])
    # The labels are the bundled data's, not those of any model.
    examples = [
        replace(example, label=None)
        for example in DATASETS["movie_reviews"](split="test")[: config["n_examples"]]
    ]
    encoded = encode(model, examples)
    rows: list[Row] = []
    interrupt = None
    try:
        for row in throughput(Bench(config, model, encoded, load, progress)):
            rows.append(row)  # noqa: PERF402, what came before an interrupt is kept
    except KeyboardInterrupt as error:
        if not rows:
            raise
        interrupt = error
    table = frame(rows)
    facts = {
        "model": dict(model.facts),
        "lengths": list(map(len, encoded)),
        "interrupted": interrupt is not None,
        "contestants": dict(table[["contestant", "describe"]].dropna().itertuples(index=False)),
    }
    return Outcome(
        report_of(table, encoded, interrupted=interrupt is not None),
        {"rows.csv": to_file(table).encode()},
        facts,
        computation(runtime, dtype=model.precision),
        interrupt or _failure(table),
    )


def report_of(
    rows: pd.DataFrame, encoded: Sequence[Encoded], interrupted: bool
) -> ExperimentReport:
    """Tables and figures of the rows."""
    lengths = sorted(map(len, encoded))
    made = tables(rows)
    cut = ["Interrupted: not all that was asked for was measured."] if interrupted else []
    return ExperimentReport(
        name="throughput",
        tables=made,
        notes=[
            f"{counted(len(lengths), 'text')} of {', '.join(map(str, lengths))} tokens.",
            *cut,
            *notes(rows),
        ],
        written=made,
        figures=lambda: {name: plot(rows) for name, plot in FIGURES.items()},
        n_keys=2,
    )


def _failure(rows: pd.DataFrame) -> SaliencyBenchError | None:
    """The error, with its exit code, for contestants that should have been timed and were not."""
    for status, error in ((DISAGREES, ValidationError), (FAILED, SaliencyBenchError)):
        wrong = rows[rows["status"] == status]
        if len(wrong):
            first = wrong.iloc[0]
            return error(
                f"{first['contestant']} was not timed ({first['section']}, {first['case']}; {len(wrong)} such rows): "
                f"{first['reason']}"
            )
    return None


EXPERIMENT = Experiment(
    name="throughput",
    out=Path("results") / "throughput",
    measure=measure,
    choices={
        "sections": lambda: SECTIONS,
        "contestants": CONTESTANTS.names,
        "interfaces": lambda: INTERFACES,
        "dtypes": lambda: loading.DTYPES,
        "baseline": lambda: (
            NAMES
        ),  # one vector for every token: Captum and the bare loop are handed it
        "methods": lambda: conf_files.names("method"),
        "metrics": lambda: conf_files.names("metric"),
        "removals": REMOVALS.names,
    },
    check=check,
)
