"""What the tables and figures of a run share: labels, means, comparisons and costs, computed once."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from saliency_bench.core.errors import InputError
from saliency_bench.core.labels import N_HEADLINE, PRIMARY, ordered_metrics, setting_labels
from saliency_bench.core.method_facts import facts_of, is_reference
from saliency_bench.core.rows import OK, TABLES
from saliency_bench.core.texts import TEXT, asks_several, per_text, with_texts
from saliency_bench.report.convergence_table import doubtful, gates, marked
from saliency_bench.report.parity import pairs
from saliency_bench.report.rank_statistics import letters, mean_ranks, pairwise_p
from saliency_bench.report.stats import (
    Resampling,
    compare,
    summarize,
    summarize_by_correctness,
    wide,
)
from saliency_bench.report.table import Estimate
from saliency_bench.store.run import Run

#: The order of nine methods from 100 examples agrees with that from all at τ = 0.86-0.92 (recomputed from the
#: per-example scores of Edin et al. 2025); with fewer a run is a first look and makes no claim.
N_EXAMPLES_FOR_CLAIMS = 100
N_DRAWN = 10  # settings that can be told apart in one figure
#: What every figure holds the others against.
_HELD_AGAINST = ("chance", "baseline")


@dataclass(frozen=True)
class Analysis:
    """A run with what its report says of it.

    `settings` are in the order in which they are shown; `shown` are those of the main table: all, or what the
    study chose on another split. `drawn` are those in figures of methods. `costs` has a line per setting id:
    n_gradients and seconds per example, examples_per_second, peak_bytes; `gates` what is known of its convergence.
    By setting id, `groups` has the letters of the primary metric (`ranks.letters`) and `ranks` its mean rank among
    those shown; both are empty where there are too few examples for a claim.
    """

    run: Run
    resampling: Resampling
    settings: tuple[Mapping[str, Any], ...]
    shown: tuple[str, ...]
    drawn: tuple[str, ...]
    labels: Mapping[str, str]
    reference: str
    metrics: tuple[str, ...]
    summary: pd.DataFrame
    estimates: Mapping[tuple[str, str], Estimate]
    comparison: pd.DataFrame
    correctness: pd.DataFrame
    costs: pd.DataFrame
    gates: pd.DataFrame
    groups: Mapping[str, str]
    ranks: Mapping[str, float]

    @property
    def n_examples(self) -> int:
        """How many texts were explained."""
        return n_texts(self.run)

    @property
    def n_questions(self) -> int:
        """How many questions were asked about them; of a classifier one each."""
        return len(self.run.tables["examples"])

    @property
    def counted(self) -> str:
        """What numbers are over, in words."""
        if self.n_questions == self.n_examples:
            return f"{self.n_examples} examples"
        return f"{self.n_examples} texts, {self.n_questions} {self.question}s"

    @property
    def question(self) -> str:
        """What there may be several of for a text: questions, or examples where the data repeats texts."""
        return "question" if asks_several(self.run.manifest) else "example"

    @property
    def claims(self) -> bool:
        """Whether there are enough examples to compare methods."""
        return self.n_examples >= N_EXAMPLES_FOR_CLAIMS

    @property
    def primary(self) -> str | None:
        """The metric by which settings are sorted and told apart."""
        return _primary(self.metrics, self.endpoint)

    @property
    def endpoint(self) -> str:
        """The metric that was fixed in advance; the study may have been run without it."""
        return _endpoint(self.run.manifest)

    @property
    def drawn_words(self) -> str:
        """How many of the settings figures of methods show, where these are not all."""
        if len(self.drawn) == len(self.shown):
            return ""
        return f" Shown: {len(self.drawn)} of {len(self.shown)} settings."

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics of the main table."""
        return self.metrics[:N_HEADLINE]

    def curves(self, setting_id: str) -> pd.DataFrame:
        """Those of a setting, by the main way of removing."""
        chosen = {"setting_id": [setting_id]}
        found = self.run.columns("curves", [*TABLES["curves"]], chosen)
        main = removals(self.run.manifest)[:1] or list(found["removal"].unique())[:1]
        return with_texts(found[found["removal"].isin(main)], self.run.manifest, self.run.repeated)

    def higher_is_better(self, metric: str) -> bool | None:
        """The direction of a metric; None where neither is better."""
        return _direction(self.summary, metric)

    def setting(self, setting_id: str) -> Mapping[str, Any]:
        """A setting by its id."""
        return next(one for one in self.settings if one["setting_id"] == setting_id)

    def estimate(self, setting_id: str, metric: str) -> Estimate | None:
        """The mean of a metric for a setting; None if it was not computed or has no value."""
        return self.estimates.get((setting_id, metric))


def analyse(run: Run) -> Analysis:
    """Reads all that a report needs out of a run.

    Raises:
        InputError: the run has no settings.
    """
    if not run.settings:
        raise InputError(
            f"{run.folder}/settings.json lists no setting: there is nothing to report."
        )
    resampling = Resampling.of(run.manifest)
    rows = rows_of(run)
    summary = summarize(rows, resampling) if len(rows) else pd.DataFrame()
    metrics = ordered_metrics(summary["metric"]) if len(summary) else []
    primary = _primary(metrics, _endpoint(run.manifest))
    settings = _sorted(run.settings, summary, primary)
    shown = _shown(run, settings)
    of_shown = rows[rows["setting_id"].isin(shown)]
    reference = _reference(run, shown)
    found = gates(run)
    unsure = doubtful(found)
    groups, ranks = _ordered(run, of_shown[of_shown["metric"] == primary], shown, resampling)
    return Analysis(
        run=run,
        resampling=resampling,
        settings=tuple(settings),
        shown=shown,
        drawn=_drawn(settings, shown, reference, unsure),
        labels=marked(setting_labels(run.settings), unsure),
        reference=reference,
        metrics=tuple(metrics),
        summary=summary,
        estimates=_estimates(summary),
        comparison=compare(of_shown, reference, resampling) if len(rows) else pd.DataFrame(),
        correctness=_by_correctness(run, of_shown, resampling),
        costs=costs(run),
        gates=found,
        groups=groups,
        ranks=ranks,
    )


def _ordered(
    run: Run, rows: pd.DataFrame, shown: Sequence[str], resampling: Resampling
) -> tuple[dict[str, str], dict[str, float]]:
    """Letters and mean ranks of the settings in order, by the one metric of the rows."""
    better = rows["higher_is_better"].dropna()
    enough = n_texts(run) >= N_EXAMPLES_FOR_CLAIMS
    if not enough or better.empty or not (rows["status"] == OK).any():
        return {}, {}
    table = per_text(wide(rows)).droplevel("metric", axis="columns")
    keys = [key for key in shown if key in table.columns]
    values = table[keys].to_numpy()
    alpha = 1 - resampling.confidence
    different = pairwise_p(values, resampling, resampling.test) < alpha
    named = letters(different)
    means = mean_ranks(values, higher_is_better=bool(better.iloc[0])).tolist()
    return dict(zip(keys, named, strict=True)), dict(zip(keys, means, strict=True))


def rows_of(run: Run) -> pd.DataFrame:
    """The rows of a run with the text of each example, and the removal in the name of metrics that have several."""
    rows = with_texts(run.tables["rows"], run.manifest, run.repeated)
    return with_removal(rows, removals(run.manifest))


def n_texts(run: Run) -> int:
    """How many texts a run explained, whatever was asked about each."""
    examples = with_texts(run.tables["examples"], run.manifest, run.repeated)
    return len(examples.drop_duplicates(["cell_id", TEXT])) if TEXT in examples else len(examples)


def removals(manifest: Mapping[str, Any]) -> list[str]:
    """The ways of removing that the study names, the main one first."""
    found = ((manifest.get("config") or {}).get("evaluation") or {}).get("removal") or []
    return [found] if isinstance(found, str) else list(found)


def with_removal(rows: pd.DataFrame, named: Sequence[str]) -> pd.DataFrame:
    """Rows whose metric also names the removal operator, if it was read with several and this is not the main one."""
    n_removals = rows.groupby("metric")["removal"].transform(lambda removal: removal.nunique())
    apart = (n_removals > 1) & ~rows["removal"].isin(named[:1])
    if not apart.any():
        return rows
    metric, removal = (
        rows[column].astype(str) for column in ("metric", "removal")
    )  # no categories
    full = metric + " (" + removal.fillna("none") + ")"
    return rows.assign(metric=metric.where(~apart, full))


def costs(run: Run) -> pd.DataFrame:
    """Per setting id: n_gradients and seconds per example, examples_per_second, peak_bytes; NaN where unknown.

    Seconds are the median of the repeats.
    """
    found = pd.DataFrame(index=[setting["setting_id"] for setting in run.settings])
    found["n_gradients"] = _mean_gradients(run)
    timings = run.tables["timings"]
    timed = timings.assign(each=timings["seconds"] / timings["n_examples"]).groupby("setting_id")
    found["seconds"] = timed["each"].median()
    found["examples_per_second"] = 1 / found["seconds"]
    found["peak_bytes"] = timed["peak_bytes"].max()
    gradients = timings.assign(each=timings["n_gradients"] / timings["n_examples"])
    timed_gradients = gradients.groupby("setting_id")["each"].mean().reindex(found.index)
    found["n_gradients"] = found["n_gradients"].fillna(timed_gradients)
    return found.astype(float)


def _mean_gradients(run: Run) -> "pd.Series[float]":
    """Of the maps of each setting."""
    maps = run.columns("maps", ["setting_id", "n_gradients"])
    return maps.groupby("setting_id")["n_gradients"].mean()


def _estimates(summary: pd.DataFrame) -> dict[tuple[str, str], Estimate]:
    if not len(summary):
        return {}
    return {
        (row.setting_id, row.metric): Estimate(row.mean, row.low, row.high)
        for row in summary[summary["n"] > 0].itertuples(index=False)
    }


def _endpoint(manifest: Mapping[str, Any]) -> str:
    chosen = (manifest.get("config") or {}).get("statistics") or {}
    return chosen.get("endpoint") or PRIMARY


def _primary(metrics: Sequence[str], endpoint: str) -> str | None:
    return endpoint if endpoint in metrics else next(iter(metrics), None)


def _direction(summary: pd.DataFrame, metric: str) -> bool | None:
    value = summary.loc[summary["metric"] == metric, "higher_is_better"].iloc[0]
    return None if pd.isna(value) else bool(value)


def _sorted(
    settings: Sequence[Mapping[str, Any]], summary: pd.DataFrame, metric: str | None
) -> list[Mapping[str, Any]]:
    """Best first by a metric; settings without a value after them, in their own order."""
    better = _direction(summary, metric) if metric else None
    if better is None:
        return list(settings)
    means = summary[summary["metric"] == metric].set_index("setting_id")["mean"].dropna()
    worse = -means if better else means
    return sorted(settings, key=lambda one: worse.get(one["setting_id"], float("inf")))


def _shown(run: Run, settings: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    chosen = (run.manifest.get("chosen") or {}).get("best", {})
    best = {name: choice["setting_id"] for name, choice in chosen.items()}
    return tuple(
        one["setting_id"]
        for one in settings
        if best.get(one["name"], one["setting_id"]) == one["setting_id"]
    )


def _drawn(
    settings: Sequence[Mapping[str, Any]],
    shown: Sequence[str],
    reference: str,
    unsure: Collection[str],
) -> tuple[str, ...]:
    """What figures show: what others are held against, then a setting of each entry, then a second one of each.

    Of an entry those that converged come first, then our code, then the best; second comes what Captum has beside the
    first. Of entries the plain methods come first, then the best.
    """
    place = {key: number for number, key in enumerate(shown)}
    own = [one for one in settings if one["setting_id"] in place]
    own.sort(key=lambda one: (one["setting_id"] in unsure, is_reference(one)))
    own.sort(key=lambda one: one["setting_id"] != reference)
    firsts = {one["name"]: one["setting_id"] for one in reversed(own)}
    beside = {other for ours, other, _ in pairs(own) if ours in firsts.values()}
    own.sort(key=lambda one: one["setting_id"] not in beside)
    own.sort(key=lambda one: one["setting_id"] not in firsts.values())
    turns: Counter[str] = Counter()
    order: dict[str, tuple[Any, ...]] = {}
    for one in own:
        key, turn, facts = one["setting_id"], turns[one["name"]], facts_of(one)
        held_against = key == reference or (turn == 0 and facts.role in _HELD_AGAINST)
        order[key] = not held_against, turn, not facts.plain, place[key]
        turns[one["name"]] += 1
    return tuple(sorted(sorted(order, key=order.__getitem__)[:N_DRAWN], key=place.__getitem__))


def _reference(run: Run, shown: Sequence[str]) -> str:
    """The setting that others are compared with: what the manifest names, or the chosen one of its entry."""
    names = {setting["setting_id"]: setting["name"] for setting in run.settings}
    wanted = run.manifest.get("reference_setting")
    reference = str(wanted) if wanted in names else next(iter(names))
    if reference in shown:
        return reference
    return next(one for one in shown if names[one] == names[reference])


def _by_correctness(run: Run, rows: pd.DataFrame, resampling: Resampling) -> pd.DataFrame:
    examples = run.tables["examples"]
    if not len(rows) or not len(examples):
        return pd.DataFrame()
    return summarize_by_correctness(rows, examples, resampling)
