"""Deletion and insertion curves: every removal metric is a reading of these two."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax, logsumexp

from saliency_bench.evaluation.grid import Grid, counts
from saliency_bench.types import Curve, Probe

Key = TypeVar("Key", bound=Hashable)


def evaluate_curves(
    probe: Probe,
    rankings: Mapping[tuple[Key, int], Int[np.ndarray, " _"]],
    attributable: Sequence[Bool[np.ndarray, " _"]],
    targets: Sequence[int],
    predicted: Sequence[int],
    grids: Sequence[Grid],
) -> dict[tuple[Key, int], Curve]:
    """The curves of rankings (key, example), at every number of tokens that any of the grids needs.

    Args:
        probe: answers what the model says if only some tokens stay. It gets all questions in one call, many of
            them more than once: rankings share both ends, and one's deletion is another's insertion. That each
            distinct one costs one forward row is the probe's promise.
        rankings: positions of the attributable tokens, most relevant first.
        attributable: for each example, over its own tokens.
        targets: for each example, the class whose probability the curves show.
        predicted: for each example, the class predicted on the full text.
        grids: see `grid.counts`; both ends, none and all of the tokens, are always there.
    """
    ks = {place: _points(len(ranking), grids) for place, ranking in rankings.items()}
    examples: list[int] = []
    keep: list[Bool[np.ndarray, " T"]] = []
    for (key, example), ranking in rankings.items():
        for k in ks[key, example]:
            keep.append(_without(ranking[:k], len(attributable[example])))
            keep.append(_without(ranking[k:], len(attributable[example])))
            examples += [example, example]
    answers = iter(probe(np.array(examples, dtype=int), keep))
    curves = {}
    for (key, example), k in ks.items():
        logits = np.array([next(answers) for _ in range(2 * len(k))])
        curves[key, example] = _curve(k, logits, targets[example], predicted[example])
    return curves


def _points(n_units: int, grids: Sequence[Grid]) -> Int[np.ndarray, " K"]:
    return np.unique(
        np.concatenate([[0, n_units], *(counts(grid, n_units) for grid in grids)])
    ).astype(int)


def _without(removed: Int[np.ndarray, " N"], n_tokens: int) -> Bool[np.ndarray, " T"]:
    keep = np.ones(n_tokens, dtype=bool)
    keep[removed] = False
    return keep


def _curve(
    k: Int[np.ndarray, " K"], logits: Float[np.ndarray, "N C"], target: int, predicted: int
) -> Curve:
    """The curve of N = 2 K answers: without and with only the top k, in turn."""
    # A logit that is not finite makes its probability NaN; the row that reads it says so, a warning need not.
    with np.errstate(invalid="ignore"):
        probability = np.exp(log_softmax(logits, axis=-1)[:, target])
        # log p - log(1 - p) from the logits: 1 - p has lost its digits where p is near 1.
        log_odds = logits[:, target] - logsumexp(np.delete(logits, target, axis=-1), axis=-1)
    return Curve(
        n_units=int(k[-1]),
        k=k,
        deletion=probability[0::2],
        insertion=probability[1::2],
        deletion_log_odds=log_odds[0::2],
        insertion_log_odds=log_odds[1::2],
        flipped=logits[0::2].argmax(-1) != predicted,
    )
