"""Models that are tables: what they say of each set of tokens that stays."""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from saliency_bench.evaluation.curves import Curve, Explained, evaluate_curves
from saliency_bench.evaluation.query import Query


class LookupProbe:
    """A probe that looks its logits up, and remembers every question put to it."""

    def __init__(self, logits: Callable[[int, tuple[int, ...]], list[float]]) -> None:
        self.logits = logits
        self.questions: list[tuple[int, tuple[int, ...]]] = []

    def __call__(self, examples, keep):
        asked = [
            (int(example), tuple(np.flatnonzero(stays).tolist()))
            for example, stays in zip(examples, keep, strict=True)
        ]
        self.questions += asked
        return np.array([self.logits(*question) for question in asked], dtype=float)


def table(probabilities: Mapping[str, float]) -> LookupProbe:
    """Two classes; the probability of class 0 by the positions that stay: {"": 0.1, "02": 0.7}."""

    def logits(example, stays):
        p = probabilities["".join(map(str, stays))]
        return [np.log(p), np.log1p(-p)]

    return LookupProbe(logits)


def arbitrary(seed: int, n_classes: int = 3) -> LookupProbe:
    """Logits that are unrelated from one set to the next: no property of a real model to lean on."""

    def logits(example, stays):
        name = hashlib.sha256(repr((seed, example, stays)).encode()).digest()
        return np.random.default_rng(list(name)).normal(scale=2, size=n_classes).tolist()

    return LookupProbe(logits)


def tokens(attributable):
    """Every token a unit of its own, but for special ones."""
    return np.where(attributable, np.arange(len(attributable)), -1)


def curve_of(
    probe, ranking, grids, n_tokens=None, target=0, predicted=0, output="probability"
) -> Curve:
    """The curve of one ranking of one example, whose tokens that are not ranked are special."""
    ranking = np.array(ranking, dtype=int)
    attributable = np.zeros(len(ranking) if n_tokens is None else n_tokens, dtype=bool)
    attributable[ranking] = True
    rankings, units = {("one", 0): ranking}, [tokens(attributable)]
    found = evaluate_curves(probe, rankings, units, [Explained(target)], [predicted], grids, output)
    return found["one", 0]


def unasked(stays, n_draws):
    raise AssertionError("this metric blurs nothing")


def query_of(f, scores, blur=unasked, name="text"):
    """A query of a model that is a table; `asked` collects what it was asked."""
    scores = np.array(scores, dtype=float)
    asked = []

    def ask(kept):
        asked.extend(tuple(np.flatnonzero(one).tolist()) for one in kept)
        return np.array([f(np.flatnonzero(one).tolist()) for one in kept])

    one = Query(scores, np.argsort(-scores), ask, blur, name, {})
    return one, asked
