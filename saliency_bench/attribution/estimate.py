"""A mean over random draws that is extended in rounds, with the standard errors of its scores."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import Expectation
from saliency_bench.attribution.noise import jackknife, split_half
from saliency_bench.attribution.reduction import reduce_scores
from saliency_bench.attribution.statistics import Moment, Row
from saliency_bench.core.rows import Setting
from saliency_bench.core.tensors import Attribution, Uncertainty

#: Sums over groups of draws, one tensor for each term of a moment.
Sums = list[Float[Tensor, "K B T D"]]


class RunningEstimate:
    """The scores of one setting from the draws so far, which are kept as sums over independent groups."""

    def __init__(self, ctx: Context, setting: Setting, plan: Expectation) -> None:
        self.ctx, self.setting, self.plan = ctx, setting, plan
        self.sizes: list[int] = []
        self.sums: Sums = []
        self._shift: Tensor | None = None

    @property
    def moment(self) -> Moment:
        """The statistic that is averaged: of single points, or of whole draws."""
        return self.plan.across or self.plan.moment

    def add(self, samples: range, sums: Sums) -> None:
        """Adds the sums of a round: one row per group of draws, or one per draw for a moment across draws."""
        groups = self.plan.draws.groups(samples)
        if self.plan.across is not None:
            sums = self._across(sums[0], groups, samples.start)
        self.sizes += [len(group) for group in groups]
        before = self.sums or [term[:0] for term in sums]
        self.sums = [torch.cat(pair) for pair in zip(before, sums, strict=True)]

    def values(self, kept: Float[np.ndarray, " G"]) -> Float[Tensor, "B T D"]:
        """The values before the reduction, from the groups that a 0/1 vector keeps."""
        n = float(np.dot(kept, self.sizes))
        weights = torch.from_numpy(kept / n).to(self.sums[0])
        values = self.moment.finish(*(torch.tensordot(weights, term, dims=1) for term in self.sums))
        return values if self.plan.multiplier is None else values * self.plan.multiplier

    def scores(self, kept: Float[np.ndarray, " G"]) -> Float[np.ndarray, "B T"]:
        """The reduced scores, from the groups that a 0/1 vector keeps."""
        scores = reduce_scores(
            self.setting.reduction, self.values(kept), self.ctx.embeddings, self.ctx.batch.mask
        )
        return np.asarray(scores.cpu())

    def attribution(self) -> Attribution:
        """The scores of all draws, with their standard errors."""
        all_groups = np.ones(len(self.sizes))
        difference = self.plan.difference
        total = None if difference is None else self.values(all_groups).double().sum((1, 2))
        return Attribution(
            scores=torch.from_numpy(self.scores(all_groups)),
            n_gradients=sum(self.sizes) * len(self.plan.sample(0)),
            total=total,
            difference=difference,
            convergence=self._convergence(),
        )

    def _convergence(self) -> Uncertainty | None:
        if len(self.sizes) < 2:
            return None
        errors, bias = jackknife(self.scores, self.sizes)
        attributable = [np.asarray(row) for row in self.ctx.batch.attributable.cpu()]
        scores = self.scores(np.ones(len(self.sizes)))
        size = np.linalg.norm(scores, axis=1)
        # The norm of an uncertain mean is too large on average, which the spread between groups does not show.
        error = np.hypot(np.linalg.norm(errors, axis=1), np.linalg.norm(bias, axis=1))
        # If all scores are 0, the relative error is 0 or infinite. It is infinite for scores that are not finite.
        of_zero = np.where(error == 0, 0.0, np.inf)
        relative = np.divide(error, size, out=of_zero, where=size != 0)
        relative[~np.isfinite(relative)] = np.inf
        converged = reasons = None
        if self.plan.draws.auto:
            limit = self.plan.draws.relative_error
            converged = relative <= limit
            reasons = tuple(
                None
                if enough
                else f"after {sum(self.sizes)} samples the error is {value:.3g} of the scores, not {limit:g}"
                for enough, value in zip(converged, relative, strict=True)
            )
        return Uncertainty(
            standard_errors=errors,
            split_half_tau=split_half(self.scores, len(self.sizes), attributable),
            error=relative,
            converged=converged,
            reasons=reasons,
        )

    def _across(self, draws: Float[Tensor, "N B T D"], groups: list[range], first: int) -> Sums:
        """The terms of the moment across draws, summed over each group of draws.

        Args:
            draws: the sums of single draws.
            groups: the numbers of the draws in each group.
            first: the number of the first draw.
        """
        assert self.plan.across is not None
        if self._shift is None:
            self._shift = draws[0]
        sums = []
        for term in self.plan.across.terms:
            of_draw = torch.stack([term(Row(draw, self._shift, None)) for draw in draws])
            sums.append(
                torch.stack([of_draw[[i - first for i in group]].sum(0) for group in groups])
            )
        return sums
