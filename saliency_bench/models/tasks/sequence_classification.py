"""Sequence classification: one question about each text, or pair of texts."""

from collections.abc import Mapping

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import Encoded
from saliency_bench.data.example import Example
from saliency_bench.data.labels import resolve_label
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.encoding import encode
from saliency_bench.models.tasks.targets import class_names
from saliency_bench.models.tasks.task import At


class SequenceClassification:
    """One question for each text (or pair of texts), about the text as a whole; classes are the model's."""

    refuses: Mapping[str, str] = {}

    def encode(self, model: Model, example: Example, too_long: str) -> Encoded:
        """See `task.Task`."""
        return encode(model, [example], too_long=too_long)[0]

    def questions(self, model: Model, text: Encoded, at: At) -> list[Encoded]:
        """See `task.Task`. There is no `at`: a text has one prediction."""
        if at is not None:
            raise InputError(
                f"at={at!r}: {model.name} has one prediction for a text, not one for each token"
            )
        return [text]

    def class_of(self, model: Model, name: str | int, question: Encoded, n_classes: int) -> int:
        """See `task.Task`: a class by index or name."""
        return resolve_label(name, class_names(model.labels, n_classes), "target")

    def name_of(self, model: Model, index: int, question: Encoded, n_classes: int) -> str:
        """See `task.Task`: as the model's configuration names it."""
        return class_names(model.labels, n_classes)[index]
