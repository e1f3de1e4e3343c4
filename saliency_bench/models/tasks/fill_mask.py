"""Masked language models: a word at a mask."""

from collections.abc import Mapping
from dataclasses import replace

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import Encoded
from saliency_bench.models.model import Model
from saliency_bench.models.tasks.sequence_classification import SequenceClassification
from saliency_bench.models.tasks.task import At, places_of, question_at, token_of, word_of

#: Every mask.
ALL = "all"


class FillMask(SequenceClassification):
    """The classes are the tokens of the vocabulary, read at a mask.

    The mask is the place of the question, not evidence: it is neither ranked nor removed, and paths do not move it. So
    every removal operator is possible. Where tokens before the mask are deleted, it is read at its new place.
    """

    refuses: Mapping[str, str] = {}

    def questions(self, model: Model, text: Encoded, at: At) -> list[Encoded]:
        """See `task.Task`. `at` is the place of a mask, several of them, "all", or None: the only one."""
        masks = _masks(model, text)
        if at is None and len(masks) == 1:
            return [_question(text, masks[0])]
        if at == ALL and masks:
            return [_question(text, place) for place in masks]
        if at is None or isinstance(at, str):
            mask = getattr(model.tokenizer, "mask_token", None) or "its mask token"
            count = f"{len(masks)}, at {masks}" if masks else "none"
            raise InputError(
                f"{text.example_id}: expected one mask ({mask}) in the text, found {count}. "
                "at= names the places of masks, or all"
            )
        places = places_of(text, at)
        if masks and (wrong := [place for place in places if place not in masks]):
            raise InputError(f"{text.example_id}: at={wrong[0]} is no mask; masks are at {masks}")
        return [_question(text, place) for place in places]

    def class_of(self, model: Model, name: str | int, question: Encoded, n_classes: int) -> int:
        """See `task.Task`: a token id, or a word that is one token, as within a text (after a space) or at its start."""
        return token_of(model, name, n_classes, f" {name}".replace("  ", " "), str(name))

    def name_of(self, model: Model, index: int, question: Encoded, n_classes: int) -> str:
        """See `task.Task`: the word."""
        return word_of(model, index)


def _masks(model: Model, text: Encoded) -> list[int]:
    mask = getattr(model.tokenizer, "mask_token_id", None)
    return [place for place, token in enumerate(text.input_ids) if token == mask]


def _question(text: Encoded, place: int) -> Encoded:
    """The question at a mask, where the mask counts as a special token."""
    special = (*text.special[:place], True, *text.special[place + 1 :])
    if all(special):
        raise InputError(f"{text.example_id}: there is no word beside the mask")
    words = (*text.words[:place], -1, *text.words[place + 1 :])
    return replace(question_at(text, place), special=special, words=words)
