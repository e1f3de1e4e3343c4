"""Noise: what it is, what is averaged over it, and what it must not depend on."""

import numpy as np
import torch
from laws import twins_of_noise, twins_of_paths, twins_of_quadrature, twins_of_the_engine
from laws.law import ONE, assert_same, law
from laws.oracles import (
    GRADIENT,
    Recorder,
    T,
    cheap,
    each,
    gradient_at,
    maps,
    mean_vector,
    net,
    quadratic,
    reduced,
    scores,
    text,
    vectors,
)
from tiny import DIMENSIONS, FrameTokenizer, framed, scored_by, token_inputs

NOISY = [name for name in GRADIENT if "noise_std" in cheap(name)]
SAMPLERS = (("iid", 7), ("antithetic", 6), ("centred", 8))


@law(twins_of_noise.a_little_noise_is_always_added)
def test_without_noise_smoothing_changes_nothing(dtype):
    model, inputs = scored_by(net("tanh", 6), dtype), [text(0), text(1)]
    for sampler, n in SAMPLERS:
        draws = {"n_samples": n, "sampler": sampler}
        plain = each(model, inputs, set(GRADIENT) - set(NOISY), **draws)
        smooth = each(model, inputs, NOISY, noise_std=0.0, **draws)
        for place in range(len(inputs)):
            still = {method: found[place].scores for method, found in plain.items()}
            expected = {
                "smoothgrad": still["vanilla"],
                "smoothgrad_squared": still["vanilla"] ** 2,  # a sum of squares, a squared length
                "vargrad": np.zeros(T),
                "smoothgrad_x_input": still["input_x_gradient"],
                "smooth_integrated_gradients": still["integrated_gradients"],
                "gradient_shap": still["expected_gradients"],
                "fusiongrad": still["vanilla"],  # of a score without weights
            }
            for method in NOISY:
                found = smooth[method][place].scores
                assert_same(found, expected[method], dtype, (method, sampler))


@law(
    twins_of_noise.sigma_is_a_variance,
    twins_of_noise.the_deviation_is_that_of_the_text,
    twins_of_noise.the_range_is_that_of_the_batch,
)
def test_noise_of_one_size_is_the_same_in_every_unit(dtype):
    model, inputs = scored_by(net("tanh", 6), dtype), [text(0), text(1)]
    std = float(model.embedding.weight.detach().double().std(correction=0))
    by_std = each(model, inputs, NOISY, noise_std=0.3)
    absolute = each(model, inputs, NOISY, noise_std=None, noise_absolute=0.3 * std)
    for place, item in enumerate(inputs):
        values = vectors(model, item)
        own = 0.3 * std / float(values.max() - values.min())  # whatever its batch mate's range
        ranged = each(model, inputs, NOISY, noise_std=None, noise_range=own)
        for method in NOISY:
            expected = by_std[method][place].scores
            assert_same(absolute[method][place].scores, expected, dtype, method)
            assert_same(ranged[method][place].scores, expected, dtype, method)


@law(twins_of_noise.special_tokens_get_noise, twins_of_noise.noise_is_kept_from_special_tokens)
def test_special_tokens_get_noise_only_where_they_are_asked_to(dtype):
    # A sum over tokens: the gradient of each depends on its own embedding and on no other's.
    def score(e):
        return (e * torch.linspace(-0.5, 1, DIMENSIONS).to(e)).sum(2).tanh().sum(1)

    model = scored_by(score, dtype, tokenizer=FrameTokenizer())
    inputs = framed(*token_inputs(3))
    words = [False, True, True, True, False]
    still = each(model, inputs, NOISY, noise_std=0.0)
    for asked in (False, True):
        found = each(model, inputs, NOISY, noise_special_tokens=asked)
        for method in NOISY:
            moved = found[method][0].scores != still[method][0].scores
            np.testing.assert_array_equal(moved, [asked or own for own in words], method)


@law(twins_of_noise.partners_have_the_same_sign, twins_of_noise.blocks_do_not_sum_to_zero)
def test_draws_that_sum_to_zero_cancel_what_is_linear(dtype):
    # The gradient of a quadratic is linear: a pair x + ε and x - ε has its value at x as its mean, whatever ε, and so
    # has a block of four noises that sum to 0.
    score = quadratic()
    model, item = scored_by(score, dtype), text()
    x = vectors(model, item)
    # A sum of terms some ten times as large.
    terms = float((score.matrix.abs() @ x.abs().flatten()).max() * x.abs().max())
    for sampler, n in (("antithetic", 2), ("antithetic", 8), ("centred", 4), ("centred", 8)):
        options = {"n_samples": n, "sampler": sampler, "noise_std": 0.5}
        (found,) = scores(model, [item], "smoothgrad_x_input", **options)
        assert_same(found, (score.gradient(x) * x).sum(1), dtype, sampler, scale=terms)


@law(
    twins_of_paths.magnitudes_are_averaged,
    twins_of_paths.the_mean_gradient_is_squared,
    twins_of_paths.the_variance_divides_by_n_minus_1,
    twins_of_paths.the_noisy_input_is_multiplied_in,
    twins_of_paths.the_reduction_comes_before_the_mean,
)
def test_moments_are_those_of_gradients_taken_one_by_one(dtype):
    for sampler, n in SAMPLERS:
        options = {"noise_std": 0.5, "n_samples": n, "sampler": sampler}
        for method, reductions in (
            ("smoothgrad", ["l2", "l1", "sum", "dot"]),
            ("smoothgrad_squared", ["sum", "l2"]),
            ("vargrad", ["sum", "l2"]),
            ("smoothgrad_x_input", ["sum", "l2"]),
        ):
            score = Recorder(net("tanh", 6))
            model, item = scored_by(score, dtype), text()
            found = scores(model, [item], method, reduction=reductions, **options)
            x, points = vectors(model, item), score.points()
            assert len(points) == n
            drawn = torch.stack([gradient_at(score.score, point) for point in points])
            expected = {
                "smoothgrad": drawn.mean(0),
                "smoothgrad_squared": drawn.square().mean(0),
                "vargrad": (drawn - drawn.mean(0)).square().mean(0),
                "smoothgrad_x_input": drawn.mean(0) * x,
            }[method]
            for how, one in zip(reductions, found, strict=True):
                assert_same(one, reduced(expected, how, x), dtype, (method, how, sampler))


@law(twins_of_paths.the_variance_is_a_difference_of_moments)
def test_the_variance_of_little_noise_does_not_cancel(dtype):
    # Gradients g carry a few rounding errors u|g|, and their deviations d are r|g|: Σ d² is off by a few 2u/r of
    # itself. E g² - (E g)² is off by u|g|², which is u/r²: everything, at r² = u.
    unit = torch.finfo(dtype).eps / 2
    score = Recorder(net("tanh", 6))
    model, item = scored_by(score, dtype), text()
    options = {"noise_std": None, "noise_absolute": unit**0.5, "n_samples": 8, "sampler": "iid"}
    (found,) = scores(model, [item], "vargrad", **options)
    drawn = torch.stack([gradient_at(score.score, point) for point in score.points()])
    variance = (drawn - drawn.mean(0)).square().mean(0)
    r = float(variance.max().sqrt() / drawn.abs().max())
    assert r < 10 * unit**0.5
    expected = variance.sum(1).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=16 * unit / r * expected.max())


@law(
    twins_of_paths.noisy_copies_share_the_clean_path,
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
    twins_of_quadrature.the_last_node_has_no_weight,
    twins_of_paths.squares_are_of_single_points,
    twins_of_paths.the_variance_divides_by_n_minus_1,
)
def test_smooth_ig_takes_its_statistic_of_the_copies_integrated_gradients(dtype):
    # Each copy's by its closed form; with Clenshaw-Curtis the last node of its path is the copy itself.
    n, n_steps = 4, 33
    for statistic in ("mean", "square", "variance"):
        score = Recorder(net("tanh", 6))
        model, item = scored_by(score, dtype), text()
        (found,) = scores(
            model,
            [item],
            "smooth_integrated_gradients",
            baseline="mean",
            n_steps=n_steps,
            quadrature="clenshaw_curtis",
            n_samples=n,
            sampler="iid",
            noise_std=0.5,
            statistic=statistic,
        )
        copies = score.points()[n_steps - 1 :: n_steps]
        start = mean_vector(model).expand(T, DIMENSIONS)
        own = torch.stack([score.score.integrated_gradients(copy, start) for copy in copies])
        assert len(own) == n
        expected = {
            "mean": own.mean(0),
            "square": own.square().mean(0),
            "variance": (own - own.mean(0)).square().mean(0),
        }[statistic]
        assert_same(found, expected.sum(1), dtype, statistic)


@law(twins_of_noise.noise_depends_on_how_many_draws_there_are, dtypes=ONE)
def test_more_draws_extend_earlier_ones(dtype):
    on_paths = ("smooth_integrated_gradients", "expected_gradients", "gradient_shap")
    pairs = [("smoothgrad", sampler) for sampler, _ in SAMPLERS]
    for method, sampler in [*pairs, *((method, "centred") for method in on_paths)]:
        few, many = (
            drawn_points(net("tanh", 3), dtype, method, n_samples=n, sampler=sampler)
            for n in (4, 8)
        )
        assert len(many) == 2 * len(few)
        np.testing.assert_array_equal(many[: len(few)], few, err_msg=method)


def drawn_points(score, dtype, method, **options):
    recorder = Recorder(score)
    maps(scored_by(recorder, dtype), [text()], method, **cheap(method, **options))
    return torch.stack(recorder.points())


@law(twins_of_the_engine.nodes_that_settings_share_count_once, dtypes=(torch.float64,))
def test_a_sweep_over_numbers_of_draws_gives_the_maps_of_its_settings(dtype):
    model = scored_by(net("tanh", 3), dtype)
    for method in ("smoothgrad", "vargrad", "smooth_integrated_gradients", "expected_gradients"):
        swept = scores(model, [text()], method, **cheap(method, n_samples=[2, 4, 8]))
        for n, found in zip((2, 4, 8), swept, strict=True):
            (alone,) = scores(model, [text()], method, **cheap(method, n_samples=n))
            assert_same(found, alone, dtype, (method, n))
        assert np.abs(swept[2] - swept[1]).max() > 1e-3 * np.abs(swept[1]).max()


@law(twins_of_noise.noise_has_a_fixed_seed, twins_of_noise.all_draws_are_the_first, dtypes=ONE)
def test_seeds_texts_and_draws_have_noise_of_their_own(dtype):
    score = Recorder(net("tanh", 3))
    model = scored_by(score, dtype)
    inputs = [text(0), text(1)]
    options = {"n_samples": 3, "sampler": "iid", "noise_std": 0.5, "seed": [0, 1]}
    maps(model, inputs, "smoothgrad", **options)
    clean = torch.stack([vectors(model, item) for item in inputs])
    points = [point for point in score.seen[1:] if not (clean == point).all((1, 2)).any()]
    assert len(points) == 2 * 2 * 3
    nearest = [clean[int((clean - point).square().sum((1, 2)).argmin())] for point in points]
    noise = torch.stack([a - b for a, b in zip(points, nearest, strict=True)]).flatten(1)
    # Correlations of 30 pairs of independent numbers: of standard deviation 0.19; five of these.
    between = np.corrcoef(noise.numpy()) - np.eye(len(noise))
    assert np.abs(between).max() < 5 * 30**-0.5


@law(
    twins_of_noise.one_noise_serves_all_dimensions,
    twins_of_noise.one_noise_serves_all_tokens,
    twins_of_noise.sigma_is_a_variance,
    twins_of_noise.noise_is_uniform,
    twins_of_noise.blocks_are_too_quiet,
)
def test_noise_is_independent_normal_with_the_standard_deviation_that_was_asked_for(dtype):
    n = 1000
    for sampler in ("iid", "antithetic", "centred"):
        score = Recorder(net("tanh", 1))
        model, item = scored_by(score, dtype), text()
        options = {"noise_std": None, "noise_absolute": 0.3, "n_samples": n, "sampler": sampler}
        maps(model, [item], "smoothgrad", **options)
        noise = (torch.stack(score.points()) - vectors(model, item)).flatten(1).numpy() / 0.3
        # Standard errors of the mean, the variance and the fourth moment are the roots of 1, 2 and 96 over the number
        # of independent ones, half of them in pairs, and of a covariance 1 over that of draws; five of each.
        count = noise.size / 2
        assert abs(noise.mean()) < 5 / count**0.5, sampler
        assert abs((noise**2).mean() - 1) < 5 * (2 / count) ** 0.5, sampler
        assert abs((noise**4).mean() - 3) < 5 * (96 / count) ** 0.5, sampler
        covariance = noise.T @ noise / n
        others = covariance[~np.eye(len(covariance), dtype=bool)]
        assert np.abs(others).max() < 5 * (2 / n) ** 0.5, sampler
