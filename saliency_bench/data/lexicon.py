"""Words that people rated: a weak rationale for sentiment, with the limits that lexicon/README.md states."""

import re
from functools import cache
from pathlib import Path

from saliency_bench.data.example import Span

FILE = Path(__file__).parent / "lexicon" / "vader_lexicon.tsv"
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


@cache
def ratings() -> dict[str, float]:
    """The mean rating of each word, from -4 to 4 (Hutto & Gilbert 2014)."""
    lines = FILE.read_text("utf-8").splitlines()
    words = (line.split("\t")[:2] for line in lines if line.strip())
    return {word: float(mean) for word, mean in words}


def rated(text: str, positive: bool, least: float) -> tuple[Span, ...]:
    """Finds the words that are rated at least `least`, or with `positive` false at most `-least`."""
    words, sign = ratings(), 1 if positive else -1
    return tuple(
        (0, match.start(), match.end())
        for match in WORD.finditer(text)
        if sign * words.get(match.group().lower(), 0.0) >= least
    )
