"""Broken implementations: noise, how draws are paired, and how sure their mean is said to be."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from saliency_bench.attribution import estimate, explain, philox
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods import gradients, paths
from saliency_bench.attribution.noise import (
    FIRST_ROUND,
    N_GROUPS,
    Draws,
    draw,
    jackknife,
    split_half,
)
from saliency_bench.attribution.points import Draw, NoiseCloud

# -- noise --------------------------------------------------------------------------------------------------------


def _draws(patch, change: Callable[[Draws, Draw], Draw]):
    def broken(draws, noise, sample):
        return change(draws, draw(draws, noise, sample))

    for module in (gradients, paths):
        patch.setattr(module, "draw", broken)


def a_little_noise_is_always_added(patch):
    _draws(patch, lambda draws, node: node._replace(level=max(node.level, 1e-3)))


def sigma_is_a_variance(patch):
    _draws(patch, lambda draws, node: node._replace(level=node.level**0.5))


def partners_have_the_same_sign(patch):
    _draws(patch, lambda draws, node: node._replace(sign=1))


def blocks_do_not_sum_to_zero(patch):
    """Centred about three of their four draws."""

    def broken(self, examples, indices, size):
        pairs = [
            (e, i * size + k) for e, i in zip(examples, indices, strict=True) for k in range(size)
        ]
        noise = self.noise(*map(list, zip(*pairs, strict=True))).unflatten(0, (-1, size))
        mean = noise[:, : size - 1].mean(1, keepdim=True) if size > 1 else 0
        return (noise - mean).flatten(0, 1)

    patch.setattr(NoiseCloud, "blocks", broken)


def blocks_are_too_quiet(patch):
    """Centred, and not scaled back to the variance that was asked for."""
    blocks = NoiseCloud.blocks
    patch.setattr(
        NoiseCloud,
        "blocks",
        lambda self, examples, indices, size: (
            blocks(self, examples, indices, size) * (1 - 1 / size if size > 1 else 1) ** 0.5
        ),
    )


def noise_depends_on_how_many_draws_there_are(patch):
    _draws(patch, lambda draws, node: node._replace(number=node.number + 1000 * draws.n))


def all_draws_are_the_first(patch):
    _draws(patch, lambda draws, node: node._replace(number=0))


def noise_has_a_fixed_seed(patch):
    patch.setattr(Context, "noise_cloud", _with_cloud(lambda cloud: replace(cloud, seed=0)))


def special_tokens_get_noise(patch):
    real = Context.noise_cloud
    patch.setattr(Context, "noise_cloud", lambda self, special: real(self, True))


def noise_is_kept_from_special_tokens(patch):
    real = Context.noise_cloud
    patch.setattr(Context, "noise_cloud", lambda self, special: real(self, False))


def noise_is_drawn_at_the_width_of_the_batch(patch):
    """Tokens are counted from the end of the batch."""
    _noise(patch, lambda noise: noise.flip(1))


def _with_cloud(change: Callable[[NoiseCloud], NoiseCloud]):
    real = Context.noise_cloud
    return lambda self, special: change(real(self, special))


def draws_belong_to_a_place_in_the_batch(patch):
    names = property(lambda self: tuple(f"row {row}" for row in range(len(self.batch))))
    patch.setattr(Context, "hashes", names)


def noise_comes_from_the_global_generator(patch):
    _noise(patch, torch.randn_like)


def one_noise_serves_all_dimensions(patch):
    _noise(patch, lambda noise: noise[:, :, :1].expand_as(noise))


def one_noise_serves_all_tokens(patch):
    _noise(patch, lambda noise: noise[:, :1].expand_as(noise))


def noise_is_uniform(patch):
    """Of the right variance."""
    _noise(patch, lambda noise: 12**0.5 * (torch.special.ndtr(noise) - 0.5))


def _noise(patch, change: Callable[[torch.Tensor], torch.Tensor]):
    """Changes what is drawn, before it is kept from padding and special tokens."""
    real = philox.normal
    patch.setattr(philox, "normal", lambda *request: change(real(*request)))


def the_range_is_that_of_the_batch(patch):
    unit = Context._unit
    patch.setattr(
        Context,
        "_unit",
        lambda self, name: (
            unit(self, name).max().expand(len(self.batch)) if name == "range" else unit(self, name)
        ),
    )


def the_deviation_is_that_of_the_text(patch):
    """In place of the embedding matrix."""
    unit = Context._unit
    patch.setattr(
        Context,
        "_unit",
        lambda self, name: (
            self.embeddings.double().std((1, 2)) if name == "std" else unit(self, name)
        ),
    )


# -- pairs, groups, standard errors -------------------------------------------------------------------------------


def antithetic_draws_count_as_independent(patch):
    """Partners stand in different groups."""

    def groups(self, samples):
        step = min(len(samples), N_GROUPS)
        return [range(start, samples.stop, step) for start in samples[:step]]

    patch.setattr(Draws, "groups", groups)


def _errors(patch, change: Callable[[np.ndarray, int], np.ndarray]):
    patch.setattr(
        estimate,
        "jackknife",
        lambda scores, sizes: (
            change(jackknife(scores, sizes)[0], len(sizes)),
            jackknife(scores, sizes)[1],
        ),
    )


def errors_are_those_of_a_single_group(patch):
    """The spread of the groups, not of their mean."""
    _errors(patch, lambda errors, n_groups: errors * n_groups**0.5)


def the_spread_divides_by_the_number_of_groups(patch):
    """And not by one less."""
    _errors(patch, lambda errors, n_groups: errors * (1 - 1 / n_groups) ** 0.5)


def errors_are_divided_by_the_mean_of_the_sample(patch):
    """The spread of the groups that stay, not of pseudo-values: (G - 1)² too small a variance."""
    _errors(patch, lambda errors, n_groups: errors / (n_groups - 1))


def halves_overlap(patch):
    def broken(scores, n_groups, attributable):
        def half(kept):
            return scores(kept if kept[0] else np.ones_like(kept))

        return split_half(half, n_groups, attributable)

    patch.setattr(estimate, "split_half", broken)


def special_tokens_are_ranked(patch):
    def broken(scores, n_groups, attributable):
        return split_half(scores, n_groups, [np.ones_like(own) for own in attributable])

    patch.setattr(estimate, "split_half", broken)


# -- until the standard error is small ----------------------------------------------------------------------------


def one_round_is_enough(patch):
    patch.setattr(Draws, "rounds", lambda self: iter([range(FIRST_ROUND)]))


def rounds_go_on_to_the_last(patch):
    patch.setattr(Draws, "rounds", lambda self: iter([range(self.n)]))


def _convergence(patch, change):
    known = estimate.RunningEstimate._convergence
    patch.setattr(estimate.RunningEstimate, "_convergence", lambda self: change(self, known(self)))


def texts_stop_together(patch):
    """When their mean error is small."""

    def together(self, known):
        if known is None or known.error is None:
            return known
        error = np.full_like(known.error, known.error.mean())
        limit = self.plan.draws.relative_error
        return replace(known, error=error, converged=error <= (limit or 0))

    _convergence(patch, together)


def texts_that_are_sure_go_on(patch):
    """Every round is drawn for the whole batch."""
    gather = explain._gather
    patch.setattr(explain, "_gather", lambda ctx, requests, examples=None: gather(ctx, requests))


def every_text_is_said_to_have_converged(patch):
    _convergence(
        patch,
        lambda self, known: (
            known
            if known is None or known.converged is None
            else replace(
                known,
                converged=np.ones_like(known.converged),
                reasons=(None,) * len(known.converged),
            )
        ),
    )


def rounds_draw_the_same_again(patch):
    """Each round starts from the first draw."""
    real = Draws.rounds
    patch.setattr(Draws, "rounds", lambda self: (range(len(samples)) for samples in real(self)))
