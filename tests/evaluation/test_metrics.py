"""What every metric declares, and the entries in conf/metric that name them."""

import inspect
import pkgutil
from importlib import import_module

import pytest

from saliency_bench import evaluation
from saliency_bench.core import conf as conf_files
from saliency_bench.evaluation.metrics import INFO, METRICS, metric
from saliency_bench.evaluation.view import hyperparameters

MODULES = [
    import_module(f"{evaluation.__name__}.{found.name}")
    for found in pkgutil.iter_modules(evaluation.__path__)
]
ALL = pytest.mark.parametrize("name", sorted(INFO))

#: Known from the papers: a larger number means a more faithful ranking.
HIGHER = {
    "comprehensiveness",
    "dig_comprehensiveness",
    "ferret_comprehensiveness",
    "srg",
    "srg_on_grid",
    "insertion_auc",
    "insertion_auc_normalized",
    "lerf",
    "abpc",
    "decision_flip_most_informative",
    "monotonicity",
    "leave_one_out_tau",
    "faithfulness_correlation",
    "linear_datamodeling_score",
    "top_k_log_probability_drop",
    "normalized_comprehensiveness",
    "soft_sufficiency",
    "soft_comprehensiveness",
    "precision_at_k",
    "auprc",
    "token_f1",
    "token_iou",
    "mean_reciprocal_rank",
    "pointing_game",
}
#: Known from the papers: a smaller number does.
LOWER = {
    "completeness_gap",
    "completeness_gap_relative",
    "decision_flip_fraction",
    "deletion_auc",
    "deletion_auc_normalized",
    "dig_log_odds",
    "dig_sufficiency",
    "ferret_sufficiency",
    "fewest_that_keep_the_class",
    "infidelity",
    "log_odds",
    "log_probability_drop",
    "mean_rank",
    "morf",
    "normalized_sufficiency",
    "sufficiency",
}
#: Neither more nor less of it is better.
NEITHER = {"soft_retention"}
DIRECTIONS = (
    dict.fromkeys(HIGHER, True) | dict.fromkeys(LOWER, False) | dict.fromkeys(NEITHER, None)
)


@ALL
def test_a_metric_declares_what_a_table_needs(name):
    info = INFO[name]
    assert info.unit and info.source and info.reads in ("curve", "attribution", "query", "truth")
    assert info.bounds[0] < info.bounds[1]


@pytest.mark.parametrize("name", sorted(DIRECTIONS))
def test_the_better_direction_is_that_of_the_papers(name):
    assert INFO[name].higher_is_better is DIRECTIONS[name]


@ALL
def test_a_metric_is_documented_and_has_no_default(name):
    assert inspect.getdoc(METRICS[name])
    first, *hyper = inspect.signature(METRICS[name]).parameters.values()
    assert first.kind is first.POSITIONAL_OR_KEYWORD
    assert all(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in hyper)


def test_every_function_with_a_metrics_name_is_registered():
    assert set(METRICS.names()) == set(INFO)
    for name in INFO:
        assert any(getattr(module, name, None) is METRICS[name] for module in MODULES)


@pytest.mark.parametrize("name", conf_files.names("metric"))
def test_an_entry_gives_exactly_the_hyperparameters_of_its_metric(name):
    entry = conf_files.metric_defaults(name)
    metric = entry["metric"]
    own = hyperparameters(entry, METRICS.hyperparameters(metric))
    METRICS.check(metric, own, f"metric.{name}")
    assert conf_files.summary("metric", name)


def test_every_metric_has_an_entry():
    named = {conf_files.metric_defaults(name)["metric"] for name in conf_files.names("metric")}
    assert named == set(INFO)


def test_a_name_belongs_to_one_metric():
    with pytest.raises(ValueError, match="registered twice"):
        register = metric(
            "srg", unit="1", higher_is_better=None, bounds=(0.0, 1.0), source="", reads="curve"
        )
        register(lambda curve: 0.0)
    assert INFO["srg"].higher_is_better
