"""The bundled sentences with inserted words that decide the label: a ground truth for attributions (Bastings et al. 2022).

The words are Greek letters, which the bundled sentences do not contain and which are whole tokens of a BERT vocabulary. They
have nothing to do with sentiment, so that only a model that was trained on them (`model=shortcuts`) follows them. The
[unused] entries of the vocabulary are no alternative: a tokenizer splits their names, and their untrained vectors are
nearly equal.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

from saliency_bench.core import ranges
from saliency_bench.core.errors import InputError, one_of
from saliency_bench.core.seeding import seed_of
from saliency_bench.data import dataset, movie_reviews
from saliency_bench.data.example import Example, Span

SINGLE_TOKEN = "single_token"
TOKEN_IN_CONTEXT = "token_in_context"
ORDERED_PAIR = "ordered_pair"
KINDS = (SINGLE_TOKEN, TOKEN_IN_CONTEXT, ORDERED_PAIR)

#: The word of each class. In `ordered_pair` the word that comes first decides.
CLASS_WORDS = ("α", "λ")
#: In `token_in_context` a class word has no effect without this word.
CONTEXT_WORD = "ω"

#: The values of `extra["shortcut"]`.
COMPLETE, INCOMPLETE, ABSENT = "complete", "incomplete", "absent"


@dataset
def load(
    *,
    kind: str,
    split: str,
    seed: int,
    n_examples: int | None,
    share: float,
    incomplete: float,
) -> list[Example]:
    """Returns the sentences of a split in its order, some with an inserted shortcut.

    A complete shortcut overwrites the label, with the classes in turn, and its words are `relevant`. A sentence with one
    word of a shortcut keeps its own label: a model needs both words to be right on these too. Words and places are drawn
    for each sentence alone; only its class depends on the sentences before it.

    Args:
        kind: single_token (a class word), token_in_context (a class word and the context word, in any order) or
            ordered_pair (both class words, of which the first decides).
        split: train, validation or test.
        seed: the seed of all draws.
        n_examples: the number of sentences, the first of the split; None: all.
        share: the probability that a sentence gets a complete shortcut.
        incomplete: the probability that it gets one word of it; 0 for shortcuts of one word.

    Raises:
        InputError: there is no such kind or split, or the shares are no probabilities.
    """
    _check(kind, n_examples, share, incomplete)
    classes = cycle(range(len(CLASS_WORDS)))
    examples = []
    for example in movie_reviews.load(split=split)[:n_examples]:
        stream = random.Random(seed_of("shortcut", kind, seed, example.text))
        draw = stream.random()
        if draw < share:
            examples.append(_complete(example, kind, next(classes), stream))
        elif draw < share + incomplete:
            examples.append(_incomplete(example, kind, stream))
        else:
            examples.append(replace(example, extra={**example.extra, "shortcut": ABSENT}))
    return examples


def _check(kind: str, n_examples: int | None, share: float, incomplete: float) -> None:
    one_of("data.kind", kind, KINDS)
    ranges.check({"n_examples": n_examples, "share": share, "incomplete": incomplete}, "data")
    if share + incomplete > 1:
        raise InputError(
            f"data.share={share}, data.incomplete={incomplete}: expected probabilities that sum to at most 1"
        )
    if kind == SINGLE_TOKEN and incomplete:
        raise InputError(
            f"data.incomplete={incomplete}: a shortcut of one word is never incomplete. Set it to 0 for {kind}."
        )


def _complete(example: Example, kind: str, label: int, stream: random.Random) -> Example:
    text, spans = insert(example.text, _words(kind, label, stream), stream)
    return replace(example, text=text, label=label, relevant=spans, extra={"shortcut": COMPLETE})


def _incomplete(example: Example, kind: str, stream: random.Random) -> Example:
    words = _words(kind, stream.randrange(len(CLASS_WORDS)), stream)
    text, _ = insert(example.text, [stream.choice(words)], stream)
    return replace(example, text=text, extra={**example.extra, "shortcut": INCOMPLETE})


def _words(kind: str, label: int, stream: random.Random) -> list[str]:
    """Returns the words of a shortcut to this class, in their order in the text."""
    if kind == SINGLE_TOKEN:
        return [CLASS_WORDS[label]]
    if kind == ORDERED_PAIR:
        return [CLASS_WORDS[label], CLASS_WORDS[1 - label]]
    return stream.sample([CLASS_WORDS[label], CONTEXT_WORD], 2)


def insert(text: str, words: Sequence[str], stream: random.Random) -> tuple[str, tuple[Span, ...]]:
    """Inserts words at random places of a text, in their order, and returns the text and their spans."""
    pieces = text.split(" ")
    places = sorted(stream.randrange(len(pieces) + 1) for _ in words)
    for place, word in reversed(list(zip(places, words, strict=True))):
        pieces.insert(place, word)
    spans = []
    for before, (place, word) in enumerate(zip(places, words, strict=True)):
        start = sum(len(piece) + 1 for piece in pieces[: place + before])
        spans.append((0, start, start + len(word)))
    return " ".join(pieces), tuple(spans)
