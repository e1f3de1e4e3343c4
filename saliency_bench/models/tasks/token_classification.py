"""Token classification, where every token that is predicted to be part of an entity is a question."""

from collections.abc import Mapping

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import Encoded
from saliency_bench.models.model import Model
from saliency_bench.models.references import ATTENTION, DELETE
from saliency_bench.models.tasks.sequence_classification import SequenceClassification
from saliency_bench.models.tasks.targets import class_names
from saliency_bench.models.tasks.task import At, occurrences, outputs_of, places_of, question_at

#: The class of tokens outside of all entities (the IOB schemes, Ramshaw & Marcus 1995). Models without this class, such
#: as taggers of parts of speech, predict something for every token.
OUTSIDE = "O"
#: Keywords of `at`: every token that is predicted to be part of an entity, and every token.
ENTITIES, ALL = "entities", "all"

SECOND = 1  # the segment of the second text of a pair

_GONE = "the explained token would be removed, and its prediction with it"


class TokenClassification(SequenceClassification):
    """One question for each chosen token, read at that token; classes are the model's.

    The token itself counts as evidence. It is ranked and replaced like any other, and its row is still read.
    """

    refuses: Mapping[str, str] = {DELETE: _GONE, ATTENTION: _GONE}

    def questions(self, model: Model, text: Encoded, at: At) -> list[Encoded]:
        """See `task.Task`. `at` is "entities" (also None), "all", places of tokens, a label, or words of either text."""
        if at is None or isinstance(at, str):
            return [question_at(text, place) for place in self._named(model, text, at or ENTITIES)]
        return [question_at(text, place) for place in places_of(text, at)]

    def _named(self, model: Model, text: Encoded, at: str) -> list[int]:
        places = [place for place, special in enumerate(text.special) if not special]
        if at == ALL:
            return places
        if at == ENTITIES or at in model.labels:
            outputs = outputs_of(model, text)
            names = class_names(model.labels, outputs.shape[-1])
            predicted = [names[index] for index in outputs.argmax(-1).tolist()]
            return [
                place
                for place in places
                if (predicted[place] != OUTSIDE if at == ENTITIES else predicted[place] == at)
            ]
        if spans := [*occurrences(text, at), *occurrences(text, at, SECOND)]:
            return sorted({place for span in spans for place in span})
        raise InputError(
            f"{text.example_id}: at={at!r} is neither entities, all, a label ({', '.join(model.labels)}) nor words of the text"
        )
