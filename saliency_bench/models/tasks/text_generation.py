"""Causal language models: the next token after a prompt, or each token of a given continuation."""

from collections.abc import Mapping
from dataclasses import replace

from saliency_bench.core.errors import InputError
from saliency_bench.core.text import NO_OFFSET, Encoded
from saliency_bench.data.example import Example
from saliency_bench.models.model import Model
from saliency_bench.models.references import ATTENTION, DELETE
from saliency_bench.models.tasks.encoding import encode_one
from saliency_bench.models.tasks.task import At, asked_at, token_of, word_of

CONTINUATION = 1  # the segment of what was given to follow the prompt

#: What a text has one of for each token.
PER_TOKEN = (
    "input_ids", "token_type_ids", "special", "tokens", "offsets", "segments", "words", "relevant", "pads",
)  # fmt: skip

_OTHER = "without its last token a text asks for another next token"


class TextGeneration:
    """The classes are the tokens of the vocabulary, read at the last token of the text.

    A pair of texts is a prompt and its continuation: each token of that is a question, whose text is all before it.
    The last token is evidence like any other: where it is replaced, its place still asks what comes next.
    """

    refuses: Mapping[str, str] = {DELETE: _OTHER, ATTENTION: _OTHER}

    def encode(self, model: Model, example: Example, too_long: str) -> Encoded:
        """See `task.Task`. Nothing is cut: the end, which would go first, is what is asked about."""
        if example.text_pair is None:
            return _ending(encode_one(model, example, "error"))
        whole = replace(example, text=example.text + example.text_pair, text_pair=None)
        return _parted(
            _ending(encode_one(model, replace(example, text_pair=None), "error")),
            _ending(encode_one(model, whole, "error")),
            example,
        )

    def questions(self, model: Model, text: Encoded, at: At) -> list[Encoded]:
        """See `task.Task`. There is no `at`: what follows the text is asked, or each token of the continuation."""
        if at is not None:
            raise InputError(f"at={at!r}: what is asked is the token after the prompt: give no at")
        if CONTINUATION not in text.segments or text.text_pair is None:
            last = max(place for place, there in enumerate(text.attended) if there)
            return [asked_at(text, last)]
        first = text.segments.index(CONTINUATION)
        return [
            asked_at(before(text, n), n - 1, default_class=text.input_ids[n])
            for n in range(first, len(text))
        ]

    def class_of(self, model: Model, name: str | int, question: Encoded, n_classes: int) -> int:
        """See `task.Task`: a token id, or what follows as it is written, the space before it too."""
        return token_of(model, name, n_classes, str(name))

    def name_of(self, model: Model, index: int, question: Encoded, n_classes: int) -> str:
        """See `task.Task`: the token."""
        return word_of(model, index)


def before(text: Encoded, n: int) -> Encoded:
    """The first n tokens of a text."""
    values = {name: getattr(text, name) for name in PER_TOKEN}
    cut = {name: value[:n] for name, value in values.items() if value is not None}
    extra = tuple(
        (name, values[:n] if len(values) == len(text) else values) for name, values in text.extra
    )
    return replace(text, extra=extra, **cut)


def _ending(text: Encoded) -> Encoded:
    """The text without special tokens at its end: after its end, a model predicts nothing.

    Without token types too: these models were not trained with any, and GPT-2 would look them up as words.
    """
    n = 1 + max(place for place, special in enumerate(text.special) if not special)
    return replace(before(text, n), token_type_ids=None)


def _parted(prompt: Encoded, whole: Encoded, example: Example) -> Encoded:
    """The whole text as a prompt and its continuation."""
    assert example.text_pair is not None
    n, shift = len(prompt), len(example.text)
    if whole.input_ids[:n] != prompt.input_ids or len(whole) == n:
        raise InputError(
            f"{example.source or example.id}: the continuation {example.text_pair[:40]!r} has no token of its own after "
            "the prompt. Move the space between them from the one to the other."
        )
    later = [
        span if span == NO_OFFSET else (max(0, span[0] - shift), span[1] - shift)
        for span in whole.offsets[n:]
    ]
    return replace(
        whole,
        offsets=(*whole.offsets[:n], *later),
        segments=tuple(
            -1 if special else int(place >= n) for place, special in enumerate(whole.special)
        ),
        text=example.text,
        text_pair=example.text_pair,
    )
