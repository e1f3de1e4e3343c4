"""Metrics of a ranking against ground truth: a shortcut that was built into the model, or a person's rationale.

They do not query the model. Against rationales they measure plausibility, which is not faithfulness: a model may use other
words than people do.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.evaluation.grid import count
from saliency_bench.evaluation.metrics import NotApplicable, metric

BASTINGS = "Bastings et al. 2022, section 4.3"
ERASER = "DeYoung et al. 2020 (ERASER), section 4"

#: Metrics between 0 and 1 without a unit.
_agreement = partial(metric, unit="1", bounds=(0.0, 1.0), reads="truth")


@dataclass(frozen=True)
class Truth:
    """The scores of one example's units, in the order of the text, with the ground truth of the text.

    `ranking` lists units, most relevant first, by `scores`. `marked` is whether the ground truth marks each unit as
    relevant; it is None for a text without ground truth.
    """

    scores: Float[np.ndarray, " U"]
    ranking: Int[np.ndarray, " U"]
    marked: Bool[np.ndarray, " U"] | None

    @property
    def relevant(self) -> Bool[np.ndarray, " U"]:
        """Whether each unit is relevant.

        Raises:
            NotApplicable: there is no ground truth, or all rankings are equally good.
        """
        if self.marked is None:
            raise NotApplicable("nothing is known of what matters in this text")
        if not self.marked.any():
            raise NotApplicable("no unit of this text is known to matter")
        if self.marked.all():
            raise NotApplicable("every unit of this text is known to matter")
        return self.marked

    @property
    def hits(self) -> Bool[np.ndarray, " U"]:
        """Whether the unit at each rank is relevant."""
        return np.asarray(self.relevant[self.ranking])

    @property
    def n_relevant(self) -> int:
        """The number of relevant units."""
        return int(self.relevant.sum())


@metric(
    "precision_at_k",
    unit="share of units",
    higher_is_better=True,
    bounds=(0.0, 1.0),
    source=f"{BASTINGS}; k is the number of relevant units",
    reads="truth",
)
def precision_at_k(truth: Truth) -> float:
    """The share of relevant units among the k highest, k being the number of relevant units. A random ranking has k/U."""
    return float(truth.hits[: truth.n_relevant].mean())


@metric(
    "mean_rank",
    unit="units",
    higher_is_better=False,
    bounds=(1.0, np.inf),
    source=BASTINGS,
    reads="truth",
)
def mean_rank(truth: Truth) -> float:
    """The rank of the lowest relevant unit, at best the number k of relevant units.

    A random ranking has the expectation k (U + 1)/(k + 1).
    """
    return float(np.flatnonzero(truth.hits)[-1] + 1)


@_agreement("auprc", higher_is_better=True, source=f"{ERASER}, as average precision")
def auprc(truth: Truth) -> float:
    """The mean of the precisions at all thresholds, weighted by the increases in recall; equal scores share a threshold."""
    order = np.argsort(-truth.scores, kind="stable")
    hits = np.cumsum(truth.relevant[order])
    last = np.append(np.diff(truth.scores[order]) != 0, True)
    gained = np.diff(hits[last], prepend=0)
    return float(np.sum(gained * hits[last] / (np.flatnonzero(last) + 1)) / truth.n_relevant)


@_agreement(
    "token_f1",
    higher_is_better=True,
    source=f"{ERASER}; the share there is the mean length of a dataset's rationales",
)
def token_f1(truth: Truth, *, share: float) -> float:
    """The harmonic mean of precision and recall of the highest ⌈share · U⌉ units."""
    size = count(share, len(truth.scores))
    return float(2 * truth.hits[:size].sum() / (size + truth.n_relevant))


@_agreement(
    "token_iou",
    higher_is_better=True,
    source=f"{ERASER}, of single units; the share there is the mean length of a dataset's rationales",
)
def token_iou(truth: Truth, *, share: float) -> float:
    """The number of units that are relevant and among the highest ⌈share · U⌉, divided by the number that are either."""
    size = count(share, len(truth.scores))
    both = truth.hits[:size].sum()
    return float(both / (size + truth.n_relevant - both))
