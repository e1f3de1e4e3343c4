"""Whether scores can be negative: what a method and its reduction say, and the scores where neither does.

Declared here, since what reads results imports no method.
"""

from collections.abc import Iterable, Mapping
from typing import Any

#: Lengths of vectors.
UNSIGNED_REDUCTIONS = ("l1", "l2")
#: Squares, weights of attention, magnitudes divided by their sum, ranks and uniform draws: whatever the reduction.
UNSIGNED_METHODS = (
    "allennlp_integrated_gradient",
    "allennlp_simple_gradient",
    "allennlp_smooth_gradient",
    "attention_rollout",
    "beam_search",
    "gradient_attention",
    "random",
    "raw_attention",
    "smoothgrad_squared",
    "vargrad",
)
#: Signed where the reduction keeps signs.
SIGNED_METHODS = (
    "deep_lift",
    "expected_gradients",
    "feature_ablation",
    "gradient_shap",
    "idgi",
    "input_baseline_x_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "integrated_gradients_adaptive",
    "kernel_shap",
    "leave_one_out",
    "lime",
    "occlusion",
    "sequential_integrated_gradients",
    "shapley_value_sampling",
    "smooth_integrated_gradients",
    "smoothgrad",
    "smoothgrad_x_input",
    "vanilla",
)


def declared(setting: Mapping[str, Any]) -> bool | None:
    """Whether scores of a setting have a sign; None of scores from elsewhere, about which nothing is declared."""
    method, reduction = setting.get("method") or setting.get("name"), setting.get("reduction")
    if reduction in UNSIGNED_REDUCTIONS or method in UNSIGNED_METHODS:
        return False
    return True if reduction == "dot" or method in SIGNED_METHODS else None


def signed(setting: Mapping[str, Any], scores: Iterable[float]) -> bool:
    """Whether the scores of a map have a sign: as declared, else whether any is negative."""
    said = declared(setting)
    return any(score < 0 for score in scores) if said is None else said
