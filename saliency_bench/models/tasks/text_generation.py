"""Causal language models: the next token, a given continuation by its tokens or as a whole, or one of some options."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from saliency_bench.core.continuations import CONTINUATION
from saliency_bench.core.errors import InputError
from saliency_bench.core.text import NO_OFFSET, Encoded
from saliency_bench.data.example import Example
from saliency_bench.data.labels import as_label
from saliency_bench.models.model import Model
from saliency_bench.models.references import ATTENTION, DELETE
from saliency_bench.models.tasks import chats
from saliency_bench.models.tasks.encoding import NEVER_CUT, encode_one, require_tokenizer
from saliency_bench.models.tasks.task import At, question_at, token_of, visible_spaces, word_of

#: The ways to combine the log-probabilities of a continuation's tokens.
SUM, MEAN = "sum", "mean"

#: The fields of a text with one value for each token.
PER_TOKEN = (
    "input_ids", "token_type_ids", "special", "tokens", "offsets", "segments", "words", "relevant", "pads",
)  # fmt: skip

_OTHER = "without its last token a text asks for another next token"


class TextGeneration:
    """The classes are the tokens of the vocabulary, read at the last token of the text, or options (`tasks.options`).

    A pair of texts is a prompt and its continuation. Each token of the continuation is a question, whose text is all that
    comes before; the continuation as a whole is one question, whose text is the prompt. The prompt of a chat is its
    rendered template. The last token is evidence like any other: where it is replaced, the next token is still read there.
    """

    refuses: Mapping[str, str] = {DELETE: _OTHER, ATTENTION: _OTHER}

    def encode(self, model: Model, example: Example, too_long: str) -> Encoded:
        """See `task.Task`. Nothing is cut, since the question is about the end of the text."""
        if example.messages:
            require_tokenizer(model)
            example = chats.rendered(model, example)
        alone = replace(example, text_pair=None, options=(), label=None)
        prompt = _ending(encode_one(model, alone, NEVER_CUT), example)
        if example.options:
            return _with_options(model, prompt, example)
        if example.text_pair is None:
            return prompt
        return _parted(prompt, _followed(model, prompt, example, example.text_pair), example)

    def questions(self, model: Model, text: Encoded, at: At) -> list[Encoded]:
        """See `task.Task`. `at` is "sum" or "mean", for options and for a continuation as a whole.

        None: the token after the text, each token of the continuation, or the mean for options.
        """
        if at not in (None, SUM, MEAN):
            raise InputError(
                f"at={at!r}: the question is the token after the prompt: give no at; sum or mean for a continuation as a whole"
            )
        if text.options:
            return [_as_whole(text, str(at or MEAN))]
        continued = CONTINUATION in text.segments and text.text_pair is not None
        if not continued:
            if at is not None:
                raise InputError(
                    f"{text.example_id}: at={at}, and no continuation is given: add one, or leave at out"
                )
            last = max(place for place, attended in enumerate(text.attended) if attended)
            return [question_at(text, last)]
        first = text.segments.index(CONTINUATION)
        if at is not None:
            ids, words = text.input_ids[first:], str(text.text_pair)
            prompt = replace(before(text, first), options=(ids,), option_texts=(words,))
            return [replace(_as_whole(prompt, str(at)), default_class=0)]
        return [
            question_at(before(text, n), n - 1, default_class=text.input_ids[n])
            for n in range(first, len(text))
        ]

    def class_of(self, model: Model, name: str | int, question: Encoded, n_classes: int) -> int:
        """See `task.Task`: a token id, or the text of a token or an option, with the space before it."""
        if question.options:
            return _option(name, question, f"{question.example_id}: target")
        return token_of(model, name, n_classes, str(name))

    def name_of(self, model: Model, index: int, question: Encoded, n_classes: int) -> str:
        """See `task.Task`: the token, or the option."""
        if not question.options:
            return word_of(model, index)
        if index == len(question.options):
            return f"not {visible_spaces(question.option_texts[0])}"
        return visible_spaces(question.option_texts[index])


def before(text: Encoded, n: int) -> Encoded:
    """The first n tokens of a text."""
    values = {name: getattr(text, name) for name in PER_TOKEN}
    cut = {name: value[:n] for name, value in values.items() if value is not None}
    extra = tuple(
        (name, values[:n] if len(values) == len(text) else values) for name, values in text.extra
    )
    return replace(text, extra=extra, **cut)


def _as_whole(text: Encoded, at: str) -> Encoded:
    """The question about the options, which are scored by the sum or the mean of their tokens."""
    return replace(text, mean=at == MEAN, example_id=f"{text.example_id}@{at}")


def _option(name: str | int, question: Encoded, where: str) -> int:
    """An option by number or by text, with or without the spaces around it; digits may be its number."""
    texts = question.option_texts
    stripped = [text.strip() for text in texts]
    if isinstance(name, str) and name.isdecimal() and name not in stripped:
        name = int(name)
    if isinstance(name, int):
        if not 0 <= name < len(texts):
            raise InputError(
                f"{where} {name}: expected the number of an option, 0 ... {len(texts) - 1}"
            )
        return name
    if name in texts:
        return texts.index(name)
    if stripped.count(name.strip()) == 1:
        return stripped.index(name.strip())
    raise InputError(f"{where} {name!r} is none of the options: {', '.join(map(repr, texts))}")


def _ending(text: Encoded, example: Example) -> Encoded:
    """The text without the special tokens at its end, after which a model predicts nothing. A template's end stays.

    Token types are removed too, since these models were not trained with them, and GPT-2 would look them up as words.
    """
    if example.turns:
        return replace(text, token_type_ids=None)
    n = 1 + max(place for place, special in enumerate(text.special) if not special)
    return replace(before(text, n), token_type_ids=None)


def _followed(model: Model, prompt: Encoded, example: Example, continuation: str) -> Encoded:
    """The prompt and a continuation as one text.

    Raises:
        InputError: the continuation adds no token, changes the prompt's, or makes the text too long.
    """
    where = example.source or example.id
    if not continuation:
        raise InputError(
            f"{where}: the continuation is empty: give the text that follows the prompt, or none to explain the next token"
        )
    n, text = len(example.text), example.text + continuation
    whole = replace(
        example,
        text=text,
        text_pair=None,
        options=(),
        label=None,
        parts=_of_one_text(example.parts, n),
        turns=_of_one_text(example.turns, n),
    )
    together = _ending(encode_one(model, whole, NEVER_CUT), example)
    if together.input_ids[: len(prompt)] != prompt.input_ids:
        place = next(
            place
            for place, token in enumerate(prompt.input_ids)
            if together.input_ids[place : place + 1] != (token,)
        )
        joined = together.tokens[min(place, len(together) - 1)]
        raise InputError(
            f"{where}: the tokenizer joins the end of the prompt and the continuation {continuation[:40]!r} in the token "
            f"{joined}: move the space between them from the one to the other, or the letters of the word that is cut"
        )
    if len(together) == len(prompt):
        raise InputError(
            f"{where}: the continuation {continuation[:40]!r} has no token of its own after the prompt: give it a word, or "
            "move the space between them from the one to the other"
        )
    return together


def _with_options(model: Model, prompt: Encoded, example: Example) -> Encoded:
    """The prompt with the tokens of each option."""
    n = len(prompt)
    options = tuple(
        _followed(model, prompt, example, option).input_ids[n:] for option in example.options
    )
    question = replace(prompt, options=options, option_texts=example.options)
    if example.label is None:
        return question
    where = example.source or example.id
    gold = _option(as_label(example.label, where), question, f"{where}: label")
    return replace(question, gold=gold)


def _parted(prompt: Encoded, whole: Encoded, example: Example) -> Encoded:
    """The whole text as a prompt and its continuation."""
    assert example.text_pair is not None
    n, shift = len(prompt), len(example.text)
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
        parts=example.parts,
        turns=example.turns,
    )


def _of_one_text(parts: Sequence[Any], n: int) -> tuple[Any, ...]:
    """The parts or turns of a prompt of n characters and of its continuation, as those of one text."""
    return tuple(
        (name, 0, start + n * of, end + n * of, *more) for name, of, start, end, *more in parts
    )
