"""Contestants: ways to compute the same Integrated Gradients, from token ids to token scores on the host.

All get the same `Problem` and the same frozen model. Each chooses the class by a forward pass of its own and computes
the convergence delta, as far as it keeps results at all. Another package adds a contestant by a function in
`CONTESTANTS` (entry point group `saliency_bench.contestants`) from a problem to a `Contestant` or a list of them. A
problem that it cannot compute it refuses with an `InputError`, which becomes the reason in its row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float

from saliency_bench.attribution.settings import single_settings
from saliency_bench.core import conf as conf_files
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.registry import Registry
from saliency_bench.core.rows import Setting
from saliency_bench.core.text import Encoded
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.studies.block import Block, Packing, explain_texts, packing_for, plan_blocks

T = TypeVar("T")

#: Of each text in input order, a number per token as tokenised, special tokens included.
Scores: TypeAlias = list[Float[np.ndarray, " _"]]


@dataclass(frozen=True)
class Contestant:
    """`run` explains all texts and returns their scores, or None where results are discarded.

    `check` computes the scores of a contestant that discards them, for the comparison alone.
    `padded_tokens` is how many tokens pass through the model for one gradient of every text; None: not known.
    `n_gradients` is what each text took, where it is not one per step.
    `rounds`: its quadrature has float32 weights whatever the type of the model, as Captum's.
    `same_quantity`: False where only the cost can be compared, and no agreement is asked for.
    """

    name: str
    describe: str
    run: Callable[[], Scores | None]
    check: Callable[[], Scores] | None = None
    padded_tokens: int | None = None
    n_gradients: Sequence[int] | None = None
    rounds: bool = False
    same_quantity: bool = True

    def scores(self) -> Scores | None:
        """The scores that are compared with the others' scores; None where there are none."""
        return self.run() if self.check is None else self.check()


@dataclass(frozen=True)
class Problem:
    """The task of all contestants: Integrated Gradients of the predicted class's logit, summed per token. Special tokens stay."""

    references: References
    encoded: tuple[Encoded, ...]
    baseline: str
    quadrature: str
    n_steps: int
    token_budget: int

    @property
    def model(self) -> Model:
        """The model; it must be frozen."""
        return self.references.model

    @property
    def n_tokens(self) -> int:
        """Tokens of all texts, no padding."""
        return sum(map(len, self.encoded))

    @cached_property
    def packing(self) -> Packing:
        """The packing of our blocks."""
        return packing_for(self.model, self.token_budget, self.encoded)

    @cached_property
    def blocks(self) -> list[Block]:
        """Our blocks."""
        return plan_blocks(self.encoded, self.packing)

    @property
    def setting(self) -> Setting:
        """Our setting of this task."""
        return integrated_gradients(
            baseline=self.baseline, quadrature=self.quadrature, n_steps=self.n_steps
        )


def integrated_gradients(**hyper: Any) -> Setting:
    """Our Integrated Gradients of the predicted class's logit."""
    return setting_of(
        "integrated_gradients", **hyper, reduction="sum", baseline_special_tokens="keep"
    )


def setting_of(name: str, **changes: Any) -> Setting:
    """The setting of an entry of conf/method/ with some values changed; it explains the predicted class's logit."""
    return single_settings({name: conf_files.method_defaults(name) | changes})[name]


Factory: TypeAlias = Callable[..., "Contestant | list[Contestant]"]
CONTESTANTS: Registry[Factory] = Registry("contestant", "saliency_bench.contestants", __package__)


@CONTESTANTS.register
def ours(problem: Problem) -> Contestant:
    """Our engine, as a study uses it."""
    settings = [problem.setting]
    kind = "equal length" if problem.packing.least_filled == 1 else "neighbouring lengths, padded"
    describe = f"ours: blocks of {kind}, {problem.token_budget} tokens at a time"
    return Contestant(
        "ours",
        describe,
        lambda: explained(problem, settings)[0],
        padded_tokens=padded_in_blocks(problem),
    )


def padded_in_blocks(problem: Problem) -> int:
    """Tokens of our blocks, with their padding."""
    return padded_tokens(problem.encoded, [block.indices for block in problem.blocks])


def maps_of(problem: Problem, settings: Sequence[Setting]) -> list[list[AttributionMap]]:
    """Our maps under each setting, in the order of the texts."""
    return explain_texts(
        problem.references, problem.encoded, settings, "predicted", problem.token_budget
    )


def explained(problem: Problem, settings: Sequence[Setting]) -> list[Scores]:
    """Our scores under each setting, from one pass over what they share."""
    return [[map_.scores for map_ in maps] for maps in maps_of(problem, settings)]


def padded_tokens(encoded: Sequence[Encoded], batches: Sequence[Sequence[int]]) -> int:
    """Tokens of these batches, each padded to its longest text."""
    return sum(len(batch) * max(len(encoded[index]) for index in batch) for batch in batches)


def cut(order: Sequence[T], size: int) -> list[list[T]]:
    """A sequence in pieces of this size; the last may be smaller."""
    return [list(order[start : start + size]) for start in range(0, len(order), size)]
