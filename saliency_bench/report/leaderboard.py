"""A leaderboard of the submissions to one suite, with a table for each model. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saliency_bench.core.errors import InputError
from saliency_bench.core.labels import PRIMARY
from saliency_bench.core.method_facts import FACTS, entry_label
from saliency_bench.core.program import NAME, as_typed
from saliency_bench.core.rows import OK, TABLES, digest
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.comparison_tables import METHOD
from saliency_bench.report.formats import to_csv
from saliency_bench.report.html import ENDPOINTS, environment, methods, what_was_run
from saliency_bench.report.paper import sentences_about
from saliency_bench.report.study_tables import caption_of, metric_fields
from saliency_bench.report.table import Cell, Column, Field, Table, filled, number, whole
from saliency_bench.report.verdict import verdict
from saliency_bench.store.durable import replace_file
from saliency_bench.store.run import Run
from saliency_bench.store.suite import Submission, identity_of_model, opponents

PAGE, CSV = "leaderboard.html", "leaderboard.csv"
#: The opponent whose time is the unit of time.
UNIT_OF_TIME = "vanilla"
#: The submission of the suite's own methods, in the table.
OF_SUITE = "the suite"
#: The SRG of random rankings. A method has it on texts without a value, so that failures are no advantage.
CHANCE = 0.0
#: The fields of the first submission's manifest that a page uses for all submissions of a model.
SHARED = ("config", "model", "data", "split", "cell_id")


@dataclass(frozen=True)
class Board:
    """The submissions that explain one model."""

    submissions: tuple[Submission, ...]

    @property
    def model(self) -> str:
        """The model's name."""
        return str((self.submissions[0].run.manifest.get("model") or {}).get("name", "the model"))

    @cached_property
    def entries(self) -> Mapping[str, tuple[Submission, dict[str, Any]]]:
        """Each setting with its submission, by an id of its own; the suite's own settings of the first submission alone."""
        fixed = opponents(self.submissions[0].suite)
        entries: dict[str, tuple[Submission, dict[str, Any]]] = {}
        for place, submission in enumerate(self.submissions):
            for setting in submission.run.settings:
                if setting["name"] not in fixed:
                    # Two packages may have methods of the same name.
                    entries[f"{place}-{setting['setting_id']}"] = submission, setting
                elif not place:
                    entries[setting["setting_id"]] = submission, setting
        return entries

    def is_opponent(self, key: str) -> bool:
        """Whether a setting is the suite's own."""
        submission, setting = self.entries[key]
        return setting["name"] in opponents(submission.suite)

    @cached_property
    def analysis(self) -> Analysis:
        """The settings of all submissions as one run."""
        first = self.submissions[0].run
        tables = {
            name: first.tables[name] if name == "examples" else self._joined(name)
            for name in TABLES
        }
        rows = tables["rows"]
        lacking = (rows["metric"] == PRIMARY) & (rows["status"] != OK)
        rows.loc[lacking, ["value", "status", "reason"]] = CHANCE, OK, None
        # Other fields of a manifest are about its own submission alone.
        manifest = {key: first.manifest[key] for key in SHARED if key in first.manifest}
        return Analysis(Run(first.folder, manifest, self._settings(), tables))

    def _settings(self) -> list[dict[str, Any]]:
        """Returns the settings with their ids and unique names; equal labels of several submissions name the submission."""
        owners: dict[str, set[str]] = {}
        for key, (_, setting) in self.entries.items():
            owners.setdefault(entry_label(setting), set()).add(self.submission_of(key))
        settings = []
        for key, (submission, setting) in self.entries.items():
            label, name = entry_label(setting), setting["name"]
            if not self.is_opponent(key):
                label += f" ({submission.name})" if len(owners[label]) > 1 else ""
                name = f"{key.partition('-')[0]} {name}"
            facts = dict(setting.get(FACTS) or {}) | {"entry": label}
            settings.append(setting | {"setting_id": key, "name": name, FACTS: facts})
        return settings

    def _joined(self, name: str) -> pd.DataFrame:
        """Returns a table of all submissions, each setting under its id in `entries`."""
        empty = self.submissions[0].run.tables[name].head(0)
        if "setting_id" not in empty:
            return empty
        # The id of a cell depends on the name of the model's folder, which may differ between submissions.
        cell = self.submissions[0].run.manifest["cell_id"]
        parts = [
            table[table["setting_id"] == setting["setting_id"]].assign(setting_id=key, cell_id=cell)
            for key, (submission, setting) in self.entries.items()
            if len(table := submission.run.tables[name])
        ]
        return pd.concat(parts, ignore_index=True) if parts else empty

    @cached_property
    def times(self) -> "pd.Series[float]":
        """The median time of each setting, in units of that of `UNIT_OF_TIME` on the same machine; NaN if unknown."""
        times = {}
        for key, (submission, setting) in self.entries.items():
            timings = submission.run.tables["timings"]
            median = (
                (timings["seconds"] / timings["n_examples"]).groupby(timings["setting_id"]).median()
            )
            unit = next(other for other in submission.run.settings if other["name"] == UNIT_OF_TIME)
            times[key] = median.get(setting["setting_id"], np.nan) / median.get(unit["setting_id"], np.nan)  # fmt: skip
        return pd.Series(times, dtype=float)

    @cached_property
    def table(self) -> Table:
        """The methods, best first: the endpoint with intervals and letters, the other metrics, and costs."""
        analysis = self.analysis
        removals = [metric for metric in analysis.metrics if metric.startswith(f"{PRIMARY} ")]
        others = [metric for metric in analysis.metrics if " " not in metric and metric != PRIMARY]
        fields: list[Field] = [
            (METHOD, lambda key: analysis.labels[key]),
            *metric_fields(analysis, [PRIMARY]),
            (Column("group", "Group"), analysis.groups.get),
            (Column("submission", "Submission"), self.submission_of),
            (Column("verified", "Verified"), lambda key: self.entries[key][0].verified),
            (Column("rank", "Mean rank"), analysis.ranks.get),
            *metric_fields(analysis, [*removals, *others]),
            (Column("missing", "Texts without SRG"), self._missing),
            (Column("n_gradients", "Gradients per example"), number(analysis.costs["n_gradients"], whole)),
            (Column("time", "Time (vanilla gradient: 1)"), number(self.times)),
        ]  # fmt: skip
        title = f"suite {self.submissions[0].suite}, {self.model}: {analysis.counted}"
        caption = f"{caption_of(analysis)} A text on which a method has no SRG counts as {CHANCE:g}, which is chance."
        table = filled("leaderboard", title, caption, fields, analysis.shown)
        return replace(table, caption=" ".join(sentences_about(table)))

    def _missing(self, key: str) -> int:
        """Counts the texts on which a method has no SRG with any removal operator."""
        submission, setting = self.entries[key]
        rows = submission.run.tables["rows"]
        rows = rows[(rows["setting_id"] == setting["setting_id"]) & (rows["metric"] == PRIMARY)]
        return int(rows.loc[rows["status"] != OK, "example_id"].nunique())

    def submission_of(self, key: str) -> str:
        """Returns the name of a setting's submission."""
        return OF_SUITE if self.is_opponent(key) else self.entries[key][0].name

    @property
    def codes(self) -> str:
        """A warning if submissions were made by several versions of the code; else empty."""
        codes = {code_of(submission) for submission in self.submissions}
        return (
            f"These submissions were made by different code: {'; '.join(sorted(codes))}."
            if len(codes) > 1
            else ""
        )

    @property
    def shared(self) -> str:
        """The agreement of the suite's own methods between submissions, in words; "" if there is one submission."""
        if len(self.submissions) < 2:
            return ""
        fixed = [key for key in self.entries if self.is_opponent(key)]
        keys = ["setting_id", "example_id", "metric", "removal"]
        first, *others = (
            submission.run.tables["rows"][lambda rows: rows["setting_id"].isin(fixed)].set_index(
                keys
            )["value"]
            for submission in self.submissions
        )
        others = [other.reindex(first.index) for other in others]
        largest = max(float((first - other).abs().max()) for other in others)
        alone = sum(int((first.isna() != other.isna()).sum()) for other in others)
        return (
            "The suite's own methods, which every submission computed on its own machine, give "
            + (f"values that differ by {largest:.1g} at most" if largest > 0 else "the same values")
            + (f"; values that one submission alone has: {alone}." if alone else ".")
        )

    @property
    def result(self) -> str:
        """The result in a sentence."""
        return verdict(self.analysis)

    @property
    def sentence(self) -> str:
        """The description of the study."""
        return what_was_run(self.analysis)


def boards(submissions: Sequence[Submission]) -> list[Board]:
    """Returns a board for each model, in the order of the submissions.

    Raises:
        InputError: there is no submission, two have one name, or they are of several suites.
    """
    if not submissions:
        raise InputError(
            "leaderboard takes folders of submissions: saliency-bench leaderboard DIR ..."
        )
    if len(suites := {submission.suite for submission in submissions}) > 1:
        raise InputError(
            f"the submissions are of several suites ({', '.join(sorted(suites))}). Give those of one."
        )
    names = [submission.name for submission in submissions]
    if repeated := next((name for name in names if [OF_SUITE, *names].count(name) > 1), None):
        raise InputError(
            f"{repeated!r} would name two entries, since a submission has the name of its folder. Rename one folder."
        )
    groups: dict[str, list[Submission]] = {}
    for submission in submissions:
        key = digest(identity_of_model(submission.run.manifest.get("model")))
        groups.setdefault(key, []).append(submission)
    for first, *others in groups.values():
        fixed = _fixed(first)
        for other in others:
            for name, value in _fixed(other).items():
                if fixed[name] != value:
                    raise InputError(
                        f"{other.run.folder} and {first.run.folder} differ in {name}, which a suite fixes. Verify both."
                    )
    return [Board(tuple(group)) for group in groups.values()]


def _fixed(submission: Submission) -> dict[str, Any]:
    """Returns the values that submissions of one model must share, by their names in messages."""
    examples, rows = (submission.run.tables[name] for name in ("examples", "rows"))
    metrics = rows[["metric", "removal", "unit", "higher_is_better"]].drop_duplicates()
    fixed = opponents(submission.suite)
    return {
        "the ids of the texts": set(zip(examples["example_id"], examples["text"], strict=True)),
        "metrics and ways of removing": set(metrics.astype(str).itertuples(index=False, name=None)),
        "the opponents' settings": {
            setting["setting_id"] for setting in submission.run.settings if setting["name"] in fixed
        },
    }


def write(submissions: Sequence[Submission], out: Path) -> list[Table]:
    """Writes the page and the CSV file of a leaderboard.

    Returns:
        The table of each model.

    Raises:
        InputError: see `boards`.
        StorageError: the folder cannot be written.
    """
    per_model = boards(submissions)
    first = submissions[0]
    one_model = per_model[0].model if len(per_model) == 1 else f"each of {len(per_model)} models"
    page = environment().get_template("leaderboard.html.j2").render(
        name=f"suite {first.suite}",
        enter=as_typed(f"{NAME} suite {first.suite} method=[YOURS] out=DIR"),
        submit=as_typed(f"{NAME} submit DIR"),
        content=first.content,
        endpoint=ENDPOINTS[PRIMARY],
        question=f"Which of {len(methods(per_model[0].analysis))} methods explains {one_model} best?"
        if len(per_model) == 1
        else f"Which method explains {one_model} best?",
        boards=per_model,
        submissions=_submissions(submissions),
    )  # fmt: skip
    replace_file(out / PAGE, page.encode())
    replace_file(out / CSV, to_csv(_long(per_model)).encode())
    return [board.table for board in per_model]


def _long(per_model: Sequence[Board]) -> Table:
    """Returns all boards as one table, with the model and the suite beside each method."""
    head = {
        "suite": Column("suite", "Suite"),
        "content": Column("content", "Content digest"),
        "model": Column("model", "Model"),
    }
    # Boards of several models may have other columns.
    columns = head | {column.key: column for board in per_model for column in board.table.columns}
    rows = []
    for board in per_model:
        first, table = board.submissions[0], board.table
        keys = [*head, *(column.key for column in table.columns)]
        for row in table.rows:
            cells = (first.suite, first.content, board.model, *row)
            line: dict[str, Cell] = dict(zip(keys, cells, strict=True))
            rows.append(tuple(line.get(key) for key in columns))
    return replace(per_model[0].table, columns=tuple(columns.values()), rows=tuple(rows))


def code_of(submission: Submission) -> str:
    """Returns the version and the commit of the code that made a submission."""
    facts = (submission.run.manifest.get("identity") or {}).get("code") or {}
    commit = str(facts.get("commit") or "")[:8]
    changed = f" with changes {str(facts.get('dirty_sha256'))[:8]}" if facts.get("dirty") else ""
    return f"{facts.get('version')} {commit}{changed}".strip()


def _submissions(submissions: Sequence[Submission]) -> Table:
    """Returns the table of submissions: the packages of their methods, their code, machine and date."""

    def machine(submission: Submission) -> str:
        facts = submission.run.manifest.get("identity") or {}
        computation = facts.get("computation") or {}
        words = [facts.get("cpu"), computation.get("device_name"), computation.get("dtype")]
        return ", ".join(str(word) for word in words if word not in (None, "cpu"))

    fields: list[Field] = [
        (Column("submission", "Submission"), lambda submission: submission.name),
        (Column("model", "Model"), lambda submission: Board((submission,)).model),
        (
            Column("packages", "Methods of"),
            lambda submission: ", ".join(sorted({facts["package"] for facts in submission.methods.values()})) or OF_SUITE,
        ),
        (Column("code", "saliency_bench"), code_of),
        (Column("machine", "Machine"), machine),
        (
            Column("ended", "Made"),
            lambda submission: str((submission.run.manifest.get("circumstances") or {}).get("ended") or "–")[:10],
        ),
    ]  # fmt: skip
    return filled("submissions", "Submissions", "", fields, submissions, False)
