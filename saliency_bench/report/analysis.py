"""The analysis of a run, from which its tables and figures are made: labels, means, comparisons and costs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from saliency_bench.core.errors import InputError, counted
from saliency_bench.core.labels import N_HEADLINE, PRIMARY, ordered_metrics, setting_labels
from saliency_bench.core.method_facts import facts_of, is_reference
from saliency_bench.core.rows import OK, TABLES
from saliency_bench.core.texts import TEXT, has_several_questions, per_text, with_texts
from saliency_bench.report import stats
from saliency_bench.report.convergence_table import doubtful, gates, marked
from saliency_bench.report.parity import pairs
from saliency_bench.report.rank_statistics import letters, mean_ranks, pairwise_p
from saliency_bench.report.table import Estimate
from saliency_bench.store.run import Run

#: The order of nine methods from 100 examples agrees with that from all examples at τ = 0.86-0.92 (recomputed from the
#: per-example scores of Edin et al. 2025). A run with fewer examples makes no claim.
N_EXAMPLES_FOR_CLAIMS = 100
N_DRAWN = 10  # the most settings in one figure, which can still be distinguished
#: The roles of settings that every figure of methods shows.
_ALWAYS_DRAWN = ("chance", "baseline")


@dataclass(frozen=True)
class Analysis:
    """The numbers of a run that its report shows. Each is computed at its first use."""

    run: Run

    @cached_property
    def resampling(self) -> stats.Resampling:
        """The options of intervals and tests."""
        return stats.Resampling.of(self.run.manifest)

    @cached_property
    def n_examples(self) -> int:
        """The number of explained texts; each may have several questions."""
        examples = self.table("examples")
        columns = ["cell_id", TEXT]
        return len(examples.drop_duplicates(columns)) if TEXT in examples else len(examples)

    @property
    def n_questions(self) -> int:
        """The number of questions about the texts. A classifier has one per text."""
        return len(self.run.tables["examples"])

    @property
    def question(self) -> str:
        """The word for the several values of a text: "question", or "example" if the data repeats texts."""
        return "question" if has_several_questions(self.run.manifest) else "example"

    @property
    def counted(self) -> str:
        """The number of texts and questions, in words."""
        if self.n_questions == self.n_examples:
            return counted(self.n_examples, "example")
        return f"{counted(self.n_examples, 'text')}, {counted(self.n_questions, self.question)}"

    @property
    def claims(self) -> bool:
        """Whether there are enough examples to compare methods."""
        return self.n_examples >= N_EXAMPLES_FOR_CLAIMS

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The table `rows` with the text of each example; a metric of a further removal operator names it."""
        return with_removal(self.table("rows"), removals(self.run.manifest))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The mean of every setting and metric with its interval (`stats.summarize`)."""
        return stats.summarize(self.rows, self.resampling)

    @cached_property
    def estimates(self) -> Mapping[tuple[str, str], Estimate]:
        """The means by setting id and metric, without those that no text has a value for."""
        return {
            (row.setting_id, row.metric): Estimate(row.mean, row.low, row.high)
            for row in self.summary[self.summary["n"] > 0].itertuples(index=False)
        }

    @cached_property
    def metrics(self) -> Sequence[str]:
        """All metrics in the order of columns."""
        return ordered_metrics(self.summary["metric"])

    @property
    def headline(self) -> Sequence[str]:
        """The metrics of the main table."""
        return self.metrics[:N_HEADLINE]

    @property
    def endpoint(self) -> str:
        """The metric that was fixed in advance; the run may lack it."""
        chosen = (self.run.manifest.get("config") or {}).get("statistics") or {}
        return chosen.get("endpoint") or PRIMARY

    @property
    def primary(self) -> str | None:
        """The metric by which settings are sorted and compared; None without metrics."""
        return self.endpoint if self.endpoint in self.metrics else next(iter(self.metrics), None)

    @property
    def best(self) -> Mapping[str, str]:
        """The id of the setting that the study chose on another split, by entry."""
        chosen = (self.run.manifest.get("chosen") or {}).get("best", {})
        return {name: choice["setting_id"] for name, choice in chosen.items()}

    @cached_property
    def settings(self) -> Sequence[Mapping[str, Any]]:
        """All settings, the best first by the primary metric; those without a value last, in their own order."""
        better = self.higher_is_better(self.primary) if self.primary else None
        if better is None:
            return self.run.settings

        def place(setting: Mapping[str, Any]) -> float:
            estimate = self.estimate(setting["setting_id"], str(self.primary))
            return float("inf") if estimate is None else estimate.mean * (-1 if better else 1)

        return sorted(self.run.settings, key=place)

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """The ids of the settings in the main table: all, or those that the study chose on another split."""
        return tuple(
            setting["setting_id"]
            for setting in self.settings
            if self.best.get(setting["name"], setting["setting_id"]) == setting["setting_id"]
        )

    @cached_property
    def reference(self) -> str:
        """The setting that others are compared with: that of the manifest, or the chosen one of its entry."""
        names = {setting["setting_id"]: setting["name"] for setting in self.run.settings}
        named = self.run.manifest.get("reference_setting")
        reference = str(named) if named in names else next(iter(names))
        if reference in self.shown:
            return reference
        return next(key for key in self.shown if names[key] == names[reference])

    @cached_property
    def drawn(self) -> tuple[str, ...]:
        """The ids of the settings in figures of methods, at most `N_DRAWN`, in the order of `shown`.

        The reference, chance and baselines come first, then one setting of each entry, then a second of each. In an entry,
        converged settings come first, then those of our code, then the best; the second is the Captum twin of the first.
        Among entries, the plain methods come first, then the best.
        """
        settings = [self.setting(key) for key in self.shown]
        settings.sort(
            key=lambda setting: (
                setting["setting_id"] != self.reference,
                setting["setting_id"] in self.doubtful,
                is_reference(setting),
            )
        )
        firsts = {setting["name"]: setting["setting_id"] for setting in reversed(settings)}.values()
        beside = {other for ours, other, _ in pairs(settings) if ours in firsts}
        settings.sort(
            key=lambda setting: (
                setting["setting_id"] not in firsts,
                setting["setting_id"] not in beside,
            )
        )
        turns: Counter[str] = Counter()
        order: dict[str, tuple[Any, ...]] = {}
        for setting in settings:
            key, turn, facts = setting["setting_id"], turns[setting["name"]], facts_of(setting)
            always = key == self.reference or (turn == 0 and facts.role in _ALWAYS_DRAWN)
            order[key] = not always, turn, not facts.plain, self.shown.index(key)
            turns[setting["name"]] += 1
        first = sorted(order, key=order.__getitem__)[:N_DRAWN]
        return tuple(sorted(first, key=self.shown.index))

    @property
    def drawn_words(self) -> str:
        """The number of settings in figures of methods, in words; empty if all are shown."""
        if len(self.drawn) == len(self.shown):
            return ""
        return f" Shown: {len(self.drawn)} of {counted(len(self.shown), 'setting')}."

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """The labels of settings, by id."""
        return marked(setting_labels(self.run.settings), self.doubtful)

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """The differences of all shown settings from the reference (`stats.compare`)."""
        return stats.compare(self._shown_rows, self.reference, self.resampling)

    @cached_property
    def against(self) -> Mapping[str, str]:
        """The setting that `statistics.pairs` fixed in advance for a comparison, by setting."""
        chosen = (self.run.manifest.get("config") or {}).get("statistics") or {}
        ids = {setting["name"]: setting["setting_id"] for setting in self.run.settings}
        entries = chosen.get("pairs") or {}
        return {
            key: ids[entries[name]]
            for key in self.shown
            if (name := self.setting(key)["name"]) in entries and entries[name] in ids
        }

    @cached_property
    def fixed_pairs(self) -> pd.DataFrame:
        """The differences of all settings with a fixed pair from the other of the pair (`stats.compare`)."""
        return stats.compare(self._shown_rows, self.against, self.resampling)

    @cached_property
    def correctness(self) -> pd.DataFrame:
        """The means of the shown settings for right and for wrong predictions (`stats.summarize_by_correctness`)."""
        examples = self.run.tables["examples"]
        return stats.summarize_by_correctness(self._shown_rows, examples, self.resampling)

    @cached_property
    def gates(self) -> pd.DataFrame:
        """The convergence of each setting (`convergence_table.gates`)."""
        return gates(self.run)

    @cached_property
    def doubtful(self) -> set[str]:
        """The ids of settings with too few converged maps."""
        return doubtful(self.gates)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """n_gradients and seconds per example and examples_per_second, by setting id; NaN if unknown.

        Seconds are the median of the repeats.
        """
        maps = self.run.columns("maps", ["setting_id", "n_gradients"])
        timings = self.run.tables["timings"]
        each = timings[["seconds", "n_gradients"]].div(timings["n_examples"], axis=0)
        timed = each.groupby(timings["setting_id"])
        costs = pd.DataFrame(index=[setting["setting_id"] for setting in self.run.settings])
        costs["n_gradients"] = maps.groupby("setting_id")["n_gradients"].mean()
        costs["n_gradients"] = costs["n_gradients"].fillna(timed["n_gradients"].mean())
        costs["seconds"] = timed["seconds"].median()
        costs["examples_per_second"] = 1 / costs["seconds"]
        return costs.astype(float)

    @cached_property
    def groups(self) -> Mapping[str, str]:
        """The letters of the primary metric (`rank_statistics.letters`), by setting id; empty if there is no claim."""
        values = self._primary_values
        p = pairwise_p(values.to_numpy(), self.resampling, self.resampling.test)
        return dict(zip(values, letters(p < 1 - self.resampling.confidence), strict=True))

    @cached_property
    def ranks(self) -> Mapping[str, float]:
        """The mean rank in the primary metric among the shown settings, by setting id; empty if there is no claim."""
        values = self._primary_values
        better = bool(self.primary and self.higher_is_better(self.primary))
        return dict(zip(values, mean_ranks(values.to_numpy(), better).tolist(), strict=True))

    def table(self, name: str) -> pd.DataFrame:
        """Returns a table of the run, with the text of each example if several are of one text."""
        return with_texts(self.run.tables[name], self.run.manifest, self.run.repeated)

    def curves(self, setting_id: str) -> pd.DataFrame:
        """Returns the curves of a setting under the main removal operator."""
        rows = self.run.columns("curves", [*TABLES["curves"]], {"setting_id": [setting_id]})
        main = removals(self.run.manifest)[:1] or list(rows["removal"].unique())[:1]
        rows = rows[rows["removal"].isin(main)]
        return with_texts(rows, self.run.manifest, self.run.repeated)

    def higher_is_better(self, metric: str) -> bool | None:
        """Returns the direction of a metric; None if neither is better."""
        value = self.summary.loc[self.summary["metric"] == metric, "higher_is_better"].iloc[0]
        return None if pd.isna(value) else bool(value)

    def setting(self, setting_id: str) -> Mapping[str, Any]:
        """Returns a setting by its id."""
        return next(setting for setting in self.settings if setting["setting_id"] == setting_id)

    def estimate(self, setting_id: str, metric: str) -> Estimate | None:
        """Returns the mean of a metric for a setting; None if it was not computed or has no value."""
        return self.estimates.get((setting_id, metric))

    @property
    def _shown_rows(self) -> pd.DataFrame:
        return self.rows[self.rows["setting_id"].isin(self.shown)]

    @cached_property
    def _primary_values(self) -> pd.DataFrame:
        """The primary metric by text and setting, in order; empty if there are too few texts for a claim."""
        rows = self._shown_rows[self._shown_rows["metric"] == self.primary]
        directed = self.primary and self.higher_is_better(self.primary) is not None
        if not self.claims or not directed or not (rows["status"] == OK).any():
            return pd.DataFrame()
        values = per_text(stats.wide(rows)).droplevel("metric", axis="columns")
        return values[[key for key in self.shown if key in values]]


def analyse(run: Run) -> Analysis:
    """Returns the analysis of a run.

    Raises:
        InputError: the run has no settings.
    """
    if not run.settings:
        raise InputError(
            f"{run.folder}/settings.json lists no setting: there is nothing to report."
        )
    return Analysis(run)


def removals(manifest: Mapping[str, Any]) -> list[str]:
    """Returns the removal operators of the study, the main one first."""
    operators = ((manifest.get("config") or {}).get("evaluation") or {}).get("removal") or []
    return [operators] if isinstance(operators, str) else list(operators)


def with_removal(rows: pd.DataFrame, named: Sequence[str]) -> pd.DataFrame:
    """Returns rows whose metric names its removal operator, if the metric has several and this is not the main one."""
    n_removals = rows.groupby("metric")["removal"].transform(lambda removal: removal.nunique())
    further = (n_removals > 1) & ~rows["removal"].isin(named[:1])
    if not further.any():
        return rows
    # As texts, since categories cannot be concatenated.
    metric, removal = (rows[column].astype(str) for column in ("metric", "removal"))
    full = metric + " (" + removal.fillna("none") + ")"
    return rows.assign(metric=metric.where(~further, full))
