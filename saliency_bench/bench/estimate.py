"""What a study will cost, before it starts: gradients, forward rows, operations, memory and seconds.

The study is rehearsed: its own code runs once for each length of text, on a model without layers that counts what it is
asked (`models.stand_in`). So nothing is planned twice, and where the work does not depend on what a model answers the
count is exact. Where it does, the truth lies between what a model that always answers 0 is asked and one that answers
at random, and a few texts on the model itself say where.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from saliency_bench.attribution.explain import Family
from saliency_bench.bench.cost import Costs, Pace, costs, pace
from saliency_bench.blocks import BLOCK_TOKENS
from saliency_bench.encoded import Encoded
from saliency_bench.models.ledger import DENSITY, MAPS, PER_LENGTH, Asked, Ledger, Place
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.stand_in import stand_in

#: Texts that a study is rehearsed on, evenly over their lengths; between these the work is interpolated. With as many
#: lengths or fewer, nothing is.
MOST_LENGTHS = 12

#: On the model itself: so many texts, and of those that there are one in so many, at the most. What rankings share
#: differs from text to text by a fifth or so.
THOROUGH, QUICK = (6, 2), (3, 10)

#: Resident memory over that of tensors. On a CPU the allocator keeps more than is in use: with glibc 1.4 to 1.7 times
#: as much was seen, in one pass and in many. On a GPU it is what is allocated that counts.
RESIDENT = {"cpu": 1.6}

#: Passes are timed at the shortest, the middle and the largest length.
TIMED_LENGTHS = 3

#: Of the random answers: with another seed another upper bound, by little.
SEED = 0


class Work(NamedTuple):
    """An amount of work; rows are (example, point) pairs, and tokens are those of rows."""

    gradients: float = 0.0
    gradient_tokens: float = 0.0
    forward_rows: float = 0.0
    forward_tokens: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0


#: `Work`, as numbers that can be added and multiplied.
Columns = Float[np.ndarray, "6"]
NOTHING = np.zeros(len(Work._fields))
SECONDS = Work._fields.index("seconds")


@dataclass(frozen=True)
class Share:
    """A stage of the rehearsal for each of these texts, so many times; `name` where it is shown as another stage."""

    stage: str
    texts: Sequence[Encoded]
    times: int = 1
    name: str | None = None


@dataclass(frozen=True)
class Subject:
    """A study to be estimated.

    `rehearse` does all that the study does with one text, and `taste` that of it which may depend on the answers,
    both on a model that is given by its references. `families` are those of the points that its settings share on a
    text.
    """

    model: Model
    shares: Sequence[Share]
    token_budget: int
    rehearse: Callable[[References, Encoded], object]
    taste: Callable[[References, Encoded], object]
    families: Callable[[References, Encoded], Sequence[Family]]


@dataclass(frozen=True)
class Line:
    """A stage's part: what is expected of it, and between what it must lie."""

    place: Place
    work: Work
    least: Work
    most: Work


@dataclass(frozen=True)
class Shared:
    """Settings that share points: what an example costs together, and what the most expensive one costs alone."""

    name: str
    n_settings: int
    union: int
    largest: int


@dataclass(frozen=True)
class Estimate:
    """What a study will cost. `tasted` says on how many texts the model itself was asked."""

    lines: tuple[Line, ...]
    shared: tuple[Shared, ...]
    peak_bytes: float
    tasted: int

    @property
    def total(self) -> Work:
        """Of all lines."""
        return Work(*sum((np.array(line.work) for line in self.lines), NOTHING).tolist())

    @property
    def most(self) -> Work:
        """Of all lines, where nothing agrees and nothing converges."""
        return Work(*sum((np.array(line.most) for line in self.lines), NOTHING).tolist())

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        stages: dict[str, Columns] = {}
        for line in self.lines:
            stage = line.place.stage
            stages[stage] = stages.get(stage, NOTHING) + np.array(line.work)
        return {
            "total": self.total._asdict(),
            "stages": {stage: Work(*work.tolist())._asdict() for stage, work in stages.items()},
            "peak_bytes": self.peak_bytes,
            "tasted": self.tasted,
        }


def estimate(subject: Subject, *, long_seconds: float | None = None) -> Estimate:
    """The cost of a study. Its model must be frozen.

    Args:
        subject: the study.
        long_seconds: the estimate of somebody who is about to begin: it takes a small share of the work itself, and
            the model is not asked at all where even the most that may be takes less than this.
    """
    everything = [text for share in subject.shares for text in share.texts]
    texts = list({len(text): text for text in sorted(everything, key=len)}.values())
    measured = costs(subject.model, texts[-1])
    rehearsed = _rehearsed(subject, _spread(texts, MOST_LENGTHS), measured)

    def by(factors: _Factors, speed: Pace, n_tasted: int) -> Estimate:
        lines = _lines(subject, rehearsed, factors, measured, speed, n_tasted > 0)
        peak = _peak_bytes(subject, rehearsed, measured)
        return Estimate(lines, rehearsed.shared, peak, n_tasted)

    speed = pace(subject.model, _spread(texts, 1), subject.token_budget)
    rough = by(_Factors(), speed, 0)
    if long_seconds is not None and rough.most.seconds < long_seconds:
        return rough
    whole = subject.shares[0].texts
    at_most, one_in = THOROUGH if long_seconds is None else QUICK
    few = _middling(whole, max(1, min(at_most, len(whole) // one_in)))
    speed = pace(subject.model, _spread(texts, TIMED_LENGTHS), subject.token_budget)
    return by(_tasted(subject, few, measured, speed), speed, len(few))


def spent(ledger: Ledger, measured: Costs) -> Work:
    """What a ledger comes to; seconds are those that it has taken down."""
    return Work(*sum(_works(ledger, measured, None).values(), NOTHING).tolist())


@dataclass(frozen=True)
class _Rehearsed:
    """A ledger for each rehearsed text; what is learnt once for all; and the families of points of the longest."""

    texts: Sequence[Encoded]
    ledgers: Sequence[Ledger]
    once: Ledger
    shared: tuple[Shared, ...]
    n_sums: int

    @property
    def gradients(self) -> bool:
        """Whether any is taken."""
        return any(row.gradient for ledger in self.ledgers for row in ledger.rows)


def _rehearsed(subject: Subject, texts: Sequence[Encoded], measured: Costs) -> _Rehearsed:
    refs = References(stand_in(subject.model, measured.n_classes, seed=SEED))
    # First what happens once: a density is learnt, libraries are loaded. What is searched for belongs to the text.
    once = _ledger(subject.rehearse, refs, texts[0])
    ledgers = [_ledger(subject.rehearse, refs, text) for text in texts]
    searched = {row: n for row, n in once.rows.items() if row.place.part in PER_LENGTH}
    ledgers[0].rows.update(searched)
    families: list[Family] = []
    _ledger(lambda *given: families.extend(subject.families(*given)), refs, texts[-1])
    shared = tuple(Shared(one.name, len(one.members), one.union, one.largest) for one in families)
    return _Rehearsed(
        texts, ledgers, once, shared, max((one.n_sums for one in families), default=0)
    )


def _ledger(
    run: Callable[[References, Encoded], object], refs: References, text: Encoded
) -> Ledger:
    """What running asks of the model. Warnings are the study's own to give."""
    before = refs.model.ledger.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(refs, text)
    return refs.model.ledger.since(before)


def _works(ledger: Ledger, measured: Costs, speed: Pace | None) -> dict[Place, Columns]:
    """A ledger as work; its seconds, which on a stand-in are those of our own code, and those of passes if known."""
    found = {
        place: NOTHING.copy() for place in (*(row.place for row in ledger.rows), *ledger.seconds)
    }
    for (place, gradient, short, width), n in ledger.rows.items():
        kind = gradient, short
        rows = (n, n * width, 0, 0) if gradient else (0, 0, n, n * width)
        seconds = 0.0 if speed is None else n * speed(measured, kind, width)
        found[place] += np.array([*rows, n * measured.flops[kind](width), seconds])
    for place, seconds in ledger.seconds.items():
        found[place][SECONDS] += seconds
    return found


@dataclass(frozen=True)
class _Factors:
    """How what is asked of the model itself, and of one that always answers 0, relates to the random answers' work.

    `seconds`: how long those texts took, over what passes timed by themselves and the rehearsal let expect.
    """

    expected: Mapping[Place, Columns] = field(default_factory=dict)
    least: Mapping[Place, Columns] = field(default_factory=dict)
    seconds: float = 1.0

    def of(self, place: Place, factors: Mapping[Place, Columns]) -> Columns:
        """A part that was not tasted in this stage is as in the maps; what was not tasted at all does not vary."""
        return factors.get(place, factors.get(Place(MAPS, place.part), np.ones(len(NOTHING))))


def _tasted(subject: Subject, texts: Sequence[Encoded], measured: Costs, speed: Pace) -> _Factors:
    n_classes = measured.n_classes
    models = (
        subject.model,
        stand_in(subject.model, n_classes, seed=SEED),
        stand_in(subject.model, n_classes, seed=None),
    )
    ledgers = [
        _sum([_ledger(subject.taste, refs, text) for text in texts])
        for refs in map(References, models)
    ]
    asked = [_works(replace(ledger, seconds={}), measured, speed) for ledger in ledgers]
    real, random, zero = asked
    took, own = (_seconds_of(ledger) for ledger in ledgers[:2])
    expected = own + sum(work[SECONDS] for place, work in real.items() if place.part != DENSITY)
    return _Factors(_ratios(real, random), _ratios(zero, random), took / expected)


def _sum(ledgers: Sequence[Ledger]) -> Ledger:
    rows: Counter[Asked] = Counter()
    seconds: dict[Place, float] = {}
    for ledger in ledgers:
        rows.update(ledger.rows)
        for place, took in ledger.seconds.items():
            seconds[place] = seconds.get(place, 0.0) + took
    return Ledger(rows, seconds)


def _seconds_of(ledger: Ledger) -> float:
    """Without what is learnt once, which has been learnt by then."""
    return sum(took for place, took in ledger.seconds.items() if place.part != DENSITY)


def _ratios(a: Mapping[Place, Columns], b: Mapping[Place, Columns]) -> dict[Place, Columns]:
    return {
        place: np.divide(a.get(place, NOTHING), of, out=np.ones(len(of)), where=of > 0)
        for place, of in b.items()
    }


def _lines(
    subject: Subject,
    rehearsed: _Rehearsed,
    factors: _Factors,
    measured: Costs,
    speed: Pace,
    tasted: bool,
) -> tuple[Line, ...]:
    works = [_works(ledger, measured, speed) for ledger in rehearsed.ledgers]
    once = _works(rehearsed.once, measured, speed)
    places = list(dict.fromkeys(place for own in works for place in own))
    found: dict[Place, Line] = {}
    for share in subject.shares:
        for place in places:
            if place.stage == share.stage:
                random = share.times * _over(share, place, rehearsed.texts, works)
                shown = Place(share.name or share.stage, place.part)
                _add(found, shown, random, factors, place)
        for place, work in once.items():
            learnt = place.part == DENSITY and not tasted
            if learnt and place.stage == share.stage and share.name is None:
                _add(found, place, work, factors, place)
    return tuple(found.values())


def _over(
    share: Share, place: Place, texts: Sequence[Encoded], works: Sequence[Mapping[Place, Columns]]
) -> Columns:
    """A place's work for all texts of a share, from that for the rehearsed ones."""
    known = [len(text) for text in texts]
    table = np.stack([own.get(place, NOTHING) for own in works])
    lengths = [len(text) for text in share.texts]
    if place.part in PER_LENGTH:
        lengths = sorted(set(lengths))
    return np.array([np.interp(lengths, known, column).sum() for column in table.T])


def _add(
    found: dict[Place, Line], shown: Place, random: Columns, factors: _Factors, place: Place
) -> None:
    expected, least = (random * factors.of(place, one) for one in (factors.expected, factors.least))
    bounds = [np.minimum(least, expected), np.maximum(random, expected)]
    for columns in (expected, *bounds):
        columns[SECONDS] *= factors.seconds
    before = found.get(shown, Line(shown, Work(), Work(), Work()))
    sums = (
        np.array(old) + new
        for old, new in zip(
            (before.work, before.least, before.most), (expected, *bounds), strict=True
        )
    )
    found[shown] = Line(shown, *(Work(*one.tolist()) for one in sums))


def _peak_bytes(subject: Subject, rehearsed: _Rehearsed, measured: Costs) -> float:
    """Weights, and of all lengths the most that a pass and the sums of a family take at once, by our own engine."""
    text = rehearsed.texts[-1]
    vector = subject.model.embed(torch.tensor([text.input_ids[:1]], device=subject.model.device))
    size = vector.shape[-1] * max(4, vector.element_size())
    union = max((one.union for one in rehearsed.shared), default=0)
    counts = Counter(len(text) for text in subject.shares[0].texts)
    found = []
    for length, n_texts in counts.items():
        together = min(n_texts, max(1, BLOCK_TOKENS // length))
        n_rows = min(max(1, subject.token_budget // length), together * max(1, union))
        kind = (True, True) if rehearsed.gradients else (False, False)
        one_pass = n_rows * measured.bytes[kind](length)
        sums = rehearsed.n_sums * together * length * size
        touched = min(together, -(-n_rows // max(1, union)) + 1) / together
        found.append(sums + max(one_pass, touched * sums))
    return measured.weights + RESIDENT.get(subject.model.device.type, 1.0) * max(found)


def _middling(texts: Sequence[Encoded], n: int) -> list[Encoded]:
    """The middle texts of n equal parts of all, by length: they stand for the others better than the extremes."""
    ordered = sorted(texts, key=len)
    return [ordered[(2 * part + 1) * len(ordered) // (2 * n)] for part in range(n)]


def _spread(texts: Sequence[Encoded], n: int) -> list[Encoded]:
    """So many texts or fewer, evenly over the lengths: the middle one, or from the shortest to the longest."""
    ordered = sorted(texts, key=len)
    if n == 1 or len(ordered) == 1:
        return [ordered[len(ordered) // 2]]
    places = np.linspace(0, len(ordered) - 1, min(n, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]
