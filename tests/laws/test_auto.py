"""n_samples=auto: draws until a text's standard error is small enough, for each text by itself."""

import numpy as np
import torch
from laws import twins_of_noise
from laws.law import ONE, assert_same, law
from laws.oracles import cheap, gradients_paid, linear, maps, net, scores, text
from tiny import scored_by

from saliency_bench.attribution.noise import FIRST_ROUND

TEXTS = [text(seed) for seed in range(3)]
METHODS = {
    "smoothgrad": (0.05, 1),
    "vargrad": (0.25, 1),
    "smooth_integrated_gradients": (0.1, 3),
    "expected_gradients": (0.2, 1),
}  # what error is asked for, and gradients per draw


def until_sure(method, sampler="iid", limit=None, most=256):
    """The options of a run that stops by itself."""
    limit = METHODS[method][0] if limit is None else limit
    return cheap(method, n_samples="auto", sampler=sampler, relative_error=limit, max_samples=most)


@law(twins_of_noise.rounds_go_on_to_the_last, twins_of_noise.texts_stop_together)
def test_auto_stops_in_the_first_round_after_which_the_error_is_small_enough(dtype):
    model = scored_by(net("tanh", 3), dtype)
    rounds = set()
    for method, (limit, per_draw) in METHODS.items():
        for one in maps(model, TEXTS, method, **until_sure(method)):
            n = one.n_gradients // per_draw
            rounds.add(n)
            assert one.converged and one.reason is None and one.error <= limit, method
            spread = np.linalg.norm(one.standard_errors) / np.linalg.norm(one.scores)
            assert one.error >= spread * (1 - 1e-6), method  # the bias of the norm comes on top
            if n > FIRST_ROUND:
                item = [TEXTS[one.input_index]]
                (before,) = maps(model, item, method, **until_sure(method, most=n // 2))
                assert before.n_gradients == n // 2 * per_draw, method
                assert not before.converged and before.error > limit, method
    assert len(rounds) > 2 and rounds <= {32, 64, 128, 256}


@law(twins_of_noise.rounds_draw_the_same_again, twins_of_noise.one_round_is_enough)
def test_auto_is_the_map_of_the_number_at_which_it_stopped(dtype):
    model = scored_by(net("tanh", 3), dtype)
    many = 0
    for method, sampler in zip(METHODS, ("iid", "centred", "antithetic", "centred"), strict=True):
        for one in maps(model, TEXTS[:2], method, **until_sure(method, sampler)):
            n = one.n_gradients // METHODS[method][1]
            many += n > FIRST_ROUND
            fixed = cheap(method, n_samples=n, sampler=sampler)
            (plain,) = maps(model, [TEXTS[one.input_index]], method, **fixed)
            assert_same(one.scores, plain.scores, dtype, method)
            assert plain.converged is None and plain.n_gradients == one.n_gradients
            assert one.completeness_gap is None
    assert many > 2


@law(twins_of_noise.one_round_is_enough, twins_of_noise.every_text_is_said_to_have_converged)
def test_auto_says_so_where_the_largest_number_of_draws_was_not_enough(dtype):
    model = scored_by(net("tanh", 3), dtype)
    for method, (_, per_draw) in METHODS.items():
        options = until_sure(method, limit=1e-9, most=40)
        for one in maps(model, TEXTS[:2], method, **options):
            assert one.n_gradients == 40 * per_draw and one.error > 1e-9
            assert one.converged is False and "40" in one.reason and "1e-09" in one.reason
            (plain,) = scores(
                model, [TEXTS[one.input_index]], method, **cheap(method, n_samples=40)
            )
            assert_same(one.scores, plain, dtype, method)


@law(twins_of_noise.texts_stop_together)
def test_auto_does_not_depend_on_batch_mates(dtype):
    model = scored_by(net("tanh", 3), dtype)
    differ = False
    for method in ("smoothgrad", "vargrad"):
        together = maps(model, TEXTS, method, **until_sure(method))
        differ |= len({one.n_gradients for one in together}) > 1
        for item, one in zip(TEXTS, together, strict=True):
            (alone,) = maps(model, [item], method, **until_sure(method))
            assert one.n_gradients == alone.n_gradients, method
            assert_same(one.scores, alone.scores, dtype, method)
            assert_same(one.standard_errors, alone.standard_errors, dtype, method)
    assert differ


@law(
    twins_of_noise.rounds_go_on_to_the_last,
    twins_of_noise.texts_that_are_sure_go_on,
    dtypes=ONE,
)
def test_auto_pays_only_for_texts_that_are_not_yet_sure(dtype):
    score = net("tanh", 3)
    options = until_sure("smoothgrad")
    found = maps(scored_by(score, dtype), TEXTS, "smoothgrad", **options)
    drawn = [one.n_gradients for one in found]
    assert len(set(drawn)) > 1
    paid = gradients_paid(score, TEXTS, method="smoothgrad", **options)
    assert paid == sum(drawn)  # each text's own draws


@law(twins_of_noise.rounds_go_on_to_the_last)
def test_a_gradient_that_noise_does_not_change_is_sure_at_once(dtype):
    weights = torch.arange(30).view(5, 6).double()
    for model, noise in (
        (scored_by(linear(weights), dtype), 3.0),
        (scored_by(net("tanh", 3), dtype), 0.0),
    ):
        for method in ("smoothgrad", "vargrad"):
            options = until_sure(method, limit=1e-3) | {"noise_std": noise}
            (one,) = maps(model, [text()], method, **options)
            assert one.converged and one.n_gradients == FIRST_ROUND
            assert one.error < 1e-6
