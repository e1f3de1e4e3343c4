"""The laws: what each measures, and up to which number it is held. No tool is named here.

A law takes a `Subject`, a tool's method on a model, and returns a `Measurement`. Numbers are relative to the largest
score of the map in question, except where a law says otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.tools.models import LONG, PAIR

#: Two orders of one sum in float32 differ by less; the library promises the same of its own batches.
ROUNDING = 2e-5
#: The largest relative completeness gap of a map that counts as converged (conf/config.yaml).
LARGEST_GAP = 0.05

Map = np.ndarray  # scores of the tokens of one text
Explain = Callable[[Sequence[str]], list[Map]]


@dataclass(frozen=True)
class Subject:
    """A tool's method on a model.

    Attributes:
        explain: all texts in one call of the tool; one score a token, padding left out.
        change: what the scores of a text should sum to, computed from the model alone.
        total: their sum, where more than tokens is to be counted.
        parts: by part of a backward rule, `explain` without that part.
        output: the explained number of a text as the tool computes it, and as the plain model does.
        state: what the tool has no leave to change, by name; compared before and after.
        seed: called before each call of a method that draws random numbers.
        reasons: by law, why it does not apply to this method.
        unpromised: by law, why nothing was promised of a number that is measured all the same.
        notes: by law, what has to be known to read the number.
    """

    explain: Explain
    change: Callable[[str], float] | None = None
    total: Callable[[str], float] | None = None
    parts: Mapping[str, Explain] = field(default_factory=dict)
    output: Callable[[str], tuple[float, float]] | None = None
    seed: Callable[[], Any] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    unpromised: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """`verdict` is held, not held, not applicable or raises; `limit` is None for the last two."""

    verdict: str
    measured: float | None = None
    limit: float | None = None
    note: str = ""


def repeat(subject: Subject) -> Measurement:
    """The same input twice gives the same map, to the bit."""
    first, second = (subject.explain([LONG])[0] for _ in range(2))
    measured = _apart(first, second)
    note = ""
    if subject.seed is not None:
        seeded = [_seeded(subject, [LONG])[0] for _ in range(2)]
        note = f"random; {_apart(*seeded):.1e} with torch.manual_seed before each call"
    return _at_most(measured, 0.0, note)


def batch(subject: Subject) -> Measurement:
    """Two texts of equal length in one call have the maps that they have one at a time."""
    return _together(subject, PAIR)


def padding(subject: Subject) -> Measurement:
    """A text in one call with a longer one, which pads it, has the map that it has alone."""
    return _together(subject, (PAIR[0], LONG))


def complete(subject: Subject) -> Measurement:
    """The scores sum to F(x) − F(x′); the largest gap, relative to that difference."""
    return _sums(subject, LARGEST_GAP)


def conserve(subject: Subject) -> Measurement:
    """Without biases, the relevance of all additive inputs sums to F(x); the largest gap, relative to F(x)."""
    return _sums(subject, ROUNDING)


def forward(subject: Subject) -> Measurement:
    """The output under the rule is that of the plain model, relative to the largest of the texts."""
    assert subject.output is not None
    ruled, plain = np.array([subject.output(text) for text in (*PAIR, LONG)]).T
    return _at_most(float(np.abs(ruled - plain).max() / np.abs(plain).max()), ROUNDING)


def acts(subject: Subject, part: str) -> Measurement:
    """Without the part the map is another one, by more than rounding."""
    (less,), (full,) = subject.parts[part]([LONG]), subject.explain([LONG])
    measured = _apart(full, less)
    return Measurement("held" if measured > ROUNDING else "not held", measured, ROUNDING)


def restores(before: Mapping[str, Any], after: Mapping[str, Any]) -> Measurement:
    """Everything is as it was before the tool was used: how many things are not, and which."""
    names = sorted({*before, *after})
    differ = [name for name in names if before.get(name) != after.get(name)]
    return _at_most(float(len(differ)), 0.0, ", ".join(differ))


#: By name of a law: its function of a subject, and its line in the table. `restores` has two states instead.
PARTS = ("norm", "nonlinearity", "gate", "attention", "softmax")
LAWS: Mapping[str, Callable[[Subject], Measurement]] = {
    "repeat": repeat,
    "batch": batch,
    "padding": padding,
    "complete": complete,
    "conserve": conserve,
    "forward": forward,
    **{f"acts_{part}": lambda subject, part=part: acts(subject, part) for part in PARTS},
}
NAMES = (*LAWS, "restores")


def measured(law: str, subject: Subject) -> Measurement:
    """A law of `LAWS` on a subject, or the reason why it does not apply."""
    if law in subject.reasons:
        return Measurement("not applicable", note=subject.reasons[law])
    found = LAWS[law](subject)
    if law in subject.unpromised:
        return Measurement("not applicable", found.measured, note=subject.unpromised[law])
    note = "; ".join(filter(None, (found.note, subject.notes.get(law, ""))))
    return Measurement(found.verdict, found.measured, found.limit, note)


def _together(subject: Subject, texts: Sequence[str]) -> Measurement:
    together = _seeded(subject, texts)
    alone = [_seeded(subject, [text])[0] for text in texts]
    pairs = zip(alone, together, strict=True)
    return _at_most(max(_apart(*pair) for pair in pairs), ROUNDING)


def _seeded(subject: Subject, texts: Sequence[str]) -> list[Map]:
    if subject.seed is not None:
        subject.seed()
    return subject.explain(texts)


def _sums(subject: Subject, limit: float) -> Measurement:
    assert subject.change is not None
    gaps = []
    for text in (*PAIR, LONG):
        expected = subject.change(text)
        total = subject.total or (lambda one: float(np.sum(subject.explain([one])[0])))
        gaps.append(abs(total(text) - expected) / abs(expected))
    return _at_most(max(gaps), limit)


def _apart(first: Map, second: Map) -> float:
    """The largest difference of two maps of a text over the largest score of the first."""
    if np.shape(first) != np.shape(second):
        raise ValueError(f"expected two maps of one length, got {first.shape} and {second.shape}")
    difference = float(np.abs(first - second).max())
    return difference / float(np.abs(first).max()) if difference else 0.0


def _at_most(measured: float, limit: float, note: str = "") -> Measurement:
    return Measurement("held" if measured <= limit else "not held", measured, limit, note)
