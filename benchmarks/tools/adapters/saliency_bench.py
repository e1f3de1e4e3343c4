"""This package, through its public function."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.tools.adapters import shared
from benchmarks.tools.cases import Case, apart
from benchmarks.tools.laws import Explain, Map, Subject
from benchmarks.tools.models import TARGET, TOKEN
from saliency_bench import attribute, wrap_model
from saliency_bench.api.inputs import encode_all
from saliency_bench.attribution.backward import RULES
from saliency_bench.attribution.backward.graph import ATTENTION, operation
from saliency_bench.attribution.backward.parts import _Surgery, change_backward, noted_inputs
from saliency_bench.attribution.backward.rules import NONLINEARITY, NORM, PRODUCT, SOFTMAX
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.registry import questions
from saliency_bench.studies.block import open_block

GIVEN = {
    "integrated_gradients": {
        "n_steps": shared.N_STEPS,
        "quadrature": "gauss_legendre",
        "baseline": "pad",
    },
    "smoothgrad": {"n_samples": 8},
}
LANGUAGE = ("gpt2", "llama_lm")
#: The parts of each rule, as the table names them, where a model has them.
PARTS = {
    "attnlrp": ("norm", "nonlinearity", "gate", "attention"),
    "cp_lrp": ("norm", "nonlinearity", "gate", "attention"),
    "gim": ("norm", "gate", "attention", "softmax"),
}


def opened(case: Case, module: Any, tokenizer: Any) -> Subject:
    """A sum over dimensions where the method's own reduction is one."""
    language = case.model in LANGUAGE
    task = "text-generation" if language else "sequence-classification"
    model = wrap_model(module, tokenizer, task=task)
    given: dict[str, Any] = dict(GIVEN.get(case.method, {}))
    target = TOKEN if language else TARGET

    def explain(texts: Sequence[str]) -> list[Map]:
        found = attribute(model, list(texts), case.method, target=target, output="logit", **given)
        return [one.scores for one in found]

    notes = {"padding": "on a CPU texts of one length are worked on together, without padding"}
    if case.method in RULES:
        return _ruled(case, model, tokenizer, target, explain, notes)
    promised = shared.change(module, tokenizer, shared.from_padding(module, tokenizer))
    return Subject(
        explain,
        change=promised if case.method == "integrated_gradients" else None,
        reasons={"conserve": "no sum to F(x) is promised"},
        notes=notes,
    )


def _ruled(
    case: Case,
    model: Model,
    tokenizer: Any,
    target: int,
    explain: Explain,
    notes: Mapping[str, str],
) -> Subject:
    """A backward rule, with what it should conserve and without each of its parts."""
    rule, module = case.method, model.module

    def logits(run: Any) -> Tensor:
        with noted_inputs():
            made: Tensor = run()
        change_backward(made, RULES[rule], case.model)
        return made

    def total(text: str) -> float:
        with model.frozen():
            return shared.whole_relevance(module, tokenizer, text, logits)

    reasons = {"complete": "no sum to F(x) − F(x′) is promised"}
    if case.model == "default":
        reasons["conserve"] = "the trained model has biases"
    elif rule == "gim":
        reasons["conserve"] = "no sum to F(x) is promised"
    softmax = "softmax keeps a part of the relevance, as its paper has it"
    return Subject(
        explain,
        change=lambda text: shared.output(module, tokenizer, text),
        total=total,
        parts={part: _without(rule, part, explain) for part in _parts(case)},
        output=lambda text: (
            _output(model, text, target, rule),
            shared.output(module, tokenizer, text),
        ),
        reasons=reasons,
        unpromised={"conserve": softmax} if rule == "attnlrp" else {},
        notes=notes,
    )


def _parts(case: Case) -> tuple[str, ...]:
    gated = case.model.startswith("llama")
    absent = {"gate"} if not gated else set()
    if gated and case.method == "cp_lrp":  # a constant gate has its nonlinearity inside
        absent = {"nonlinearity"}
    return tuple(part for part in PARTS[case.method] if part not in absent)


def _output(model: Model, text: str, target: int, rule: str) -> float:
    """The score whose gradient is taken, at the text's own embeddings."""
    with model.frozen(), torch.enable_grad():
        ((_, question),) = questions(model, encode_all(model, [text], None))
        block = open_block(References(model), [question], target, 10_000)
        ruled = block.context("logit", 0).under(rule)
        points = ruled.embeddings.clone().requires_grad_()
        return float(ruled.engine.score(points, torch.zeros(1, dtype=torch.long)))


def _without(rule: str, part: str, explain: Explain) -> Explain:
    """The maps without a part of the rule, from another process."""

    def less(texts: Sequence[str]) -> list[Map]:
        visit = _Surgery.visit

        def visit_less(surgery: _Surgery, node: Any) -> list[int]:
            kept, surgery.without = surgery.without, _left_out(rule, part, operation(node))
            try:
                return visit(surgery, node)
            finally:
                surgery.without = kept

        _Surgery.visit = visit_less  # type: ignore[method-assign]
        return explain(texts)

    return lambda texts: apart(partial(less, texts))


def _left_out(rule: str, part: str, name: str) -> Collection[str]:
    """What the rule's own parts are called at an operation, where they belong to a part of the table."""
    if part == "gate":
        return {PRODUCT} if name == "Mul" else ()
    if part == "attention":
        own = SOFTMAX if rule == "cp_lrp" else PRODUCT
        return {own} if name in ATTENTION | {"Bmm"} else ()
    return {{"norm": NORM, "nonlinearity": NONLINEARITY, "softmax": SOFTMAX}[part]}
