"""Broken implementations: paths, what is averaged over their points, and what is made of it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from saliency_bench.attribution import context, estimate, explain, gradient
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.gradient import GradientEngine
from saliency_bench.attribution.methods import METHODS, gradients, paths
from saliency_bench.attribution.methods.base import Expectation, Values
from saliency_bench.attribution.noise import draw
from saliency_bench.attribution.points import (
    NoiseCloud,
    NoisyPaths,
    RandomPaths,
    SingleTokenPaths,
    StraightPath,
)
from saliency_bench.attribution.statistics import PRODUCT, VARIANCE, Moment, square
from saliency_bench.attribution.statistics import gradient as gradient_term
from saliency_bench.evaluation.probe import CachingProbe
from saliency_bench.models.tasks.scores import OUTPUTS, logits_fn
from saliency_bench.studies import block as blocks

# -- paths --------------------------------------------------------------------------------------------------------


def x_is_multiplied_in_place_of_the_displacement(patch):
    _displaced(patch, lambda x, moved: x)


def the_displacement_has_unit_length(patch):
    _displaced(
        patch, lambda x, moved: moved / moved.norm(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    )


def _displaced(patch, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
    finish = explain._finish

    def finished(ctx, setting, plan, sums):
        if plan.multiplier is not None:
            plan = replace(plan, multiplier=change(ctx.embeddings, plan.multiplier))
        return finish(ctx, setting, plan, sums)

    patch.setattr(explain, "_finish", finished)
    for points in (SingleTokenPaths, NoisyPaths, RandomPaths):
        patch.setattr(points, "displacement", _changed(points.displacement, change))


def _changed(real, change):
    def displacement(self, row_example, nodes):
        moved = real(self, row_example, nodes)
        x = (self.path if isinstance(self, SingleTokenPaths) else self.cloud).embeddings
        return change(x[row_example], moved)

    return displacement


def paths_start_at_zero(patch):
    """The points only; what is multiplied in is right."""
    at = StraightPath.at
    patch.setattr(
        StraightPath,
        "at",
        lambda self, rows, nodes: at(
            replace(self, reference=torch.zeros_like(self.reference)), rows, nodes
        ),
    )


def the_path_is_the_input_alone(patch):
    patch.setattr(StraightPath, "is_input", lambda self, node: True)
    patch.setattr(StraightPath, "at", lambda self, row_example, nodes: self.embeddings[row_example])


def noisy_copies_share_the_clean_path(patch):
    patch.setattr(NoisyPaths, "at", lambda self, rows, nodes: self.path.at(rows, [a for _, a in nodes]))  # fmt: skip


def all_tokens_move_at_once(patch):
    """Sequential Integrated Gradients without its sequence."""
    patch.setattr(SingleTokenPaths, "at", lambda self, rows, nodes: self.path.at(rows, [a for _, a in nodes]))  # fmt: skip


def every_token_is_displaced(patch):
    patch.setattr(
        SingleTokenPaths,
        "displacement",
        lambda self, rows, nodes: (self.path.embeddings - self.path.reference)[rows],
    )


def special_tokens_move(patch):
    path = Context.path
    patch.setattr(Context, "path", lambda self, baseline, special: path(self, baseline, "replace"))


def one_reference_for_all_draws(patch):
    starts = RandomPaths._starts

    def first(self, rows, nodes):
        return starts(self, rows, [node._replace(number=0) for node in nodes])

    patch.setattr(RandomPaths, "_starts", first)


def random_positions_are_fixed(patch):
    patch.setattr(RandomPaths, "_position", lambda self, example, node: 0.25)


def the_class_is_chosen_again_along_the_path(patch):
    def score_fn(model, batch, target, output, **_):
        logits = logits_fn(model, batch)
        return lambda e, rows: OUTPUTS[output](
            (found := logits(e, rows)), found.detach().argmax(-1)
        )

    patch.setattr(context, "score_fn", score_fn)


def the_baseline_is_half_of_it(patch):
    vectors = Context.baseline_vectors
    patch.setattr(
        Context,
        "baseline_vectors",
        lambda ctx, baseline, moved: vectors(ctx, baseline, moved) / 2,
    )


def the_baseline_is_the_mean(patch):
    vectors = Context.baseline_vectors
    patch.setattr(
        Context,
        "baseline_vectors",
        lambda ctx, baseline, moved: vectors(ctx, "mean", moved),
    )


def removed_tokens_stay(patch):
    """Leave-one-out that leaves out nothing."""
    stays = CachingProbe._stays
    patch.setattr(CachingProbe, "_stays", lambda self, e, kept: stays(self, e, kept) | self.real[e])


# -- IDGI ---------------------------------------------------------------------------------------------------------


def _idgi(patch, share: Callable, change: Callable):
    """IDGI with other shares of a step [T D] and another change of the output."""

    def idgi(ctx, *, baseline: str, baseline_special_tokens: str, n_steps: int) -> Values:
        path = ctx.path(baseline, baseline_special_tokens)
        rows = torch.arange(len(ctx.batch))
        moved = path.embeddings - path.reference
        values = torch.zeros_like(moved)
        for k in range(n_steps):
            at = [path.at(rows, [a / n_steps] * len(rows)) for a in (k, k + 1)]
            (here, g), (there, _) = (ctx.engine._gradients(p, rows) for p in at)
            values += share(g) * change(here, there, g, moved, n_steps)[:, None, None]
        return Values(values, n_steps, ctx.path_difference(path))

    patch.setitem(METHODS._functions, "idgi", idgi)


def _by_energy(g):
    return g.square() / g.square().sum((1, 2), keepdim=True)


def idgi_takes_the_change_from_the_slope(patch):
    """The step's output change to first order: nothing telescopes."""
    _idgi(patch, _by_energy, lambda here, there, g, moved, n: (g * moved).sum((1, 2)) / n)


def idgi_divides_by_the_length_of_the_gradient(patch):
    _idgi(
        patch,
        lambda g: g.square() / g.square().sum((1, 2), keepdim=True).sqrt(),
        lambda here, there, *_: there - here,
    )


def idgi_shares_by_magnitude(patch):
    _idgi(
        patch,
        lambda g: g.abs() / g.abs().sum((1, 2), keepdim=True),
        lambda here, there, *_: there - here,
    )


# -- what is averaged, and what comes of it -----------------------------------------------------------------------


def magnitudes_are_averaged(patch):
    add = gradient._accumulate
    patch.setattr(
        gradient,
        "_accumulate",
        lambda sums, weights, values, examples: add(sums, weights, values.abs(), examples),
    )


def the_magnitude_is_multiplied_in(patch):
    """|∇F| times the input, as Captum's Saliency gives it by default."""
    gradients_of = GradientEngine._gradients

    def absolute(self, points, rows):
        scores, found = gradients_of(self, points, rows)
        return scores, found.abs()

    patch.setattr(GradientEngine, "_gradients", absolute)


def gradients_are_halved(patch):
    """As those of a mean of two scores."""
    at_once = GradientEngine._gradients

    def halved(self, points, rows):
        scores, found = at_once(self, points, rows)
        return scores, found / 2

    patch.setattr(GradientEngine, "_gradients", halved)


def magnitudes_are_squared_after_the_reduction(patch):
    """The square of a token's number, in place of the sum of the squares of its numbers."""
    for module in (explain, estimate):
        reduce = module.reduce_scores
        patch.setattr(
            module,
            "reduce_scores",
            lambda how, values, *given, reduce=reduce: (
                reduce("l1", values.abs().sqrt(), *given) ** 2
            ),
        )


def the_mean_gradient_is_squared(patch):
    patch.setattr(
        gradients, "SQUARE", Moment("square", (gradient_term,), lambda mean: mean.square())
    )


def the_variance_is_a_difference_of_moments(patch):
    """E g² - (E g)²."""
    naive = Moment("variance", (gradient_term, square), lambda mean, second: second - mean.square())
    patch.setattr(gradients, "VARIANCE", naive)
    patch.setitem(paths.STATISTICS, "variance", naive)


def the_variance_divides_by_n_minus_1(patch):
    values = estimate.RunningEstimate.values

    def unbiased(self, kept):
        n = float(np.dot(kept, self.sizes))
        return values(self, kept) * (n / max(n - 1, 1) if self.moment is VARIANCE else 1)

    patch.setattr(estimate.RunningEstimate, "values", unbiased)


def squares_are_of_single_points(patch):
    """A noise tunnel that squares the gradients on a path in place of their integral."""
    patch.setitem(paths.STATISTICS, "square", None)
    patch.setattr(paths, "PRODUCT", Moment("product", PRODUCT.terms, lambda mean: mean.square()))


def the_noisy_input_is_multiplied_in(patch):
    """A noise tunnel around input x gradient."""

    def smoothgrad_x_input(ctx, *, draws: paths.Draws, noise: paths.Noise) -> Expectation:
        cloud = ctx.noise_cloud(noise.noise_special_tokens)
        return Expectation(cloud, draws, lambda i: [(draw(draws, noise, i), 1.0)], PRODUCT)

    patch.setitem(METHODS._functions, "smoothgrad_x_input", smoothgrad_x_input)
    patch.setattr(NoiseCloud, "displacement", NoiseCloud.at)


def scores_have_unit_length(patch):
    """Sequential Integrated Gradients as its paper prints them, and many a plot."""
    _rescored(patch, lambda scores: scores / scores.norm(dim=1, keepdim=True).clamp_min(1e-30))


def scores_are_centred(patch):
    _rescored(patch, lambda scores: scores - scores.mean(1, keepdim=True))


def _rescored(patch, change: Callable[[torch.Tensor], torch.Tensor]):
    for module in (explain, estimate):
        reduce = module.reduce_scores
        patch.setattr(module, "reduce_scores", lambda *given, reduce=reduce: change(reduce(*given)))


def the_reduction_comes_before_the_mean(patch):
    """Norms of gradients are averaged in place of the norm of their mean."""
    add = gradient._accumulate

    def lengths(sums, weights, values, examples):
        found = torch.zeros_like(values)
        found[..., 0] = values.norm(dim=-1)
        add(sums, weights, found, examples)

    patch.setattr(gradient, "_accumulate", lengths)


def guided_backpropagation(patch):
    """Negative gradients do not pass a ReLU (Springenberg et al. 2015): another function of the same network."""

    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            ctx.save_for_backward(z)
            return z.clamp_min(0)

        @staticmethod
        def backward(ctx, passed):
            return passed.clamp_min(0) * (ctx.saved_tensors[0] > 0)

    patch.setattr(torch, "relu", Guided.apply)


# -- completeness -------------------------------------------------------------------------------------------------


def the_gap_is_said_to_be_zero(patch):
    numbers = blocks.Numbers.of
    patch.setattr(
        blocks.Numbers,
        "of",
        lambda *row: {
            key: 0.0 if key == "completeness_gap" else value for key, value in numbers(*row).items()
        },
    )


def the_gap_is_taken_from_the_clean_output(patch):
    """Of noisy copies, whose outputs are others."""
    patch.setattr(
        paths,
        "_noisy_difference",
        lambda ctx, points, draws, noise: ctx.path_difference(points.path),
    )


def the_output_at_the_baseline_counts_as_zero(patch):
    patch.setattr(Context, "path_difference", lambda self, path: self.clean_score)


def input_x_gradient_claims_completeness(patch):
    def input_x_gradient(ctx):
        return replace(gradients.input_x_gradient(ctx), difference=ctx.clean_score)

    patch.setitem(METHODS._functions, "input_x_gradient", input_x_gradient)


def everything_claims_completeness(patch):
    numbers = blocks.Numbers.of
    patch.setattr(
        blocks.Numbers,
        "of",
        lambda *row: {"completeness_gap": 0.0, "output_difference": 0.0} | numbers(*row),
    )
