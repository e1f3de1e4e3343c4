"""Settings to attributions: the settings of a batch that use the same points share their gradients."""

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
from saliency_bench.attribution.estimate import Estimate, Sums
from saliency_bench.attribution.methods import METHODS, ONLY
from saliency_bench.attribution.methods.base import Expectation, GradientSum, Plan, Values
from saliency_bench.attribution.points import Points
from saliency_bench.attribution.reduction import reduce_scores
from saliency_bench.attribution.statistics import Moment, Term
from saliency_bench.core.rows import Setting
from saliency_bench.core.tensors import Attribution, Convergence


@dataclass(frozen=True)
class Request:
    """Weighted sums that a plan needs: a row of `weights` for each group of draws, or one where nothing is drawn."""

    points: Points
    nodes: Sequence[Any]
    weights: Float[np.ndarray, "K S"]
    moment: Moment


#: What is known of the convergence of each example, as arrays.
ARRAYS = ("standard_errors", "split_half_tau", "error", "converged")


@dataclass(frozen=True)
class Family:
    """Settings whose points are of one family: together they cost the union of their nodes."""

    members: tuple[tuple[Setting, Plan], ...]
    requests: tuple[Request, ...]

    @classmethod
    def of(cls, members: Sequence[tuple[Setting, Plan]]) -> "Family":
        """The family of settings and their plans, with the sums that they need."""
        return cls(tuple(members), tuple(_request(plan) for _, plan in members))

    @property
    def points(self) -> Points:
        """What they share."""
        return self.requests[0].points

    @property
    def rule(self) -> str:
        """The backward rule of their gradients."""
        return rule_of(self.members[0][0])

    @property
    def name(self) -> str:
        """The entries of the configuration, and the words of the points' key."""
        entries = ", ".join(dict.fromkeys(setting.name for setting, _ in self.members))
        rule = "" if self.rule == PLAIN else f" {self.rule}"
        return f"{entries}: {' '.join(_words(self.points.key))}{rule}"

    @property
    def union(self) -> int:
        """How many gradients an example costs, at most; the input's own is part of the clean pass."""
        return len(self._paid(self.requests))

    @property
    def largest(self) -> int:
        """How many the setting would cost alone that costs most."""
        return max(len(self._paid([request])) for request in self.requests)

    @property
    def n_sums(self) -> int:
        """Tensors [B T D] that are held while gradients are added up."""
        return sum(len(request.weights) * len(request.moment.terms) for request in self.requests)

    def _paid(self, requests: Sequence[Request]) -> set[Any]:
        nodes = {node for request in requests for node in request.nodes}
        return {node for node in nodes if not self.points.is_input(node)}


@dataclass(frozen=True)
class Planned:
    """What settings ask for, before any gradient of a family is taken.

    `finished` are those of methods that compute by themselves, and have by now; `alone` share no gradients: they find out
    for each text how many draws they need, or each draw has a model of its own.
    """

    families: tuple[Family, ...]
    alone: tuple[tuple[Setting, Expectation], ...]
    finished: Mapping[str, Attribution]


def plan(ctx: Context, settings: Sequence[Setting]) -> Planned:
    """Sorts settings by the points that they share."""
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

    Native plans are made first and then computed one family of points at a time, over the union of the nodes that
    their settings ask for. Where the number of draws is to be found for each text, or each draw changes the model, a
    plan is computed by itself.
    """
    planned = plan(ctx, settings)
    attributions = dict(planned.finished)
    for setting, drawn in planned.alone:
        compute = _until_sure if drawn.draws.auto else _of_own_models
        attributions[setting.id] = compute(ctx.under(rule_of(setting)), setting, drawn)
    for family in planned.families:
        sums = _gather(ctx.under(family.rule), family.requests)
        for (setting, own_plan), sums_of_setting in zip(family.members, sums, strict=True):
            attributions[setting.id] = _finish(ctx, setting, own_plan, sums_of_setting)
    return {setting.id: attributions[setting.id] for setting in settings}


def rule_of(setting: Setting) -> str:
    """The backward rule of a setting's gradients."""
    return str(setting.hyper.get(KEY, PLAIN))


def _words(key: object) -> Iterator[str]:
    """The words in a key of points, of which the inner ones may be keys."""
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, tuple):
            yield from _words(part)
        elif isinstance(part, str):
            yield part


def _made(ctx: Context, setting: Setting) -> Plan | Values | Attribution:
    registry = METHODS
    if setting.backend in captum.BACKENDS and setting.method not in ONLY:
        registry = captum.BACKENDS[setting.backend]
    made: Plan | Values | Attribution = registry.call(setting.method, ctx, setting.hyper)
    if rule_of(setting) != PLAIN and not isinstance(made, Attribution):
        made = replace(made, difference=None)  # a rule's gradient integrates to no difference of F
    return made


def _request(plan: Plan) -> Request:
    if isinstance(plan, Expectation):
        return _request_of(plan, range(plan.draws.n))
    return Request(plan.points, plan.nodes, np.array([plan.weights]), plan.moment)


def _request_of(plan: Expectation, samples: range) -> Request:
    """The sums over groups of draws, or over each draw where a moment across draws is asked for."""
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
        spread = np.zeros((len(request.weights), len(nodes)))
        np.add.at(spread.T, [column[node] for node in request.nodes], request.weights.T)
        for term in request.moment.terms:
            stacked.setdefault(term, []).append(spread)
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
    """The sums over groups of draws; a draw at a time where each has a model of its own."""
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


def _of_own_models(ctx: Context, setting: Setting, plan: Expectation) -> Attribution:
    """A fixed number of draws, each with a model of its own."""
    samples = range(plan.draws.n)
    estimate = Estimate(ctx, setting, plan)
    estimate.add(samples, _drawn(ctx, plan, samples))
    return estimate.attribution()


def _finish(ctx: Context, setting: Setting, plan: Plan, sums: Sums) -> Attribution:
    """A plan's scores from its sums."""
    if isinstance(plan, Expectation):
        estimate = Estimate(ctx, setting, plan)
        estimate.add(range(plan.draws.n), sums)
        return estimate.attribution()
    values = plan.moment.finish(*(term[0] for term in sums))
    if plan.multiplier is not None:
        values = values * plan.multiplier
    return _reduced(ctx, setting, Values(values, _cost(ctx, plan), plan.difference))


def _cost(ctx: Context, plan: GradientSum) -> int | Int[np.ndarray, " B"]:
    """Distinct points that each example's map needs."""
    paid = {node for node, weight in zip(plan.nodes, plan.weights, strict=True) if weight != 0}
    counts = [
        sum(plan.points.applies(example, node) for node in paid)
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


def _until_sure(ctx: Context, setting: Setting, plan: Expectation) -> Attribution:
    """Draws in rounds until each example's standard error is small enough, or until there are no more."""
    estimate = Estimate(ctx, setting, plan)
    waiting = list(range(len(ctx.batch)))
    settled: list[tuple[list[int], Attribution]] = []
    rounds = list(plan.draws.rounds())
    for number, samples in enumerate(rounds):
        estimate.add(samples, _drawn(ctx, plan, samples, waiting))
        now = estimate.attribution()
        assert now.convergence is not None
        assert now.convergence.error is not None
        last = number == len(rounds) - 1
        sure = now.convergence.error <= plan.draws.relative_error
        done = [example for example in waiting if last or sure[example]]
        settled.append((done, now))
        waiting = [example for example in waiting if example not in done]
        if not waiting:
            break
    return _scattered(settled, len(ctx.batch))


def _scattered(settled: Sequence[tuple[list[int], Attribution]], n: int) -> Attribution:
    """Each example's scores as they were when it was settled."""
    place = {example: now for done, now in settled for example in done}
    of = [place[example] for example in range(n)]
    sure = [attribution.convergence for attribution in of if attribution.convergence is not None]
    return Attribution(
        scores=torch.stack([attribution.scores[row] for row, attribution in enumerate(of)]),
        n_gradients=np.array([attribution.n_gradients for attribution in of]),
        convergence=Convergence(
            **{name: _picked(sure, name) for name in ARRAYS},
            reasons=tuple(
                attribution.reasons[row] if attribution.reasons else None
                for row, attribution in enumerate(sure)
            ),
        ),
    )


def _picked(of: Sequence[Any], name: str) -> np.ndarray:
    return np.stack([getattr(attribution, name)[row] for row, attribution in enumerate(of)])
