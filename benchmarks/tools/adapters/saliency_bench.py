"""This package, through its public function."""

from collections.abc import Sequence
from typing import Any

from benchmarks.tools.adapters import shared
from benchmarks.tools.cases import Case
from benchmarks.tools.laws import Map, Subject
from benchmarks.tools.models import TARGET
from saliency_bench import attribute, wrap_model

GIVEN = {
    "integrated_gradients": {
        "n_steps": shared.N_STEPS,
        "quadrature": "gauss_legendre",
        "baseline": "pad",
    },
    "smoothgrad": {"n_samples": 8},
}


def opened(case: Case, module: Any, tokenizer: Any) -> Subject:
    """A sum over dimensions where the method's own reduction is one."""
    model = wrap_model(module, tokenizer)
    given: dict[str, Any] = dict(GIVEN.get(case.method, {}))

    def explain(texts: Sequence[str]) -> list[Map]:
        maps = attribute(
            model, list(texts), method=case.method, target=TARGET, output="logit", **given
        )
        return [one.scores for one in maps]

    promised = shared.change(module, tokenizer, shared.from_padding(module, tokenizer))
    return Subject(
        explain,
        change=promised if case.method == "integrated_gradients" else None,
        reasons={"conserve": "no sum to F(x) is promised"},
        notes={"padding": "on a CPU texts of one length are worked on together, without padding"},
    )
