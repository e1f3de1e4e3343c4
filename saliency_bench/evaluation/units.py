"""What is ranked and removed as one: tokens, or words with all their pieces. Special tokens are in no unit."""

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.text import Encoded

TOKEN = "token"
WORD = "word"
GRANULARITIES = (TOKEN, WORD)
NONE = -1  # the unit of a special token


def units(encoded: Encoded, granularity: str) -> Int[np.ndarray, " T"]:
    """The unit of each token, which bears the position of its first token as its name.

    Raises:
        InputError: no such granularity, or nothing says what the words are.
    """
    if granularity not in GRANULARITIES:
        raise unknown("granularity", granularity, list(GRANULARITIES))
    own = np.where(encoded.special, NONE, np.arange(len(encoded)))
    if granularity == TOKEN:
        return own
    refuse_unknown_words(encoded)
    first: dict[int, int] = {}
    for position, word in enumerate(encoded.words):
        if word >= 0 and own[position] != NONE:
            first.setdefault(word, position)
            own[position] = first[word]
    return own


def refuse_unknown_words(encoded: Encoded) -> None:
    """Refuses tokens of which nothing says what word they are of.

    Raises:
        InputError: neither a tokenizer's marks nor places in the text do.
    """
    if not encoded.words_known:
        raise InputError(
            f"granularity=word: {encoded.example_id}: neither the marks of the tokenizer's tokens nor their places in the "
            "text say what its words are. Use granularity=token, or a fast tokenizer"
        )


def heads(unit_of: Int[np.ndarray, " T"]) -> Bool[np.ndarray, " T"]:
    """Whether each token is the first of its unit."""
    return np.asarray(unit_of == np.arange(len(unit_of)))


def summed(
    scores: Float[np.ndarray, "... T"], unit_of: Int[np.ndarray, " T"]
) -> Float[np.ndarray, "... T"]:
    """The sum of each unit's scores at its first token; 0 elsewhere."""
    found = np.zeros_like(scores)
    ranked = unit_of != NONE
    np.add.at(found.T, unit_of[ranked], scores.T[ranked])
    return found
