"""gim-explain: its context around a user's own forward and backward pass, and its function `explain`."""

from collections.abc import Sequence
from typing import Any

import gim

from benchmarks.tools.adapters import shared
from benchmarks.tools.cases import Case
from benchmarks.tools.laws import Explain, Map, Subject
from benchmarks.tools.models import TOKEN

OFF: dict[str, dict[str, Any]] = {
    "norm": {"freeze_norm": False},
    "softmax": {"softmax_temperature": None},
    "attention": {"q_scale": None, "k_scale": None, "v_scale": None},
}


def opened(case: Case, module: Any, tokenizer: Any) -> Subject:
    """With the defaults of the package; a part is switched off by its own argument."""

    def explainer(**off: Any) -> Explain:
        def in_context(texts: Sequence[str]) -> list[Map]:
            with gim.GIM(module, **off):
                return shared.input_x_gradient(module, tokenizer, texts)

        def by_function(texts: Sequence[str]) -> list[Map]:
            ids = shared.encoded(tokenizer, texts)["input_ids"]
            scores = gim.explain(
                module, ids, target_token_id=TOKEN, baseline_token_id=tokenizer.pad_token_id, **off
            )
            return shared.as_maps(list(scores.reshape(len(texts), -1)))

        return in_context if case.method == "context" else by_function

    def output(text: str) -> tuple[float, float]:
        plain = shared.output(module, tokenizer, text)
        with gim.GIM(module):
            return shared.output(module, tokenizer, text), plain

    reasons = {
        "complete": "no sum to F(x) − F(x′) is promised",
        "conserve": "no sum to F(x) is promised",
    }
    notes = {}
    if case.method == "explain":
        reasons["padding"] = "it takes no attention mask"
        notes["batch"] = "it takes ids of shape [batch, seq_len] and explains the first text"
    parts = {part: explainer(**off) for part, off in OFF.items()}
    return Subject(explainer(), parts=parts, output=output, reasons=reasons, notes=notes)
