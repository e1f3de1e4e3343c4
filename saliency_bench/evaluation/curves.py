"""Deletion and insertion curves, from which every removal metric is computed."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.core.tensors import Probe
from saliency_bench.core.units import NONE
from saliency_bench.evaluation.grid import Grid, points

Key = TypeVar("Key", bound=Hashable)
Logits = Float[np.ndarray, "K C"]
Read = Callable[[Logits, int], Float[np.ndarray, " K"]]


def _probability(logits: Logits, target: int) -> Float[np.ndarray, " K"]:
    return np.asarray(np.exp(_log_probability(logits, target)))


def _log_probability(logits: Logits, target: int) -> Float[np.ndarray, " K"]:
    from scipy.special import log_softmax

    # A logit that is not finite makes its probability NaN; the row that reads it says so, a warning need not.
    with np.errstate(invalid="ignore"):
        return np.asarray(log_softmax(logits, axis=-1)[:, target])


def _logit(logits: Logits, target: int) -> Float[np.ndarray, " K"]:
    return np.asarray(logits[:, target])


def log_odds(logits: Logits, target: int) -> Float[np.ndarray, " K"]:
    """Log p - log(1 - p) from the logits: 1 - p has lost its digits where p is near 1."""
    from scipy.special import logsumexp

    with np.errstate(invalid="ignore"):
        others = logsumexp(np.delete(logits, target, axis=-1), axis=-1)
        return np.asarray(logits[:, target] - others)


def there_or_not(logits: Logits, target: int) -> Float[np.ndarray, "K 2"]:
    """Of classes that do not exclude each other, one as two that do: it is there, or it is not.

    Its own logit and 0: the softmax of these two is the sigmoid of the one, and the larger changes where that crosses
    one half.
    """
    own = logits[:, target]
    return np.stack([own, np.zeros_like(own)], axis=-1)


#: What a curve can show of the explained class, and the unit it is in.
OUTPUTS: Mapping[str, tuple[Read, str]] = {
    "probability": (_probability, "probability"),
    "log_probability": (_log_probability, "nats"),
    "logit": (_logit, "logits"),
}


@dataclass(frozen=True)
class Explained:
    """What a map explains, and how it is read off logits [K C]: a class, or a class rather than another (`against`).

    Of a class against another the difference of both is read; their log-odds are those of the one to the other, and what
    is decided is which of the two has the larger logit. `alone`: classes do not exclude each other, so that each has a
    probability of its own, and what is decided of a class is whether it is there.
    """

    target: int
    against: int | None = None
    alone: bool = False

    def read(self, logits: Logits, output: str) -> Float[np.ndarray, " K"]:
        """The output, see `OUTPUTS`."""
        of, _ = OUTPUTS[output]
        own = of(*self._one(logits, self.target))
        if self.against is None:
            return own
        with np.errstate(invalid="ignore"):  # of infinities
            return np.asarray(own - of(*self._one(logits, self.against)))

    def log_odds(self, logits: Logits) -> Float[np.ndarray, " K"]:
        """Log p/(1 - p) of the class; of a class against another log p_A/p_B, the difference of their logits."""
        if self.against is None:
            return log_odds(*self._one(logits, self.target))
        return self.read(logits, "logit")

    def decided(self, logits: Logits) -> Int[np.ndarray, " K"]:
        """What is decided, as the number of one of the possible decisions."""
        if self.against is not None:
            return np.asarray(logits[:, [self.target, self.against]].argmax(-1))
        return np.asarray(self._one(logits, self.target)[0].argmax(-1))

    def _one(self, logits: Logits, target: int) -> tuple[Float[np.ndarray, "K D"], int]:
        """Logits of classes that exclude each other, and the place of a class among them."""
        return (there_or_not(logits, target), 0) if self.alone else (logits, target)


class Answers:
    """Logits of many questions, and what is read of them for one class: each reading is taken once for all."""

    def __init__(self, logits: Logits, explained: Explained) -> None:
        self.logits, self.explained = logits, explained
        self._outputs: dict[str, Float[np.ndarray, " N"]] = {}

    def output(self, name: str) -> Float[np.ndarray, " N"]:
        """An output of the class, see `OUTPUTS`."""
        if name not in self._outputs:
            self._outputs[name] = self.explained.read(self.logits, name)
        return self._outputs[name]

    @cached_property
    def log_odds(self) -> Float[np.ndarray, " N"]:
        """See `Explained.log_odds`."""
        return self.explained.log_odds(self.logits)

    @cached_property
    def decided(self) -> Int[np.ndarray, " N"]:
        """See `Explained.decided`."""
        return self.explained.decided(self.logits)


@dataclass(frozen=True)
class Curve:
    """What the model says of one example when only some of its units stay (Samek et al. 2017).

    Units are ranked from most to least relevant. `k` is sorted and starts with 0 and ends with `n_units`.
    `removed[i]` is the place among the answers with the top k[i] units removed, `kept_alone[i]` that with only the top k[i]
    kept; so removed[0] is the full text and kept_alone[0] the empty one. `predicted` is what is decided of the full
    text, and `output` what `deletion` and `insertion` show. `ordered` is whether any two units have different
    scores: else the ranking is that of the tie-break alone.
    """

    k: Int[np.ndarray, " K"]
    answers: Answers
    removed: Int[np.ndarray, " K"]
    kept_alone: Int[np.ndarray, " K"]
    predicted: int
    output: str
    ordered: bool = True

    @cached_property
    def n_units(self) -> int:
        """All units that are ranked."""
        return int(self.k[-1])

    @property
    def explained(self) -> Explained:
        """What is read of the logits."""
        return self.answers.explained

    @property
    def without(self) -> Logits:
        """The logits without the top k."""
        return np.asarray(self.answers.logits[self.removed])

    @property
    def only(self) -> Logits:
        """The logits with only the top k."""
        return np.asarray(self.answers.logits[self.kept_alone])

    @cached_property
    def deletion(self) -> Float[np.ndarray, " K"]:
        """The output without the top k."""
        return self.read_without(self.output)

    @cached_property
    def insertion(self) -> Float[np.ndarray, " K"]:
        """The output with only the top k."""
        return np.asarray(self.answers.output(self.output)[self.kept_alone])

    def read_without(self, output: str) -> Float[np.ndarray, " K"]:
        """Another output without the top k."""
        return np.asarray(self.answers.output(output)[self.removed])

    @cached_property
    def log_odds(self) -> Float[np.ndarray, " K"]:
        """The log-odds without the top k."""
        return np.asarray(self.answers.log_odds[self.removed])

    @cached_property
    def flipped(self) -> Bool[np.ndarray, " K"]:
        """Whether another decision than that of the full text is made without the top k."""
        return np.asarray(self.answers.decided[self.removed] != self.predicted)

    @cached_property
    def kept(self) -> Bool[np.ndarray, " K"]:
        """Whether the decision of the full text is made from the top k alone."""
        return np.asarray(self.answers.decided[self.kept_alone] == self.predicted)


def evaluate_curves(
    probe: Probe,
    rankings: Mapping[tuple[Key, int], Int[np.ndarray, " _"]],
    units: Sequence[Int[np.ndarray, " _"]],
    explained: Sequence[Explained],
    predicted: Sequence[int],
    grids: Sequence[Grid],
    output: str,
    ordered: Mapping[tuple[Key, int], bool] | None = None,
) -> dict[tuple[Key, int], Curve]:
    """The curves of rankings (key, example), at every number of units that any of the grids needs.

    Args:
        probe: answers what the model says if only some tokens stay. It gets all questions in one call, many of
            them more than once: rankings share both ends, and one's deletion is another's insertion. That each
            distinct one costs one forward row is the probe's promise.
        rankings: names of units, most relevant first.
        units: for each example, the unit of each of its own tokens (see `units.units`).
        explained: for each example, what the curves are about.
        predicted: for each example, what is decided of the full text.
        grids: see `grid.counts`; both ends, none and all of the units, are always there.
        output: what the curves show of the class, see `OUTPUTS`.
        ordered: of each ranking, see `Curve`; True where None.
    """
    ks = {place: points(grids, len(ranking)) for place, ranking in rankings.items()}
    examples: list[int] = []
    keep: list[Bool[np.ndarray, " T"]] = []
    for (key, example), ranking in rankings.items():
        own = _questions(ranking, units[example], ks[key, example])
        keep.extend(own)
        examples += [example] * len(own)
    logits = probe(np.array(examples, dtype=int), keep)
    answers = {one: Answers(logits, one) for one in set(explained)}
    curves, start = {}, 0
    for (key, example), k in ks.items():
        places = start + np.arange(2 * len(k))
        start += 2 * len(k)
        curves[key, example] = Curve(
            k,
            answers[explained[example]],
            places[0::2],
            places[1::2],
            predicted[example],
            output,
            ordered is None or ordered[key, example],
        )
    return curves


def _questions(
    ranking: Int[np.ndarray, " U"], unit_of: Int[np.ndarray, " T"], k: Int[np.ndarray, " K"]
) -> Bool[np.ndarray, "2*K T"]:
    """What stays without the top k and with only the top k, in turn, for every k."""
    place = np.zeros(len(unit_of) + 1, dtype=int)  # the last is that of NONE
    place[ranking] = np.arange(len(ranking))
    rank = place[unit_of]
    special = unit_of == NONE
    without = special | (rank >= k[:, None])
    only = special | (rank < k[:, None])
    return np.stack([without, only], axis=1).reshape(2 * len(k), -1)
