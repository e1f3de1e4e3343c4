"""The tasks by name."""

from collections.abc import Mapping, Sequence

from saliency_bench.core.errors import InputError, counted
from saliency_bench.core.text import Encoded
from saliency_bench.models import heads
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.fill_mask import FillMask
from saliency_bench.models.tasks.question_answering import QuestionAnswering
from saliency_bench.models.tasks.sequence_classification import SequenceClassification
from saliency_bench.models.tasks.task import At, Task
from saliency_bench.models.tasks.text_generation import TextGeneration
from saliency_bench.models.tasks.token_classification import TokenClassification

TASKS: Mapping[str, Task] = {
    heads.SEQUENCE_CLASSIFICATION: SequenceClassification(),
    heads.TOKEN_CLASSIFICATION: TokenClassification(),
    heads.QUESTION_ANSWERING: QuestionAnswering(),
    heads.FILL_MASK: FillMask(),
    heads.TEXT_GENERATION: TextGeneration(),
}


def task_of(model: Model) -> Task:
    """The task of a model."""
    return TASKS[model.task]


def questions(model: Model, texts: Sequence[Encoded], at: At = None) -> list[tuple[int, Encoded]]:
    """Every question that the model's task puts to the texts, with the index of its text.

    Raises:
        InputError: there is no question, or `at` names nothing.
    """
    task = task_of(model)
    pairs = [
        (index, question)
        for index, text in enumerate(texts)
        for question in task.questions(model, text, at)
    ]
    if not pairs:
        raise InputError(
            f"{model.name} predicts nothing to explain in {counted(len(texts), 'text')}: name tokens with at="
        )
    return pairs


def refusal(model: Model, removal: str) -> str | None:
    """The reason why a removal operator is not possible in the model's task; None where it is."""
    return task_of(model).refuses.get(removal)
