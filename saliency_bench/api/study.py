"""A whole study from Python: the runner of the command, on a model and texts that are in memory."""

import atexit
import io
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from html import escape
from inspect import signature
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from saliency_bench.api.arguments import (
    Targets,
    entry_of,
    one_target,
    plain,
    with_hyperparameters,
    with_replacements,
)
from saliency_bench.api.inputs import as_model, encode_all
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, one_of, shown
from saliency_bench.core.labels import setting_labels
from saliency_bench.core.program import MEMORY
from saliency_bench.core.rows import as_list
from saliency_bench.core.text import Encoded
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.registry import questions
from saliency_bench.report import formats, style, terminal
from saliency_bench.report.analysis import Analysis, analyse
from saliency_bench.report.build import FIGURES, build_report
from saliency_bench.report.convergence_table import mark_words
from saliency_bench.report.paper import for_paper
from saliency_bench.report.stats import compare
from saliency_bench.report.study_tables import headline
from saliency_bench.report.table import printed
from saliency_bench.report.verdict import verdict
from saliency_bench.store.run import Run, read_run
from saliency_bench.studies import config as schema
from saliency_bench.studies import progress as shown_by
from saliency_bench.studies.checks import settings, validate
from saliency_bench.studies.prepare import Inputs, by_text_hash
from saliency_bench.studies.run import run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: What a call names alone is not written out: it is long, or says where and how and not what.
_NAMED_ALONE = ("labels",)
_UNSAID = ("model", "data", "out", "progress", "token_budget")

Entries = str | Sequence[str | Mapping[str, Any]] | Mapping[str, Mapping[str, Any]]


def study(
    model: Any,
    data: Any,
    methods: Entries | None = None,
    metrics: Entries | None = None,
    *,
    removal: str | Sequence[str] = "mask",
    n: int | None = None,
    out: str | Path | None = None,
    labels: Any = None,
    target: Targets = "predicted",
    output: str = "logit",
    seed: int = 0,
    token_budget: int | str | None = None,
    progress: bool | None = None,
) -> "StudyResult":
    """Explains texts by several methods, evaluates the maps and sums them up with intervals, as the command does.

    Args:
        model: from `load_model` or `wrap_model`, or what `load_model` takes, such as a pipeline; it is left as found.
        data: texts in any form that `attribute` takes, such as a DataFrame with a column `text` (and `text_pair`, `label`).
        methods: names of entries in conf/method/, entries of your own (`{"method": "integrated_gradients", "n_steps":
            [8, 16]}`; `name` where two have the same method), or both; a list is an axis. Where None, those of the
            quickstart with its settings (conf/experiment/quickstart.yaml), without their twins in Captum.
        metrics: likewise, of conf/metric/.
        removal: what stands in for removed tokens; a list gives rows for each.
        n: how many texts, chosen by the hash of their words, so that sorted data is not cut to one class; all where None.
        out: a new folder for the run, or that of the same study, which then goes on where it stopped. Where None, the
            results are kept until Python ends.
        labels: gold classes, one per text; those that the data brings where None.
        target: the explained class: "predicted", "gold", "runner_up", a name, an index, or the pair (A, B), as in `attribute`.
        output: the score of that class: "logit", "probability", "log_probability" or "cross_entropy".
        seed: of noise and random rankings.
        token_budget: tokens per pass; that of conf/config.yaml where None.
        progress: say on standard error what a long study will cost, and how far it is; where None, on a terminal and in a
            notebook.

    Raises:
        InputError: a name, a value or a text is not usable.
        StorageError: the folder cannot be written.
    """
    model = as_model(model)
    texts = _first(encode_all(model, data, labels), plain(n))
    encoded = [question for _, question in questions(model, texts)]
    cfg = _config(
        model, n_examples=len(texts), target=one_target(target), output=output, seed=plain(seed)
    )
    cfg.method, cfg.metric = _entries("method", methods), _entries("metric", metrics)
    cfg.evaluation.removal = as_list(plain(removal))
    cfg.statistics.reference = next(iter(cfg.method), None)
    if token_budget is not None:
        cfg.runtime.token_budget = plain(token_budget)
    validate(cfg)
    cfg.out = str(out or Path(tempfile.mkdtemp(prefix="saliency-bench-")) / "run")
    inputs = Inputs(model, encoded, ["data"] * len(encoded))
    folder = _followed(cfg, inputs, _call(locals()), out, progress)
    result = StudyResult(folder, kept=out is not None)
    _warn_of_replacements(result.run)
    return result


def _call(given: Mapping[str, Any]) -> str:
    """The call as it can be typed again, without the values that it has anyway."""
    words = ["model", "texts"]
    for name, parameter in signature(study).parameters.items():
        if name not in _UNSAID and repr(given[name]) != repr(parameter.default):
            value = name if name in _NAMED_ALONE else repr(given[name])
            words.append(f"{name}={value}")
    return f"sb.study({', '.join(words)})"


def _interrupted(out: str | Path | None) -> str:
    hint = f"The same call with out={str(out)!r} goes on." if out else "Nothing is kept."
    return f"The study was interrupted. {hint}"


def _warn_of_replacements(finished: Run) -> None:
    """Warns of stand-ins for what the model lacks; warnings of single texts and unknown tokens came at the start."""
    rows = finished.tables["warnings"]
    of_all = rows[(rows["example_id"] == "") & (rows["source"] != "model")]
    for source, message in dict.fromkeys(zip(of_all["source"], of_all["message"], strict=True)):
        warnings.warn(f"{source}: {message}", stacklevel=3)


def _first(texts: list[Encoded], n: int | None) -> list[Encoded]:
    """All texts, or n of them by the hash of their words."""
    if n is not None and not (isinstance(n, Integral) and not isinstance(n, bool) and n >= 1):
        raise InputError(f"n={shown(n)}: expected a whole number, at least 1")
    return texts if n is None or n >= len(texts) else by_text_hash(texts)[:n]


def _config(model: Model, **values: Any) -> schema.Config:
    """conf/config.yaml for a model in memory, with these values in place of its own."""
    defaults = conf_files.config() | values
    sections = {
        "evaluation": schema.Evaluation,
        "agreement": schema.Agreement,
        "convergence": schema.Convergence,
        "timing": schema.Timing,
        "statistics": schema.Statistics,
        "report": schema.Report,
    }
    made = {key: kind(**defaults.pop(key)) for key, kind in sections.items()}
    defaults["choose"] = None  # there is no other split
    made["agreement"].metrics = as_list(made["agreement"].metrics)
    runtime = defaults.pop("runtime") | conf_files.read("runtime", "here")
    facts = {"device": str(model.device), "dtype": model.precision}
    return schema.Config(
        **defaults | made,
        model=schema.MemoryModel(MEMORY, model.task),
        data={"dataset": MEMORY},
        runtime=schema.Runtime(**runtime | facts),
    )


def _entries(group: str, chosen: Entries | None) -> dict[str, dict[str, Any]]:
    """Named entries of methods or metrics, each complete.

    Raises:
        InputError: an entry names no part, or two have the same name.
    """
    if chosen is None:
        chosen = {
            name: {**entry, "backend": "native"} if "backend" in entry else entry
            for name, entry in conf_files.selected(group).items()
        }
    if not chosen and group == "method":  # without metrics, a study says what methods cost
        raise InputError('methods is empty: expected at least one, as "integrated_gradients"')
    if isinstance(chosen, Mapping):
        chosen = [{"name": name, **entry} for name, entry in chosen.items()]
    entries: dict[str, dict[str, Any]] = {}
    for item in as_list(chosen):
        entry = {group: item} if isinstance(item, str) else dict(item)
        if not isinstance(entry.get(group), str):
            raise InputError(
                f"{group}s: {shown(item)}: expected a name, or a mapping with {group!r} and hyperparameters"
            )
        part = entry.pop(group)
        defaults = entry_of(group, part)
        name = entry.pop("name", part)
        if not isinstance(name, str) or not name.isprintable() or not name.strip():
            raise InputError(f"{group}s: name={shown(name)}: expected a text")
        if name in entries:
            raise InputError(
                f"{group}s: two entries are called {name}. Give one of them a name of its own: "
                f'{{"name": "other", "{group}": "{part}", ...}}'
            )
        entries[name] = defaults | {key: plain(value) for key, value in entry.items()}
    return entries


def _followed(
    cfg: schema.Config, inputs: Inputs, call: str, out: str | Path | None, progress: bool | None
) -> Path:
    """Runs the study, and says how far it is if `progress`; where None, if somebody reads it. Returns the folder."""
    watched = shown_by.is_watched() if progress is None else progress
    announce = _announce if watched else None
    with shown_by.progress(then="") if watched else nullcontext(_silent) as show:
        try:
            return run(cfg, settings(cfg), [call], show, announce, inputs=inputs)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_interrupted(out)) from None


def _silent(stage: str, done: int, total: int, left: float | None = None) -> None:
    """Shows no progress."""


def _announce(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class StudyResult:
    """The results of a study; in a notebook and in a terminal they show their main table.

    Attributes:
        folder: the run folder, as the command writes it: `saliency-bench report FOLDER`, `across`, `compare` read it.
    """

    def __init__(self, folder: Path, *, kept: bool = True) -> None:
        self.folder, self._kept = folder, kept
        if not kept:
            atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)

    @cached_property
    def run(self) -> Run:
        """All tables, settings and the manifest."""
        return read_run(self.folder)

    @cached_property
    def _analysis(self) -> Analysis:
        return analyse(self.run)

    @property
    def rows(self) -> "pd.DataFrame":
        """One line per text, setting and metric: what `evaluate` returns, with the hyperparameters that differ."""
        rows = self.run.tables["rows"].drop(columns="cell_id")
        return self._with_settings(self._with_replacements(rows, rows["removal"]))

    def summary(self) -> "pd.DataFrame":
        """One line per setting and metric: method, metric, mean, low, high, n, group and the hyperparameters that differ.

        `replaced_by` is what replaces removed tokens.
        `mean` is the median for metrics with heavy tails; `low` and `high` are the ends of its 95 % interval over texts.
        Metrics that are evaluated under several removals have the removal in their name: "srg (pad)". `group` has the
        letters of the primary metric: settings that share one do not differ. It is empty below 100 texts, which make no
        claim.
        """
        order = {
            setting["setting_id"]: place for place, setting in enumerate(self._analysis.settings)
        }
        order |= {metric: place for place, metric in enumerate(self._analysis.metrics)}
        summary = self._with_settings(self._analysis.summary).sort_values(
            ["setting_id", "metric"], key=lambda column: column.map(order), ignore_index=True
        )
        removal_of = self._analysis.rows.drop_duplicates("metric").set_index("metric")["removal"]
        summary = self._with_replacements(summary, summary["metric"].map(removal_of))
        groups, primary = self._analysis.groups, self._analysis.primary
        summary["group"] = [
            groups.get(key, "") if metric == primary else ""
            for key, metric in zip(summary["setting_id"], summary["metric"], strict=True)
        ]
        first = ["method", "metric", "mean", "low", "high", "n", "group"]
        return summary[[*first, *(column for column in summary if column not in first)]]

    def compare(self, a: str, b: str) -> "pd.DataFrame":
        """Differences a − b of two methods (or setting ids), paired by text.

        Returns:
            One line per metric: metric, n, difference, low, high, p, effect. p is of the test of paired differences that
            the study names, not corrected for several metrics; effect the matched-pairs rank-biserial correlation.

        Raises:
            InputError: a name is unknown, its method has several settings, or both are the same setting.
        """
        chosen = self._setting_id(a), self._setting_id(b)
        if chosen[0] == chosen[1]:
            raise InputError(f"{a} and {b} are the same setting: expected two that can differ")
        rows = self._analysis.rows
        pairs = compare(rows[rows["setting_id"].isin(chosen)], chosen[1], self._analysis.resampling)
        columns = ["metric", "n", "difference", "low", "high", "p", "effect"]
        order = {metric: place for place, metric in enumerate(self._analysis.metrics)}
        return pairs[columns].sort_values(
            "metric", key=lambda column: column.map(order), ignore_index=True
        )

    def plot(self, name: str = "metric_bars") -> "Figure":
        """A figure of the report: metric_bars, curves, agreement, cost, convergence, accuracy, noise_map, removal_grid.

        Raises:
            InputError: there is no such figure, or the study has nothing for it.
        """
        one_of("name", name, FIGURES)
        with style.styled():
            figure = FIGURES[name](self._analysis)
        if figure is None:
            raise InputError(f"name={name}: this study has nothing to draw there")
        vars(figure)["_repr_png_"] = partial(
            style.png, figure
        )  # a notebook shows it, without pyplot
        return figure

    def report(self) -> Path:
        """Writes tables (CSV, Markdown, LaTeX), figures and report.html into the run folder; returns the page's path."""
        return build_report(self.run)

    def to_latex(self) -> str:
        """The main table for a paper, as tables/headline.tex has it."""
        return formats.to_latex(for_paper(self._analysis))

    def _setting_id(self, name: str) -> str:
        settings = self.run.settings
        labels = setting_labels(settings)
        names = {
            key: (key, one["name"], labels[key]) for one in settings for key in [one["setting_id"]]
        }
        ids = [key for key, of_setting in names.items() if name in of_setting]
        if not ids:
            one_of("method", name, {word for _, *words in names.values() for word in words})
        if len(ids) > 1:
            listed = "; ".join(f"{key} ({labels[key]})" for key in ids)
            raise InputError(f"{name} has {len(ids)} settings. Give the id of one: {listed}")
        return str(ids[0])

    def _with_replacements(self, table: "pd.DataFrame", removals: "pd.Series") -> "pd.DataFrame":
        tokens = self.run.manifest.get("replaced_by") or {}
        return with_replacements(table, removals, self.run.settings, tokens)

    def _with_settings(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """The table with columns for the method, the backend and the hyperparameters in which settings differ."""
        named = table.copy()
        for column, key in (("method", "name"), ("backend", "backend")):
            by_id = {setting["setting_id"]: setting[key] for setting in self.run.settings}
            named[column] = named["setting_id"].map(by_id)
        return with_hyperparameters(named, self.run.settings)

    def __repr__(self) -> str:
        page = io.StringIO()
        console = Console(file=page, width=160, highlight=False, force_jupyter=False)
        console.print(terminal.to_rich(terminal.fitting(headline(self._analysis), 160), False))
        for sentence in filter(None, (*self._sentences(), self._place())):
            console.print(Text(sentence), soft_wrap=True)
        return page.getvalue()

    def _sentences(self) -> tuple[str, str]:
        """What the mark of the main table means, and the result."""
        labels = (str(row[0]) for row in headline(self._analysis).rows)
        return mark_words(labels, self.run), verdict(self._analysis)

    def _place(self) -> str:
        until = "" if self._kept else " until Python ends; out=FOLDER keeps it"
        return f"In {self.folder}{until}. Go on with .summary(), .compare(a, b), .plot(), .report() or .to_latex()."

    def _repr_html_(self) -> str:
        import pandas as pd

        table = headline(self._analysis)
        cells = [[f"{cell.text} {cell.interval}".strip() for cell in row] for row in printed(table)]
        frame = pd.DataFrame(cells, columns=[column.heading for column in table.columns])
        words = [f"<p>{escape(sentence)}</p>" for sentence in filter(None, self._sentences())]
        return "".join([frame.to_html(index=False), *words])
