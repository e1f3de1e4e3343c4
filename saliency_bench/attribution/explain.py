"""Attributions of settings on a batch; settings that use the same points share their gradients."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution import captum
from saliency_bench.attribution.backward import KEY, PLAIN
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.estimate import RunningEstimate, Sums
from saliency_bench.attribution.methods import METHODS, ONLY
from saliency_bench.attribution.methods.base import Expectation, GradientSum, Plan, Values
from saliency_bench.attribution.points import Points
from saliency_bench.attribution.reduction import reduce_scores
from saliency_bench.attribution.statistics import Moment, Term
from saliency_bench.core.rows import Setting
from saliency_bench.core.tensors import Attribution, Uncertainty


@dataclass(frozen=True)
class Request:
    """The weighted sums that a plan needs: one row of `weights` for each group of draws, or one if nothing is drawn."""

    points: Points
    nodes: Sequence[Any]
    weights: Float[np.ndarray, "K S"]
    moment: Moment


#: The fields of `Uncertainty` that are arrays with one entry for each example.
ARRAYS = ("standard_errors", "split_half_tau", "error", "converged")


@dataclass(frozen=True)
class Family:
    """Settings that use one family of points, with their plans; together they cost the union of their nodes."""

    members: tuple[tuple[Setting, Plan], ...]
    requests: tuple[Request, ...]

    @classmethod
    def of(cls, members: Sequence[tuple[Setting, Plan]]) -> "Family":
        """The family of settings and their plans, with the sums that they need."""
        return cls(tuple(members), tuple(_request(plan) for _, plan in members))

    @property
    def points(self) -> Points:
        """The family of points."""
        return self.requests[0].points

    @property
    def rule(self) -> str:
        """The backward rule of the settings."""
        return rule_of(self.members[0][0])

    @property
    def name(self) -> str:
        """The names of the entries, followed by the words of the points' key and the rule."""
        entries = ", ".join(dict.fromkeys(setting.name for setting, _ in self.members))
        rule = "" if self.rule == PLAIN else f" {self.rule}"
        return f"{entries}: {' '.join(_words(self.points.key))}{rule}"

    @property
    def union(self) -> int:
        """The largest number of gradients for an example; that at the input is part of the clean pass."""
        return self._n_gradients(self.requests)

    @property
    def largest(self) -> int:
        """The largest number of gradients that one of the settings would cost alone."""
        return max(self._n_gradients([request]) for request in self.requests)

    def _n_gradients(self, requests: Sequence[Request]) -> int:
        nodes = {node for request in requests for node in request.nodes}
        return sum(not self.points.is_input(node) for node in nodes)


@dataclass(frozen=True)
class Planned:
    """Settings sorted by how they are computed.

    `families` are computed together. `alone` share no gradients: the number of draws is found for each text, or each draw
    uses its own weights of the model. `finished` has the attributions of methods that compute by themselves.
    """

    families: tuple[Family, ...]
    alone: tuple[tuple[Setting, Expectation], ...]
    finished: Mapping[str, Attribution]


def plan(ctx: Context, settings: Sequence[Setting]) -> Planned:
    """Calls the methods of settings, and sorts their plans by the points that they share.

    Raises:
        InputError: a method refuses the model, the texts or a hyperparameter.
    """
    finished: dict[str, Attribution] = {}
    alone = []
    families: dict[object, list[tuple[Setting, Plan]]] = {}
    for setting in settings:
        made = _made(ctx.under(rule_of(setting)), setting)
        if isinstance(made, Attribution):
            finished[setting.id] = made
        elif isinstance(made, Values):
            finished[setting.id] = _reduced(ctx, setting, made)
        elif isinstance(made, Expectation) and (made.draws.auto or made.model):
            alone.append((setting, made))
        else:
            families.setdefault((made.points.key, rule_of(setting)), []).append((setting, made))
    return Planned(
        tuple(Family.of(members) for members in families.values()), tuple(alone), finished
    )


def explain(ctx: Context, settings: Sequence[Setting]) -> Mapping[str, Attribution]:
    """The attribution of every setting, by setting id.

    All methods are called first. Then each family of points is computed in one pass over the union of its nodes.

    Raises:
        InputError: a method refuses the model, the texts or a hyperparameter.
    """
    planned = plan(ctx, settings)
    attributions = dict(planned.finished)
    for setting, expectation in planned.alone:
        compute = _in_rounds if expectation.draws.auto else _with_models
        attributions[setting.id] = compute(ctx.under(rule_of(setting)), setting, expectation)
    for family in planned.families:
        sums = _gather(ctx.under(family.rule), family.requests)
        for (setting, plan_of_setting), sums_of_plan in zip(family.members, sums, strict=True):
            attributions[setting.id] = _finish(ctx, setting, plan_of_setting, sums_of_plan)
    return {setting.id: attributions[setting.id] for setting in settings}


def rule_of(setting: Setting) -> str:
    """The backward rule of a setting's gradients."""
    return str(setting.hyper.get(KEY, PLAIN))


def _words(key: object) -> Iterator[str]:
    """The strings in a key of points, which may contain keys of other points."""
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, tuple):
            yield from _words(part)
        elif isinstance(part, str):
            yield part


def _made(ctx: Context, setting: Setting) -> Plan | Values | Attribution:
    """Calls the setting's method by its backend."""
    registry = METHODS
    if setting.backend in captum.BACKENDS and setting.method not in ONLY:
        registry = captum.BACKENDS[setting.backend]
    made: Plan | Values | Attribution = registry.call(setting.method, ctx, setting.hyper)
    if rule_of(setting) != PLAIN and not isinstance(made, Attribution):
        made = replace(made, difference=None)  # completeness does not hold for a rule's gradient
    return made


def _request(plan: Plan) -> Request:
    if isinstance(plan, Expectation):
        return _request_of(plan, range(plan.draws.n))
    return Request(plan.points, plan.nodes, np.array([plan.weights]), plan.moment)


def _request_of(plan: Expectation, samples: range) -> Request:
    """The sums over groups of draws, or over single draws if the plan has a moment across draws."""
    groups = (
        plan.draws.groups(samples) if plan.across is None else [range(i, i + 1) for i in samples]
    )
    drawn = [(g, *pair) for g, group in enumerate(groups) for i in group for pair in plan.sample(i)]
    weights = np.zeros((len(groups), len(drawn)))
    for column, (group, _, weight) in enumerate(drawn):
        weights[group, column] = weight
    return Request(plan.points, [node for _, node, _ in drawn], weights, plan.moment)


def _gather(
    ctx: Context, requests: Sequence[Request], examples: Sequence[int] | None = None
) -> list[Sums]:
    """The sums of requests on one family of points, from one pass over the union of their nodes."""
    nodes = sorted({node for request in requests for node in request.nodes})
    column = {node: index for index, node in enumerate(nodes)}
    stacked: dict[Term, list[Float[np.ndarray, "K S"]]] = {}
    for request in requests:
        matrix = np.zeros((len(request.weights), len(nodes)))
        np.add.at(matrix.T, [column[node] for node in request.nodes], request.weights.T)
        for term in request.moment.terms:
            stacked.setdefault(term, []).append(matrix)
    weights = {
        term: torch.from_numpy(np.concatenate(matrices)) for term, matrices in stacked.items()
    }
    points = requests[0].points
    sums = ctx.engine.weighted_sums(points, nodes, weights, ctx.clean, examples)
    parts = {
        term: iter(torch.split(sums[term], [len(matrix) for matrix in matrices]))
        for term, matrices in stacked.items()
    }
    return [[next(parts[term]) for term in request.moment.terms] for request in requests]


def _drawn(
    ctx: Context, plan: Expectation, samples: range, examples: Sequence[int] | None = None
) -> Sums:
    """The sums over groups of draws; one draw at a time if each changes the weights of the model."""
    if plan.model is None:
        (sums,) = _gather(ctx, [_request_of(plan, samples)], examples)
        return sums
    groups: list[list[Tensor]] = []
    for group in plan.draws.groups(samples):
        total: list[Tensor] = []
        for sample in group:
            with plan.model(sample):
                (of_sample,) = _gather(
                    ctx, [_request_of(plan, range(sample, sample + 1))], examples
                )
            total = [a + b for a, b in zip(total, of_sample, strict=True)] if total else of_sample
        groups.append(total)
    return [torch.cat(terms) for terms in zip(*groups, strict=True)]


def _with_models(ctx: Context, setting: Setting, plan: Expectation) -> Attribution:
    """The attribution from a fixed number of draws, each of which changes the weights of the model."""
    samples = range(plan.draws.n)
    estimate = RunningEstimate(ctx, setting, plan)
    estimate.add(samples, _drawn(ctx, plan, samples))
    return estimate.attribution()


def _finish(ctx: Context, setting: Setting, plan: Plan, sums: Sums) -> Attribution:
    """The attribution of a plan from its sums."""
    if isinstance(plan, Expectation):
        estimate = RunningEstimate(ctx, setting, plan)
        estimate.add(range(plan.draws.n), sums)
        return estimate.attribution()
    values = plan.moment.finish(*(term[0] for term in sums))
    if plan.multiplier is not None:
        values = values * plan.multiplier
    return _reduced(ctx, setting, Values(values, _cost(ctx, plan), plan.difference))


def _cost(ctx: Context, plan: GradientSum) -> int | Int[np.ndarray, " B"]:
    """The number of distinct points that the map of each example needs; one number if they are equal."""
    nodes = {node for node, weight in zip(plan.nodes, plan.weights, strict=True) if weight != 0}
    counts = [
        sum(plan.points.applies(example, node) for node in nodes)
        for example in range(len(ctx.batch))
    ]
    return counts[0] if len(set(counts)) == 1 else np.array(counts)


def _reduced(ctx: Context, setting: Setting, made: Values) -> Attribution:
    values = made.values.detach()
    scores = reduce_scores(setting.reduction, values, ctx.embeddings, ctx.batch.mask)
    total = None if made.difference is None else values.double().sum((1, 2))
    return Attribution(
        scores, made.n_gradients, total, made.difference, convergence=made.convergence
    )


def _in_rounds(ctx: Context, setting: Setting, plan: Expectation) -> Attribution:
    """Draws in rounds until each example's standard error is small enough, or until the largest number of draws."""
    estimate = RunningEstimate(ctx, setting, plan)
    waiting = list(range(len(ctx.batch)))
    finished: dict[int, Attribution] = {}
    rounds = list(plan.draws.rounds())
    for samples in rounds:
        estimate.add(samples, _drawn(ctx, plan, samples, waiting))
        attribution = estimate.attribution()
        assert attribution.convergence is not None
        assert attribution.convergence.converged is not None
        converged = attribution.convergence.converged
        done = [example for example in waiting if converged[example] or samples is rounds[-1]]
        finished |= dict.fromkeys(done, attribution)
        waiting = [example for example in waiting if example not in done]
        if not waiting:
            break
    return _merged([finished[example] for example in range(len(ctx.batch))])


def _merged(attributions: Sequence[Attribution]) -> Attribution:
    """The attribution of a batch whose example i has the scores of `attributions[i]`."""
    rows = list(enumerate(attributions))
    convergences = [(row, part.convergence) for row, part in rows if part.convergence is not None]
    return Attribution(
        scores=torch.stack([part.scores[row] for row, part in rows]),
        n_gradients=np.array([part.n_gradients for part in attributions]),
        convergence=Uncertainty(
            **{
                name: np.stack([getattr(part, name)[row] for row, part in convergences])
                for name in ARRAYS
            },
            reasons=tuple(
                part.reasons[row] if part.reasons else None for row, part in convergences
            ),
        ),
    )
