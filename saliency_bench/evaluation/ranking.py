"""Rankings of tokens by their scores; special tokens are never ranked."""

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
        attributable: the tokens that are ranked.
        signed: whether tokens are ranked by the score itself, or by its magnitude.
        tie_seed: the seed of the random order of equal scores. Ordering them by position would favour the beginning.

    Raises:
        SaliencyBenchError: the score of a ranked token is not finite; a sort would silently put it first or last.
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
    """A random permutation that depends only on a name, so that all rankings of a text have the same."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    permutation = np.random.default_rng(seed).permutation(n)
    permutation.flags.writeable = False
    return permutation
