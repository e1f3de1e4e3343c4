"""The names of settings and metrics in tables and figures, and their order."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from saliency_bench.core.method_facts import FACTS, OURS, entry_label, facts_of

#: Keys of a setting that are not hyperparameters of its method.
SHARED = ("setting_id", "name", "method", "backend", "reduction", "target", "output", "seed", FACTS)
#: Labels name these in this order, before the hyperparameters, if they vary within an entry.
AXES = ("reduction", "target", "output", "seed")
PRIMARY = "srg"  # fixed in advance; every other metric is exploratory
#: The hyperparameter that names the rule for gradients.
BACKWARD = "backward"
#: Values of hyperparameters that a setting may leave out: so it keeps the id that it had before there were rules.
IMPLIED = {BACKWARD: "plain"}
N_HEADLINE = 6  # metrics that fit beside each other on a page

#: In the order of columns; other metrics come after these, by name.
_METRICS = {
    "srg": "SRG",
    "srg_on_grid": "SRG (on a grid)",
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
#: Those of them whose unit differs from example to example, so that their means may order methods otherwise.
UNIT_PER_EXAMPLE = ("deletion_auc_normalized", "insertion_auc_normalized", "log_probability_drop")

Setting = Mapping[str, Any]


def metric_label(metric: str) -> str:
    """Returns a metric's name as it is written in text, with its removal operator if it names one: "SRG (pad)"."""
    name, *removal = metric.split(" ", 1)
    return " ".join([_METRICS.get(name, name.replace("_", " ")), *removal])


def unit_label(unit: str) -> str:
    """Returns a unit as it is written in text; an empty text for a pure number."""
    return "" if unit == "1" else unit


def arrow(higher_is_better: bool | None) -> str:
    """Returns an arrow in the direction of better values; an empty text if there is none."""
    return {True: "↑", False: "↓", None: ""}[higher_is_better]


def ordered_metrics(metrics: Iterable[str]) -> list[str]:
    """Returns metrics in the order of columns, each once."""
    order = list(_METRICS)

    def place(metric: str) -> tuple[bool, int, str]:
        name = metric.split(" ", 1)[0]
        # Metrics that name a removal operator come after all that are of the main one.
        return name != metric, order.index(name) if name in order else len(order), metric

    return sorted(set(metrics), key=place)


def same_evidence_words(metrics: Collection[str], *, of_means: bool = True) -> str:
    """Lists the metrics that follow from each other on every example, so that their agreement is no second finding.

    Args:
        metrics: the metrics of a table.
        of_means: whether the table has means over examples, for which a unit that differs between examples matters.
    """
    groups = [[metric for metric in group if metric in metrics] for group in SAME_EVIDENCE]
    groups = [group for group in groups if len(group) > 1]
    text = ""
    if groups:
        text += f" The same evidence in other units: {'; '.join(map(_labels, groups))}."
    if otherwise := [
        metric for group in groups for metric in group if metric in UNIT_PER_EXAMPLE and of_means
    ]:
        text += (
            f" On each text, that is: over texts {_labels(otherwise)} may order methods otherwise."
        )
    if {"srg", "insertion_auc", "deletion_auc"} <= set(metrics):
        difference = " − ".join(map(metric_label, ("insertion_auc", "deletion_auc")))
        text += f" {metric_label('srg')} is {difference}."
    return text


def _labels(metrics: Sequence[str]) -> str:
    return listed([metric_label(metric) for metric in metrics])


def listed(names: Sequence[str]) -> str:
    """Lists names in a sentence: "a, b and c"; empty without names."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def hyperparameters(setting: Setting) -> dict[str, Any]:
    """Returns the hyperparameters of a setting's method."""
    return {key: value for key, value in setting.items() if key not in SHARED}


def among_entries(settings: Sequence[Setting]) -> dict[str, list[str]]:
    """Returns, by entry, the hyperparameters in which entries of one method differ, where one would have the method's label alone."""
    of_label: dict[str, list[Setting]] = {}
    for setting in settings:
        of_label.setdefault(facts_of(setting).label, []).append(setting)
    keys: dict[str, list[str]] = {}
    for label, group in of_label.items():
        names = {setting["name"] for setting in group}
        bare = [
            one for one in group if entry_label(one) == label and not varying(group, one["name"])
        ]
        if len(names) > 1 and bare:
            together = [dict(setting) | {"name": label} for setting in group]
            keys |= dict.fromkeys(names, varying(together, label))
    return keys


def varying(settings: Sequence[Setting], name: str) -> list[str]:
    """Returns the axes and hyperparameters in which the settings of an entry differ, without the backend."""
    of_entry = [setting for setting in settings if setting["name"] == name]
    keys = [*AXES, *dict.fromkeys(key for setting in of_entry for key in hyperparameters(setting))]
    return [key for key in keys if len({repr(value_of(setting, key)) for setting in of_entry}) > 1]


def value_of(setting: Setting, key: str) -> Any:
    """Returns a setting's value of an axis or a hyperparameter, also one that it leaves out; None if it has none."""
    return setting.get(key, IMPLIED.get(key))


def setting_labels(settings: Sequence[Setting]) -> dict[str, str]:
    """Returns the label of each setting by id: the entry and the values in which its settings differ.

    The backend is named if there are several; our own is named only beside a twin of another backend.
    """
    backends = {setting["backend"] for setting in settings} - {"none"}
    by_both = {setting["name"] for setting in settings if setting["backend"] not in OURS}
    labels, among = {}, among_entries(settings)
    for setting in settings:
        keys = among.get(setting["name"]) or varying(settings, setting["name"])
        with_backend = len(backends) > 1 and setting["name"] in by_both
        labels[setting["setting_id"]] = setting_label(setting, keys, with_backend)
    return labels


def setting_label(setting: Setting, keys: Sequence[str], with_backend: bool = True) -> str:
    """Returns the label of a setting: its entry, with the values of these keys and its backend: "ig (n_steps=8)"."""
    facts = facts_of(setting)
    details = [f"{key}={value_label(value_of(setting, key))}" for key in keys]
    details += [facts.backend] if with_backend and facts.backend else []
    return entry_label(setting, details)


def value_label(value: Any) -> str:
    """Returns a hyperparameter's value as it is written in a configuration."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_label(setting: Setting) -> str:
    """Lists all hyperparameters of a setting's method."""
    return ", ".join(
        f"{key}={value_label(value)}" for key, value in sorted(hyperparameters(setting).items())
    )
