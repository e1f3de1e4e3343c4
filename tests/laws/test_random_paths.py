"""Expected Gradients and GradientShap: where their paths start, and what they come to."""

import numpy as np
import torch
from laws import twins_of_noise, twins_of_paths
from laws.law import assert_same, law
from laws.oracles import (
    Recorder,
    T,
    constants,
    gradient_at,
    linear,
    maps,
    mean_vector,
    net,
    quadratic,
    scores,
    text,
    vectors,
)
from scipy import stats
from tiny import DIMENSIONS, VOCABULARY, scored_by

WEIGHTS = constants(T, DIMENSIONS, seed=5)


def pairs_of(score, dtype, n_pairs, references="vocabulary"):
    """A map from antithetic draws, with x, the points of each pair [N 2 T D] and where its path starts [N T D].

    The partner of x' + α(x - x') is x' + (1 - α)(x - x'), so that both add up to x + x'.
    """
    recorder = Recorder(score)
    model, item = scored_by(recorder, dtype), text()
    options = {"references": references, "n_samples": 2 * n_pairs, "sampler": "antithetic"}
    (one,) = maps(model, [item], "expected_gradients", **options)
    x = vectors(model, item)
    points = torch.stack(recorder.points()).view(n_pairs, 2, T, DIMENSIONS)
    return one, model, x, points, points.sum(1) - x


def nearest_tokens(model, starts):
    """The ids of the embeddings nearest to each start, and how far away they are."""
    matrix = model.embedding.weight.detach().double()
    exactly = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(starts.flatten(0, 1), matrix, compute_mode=exactly)
    return distances.argmin(1).view(starts.shape[:2]), distances.amin(1)


@law(
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
    twins_of_paths.magnitudes_are_averaged,
)
def test_expected_gradients_are_products_with_each_draws_own_displacement(dtype):
    score = net("tanh", 6)
    one, model, x, points, starts = pairs_of(score, dtype, 6)
    tokens, _ = nearest_tokens(model, starts)
    references = model.embedding.weight.detach().double()[tokens]
    expected = torch.zeros(T).double()
    for pair, reference in zip(points, references, strict=True):
        for point in pair:
            expected += ((x - reference) * gradient_at(score, point)).sum(1) / 12
    assert_same(one.scores, expected, dtype)


@law(twins_of_paths.one_reference_for_all_draws, twins_of_paths.random_positions_are_fixed)
def test_random_paths_start_at_any_token_and_stop_anywhere(dtype):
    n = 300
    _, model, x, points, starts = pairs_of(net("tanh", 1), dtype, n)
    tokens, distance = nearest_tokens(model, starts)
    assert distance.max() < 1e3 * torch.finfo(dtype).eps
    # Each token as often as any other, and each position: at most one in 10,000 of fair draws is further off.
    counts = np.bincount(tokens.flatten(), minlength=VOCABULARY)
    assert stats.chisquare(counts).pvalue > 1e-4
    way = (x - starts).flatten(1)
    alpha = ((points[:, 0] - starts).flatten(1) * way).sum(1) / way.square().sum(1)
    assert stats.kstest(alpha.numpy(), "uniform").pvalue > 1e-4


@law(
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
    twins_of_paths.random_positions_are_fixed,
)
def test_pairs_of_a_quadratic_are_integrated_gradients_from_their_references(dtype):
    # The gradient is linear along the path, so that α and 1 - α have its integral between them, and
    # Σ = F(x) - mean F(x').
    score = quadratic()
    one, _, x, _, starts = pairs_of(score, dtype, 5)
    exact = torch.stack([score.integrated_gradients(x, start) for start in starts]).mean(0).sum(1)
    assert_same(one.scores, exact, dtype, scale=10 * float(exact.abs().max()))
    change = float(score(x[None]) - score(starts).mean())
    assert_same(one.scores.sum(), change, dtype, scale=10 * float(exact.abs().max()))


@law(
    twins_of_paths.one_reference_for_all_draws,
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
    dtypes=(torch.float64,),
)
def test_expected_gradients_of_a_linear_score_are_weight_times_displacement_from_the_mean(dtype):
    model, item = scored_by(linear(WEIGHTS), dtype), text()
    exact = (WEIGHTS * (vectors(model, item) - mean_vector(model))).sum(1).numpy()
    for method in ("expected_gradients", "gradient_shap"):
        for references in ("vocabulary", "uniform"):
            options = {"n_samples": 500, "references": references, "sampler": "centred"}
            (one,) = maps(model, [item], method, **options)
            # Known to a quarter, from ten groups: one in 10,000 is further off.
            assert (np.abs(one.scores - exact) < 6 * one.standard_errors).all(), (
                method,
                references,
            )
            assert (one.standard_errors < 0.2 * np.abs(exact).max()).all()


@law(twins_of_noise.partners_have_the_same_sign)
def test_gradient_shap_is_expected_gradients_of_noisy_copies(dtype):
    # Of a linear score opposite noise cancels, and what is left is the draw without noise.
    model, item = scored_by(linear(WEIGHTS), dtype), text()
    options = {"references": "vocabulary", "n_samples": 6, "sampler": "antithetic"}
    (plain,) = scores(model, [item], "expected_gradients", **options)
    (noisy,) = scores(model, [item], "gradient_shap", noise_std=0.5, **options)
    assert_same(noisy, plain, dtype)
    iid = options | {"sampler": "iid"}
    (plain,) = scores(model, [item], "expected_gradients", **iid)
    (noisy,) = scores(model, [item], "gradient_shap", noise_std=0.5, **iid)
    assert np.abs(noisy - plain).max() > 1e-3 * np.abs(plain).max()
