"""Metrics of a ranking against what is known to matter: a shortcut by construction, or a person's rationale.

They ask the model nothing. Against rationales they measure plausibility, which is no faithfulness: a model may use
something else than people do.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from saliency_bench.evaluation.grid import count
from saliency_bench.evaluation.metrics import NotApplicable, metric

BASTINGS = "Bastings et al. 2022, section 4.3"
ERASER = "DeYoung et al. 2020 (ERASER), section 4"

#: What metrics with one unit and one range have in common.
_agreement = partial(metric, unit="1", bounds=(0.0, 1.0), reads="truth")


@dataclass(frozen=True)
class Truth:
    """One example's units in their order in the text: their scores, and whether each is known to matter, if anything is.

    `ranking` lists units, most relevant first, by the scores as they are given here.
    """

    scores: Float[np.ndarray, " U"]
    ranking: Int[np.ndarray, " U"]
    known: Bool[np.ndarray, " U"] | None

    @property
    def relevant(self) -> Bool[np.ndarray, " U"]:
        """Whether each unit matters.

        Raises:
            NotApplicable: nothing is known, or every ranking would be as good as any other.
        """
        if self.known is None:
            raise NotApplicable("nothing is known of what matters in this text")
        if not self.known.any():
            raise NotApplicable("no unit of this text is known to matter")
        if self.known.all():
            raise NotApplicable("every unit of this text is known to matter")
        return self.known

    @property
    def hits(self) -> Bool[np.ndarray, " U"]:
        """Whether the unit at each rank matters."""
        return np.asarray(self.relevant[self.ranking])

    @property
    def n_relevant(self) -> int:
        """All units that matter."""
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
    """The share of the k highest units that matter, where k units do. A random ranking has k/U."""
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
    """How many of the highest units one has to take to have all that matter. The best is their number.

    A random ranking has k (U + 1)/(k + 1).
    """
    return float(np.flatnonzero(truth.hits)[-1] + 1)


@_agreement("auprc", higher_is_better=True, source=f"{ERASER}, as average precision")
def auprc(truth: Truth) -> float:
    """The precision at each threshold, weighted by the recall that it adds. Equal scores share a threshold."""
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
    """How many units are both relevant and among the highest ⌈share · U⌉, over how many are either."""
    size = count(share, len(truth.scores))
    both = truth.hits[:size].sum()
    return float(both / (size + truth.n_relevant - both))
