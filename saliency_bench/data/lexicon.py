"""Ratings of words by people: a weak rationale for sentiment; lexicon/README.md states its limits."""

import re
from functools import cache
from pathlib import Path

from saliency_bench.data.example import Span

FILE = Path(__file__).parent / "lexicon" / "vader_lexicon.tsv"
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


@cache
def ratings() -> dict[str, float]:
    """Returns the mean rating of each word, from -4 to 4 (Hutto & Gilbert 2014)."""
    lines = FILE.read_text("utf-8").splitlines()
    words = (line.split("\t")[:2] for line in lines if line.strip())
    return {word: float(mean) for word, mean in words}


def rated(text: str, positive: bool, least: float) -> tuple[Span, ...]:
    """Returns the spans of the words rated at least `least`, or at most `-least` if `positive` is False."""
    words, sign = ratings(), 1 if positive else -1
    return tuple(
        (0, match.start(), match.end())
        for match in WORD.finditer(text)
        if sign * words.get(match.group().lower(), 0.0) >= least
    )
