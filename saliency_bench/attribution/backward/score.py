"""The score of a class with its gradient by a rule, and what is checked of a model before a rule is used on it."""

from collections import Counter
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution.backward.parts import change_backward, noted_inputs
from saliency_bench.attribution.backward.rules import KEY, PLAIN, RULES, Rule
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import Setting
from saliency_bench.core.tensors import Batch, ScoreFn
from saliency_bench.core.text import Encoded
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.encoding import collate
from saliency_bench.models.tasks.scores import logits_fn, output_of


def score_fn(
    model: Model, batch: Batch, target: Int[Tensor, "B ..."], output: str, rule: Rule
) -> ScoreFn:
    """The score of each row's class, as `scores.score_fn` has it, whose gradient is taken by a rule.

    The rule ends at the logits: how a probability is read off them is differentiated as it is.
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


def parts_of(model: Model, text: Encoded, rule: Rule) -> Counter[str]:
    """How often a model has each part at which a rule changes the gradient, seen on one text. The model must be frozen.

    Raises:
        InputError: the model computes something of which the rule says nothing.
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
    with torch.enable_grad(), noted_inputs():
        outputs = logits_fn(model, batch, short=True)(embeddings.requires_grad_(), row)
    return change_backward(outputs, rule, model.name)


def refuse_without_parts(model: Model, settings: Iterable[Setting], text: Encoded) -> None:
    """Refuses rules that change nothing in this model, or of which it computes more than they know.

    Raises:
        InputError: names the rule, and the parts or the operation.
    """
    for name in dict.fromkeys(setting.hyper.get(KEY, PLAIN) for setting in settings):
        if name != PLAIN and not parts_of(model, text, RULES[name]):
            raise InputError(
                f"{KEY}={name} changes nothing in {model.name}, which has no {', no '.join(RULES[name].acts_on)}. "
                f"Use {KEY}={PLAIN}."
            )
