"""The score of a class with its gradient by a rule, and the checks of a model before a rule is used on it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution.backward.makers import noted_makers
from saliency_bench.attribution.backward.parts import (
    change_backward,
    changed_nodes,
    noted_inputs,
)
from saliency_bench.attribution.backward.rules import KEY, PLAIN, RULES, Rule
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import Setting
from saliency_bench.core.tensors import Batch, ScoreFn
from saliency_bench.core.text import Encoded
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.encoding import collate
from saliency_bench.models.tasks.scores import logits_fn, output_of

#: By part of a rule, the number of its places in each module; numbers in a module's path are "*". Empty where there are none.
Parts = Mapping[str, Mapping[str, int]]
_LAYER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")


def score_fn(
    model: Model, batch: Batch, target: Int[Tensor, "B ..."], output: str, rule: Rule
) -> ScoreFn:
    """The score of each row's class, as `scores.score_fn` has it, whose gradient is taken by a rule.

    The rule ends at the logits: the step from them to a probability keeps its own derivative.
    """
    batch.require_text_alone()
    logits = logits_fn(model, batch, short=True)

    def score(
        embeddings: Float[Tensor, "R T D"], row_example: Int[Tensor, " R"]
    ) -> Float[Tensor, " R"]:
        with noted_inputs():
            outputs = logits(embeddings, row_example)
        if outputs.grad_fn is not None:
            change_backward(outputs, rule, model.name)
        return output_of(model, output)(outputs, target[row_example])

    return score


def parts_of(model: Model, text: Encoded, rule: Rule) -> Parts:
    """The places where a rule changes the gradient of a model, seen on one text. The model must be frozen.

    Raises:
        InputError: the model has an operation that the rule does not cover.
    """
    batch = collate(model, [text])
    batch.require_text_alone()
    row = torch.zeros(1, dtype=torch.long, device=model.device)
    embeddings = model.embed(
        batch.input_ids,
        batch.mask if batch.padded else None,
        batch.token_type_ids,
        extra=batch.extra,
    )
    with torch.enable_grad(), noted_inputs(), noted_makers(model.module) as makers:
        outputs = logits_fn(model, batch, short=True)(embeddings.requires_grad_(), row)
    parts: dict[str, Counter[str]] = {part: Counter() for part in rule.acts_on}
    for node, times in changed_nodes(outputs, rule, model.name):
        module = _LAYER.sub("*", makers.get(node, "")) or type(model.module).__name__
        for part, n in times.items():
            parts[part][module] += n
    return {part: dict(sorted(modules.items())) for part, modules in parts.items()}


def refuse_without_parts(
    model: Model, settings: Iterable[Setting], text: Encoded
) -> dict[str, Parts]:
    """Refuses rules that change nothing in this model, or do not cover all of its operations.

    Returns:
        By rule, the places of its parts.

    Raises:
        InputError: names the rule, and the parts or the operation.
    """
    rules = dict.fromkeys(setting.hyper.get(KEY, PLAIN) for setting in settings)
    parts = {name: parts_of(model, text, RULES[name]) for name in rules if name != PLAIN}
    for name, modules in parts.items():
        if not any(modules.values()):
            raise InputError(
                f"{KEY}={name} changes nothing in {model.name}, which has no {', no '.join(RULES[name].acts_on)}. "
                f"Use {KEY}={PLAIN}."
            )
    return parts
