"""Scores that claim to add up to F(x) - F(x') do, and the gap that is reported is the true one."""

import numpy as np
import torch
from laws import twins_of_noise, twins_of_paths, twins_of_quadrature
from laws.law import ONE, TOLERANCE, assert_same, law
from laws.oracles import (
    GRADIENT,
    UNBIASED,
    Recorder,
    T,
    bert,
    cheap,
    each,
    maps,
    mean_vector,
    net,
    text,
    vectors,
)
from tiny import DIMENSIONS, scored_by, token_inputs

#: On paths this long the spectral rules are exact to the last bits with so many nodes.
ENOUGH = 65

#: Sums over a chain of points, whose gap shrinks with the pieces only (`test_other_paths`).
LEFT_SUMS = ("guided_ig", "dig")


def largest(one):
    return np.abs(one.scores).max()


@law(
    twins_of_quadrature.the_last_node_has_no_weight,
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
    twins_of_paths.paths_start_at_zero,
    twins_of_paths.input_x_gradient_claims_completeness,
)
def test_every_method_that_claims_completeness_has_it_against_a_baseline_that_is_not_zero(dtype):
    model = scored_by(net("tanh", 6), dtype)
    claiming = set()
    exact = [name for name in GRADIENT if name not in LEFT_SUMS]
    for method, found in each(model, [text(0), text(1)], exact, n_steps=ENOUGH).items():
        for one in [one for one in found if one.completeness_gap is not None]:
            claiming.add(method)
            assert abs(one.output_difference) > 1e-2
            assert abs(one.completeness_gap) < TOLERANCE[dtype] * largest(one), method
            assert_same(one.scores.sum(), one.output_difference, dtype, scale=largest(one))
    assert claiming >= {"integrated_gradients", "smooth_integrated_gradients", "idgi"}


@law(
    twins_of_quadrature.the_last_node_has_no_weight,
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
)
def test_ig_of_a_transformer_is_complete_for_every_output(dtype):
    # 100 nodes have its integrals to the last bits: 50 leave 1e-7.
    for output in ("logit", "probability", "log_probability"):
        options = {"baseline": "mean", "n_steps": 128, "output": output, "target": "predicted"}
        (one,) = maps(bert(dtype), token_inputs(7), "integrated_gradients", **options)
        assert abs(one.completeness_gap) < TOLERANCE[dtype] * largest(one), output


@law(twins_of_quadrature.ends_are_not_halved, dtypes=(torch.float64,))
def test_the_gap_of_a_transformer_shrinks_at_the_rules_order(dtype):
    for rule, steps in (("trapezoid", [129, 257]), ("midpoint", [128, 256])):
        options = {"baseline": "mean", "quadrature": rule, "n_steps": steps}
        few, many = maps(bert(dtype), token_inputs(6), "integrated_gradients", **options)
        slope = np.log2(abs(few.completeness_gap / many.completeness_gap))
        assert abs(slope - 2) < 0.1, rule


@law(
    twins_of_paths.idgi_takes_the_change_from_the_slope,
    twins_of_paths.idgi_divides_by_the_length_of_the_gradient,
)
def test_idgi_is_complete_at_any_number_of_steps(dtype):
    models = (scored_by(net("tanh", 6), dtype), text()), (bert(dtype), token_inputs(7)[0])
    for model, item in models:
        for output in ("logit", "probability"):
            for one in maps(
                model, [item], "idgi", baseline="mean", n_steps=[1, 2, 5], output=output
            ):
                # A sum of differences of outputs is off by their rounding.
                size = max(largest(one), 1.0)
                assert abs(one.completeness_gap) < TOLERANCE[dtype] * size, one.setting


@law(
    twins_of_paths.the_gap_is_taken_from_the_clean_output,
    twins_of_paths.noisy_copies_share_the_clean_path,
    twins_of_quadrature.the_last_node_has_no_weight,
)
def test_smooth_ig_is_complete_sample_by_sample_and_in_the_mean(dtype):
    model = scored_by(net("tanh", 6), dtype)
    for one in maps(
        model,
        [text(0), text(1)],
        "smooth_integrated_gradients",
        baseline="mean",
        n_steps=ENOUGH,
        n_samples=[1, 2, 5],
        sampler="iid",
        noise_std=0.5,
    ):
        assert abs(one.completeness_gap) < TOLERANCE[dtype] * largest(one)


@law(
    twins_of_paths.the_gap_is_said_to_be_zero,
    twins_of_paths.the_output_at_the_baseline_counts_as_zero,
    twins_of_paths.the_class_is_chosen_again_along_the_path,
)
def test_the_gap_that_is_reported_is_the_true_one(dtype):
    # Of rules that are far off, so that there is a gap to be reported.
    score = net("tanh", 6)
    model, item = scored_by(score, dtype), text()
    x, start = vectors(model, item), mean_vector(model).expand(T, DIMENSIONS)
    change = score.value(x) - score.value(start)
    for target, sign in ((0, 1), (1, -1)):  # the second logit is the negative of the first
        options = {"baseline": "mean", "target": target}
        found = maps(
            model, [item], "integrated_gradients", n_steps=2, quadrature=UNBIASED, **options
        ) + maps(model, [item], "idgi", n_steps=2, **options)
        gaps = [one.scores.sum() - sign * change for one in found]
        assert max(map(abs, gaps)) > 0.1 * abs(change)
        for one, gap in zip(found, gaps, strict=True):
            size = max(largest(one), abs(change))
            assert_same(one.output_difference, sign * change, dtype, scale=size)
            assert_same(one.completeness_gap, gap, dtype, one.setting, scale=size)


@law(
    twins_of_paths.the_gap_is_taken_from_the_clean_output,
    twins_of_paths.the_gap_is_said_to_be_zero,
    twins_of_noise.all_draws_are_the_first,
)
def test_the_gap_of_smooth_ig_is_against_the_mean_output_of_its_noisy_copies(dtype):
    score = Recorder(net("tanh", 6))
    model, item = scored_by(score, dtype), text()
    options = {"baseline": "mean", "n_samples": 3, "sampler": "iid", "noise_std": 0.5}
    (one,) = maps(
        model, [item], "smooth_integrated_gradients", n_steps=2, quadrature="right", **options
    )
    copies = score.points()[1::2]  # of each draw the middle of its path and its end
    start = mean_vector(model).expand(T, DIMENSIONS)
    ends = [score.score.value(copy) for copy in copies]
    assert len(ends) == 3 and np.ptp(ends) > 1e-3
    change = np.mean(ends) - score.score.value(start)
    size = max(largest(one), abs(change))
    assert_same(one.output_difference, change, dtype, scale=size)
    assert_same(one.completeness_gap, one.scores.sum() - change, dtype, scale=size)


@law(twins_of_paths.everything_claims_completeness, dtypes=ONE)
def test_squares_products_of_one_point_and_random_paths_claim_nothing(dtype):
    model = scored_by(net("tanh", 3), dtype)
    claiming = {"integrated_gradients", "smooth_integrated_gradients", "idgi", *LEFT_SUMS}
    found = each(model, [text()], [name for name in GRADIENT if name not in claiming])
    for method, (one,) in found.items():
        assert one.completeness_gap is None and one.output_difference is None, method
    for statistic in ("square", "variance"):
        (one,) = maps(
            model,
            [text()],
            "smooth_integrated_gradients",
            **cheap("smooth_integrated_gradients", statistic=statistic),
        )
        assert one.completeness_gap is None, statistic


@law(twins_of_paths.the_gap_is_said_to_be_zero)
def test_adaptive_ig_reports_its_true_gap_and_keeps_to_its_tolerance(dtype):
    model, (item,) = bert(dtype), token_inputs(6)
    ids = torch.tensor([item["input_ids"]])
    start = model.embedding.weight.detach().mean(0).expand(1, 6, -1)
    with model.frozen(), torch.no_grad():
        there = model.output(ids, embeddings=start)[0, 0]
        change = float(model.output(ids)[0, 0] - there)
    for tolerance in (0.1, 0.01):
        (one,) = maps(
            model, [item], "integrated_gradients_adaptive",
            **cheap("integrated_gradients_adaptive", tolerance=tolerance, max_steps=512),
        )  # fmt: skip
        size = max(largest(one), abs(change))
        assert_same(one.completeness_gap, one.scores.sum() - change, dtype, scale=size)
        assert one.converged and abs(one.completeness_gap) <= tolerance * largest(one)
        assert one.error <= tolerance
