"""Extractive question answering: the answer's first token is one question, its last another."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import Encoded
from saliency_bench.data.example import Example
from saliency_bench.models.model import Model
from saliency_bench.models.references import ATTENTION, DELETE
from saliency_bench.models.tasks.encoding import ONLY_SECOND, encode_one
from saliency_bench.models.tasks.task import At, occurrences, outputs_of

BOUNDARIES = ("start", "end")
CONTEXT = 1  # the segment that holds the answer
#: The most tokens of an answer that is predicted, as in transformers' pipeline.
LONGEST_ANSWER = 15

_CLASSES = "the answers to choose from are the tokens of the context, and a removed one could not be chosen"


class QuestionAnswering:
    """The classes are the tokens of the context, one of which is the first (or last) token of the answer.

    Probabilities are among the tokens of the context. The predicted start and end are those of the span with the largest
    sum of both logits.
    """

    refuses: Mapping[str, str] = {DELETE: _CLASSES, ATTENTION: _CLASSES}

    def encode(self, model: Model, example: Example, too_long: str) -> Encoded:
        """See `task.Task`; only the context is cut."""
        if example.text_pair is None:
            where = example.source or example.id
            raise InputError(f"{where}: expected a pair, (question, context), got one text")
        return encode_one(model, example, too_long, truncation=ONLY_SECOND)

    def questions(self, model: Model, text: Encoded, at: At) -> list[Encoded]:
        """See `task.Task`. `at` is "start", "end", or None: both."""
        if at is not None and at not in BOUNDARIES:
            raise InputError(f"at={at!r}: expected start or end (or nothing: both)")
        if CONTEXT not in text.segments:
            raise InputError(
                f"{text.example_id}: no token is known to be of the context: give (question, context), or token_type_ids"
            )
        span = best_span(outputs_of(model, text), text)
        return [
            replace(text, boundary=b, default_class=span[b], example_id=f"{text.example_id}@{name}")
            for b, name in enumerate(BOUNDARIES)
            if at in (None, name)
        ]

    def class_of(self, model: Model, name: str | int, question: Encoded, n_classes: int) -> int:
        """See `task.Task`: the place of a token, or an answer in the words of the context (its first occurrence)."""
        assert question.boundary is not None
        if isinstance(name, str):
            # A space around the words would count the tokens beside them.
            if spans := occurrences(question, name.strip(), CONTEXT):
                return spans[0][-question.boundary]
            raise InputError(f"{question.example_id}: target={name!r} is not in the context")
        if not 0 <= name < len(question) or question.segments[name] != CONTEXT:
            places = [
                place for place, segment in enumerate(question.segments) if segment == CONTEXT
            ]
            raise InputError(
                f"{question.example_id}: target={name} is no token of the context ({places[0]} ... {places[-1]})"
            )
        return name

    def name_of(self, model: Model, index: int, question: Encoded, n_classes: int) -> str:
        """See `task.Task`: the boundary and the token."""
        assert question.boundary is not None
        return f"{BOUNDARIES[question.boundary]} at {question.tokens[index]}"


def best_span(outputs: Float[Tensor, "T 2"], text: Encoded) -> tuple[int, int]:
    """The first and last token of the span in the context with the largest sum of start and end logit."""
    start, end = outputs.double().cpu().unbind(1)
    inside = torch.tensor([segment == CONTEXT for segment in text.segments])
    spans = torch.ones(len(text), len(text)).triu().tril(LONGEST_ANSWER - 1).bool()
    allowed = spans & inside[:, None] & inside
    sums = (start[:, None] + end).masked_fill(~allowed, -torch.inf)
    first, last = divmod(int(sums.argmax()), len(text))
    return first, last
