"""ferret: its gradient explainers, a text at a time."""

from collections.abc import Sequence
from typing import Any

from benchmarks.tools.adapters import shared
from benchmarks.tools.cases import Case
from benchmarks.tools.laws import Map, Subject
from benchmarks.tools.models import TARGET

# It imports a reader of precomputed data sets, with many packages, that nothing here uses.
with shared.stand_ins({"thermostat": {}}):
    import ferret


def opened(case: Case, module: Any, tokenizer: Any) -> Subject:
    """Integrated Gradients start from [PAD], with the first and the last token kept."""
    integrates = case.method == "integrated_gradients"
    if integrates:
        explainer = ferret.IntegratedGradientExplainer(module, tokenizer)
    else:
        multiplied = case.method == "gradient_x_input"
        explainer = ferret.GradientExplainer(module, tokenizer, multiply_by_inputs=multiplied)
    given = {"call_args": {"n_steps": shared.N_STEPS}} if integrates else {}

    def explain(texts: Sequence[str]) -> list[Map]:
        return shared.as_maps([explainer(text, TARGET, **given).scores for text in texts])

    promised = shared.change(module, tokenizer, shared.from_padding(module, tokenizer))
    reasons = {**shared.FIXED, "conserve": "no sum to F(x) is promised"}
    return Subject(explain, change=promised if integrates else None, reasons=reasons)
