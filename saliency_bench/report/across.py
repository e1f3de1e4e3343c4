"""Compares runs of the same settings in several cells, and separates the sources of their variance.

A cell is one model on one dataset under one seed. Examples, training seeds, noise seeds and datasets are separate sources of
variance and are never resampled together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from saliency_bench.core.averages import middle_of
from saliency_bench.core.errors import InputError
from saliency_bench.core.labels import PRIMARY, metric_label, setting_labels
from saliency_bench.core.method_facts import FACTS
from saliency_bench.core.rows import digest
from saliency_bench.core.texts import per_text
from saliency_bench.report.analysis import Analysis
from saliency_bench.report.convergence_table import ENOUGH, MARK, marked
from saliency_bench.report.rank_statistics import (
    N_CELLS_FOR_CLAIMS,
    Friedman,
    friedman,
    letters,
    mean_ranks,
    pairwise_p,
)
from saliency_bench.report.stats import Resampling, middles, wide
from saliency_bench.report.table import Cell, Column, Estimate, Field, Table, filled, number
from saliency_bench.store.run import Run

#: The factors in which cells can differ, in words.
SOURCES = {
    "training_seed": "training seed",
    "noise_seed": "noise seed",
    "data": "dataset",
    "model": "model",
}


#: The mark of a cell whose model did not pass its gate.
NO_TRUTH = "†"


@dataclass(frozen=True)
class OfCell:
    """The factors of a run by name, and a table of one metric: examples by methods.

    `kinds` has shorter names for models and datasets that were made for an experiment.
    """

    factors: Mapping[str, str]
    kinds: Mapping[str, str]
    values: pd.DataFrame
    higher_is_better: bool
    no_truth: str = ""  # the reason why its model did not pass its gate; "" if it did, or has none

    def name(self, varying: Sequence[str], kinds: bool = False) -> str:
        """Returns the values of the factors that differ between cells; with `kinds`, by their shorter names."""
        called = {**self.factors, **self.kinds} if kinds else self.factors
        parts = [
            f"{SOURCES[key]} {called[key]}" if key.endswith("seed") else called[key]
            for key in varying
        ]
        return ", ".join(parts) or "the cell"


@dataclass(frozen=True)
class Across:
    """The same settings in several cells, by one metric.

    `keys` are ids of settings that do not depend on a seed, best first by the mean over cells; `labels` are their labels.
    """

    metric: str
    cells: tuple[OfCell, ...]
    keys: tuple[str, ...]
    labels: Mapping[str, str]
    reference: str
    resampling: Resampling

    @property
    def varying(self) -> list[str]:
        """The factors in which the cells differ."""
        return [key for key in SOURCES if len({cell.factors[key] for cell in self.cells}) > 1]

    @property
    def names(self) -> list[str]:
        """The names of the cells, by as few factors as tell them apart; the dataset is left out first."""
        named_by = self.varying
        for factor in ("data", "model"):
            fewer = [key for key in named_by if key != factor]
            if len({cell.name(fewer) for cell in self.cells}) == len(self.cells):
                named_by = fewer
        short = [cell.name(named_by, kinds=True) for cell in self.cells]
        distinct = len(set(short)) == len(short)
        names = short if distinct else [cell.name(named_by) for cell in self.cells]
        return [
            f"{name} {NO_TRUTH}" if cell.no_truth else name
            for name, cell in zip(names, self.cells, strict=True)
        ]

    @property
    def mark_words(self) -> str:
        """The explanation of the marks on labels and cells; empty if there are none."""
        words = ""
        if any(label.endswith(MARK) for label in self.labels.values()):
            words += f" {MARK}: in one cell or more, fewer than {100 * ENOUGH:g} % of the texts converged."
        for reason in dict.fromkeys(cell.no_truth for cell in self.cells if cell.no_truth):
            words += f" {NO_TRUTH}: the model did not pass its gate ({reason}), so that the shortcut is no sure truth there."
        return words

    @property
    def higher_is_better(self) -> bool:
        """Whether higher values of the metric are better."""
        return self.cells[0].higher_is_better

    @cached_property
    def means(self) -> Float[np.ndarray, "N K"]:
        """The mean of every method in every cell; the median of a metric with heavy tails."""
        middle = middle_of(self.metric)
        return np.stack([cell.values[list(self.keys)].agg(middle) for cell in self.cells])

    @cached_property
    def friedman(self) -> Friedman | None:
        """Friedman's test over the cells; None if there are too few for a claim."""
        return friedman(self.means, self.higher_is_better, 1 - self.resampling.confidence)

    @cached_property
    def same_examples(self) -> pd.DataFrame | None:
        """The mean over cells of every example's value; None if cells have different examples."""
        first = set(self.cells[0].values.index)
        if len(self.cells) < 2 or any(set(cell.values.index) != first for cell in self.cells[1:]):
            return None
        stacked = pd.concat([cell.values[list(self.keys)] for cell in self.cells])
        # An example without a value in one cell has no mean over all of them.
        return stacked.groupby(level=0).agg(lambda values: values.mean(skipna=False))


def across(runs: Sequence[Run], metric: str = PRIMARY) -> Across:
    """Compares runs in one metric.

    Raises:
        InputError: their settings differ, two are of the same cell, or no setting has the metric in every run.
    """
    if len(runs) < 2:
        raise InputError(f"expected at least two run folders, got {len(runs)}")
    settings = [_by_name(run) for run in runs]
    _refuse_other_settings(runs, settings)
    analyses = [Analysis(run) for run in runs]
    cells = tuple(_cell(*both, metric) for both in zip(analyses, settings, strict=True))
    _refuse_same_cells(runs, cells)
    first = settings[0]
    keys = [key for key in first if all(key in cell.values for cell in cells)]
    if not keys:
        raise InputError(f"no setting has a value of {metric} in every run")
    worth = np.mean([cell.values[keys].agg(middle_of(metric)) for cell in cells], 0)
    order = np.argsort(-worth if cells[0].higher_is_better else worth, kind="stable")
    labels = setting_labels(runs[0].settings)
    unsure = {
        key
        for analysis, names in zip(analyses, settings, strict=True)
        for key, setting in names.items()
        if setting["setting_id"] in analysis.doubtful
    }
    wanted = str(runs[0].manifest.get("reference_setting"))
    return Across(
        metric=metric,
        cells=cells,
        keys=tuple(keys[place] for place in order),
        labels=marked({key: labels[first[key]["setting_id"]] for key in keys}, unsure),
        reference=next((key for key in keys if first[key]["setting_id"] == wanted), keys[0]),
        resampling=analyses[0].resampling,
    )


def _refuse_other_settings(runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> None:
    for run, names in zip(runs[1:], settings[1:], strict=True):
        if other := sorted(settings[0].keys() ^ names.keys()):
            example = {**settings[0], **names}[other[0]]
            hidden = ("name", "setting_id", FACTS)
            words = ", ".join(f"{k}={v}" for k, v in example.items() if k not in hidden)
            raise InputError(
                f"{run.folder} and {runs[0].folder} do not have the same settings: {len(other)} are in one of them alone, "
                f"such as {example['name']} ({words}). Give runs of the same methods with the same hyperparameters."
            )


def _refuse_same_cells(runs: Sequence[Run], cells: Sequence[OfCell]) -> None:
    seen: dict[tuple[str, ...], Path] = {}
    for run, cell in zip(runs, cells, strict=True):
        place = tuple(cell.factors.values())
        if place in seen:
            raise InputError(
                f"{run.folder} and {seen[place]} are of the same model, data and seeds. Give one."
            )
        seen[place] = run.folder


def _by_name(run: Run) -> dict[str, dict[str, Any]]:
    """Returns the settings by an id that does not depend on their seed."""
    return {
        digest(
            {
                key: value
                for key, value in setting.items()
                if key not in ("seed", "setting_id", FACTS)
            }
        ): setting
        for setting in run.settings
    }


def _cell(analysis: Analysis, names: Mapping[str, Mapping[str, Any]], metric: str) -> OfCell:
    run = analysis.run
    of_metric = analysis.rows[analysis.rows["metric"] == metric]
    if of_metric.empty or of_metric["higher_is_better"].isna().all():
        raise InputError(f"{run.folder} has no metric {metric} with a direction")
    table = per_text(wide(of_metric))
    table.columns = table.columns.get_level_values("setting_id")
    table.index = table.index.get_level_values("example_id")
    by_id = {setting["setting_id"]: key for key, setting in names.items()}
    model, data = run.manifest["model"], run.manifest["data"]
    config = run.manifest.get("config") or {}
    factors = {
        "training_seed": str(model.get("training_seed", "")),
        "noise_seed": str(config.get("seed", "")),
        "data": f"{data.get('dataset', '')}:{str(data['sha256'])[:6]}",
        # A model that is trained from several seeds is one model.
        "model": str(model["name"]).split("-seed")[0],
    }
    kinds = {
        key: str(facts["kind"]).replace("_", " ")
        for key in ("data", "model")
        if (facts := run.manifest[key]).get("kind")
    }
    better = bool(of_metric["higher_is_better"].iloc[0])
    gate = model.get("gate") or {"passed": True}
    no_truth = "" if gate["passed"] else str(gate["reason"])
    return OfCell(factors, kinds, table.rename(columns=by_id), better, no_truth)


def tables(comparison: Across) -> list[Table]:
    """Returns the tables of means by cell, of differences from the reference by cell, and of sources of variance."""
    return [cells_table(comparison), differences(comparison), variance(comparison)]


def cells_table(comparison: Across) -> Table:
    """Returns the table of every method in every cell, with its mean and its rank."""
    better = comparison.higher_is_better
    ranks = mean_ranks(comparison.means, better)
    pooled, groups = _pooled(comparison)
    means = [
        _estimates(cell.values[list(comparison.keys)], comparison) for cell in comparison.cells
    ]
    fields = [
        _method(comparison),
        *_by_cell(comparison, means, better),
        (Column("mean", "Mean over cells", "", better), pooled.__getitem__),
        (Column("rank", "Mean rank over cells"), lambda place: float(ranks[place])),
    ]
    if groups:
        fields.append((Column("group", "Group"), groups.__getitem__))
    title = f"{metric_label(comparison.metric)} in {len(comparison.cells)} cells"
    return filled("cells", title, _cells_caption(comparison), fields, range(len(comparison.keys)))


def _method(comparison: Across) -> Field:
    return Column("method", "Method"), lambda place: comparison.labels[comparison.keys[place]]


def _by_cell(
    comparison: Across, estimates: Sequence[Sequence[Estimate]], better: bool | None = None
) -> list[Field]:
    """Returns a column for each cell, with the estimate of each method."""
    return [
        (Column(f"cell_{n}", name, "", better), of_cell.__getitem__)
        for n, (name, of_cell) in enumerate(zip(comparison.names, estimates, strict=True))
    ]


def _pooled(comparison: Across) -> tuple[Sequence[Cell], list[str]]:
    """Returns the mean over cells of each method, and, if all cells have the same examples, its interval and letters."""
    by_example = comparison.same_examples
    if by_example is None:
        return comparison.means.mean(0).tolist(), []
    values = by_example[list(comparison.keys)]
    p = pairwise_p(values.to_numpy(), comparison.resampling, comparison.resampling.test)
    return _estimates(values, comparison), letters(p < 1 - comparison.resampling.confidence)


def _estimates(values: pd.DataFrame, comparison: Across) -> list[Estimate]:
    metrics = [comparison.metric] * len(values.columns)
    ends = middles(values.to_numpy(), metrics, comparison.resampling)
    return [Estimate(*map(float, numbers)) for numbers in zip(*ends, strict=True)]


def _cells_caption(comparison: Across) -> str:
    text = f"Means with {comparison.resampling.words} over the examples of the cell.{comparison.mark_words}"
    if comparison.same_examples is not None:
        text += (
            " All cells have the same examples: the mean over cells is taken example by example and its interval and "
            "letters are over examples, the cells as they are; methods that share a letter do not differ (all pairs, "
            "Holm)."
        )
    test = comparison.friedman
    if test is None:
        return f"{text} {len(comparison.cells)} cells make no claim beyond themselves: that takes {N_CELLS_FOR_CLAIMS} at least."
    return (
        f"{text} Over {test.n_cells} cells: Friedman's test (Iman & Davenport) F = {test.statistic:.3g}, "
        f"p = {test.p:.2g}; mean ranks differ from {test.critical_difference:.2f} on (Nemenyi)."
    )


def differences_by_cell(comparison: Across) -> list[list[Estimate]]:
    """Returns the mean paired difference from the reference, by cell and method."""
    values = [cell.values[list(comparison.keys)] for cell in comparison.cells]
    return [
        _estimates(table.sub(table[comparison.reference], axis=0), comparison) for table in values
    ]


def differences(comparison: Across) -> Table:
    """Returns the table of differences from the reference, which the forest plot shows."""
    by_cell = differences_by_cell(comparison)
    fields = [
        _method(comparison),
        *_by_cell(comparison, by_cell),
        (
            Column("sign", "Cells above"),
            lambda place: sum(of_cell[place].mean > 0 for of_cell in by_cell),
        ),
    ]
    places = [place for place, key in enumerate(comparison.keys) if key != comparison.reference]
    title = f"Differences in {metric_label(comparison.metric)} from {comparison.labels[comparison.reference]}"
    caption = (
        f"Mean paired differences with {comparison.resampling.words} over the examples of each cell. Cells above: in how "
        f"many the mean is larger.{comparison.mark_words}"
    )
    return filled("differences", title, caption, fields, places, False)


def variance(comparison: Across) -> Table:
    """Returns the table of the deviations of a method's number over examples, seeds and datasets."""
    values = [cell.values[list(comparison.keys)] for cell in comparison.cells]
    deviations = np.stack([table.std(ddof=1) for table in values])
    errors = deviations / np.sqrt([table.count() for table in values])
    # A source has a deviation only if some cells differ in it alone.
    spreads = {source: _spread_over(comparison, source) for source in comparison.varying}
    sources = {source: spread for source, spread in spreads.items() if spread.notna().all()}
    fields = [
        _method(comparison),
        (Column("examples", "SD over examples"), number(pd.Series(deviations.mean(0)))),
        (Column("error", "Its standard error"), number(pd.Series(errors.mean(0)))),
        *(
            (Column(source, f"SD over {SOURCES[source]}s"), number(spread))
            for source, spread in sources.items()
        ),
    ]
    caption = "SD over examples: of one example's value, mean over cells; its standard error: of a cell's mean."
    if sources:
        caption += " SD over another source: of the means of cells that differ in it alone, mean over all such groups."
    caption += comparison.mark_words
    title = f"What {metric_label(comparison.metric)} varies with"
    return filled("variance", title, caption, fields, range(len(comparison.keys)), False)


def _spread_over(comparison: Across, source: str) -> "pd.Series[float]":
    """Returns by method the deviation of the means of cells that differ in a source alone; NaN if none do."""
    factors = pd.DataFrame([dict(cell.factors) for cell in comparison.cells]).drop(columns=source)
    groups = pd.DataFrame(comparison.means).groupby([factors[key] for key in factors])
    return groups.std(ddof=1).mean()
