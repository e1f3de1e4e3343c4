"""transformers-interpret: its explainer of classifiers, a text at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers_interpret import SequenceClassificationExplainer

from benchmarks.tools.adapters import shared
from benchmarks.tools.cases import Case
from benchmarks.tools.laws import Map, Subject
from benchmarks.tools.models import TARGET


def opened(case: Case, module: Any, tokenizer: Any) -> Subject:
    """The scores are those that it returns, over their norm; the output is a probability."""
    explainer = SequenceClassificationExplainer(module, tokenizer)

    def explain(texts: Sequence[str]) -> list[Map]:
        found = [explainer(text, index=TARGET, n_steps=shared.N_STEPS) for text in texts]
        return shared.as_maps([[score for _, score in one] for one in found])

    def change(text: str) -> float:
        explain([text])
        given = {"token_type_ids": explainer.token_type_ids} if case.model != "llama" else {}
        start = shared.from_padding(module, tokenizer)
        return shared.change(module, tokenizer, start, _probability, **given)(text)

    def note() -> str:
        explain(["the plot was dull"])
        raw = float(explainer.attributions._attributions.sum())
        gap = abs(raw - change("the plot was dull")) / abs(change("the plot was dull"))
        return f"the scores are over their norm; before it the gap of one text is {gap:.1e}"

    notes = {"complete": note()} if case.model != "llama" else {}
    reasons = {**shared.FIXED, "conserve": "no sum to F(x) is promised"}
    return Subject(explain, change=change, reasons=reasons, notes=notes)


def _probability(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(-1)[:, TARGET]
