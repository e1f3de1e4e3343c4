"""The tasks that a model may be trained for, by the names of transformers' pipelines, and the outputs of its head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """The head of a model for a task, and the shape of its outputs.

    `per_token`: outputs are [R T C], otherwise [R C]. `named`: the classes have names in the model's configuration.
    """

    auto: str  # transformers' class that loads it
    what: str  # in messages
    shape: str
    per_token: bool = True
    named: bool = False


SEQUENCE_CLASSIFICATION = "sequence-classification"
TOKEN_CLASSIFICATION = "token-classification"
QUESTION_ANSWERING = "question-answering"
FILL_MASK = "fill-mask"
TEXT_GENERATION = "text-generation"

HEADS: Mapping[str, Head] = {
    SEQUENCE_CLASSIFICATION: Head(
        "AutoModelForSequenceClassification",
        "sequence classifier",
        "logits of at least two classes [B C]",
        per_token=False,
        named=True,
    ),
    TOKEN_CLASSIFICATION: Head(
        "AutoModelForTokenClassification",
        "token classifier",
        "logits of at least two classes for every token [B T C]",
        named=True,
    ),
    QUESTION_ANSWERING: Head(
        "AutoModelForQuestionAnswering",
        "extractive question answerer",
        "a start and an end logit for every token, two tensors [B T] or one [B T 2]",
    ),
    FILL_MASK: Head(
        "AutoModelForMaskedLM",
        "masked language model",
        "logits of every word of the vocabulary for every token [B T V]",
    ),
    TEXT_GENERATION: Head(
        "AutoModelForCausalLM",
        "causal language model",
        "logits of every next token for every token [B T V]",
    ),
}
TASKS = tuple(HEADS)

#: The tasks of transformers' classes, by the end of their names; None: a task that is not supported.
CLASSES: Mapping[str, str | None] = {
    "ForSequenceClassification": SEQUENCE_CLASSIFICATION,
    "ForTokenClassification": TOKEN_CLASSIFICATION,
    "ForQuestionAnswering": QUESTION_ANSWERING,
    "ForQuestionAnsweringSimple": QUESTION_ANSWERING,
    "ForMaskedLM": FILL_MASK,
    "ForCausalLM": TEXT_GENERATION,
    "ForMultipleChoice": None,
    "ForNextSentencePrediction": None,
}


def trained_for(architectures: Sequence[str]) -> set[str | None] | None:
    """The tasks that a configuration's `architectures` name; None where they name no head, as those of a bare encoder."""
    tasks = [
        next((kind for ending, kind in CLASSES.items() if name.endswith(ending)), "")
        for name in architectures
    ]
    return None if not tasks or "" in tasks else set(tasks)
