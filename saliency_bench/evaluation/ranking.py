"""Scores to rankings, from the most to the least relevant token; special tokens are never ranked."""

import hashlib
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.core.errors import SaliencyBenchError


def rank(
    scores: Float[np.ndarray, " T"],
    attributable: Bool[np.ndarray, " T"],
    *,
    signed: bool,
    tie_seed: str,
) -> Int[np.ndarray, " U"]:
    """Positions of the attributable tokens, most relevant first.

    Args:
        scores: one per token.
        attributable: the tokens that take part.
        signed: by the score itself; otherwise by its magnitude.
        tie_seed: equal scores are ordered by a permutation that this text decides, not by position, which
            would favour the beginning of the text.

    Raises:
        SaliencyBenchError: a score that takes part is not finite: a sort would silently put it first or last.
    """
    positions = np.flatnonzero(attributable)
    values = scores[positions] if signed else np.abs(scores[positions])
    refused = positions[~np.isfinite(values)]
    if len(refused):
        raise SaliencyBenchError(
            f"the score of token {refused[0]} is {scores[refused[0]]}: expected a finite number, which can be ranked"
        )
    return positions[np.lexsort((_tie_break(tie_seed, len(positions)), -values))]


@lru_cache(maxsize=1024)
def _tie_break(name: str, n: int) -> Int[np.ndarray, " U"]:
    """A permutation that a name decides; all rankings of a text have the same."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    permutation = np.random.default_rng(seed).permutation(n)
    permutation.flags.writeable = False
    return permutation
