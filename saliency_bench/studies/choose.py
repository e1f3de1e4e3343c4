"""The best setting of each method entry on the split where a study chooses."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from saliency_bench.core.averages import middle_of
from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.rows import OK
from saliency_bench.core.texts import TEXT, with_texts

if TYPE_CHECKING:
    from saliency_bench.store.run import Run


def best_settings(run: "Run", metric: str) -> dict[str, dict[str, Any]]:
    """For each method entry the setting with the best mean of a metric (`summarize`); the first of equals.

    Returns:
        Entry name to setting_id, mean and n; entries without a value are left out.

    Raises:
        InputError: the run has no such metric, or it has no direction.
    """
    rows = run.tables["rows"]
    of_metric = rows[rows["metric"] == metric]
    if of_metric.empty:
        raise unknown("choose.metric", metric, sorted(set(rows["metric"])))
    better = of_metric["higher_is_better"].iloc[0]
    if pd.isna(better):
        raise InputError(
            f"choose.metric={metric}: neither more nor less of it is better. Choose another metric."
        )
    usable = with_texts(of_metric[of_metric["status"] == OK], run.manifest, run.repeated)
    if TEXT in usable:
        usable = usable.groupby(["setting_id", "cell_id", TEXT], as_index=False)["value"].mean()
    values = usable.groupby("setting_id")["value"].agg(mean=middle_of(metric), count="count")
    return _best_by_name(run, values, max if better else min)


def _best_by_name(
    run: "Run", values: pd.DataFrame, pick: Callable[..., dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    scored: dict[str, list[dict[str, Any]]] = {}
    for setting in run.settings:
        if (key := setting["setting_id"]) in values.index:
            mean, n = values.loc[key, ["mean", "count"]]
            scores = {"setting_id": key, "mean": float(mean), "n": int(n)}
            scored.setdefault(setting["name"], []).append(scores)
    return {
        name: pick(candidates, key=lambda scores: scores["mean"])
        for name, candidates in scored.items()
    }
