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

    # A logit that is not finite makes its probability NaN, which its row reports; numpy need not warn.
    with np.errstate(invalid="ignore"):
        return np.asarray(log_softmax(logits, axis=-1)[:, target])


def _logit(logits: Logits, target: int) -> Float[np.ndarray, " K"]:
    return np.asarray(logits[:, target])


def log_odds(logits: Logits, target: int) -> Float[np.ndarray, " K"]:
    """Log p - log(1 - p), computed from the logits, since 1 - p is inaccurate for p near 1."""
    from scipy.special import logsumexp

    with np.errstate(invalid="ignore"):
        others = logsumexp(np.delete(logits, target, axis=-1), axis=-1)
        return np.asarray(logits[:, target] - others)


def _present_or_absent(logits: Logits, target: int) -> Float[np.ndarray, "K 2"]:
    """A class of a multi-label model as two classes: present, with the class's logit, and absent, with the logit 0.

    The softmax of the two is the sigmoid of the logit, and the larger one changes where the sigmoid crosses one half.
    """
    logit = logits[:, target]
    return np.stack([logit, np.zeros_like(logit)], axis=-1)


#: The outputs that a curve can show for the explained class, with their units.
OUTPUTS: Mapping[str, tuple[Read, str]] = {
    "probability": (_probability, "probability"),
    "log_probability": (_log_probability, "nats"),
    "logit": (_logit, "logits"),
}


@dataclass(frozen=True)
class Explained:
    """The class that a map explains, with its output, log-odds and decision computed from logits [K C].

    With `against`, a class is explained against another: the output is the difference of both, the log-odds are those of
    the one to the other, and the decision is the class with the larger logit. With `alone`, classes do not exclude each
    other (multi-label): each has its own probability, and the decision is whether the class is present.
    """

    target: int
    against: int | None = None
    alone: bool = False

    def read(self, logits: Logits, output: str) -> Float[np.ndarray, " K"]:
        """The output, see `OUTPUTS`."""
        read, _ = OUTPUTS[output]
        values = read(*self._class(logits, self.target))
        if self.against is None:
            return values
        with np.errstate(invalid="ignore"):  # the difference of two infinities
            return np.asarray(values - read(*self._class(logits, self.against)))

    def log_odds(self, logits: Logits) -> Float[np.ndarray, " K"]:
        """Log p/(1 - p) of the class; of a class against another log p_A/p_B, the difference of their logits."""
        if self.against is None:
            return log_odds(*self._class(logits, self.target))
        return self.read(logits, "logit")

    def decided(self, logits: Logits) -> Int[np.ndarray, " K"]:
        """The decision, as its number among the possible decisions."""
        if self.against is not None:
            return np.asarray(logits[:, [self.target, self.against]].argmax(-1))
        return np.asarray(self._class(logits, self.target)[0].argmax(-1))

    def _class(self, logits: Logits, target: int) -> tuple[Float[np.ndarray, "K D"], int]:
        """Logits of classes that exclude each other, and the place of the target among them."""
        return (_present_or_absent(logits, target), 0) if self.alone else (logits, target)


class Answers:
    """Logits of many questions, with the outputs and decisions for one class, each computed once for all questions."""

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
    """The outputs of the model for one example when only some of its units stay (Samek et al. 2017).

    Units are ranked from most to least relevant. `k` is sorted, starts with 0 and ends with `n_units`. `removed[i]` is
    the place in `answers` of the text without the top k[i] units, `kept_alone[i]` that of the top k[i] units alone, so that
    removed[0] is the full text and kept_alone[0] the empty one. `predicted` is the decision for the full text. `deletion`
    and `insertion` show `output`. `ordered` is whether any two units have different scores; if not, the ranking is that of
    the tie-break.
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
        """The number of units."""
        return int(self.k[-1])

    @cached_property
    def deletion(self) -> Float[np.ndarray, " K"]:
        """The output without the top k."""
        return self.read_without(self.output)

    @cached_property
    def insertion(self) -> Float[np.ndarray, " K"]:
        """The output with only the top k."""
        return np.asarray(self.answers.output(self.output)[self.kept_alone])

    def read_without(self, output: str) -> Float[np.ndarray, " K"]:
        """The named output without the top k."""
        return np.asarray(self.answers.output(output)[self.removed])

    @cached_property
    def log_odds(self) -> Float[np.ndarray, " K"]:
        """The log-odds without the top k."""
        return np.asarray(self.answers.log_odds[self.removed])

    @cached_property
    def flipped(self) -> Bool[np.ndarray, " K"]:
        """Whether the decision without the top k differs from that for the full text."""
        return np.asarray(self.answers.decided[self.removed] != self.predicted)

    @cached_property
    def kept(self) -> Bool[np.ndarray, " K"]:
        """Whether the decision for the top k alone is that for the full text."""
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
    """The curves of rankings, by (key, example), at every number of units that any of the grids needs.

    Args:
        probe: the logits of texts of which only some tokens stay. It gets all questions in one call, many of them more
            than once, since rankings share their ends and the deletion of one may be the insertion of another. The probe
            computes each distinct question once.
        rankings: by (key, example), the numbers of units, most relevant first.
        units: for each example, the unit of each of its tokens (see `units.units`).
        explained: for each example, the class that is explained.
        predicted: for each example, the decision for the full text.
        grids: see `grid.counts`; no unit and all units are always included.
        output: the output that the curves show, see `OUTPUTS`.
        ordered: for each ranking, see `Curve`; True if None.
    """
    ks = {place: points(grids, len(ranking)) for place, ranking in rankings.items()}
    examples: list[int] = []
    keep: list[Bool[np.ndarray, " T"]] = []
    for (key, example), ranking in rankings.items():
        questions = _questions(ranking, units[example], ks[key, example])
        keep.extend(questions)
        examples += [example] * len(questions)
    logits = probe(np.array(examples, dtype=int), keep)
    answers = {target: Answers(logits, target) for target in set(explained)}
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
    """The tokens that stay without the top k and with only the top k, in turn, for every k."""
    place = np.zeros(len(unit_of) + 1, dtype=int)  # the last entry is for NONE
    place[ranking] = np.arange(len(ranking))
    rank = place[unit_of]
    special = unit_of == NONE
    without = special | (rank >= k[:, None])
    only = special | (rank < k[:, None])
    return np.stack([without, only], axis=1).reshape(2 * len(k), -1)
