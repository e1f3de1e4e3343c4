"""What settings and metrics are called, and in which order they stand."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from saliency_bench.core.method_facts import FACTS, OURS, facts_of

#: Keys of a setting that are no hyperparameters of its method.
SHARED = ("setting_id", "name", "method", "backend", "reduction", "target", "output", "seed", FACTS)
#: What varies within an entry is named in this order, before its hyperparameters.
AXES = ("reduction", "target", "output", "seed")
PRIMARY = "srg"  # fixed in advance; every other metric is exploratory
#: The hyperparameter that says by which rule gradients are taken; and what a setting without it means, so that its id is
#: what it was before there were rules.
BACKWARD = "backward"
UNSAID = {BACKWARD: "plain"}
N_HEADLINE = 6  # metrics that fit beside each other on a page

#: In the order of columns; a metric that is not here comes after them, by name.
_METRICS = {
    "srg": "SRG",
    "comprehensiveness": "Comprehensiveness",
    "sufficiency": "Sufficiency",
    "deletion_auc": "Deletion AUC",
    "insertion_auc": "Insertion AUC",
    "decision_flip_fraction": "Decision-flip fraction",
    "log_odds": "Log-odds change",
    "aopc_comprehensiveness_full": "Comprehensiveness (full)",
    "aopc_sufficiency_full": "Sufficiency (full)",
    "deletion_auc_normalized": "Median deletion AUC (norm.)",
    "insertion_auc_normalized": "Median insertion AUC (norm.)",
    "log_probability_drop": "Log-probability change",
    "morf": "MoRF",
    "lerf": "LeRF",
    "abpc": "ABPC",
    "decision_flip_most_informative": "Flips by the top token",
    "fewest_that_keep_the_class": "Fewest that keep the class",
    "monotonicity": "Monotonicity",
    "leave_one_out_tau": "Leave-one-out τ",
    "dig_log_odds": "Log-odds (DIG)",
    "dig_comprehensiveness": "Comprehensiveness (DIG)",
    "dig_sufficiency": "Sufficiency (DIG)",
    "ferret_comprehensiveness": "Comprehensiveness (ferret)",
    "ferret_sufficiency": "Sufficiency (ferret)",
    "faithfulness_correlation": "Faithfulness correlation",
    "infidelity": "Infidelity",
    "linear_datamodeling_score": "Linear datamodeling score",
    "top_k_log_probability_drop": "Log-probability drop (top k)",
    "normalized_comprehensiveness": "Comprehensiveness (norm.)",
    "normalized_sufficiency": "Sufficiency (norm.)",
    "soft_comprehensiveness": "Soft comprehensiveness",
    "soft_sufficiency": "Soft sufficiency",
    "soft_retention": "Soft retention",
    "precision_at_k": "Precision at k",
    "mean_rank": "Mean rank",
    "mean_reciprocal_rank": "Mean reciprocal rank",
    "pointing_game": "Pointing game",
    "auprc": "AUPRC",
    "token_f1": "Token F1",
    "token_iou": "Token IOU",
    "completeness_gap": "Median completeness gap",
    "completeness_gap_relative": "Median completeness gap (rel.)",
    "kendall_tau": "Kendall τ-b",
    "top_k_jaccard": "Top-k Jaccard",
    "rbo": "RBO",
}
#: On the full grid with one removal operator, metrics of one group order methods alike on every example.
SAME_EVIDENCE = (
    ("aopc_comprehensiveness_full", "deletion_auc", "morf", "deletion_auc_normalized"),
    ("aopc_sufficiency_full", "insertion_auc", "lerf", "insertion_auc_normalized"),
    ("srg", "abpc"),
    ("log_odds", "log_probability_drop"),
)
#: Of these, what has a unit of its own on every example, so that over texts it need not order methods as theirs do.
OWN_UNIT = ("deletion_auc_normalized", "insertion_auc_normalized", "log_probability_drop")

Setting = Mapping[str, Any]


def metric_label(metric: str) -> str:
    """A metric's name as it is written in text, with the removal operator where it names one: "SRG (pad)"."""
    name, *removal = metric.split(" ", 1)
    return " ".join([_METRICS.get(name, name.replace("_", " ")), *removal])


def unit_label(unit: str) -> str:
    """A unit as it is written in text; nothing for a pure number."""
    return "" if unit == "1" else unit


def arrow(higher_is_better: bool | None) -> str:
    """Where better is: up, down or, if neither, nothing."""
    return {True: "↑", False: "↓", None: ""}[higher_is_better]


def ordered_metrics(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order of columns, each once."""
    known = list(_METRICS)

    def place(metric: str) -> tuple[bool, int, str]:
        name = metric.split(" ", 1)[0]
        # Other ways of removing come after all metrics of the main one.
        return name != metric, known.index(name) if name in known else len(known), metric

    return sorted(set(metrics), key=place)


def same_evidence_words(metrics: Collection[str], *, of_means: bool = True) -> str:
    """Says which metrics follow from each other on every example, so that their agreement is no second finding.

    Args:
        metrics: those of a table.
        of_means: whether it has their means, in which a unit of each example's own counts.
    """
    groups = [[metric for metric in group if metric in metrics] for group in SAME_EVIDENCE]
    groups = [listed for listed in groups if len(listed) > 1]
    text = ""
    if groups:
        text += f" The same evidence in other units: {'; '.join(map(_listed, groups))}."
    if listed := [
        metric for group in groups for metric in group if metric in OWN_UNIT and of_means
    ]:
        text += f" On each text, that is: over texts {_listed(listed)} may order methods otherwise."
    if {"srg", "insertion_auc", "deletion_auc"} <= set(metrics):
        difference = " − ".join(map(metric_label, ("insertion_auc", "deletion_auc")))
        text += f" {metric_label('srg')} is {difference}."
    return text


def _listed(metrics: Sequence[str]) -> str:
    *names, last = map(metric_label, metrics)
    return f"{', '.join(names)} and {last}" if names else last


def hyperparameters(setting: Setting) -> dict[str, Any]:
    """The hyperparameters of a setting's method."""
    return {key: value for key, value in setting.items() if key not in SHARED}


def varying(settings: Sequence[Setting], name: str) -> list[str]:
    """The axes and hyperparameters in which the settings of an entry differ, backend apart."""
    of_entry = [setting for setting in settings if setting["name"] == name]
    keys = [*AXES, *dict.fromkeys(key for setting in of_entry for key in hyperparameters(setting))]
    return [key for key in keys if len({repr(value_of(setting, key)) for setting in of_entry}) > 1]


def value_of(setting: Setting, key: str) -> Any:
    """What a setting says of an axis or a hyperparameter, or means by saying nothing; None where it has none."""
    return setting.get(key, UNSAID.get(key))


def setting_labels(settings: Sequence[Setting]) -> dict[str, str]:
    """Setting id to label: the entry, in what its settings differ, and the backend where there are several.

    Ours is named beside a twin alone.
    """
    backends = {setting["backend"] for setting in settings} - {"none"}
    by_both = {setting["name"] for setting in settings if setting["backend"] not in OURS}
    labels = {}
    for setting in settings:
        details = [
            f"{key}={value_label(value_of(setting, key))}"
            for key in varying(settings, setting["name"])
        ]
        if len(backends) > 1 and setting["name"] in by_both:
            details += filter(None, [facts_of(setting).backend])
        label = facts_of(setting).entry
        labels[setting["setting_id"]] = f"{label} ({', '.join(details)})" if details else label
    return labels


def value_label(value: Any) -> str:
    """A hyperparameter's value as it is written in a configuration."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_label(setting: Setting) -> str:
    """All hyperparameters of a setting's method."""
    return ", ".join(
        f"{key}={value_label(value)}" for key, value in sorted(hyperparameters(setting).items())
    )
