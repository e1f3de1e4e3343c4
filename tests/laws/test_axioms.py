"""What attributions owe to the function alone: homogeneity, null players, linearity, equal functions."""

from dataclasses import replace

import numpy as np
import torch
from laws import twins_of_paths, twins_of_quadrature, twins_of_the_engine
from laws.law import ONE, assert_same, law
from laws.oracles import (
    GRADIENT,
    Net,
    T,
    bert,
    cheap,
    constants,
    each,
    maps,
    net,
    scores,
    text,
    vectors,
)
from tiny import DIMENSIONS, FrameTokenizer, framed, scored_by, token_inputs

#: Methods that are linear in the gradients they take, and so in the score.
LINEAR = (
    "vanilla",
    "input_x_gradient",
    "input_baseline_x_gradient",
    "smoothgrad",
    "smoothgrad_x_input",
    "adaptgrad",
    "noisegrad",
    "fusiongrad",
    "dig",
    "integrated_gradients",
    "smooth_integrated_gradients",
    "sequential_integrated_gradients",
    "expected_gradients",
    "gradient_shap",
)


@law(
    twins_of_paths.the_baseline_is_the_mean,
    twins_of_quadrature.the_last_node_has_no_weight,
    twins_of_quadrature.every_rule_is_the_left_one,
)
def test_ig_from_zero_of_a_homogeneous_score_is_input_x_gradient(dtype):
    # ReLU without biases: the gradient is the same all the way from zero; only at zero itself it is not defined.
    model = scored_by(net("relu", 6, bias=0.0), dtype)
    inputs = [text(0), text(1)]
    product = scores(model, inputs, "input_x_gradient")
    for rule in ("right", "midpoint", "gauss_legendre"):
        path = scores(
            model, inputs, "integrated_gradients", baseline="zero", n_steps=7, quadrature=rule
        )
        for one, other in zip(path, product, strict=True):
            assert_same(one, other, dtype, rule)


@law(twins_of_paths.removed_tokens_stay)
def test_leave_one_out_is_what_the_score_loses_with_each_token(dtype):
    model, (item,) = bert(dtype), token_inputs(5)
    ids = torch.tensor([item["input_ids"]])
    (found,) = scores(model, [item], "leave_one_out", removal="mean", target=1)
    with model.frozen(), torch.no_grad():
        full = model.output(ids)[0, 1].item()
        for token in range(5):
            embeddings = model.embed(ids).clone()
            embeddings[0, token] = model.embedding.weight.mean(0)
            without = model.output(ids, embeddings=embeddings)[0, 1].item()
            assert_same(found[token], full - without, dtype, token, scale=max(1.0, abs(full)))


@law(
    twins_of_paths.all_tokens_move_at_once,
    twins_of_paths.every_token_is_displaced,
    twins_of_paths.the_baseline_is_half_of_it,
    twins_of_paths.removed_tokens_stay,
    twins_of_paths.scores_have_unit_length,
)
def test_sequential_ig_is_leave_one_out_with_the_same_vector(dtype):
    # F(x) - F(x with one token replaced), on any model: the integral of one token's gradient along its own path.
    net_of_three = scored_by(net("tanh", 3), dtype, tokenizer=FrameTokenizer())
    transformer = replace(bert(dtype), tokenizer=FrameTokenizer())
    for model, inputs, vectors_in_place, n in (
        (net_of_three, [text(0), text(1)], ["mean", "zero", "mask"], 24),
        (transformer, framed(*token_inputs(3)), ["mask"], 100),
    ):
        for vector in vectors_in_place:
            paths = scores(
                model, inputs, "sequential_integrated_gradients", baseline=vector, n_steps=n
            )
            left_out = scores(model, inputs, "leave_one_out", removal=vector)
            for one, other in zip(paths, left_out, strict=True):
                assert_same(one, other, dtype, vector)


@law(
    twins_of_the_engine.every_token_is_charged,
    twins_of_the_engine.a_gradient_more_is_charged,
    dtypes=ONE,
)
def test_the_cost_of_a_map_is_the_number_of_its_gradients(dtype):
    # A text of five tokens, of which one is [MASK]: on the way to [MASK] it has no path of its own.
    model = scored_by(net("tanh", 3), dtype, tokenizer=FrameTokenizer())
    item = {"input_ids": [7, FrameTokenizer.mask_token_id, 8, 9, 10]}
    costs = {
        "vanilla": 1,
        "input_x_gradient": 1,
        "input_baseline_x_gradient": 1,
        "smoothgrad": 4,
        "smoothgrad_squared": 4,
        "vargrad": 4,
        "smoothgrad_x_input": 4,
        "integrated_gradients": 3,
        "smooth_integrated_gradients": 4 * 3,
        "sequential_integrated_gradients": (T - 1) * 3,
        "expected_gradients": 4,
        "gradient_shap": 4,
        "idgi": 3,
        "adaptgrad": 4,
        "noisegrad": 4,
        "fusiongrad": 4 * 10,
        "idg": 3,
        "guided_ig": 3,
        "dig": 3,
        "leave_one_out": 0,
        "random": 0,
    }
    found = each(model, [item], costs, baseline="mask", removal="mask")
    assert {method: one.n_gradients for method, (one,) in found.items()} == costs


@law(twins_of_paths.scores_are_centred, twins_of_the_engine.tokens_share_their_gradients)
def test_a_token_that_the_score_does_not_read_gets_exactly_nothing(dtype):
    def score(e):
        return net("tanh", 3)(e * (torch.arange(T) != 1)[None, :, None])

    for method, (one,) in each(
        scored_by(score, dtype), [text()], [*GRADIENT, "leave_one_out"]
    ).items():
        np.testing.assert_array_equal(one.scores == 0, np.arange(T) == 1, err_msg=method)


@law(twins_of_paths.the_displacement_has_unit_length)
def test_dimensions_that_the_score_does_not_read_have_no_say(dtype):
    reads = (torch.arange(DIMENSIONS) != 2).double()

    def score(e):
        return net("tanh", 3)(e * reads.to(e))

    model, other = scored_by(score, dtype), scored_by(score, dtype)
    with torch.no_grad():
        other.embedding.weight[:, 2] *= -3
    noise = {"noise_std": None, "noise_absolute": 0.5}  # its other units come from all dimensions
    # The paths of these two are chosen in all dimensions.
    methods = [name for name in GRADIENT if name not in ("guided_ig", "dig")]
    found, changed = (each(one, [text()], methods, **noise) for one in (model, other))
    for method in methods:
        assert_same(changed[method][0].scores, found[method][0].scores, dtype, method)


@law(
    twins_of_paths.x_is_multiplied_in_place_of_the_displacement,
    twins_of_paths.the_baseline_is_half_of_it,
)
def test_a_path_that_goes_nowhere_gives_exactly_nothing(dtype):
    mask = FrameTokenizer.mask_token_id
    model = scored_by(net("tanh", 3), dtype, tokenizer=FrameTokenizer())
    along = (
        "integrated_gradients", "sequential_integrated_gradients", "idgi", "input_baseline_x_gradient",
        "guided_ig", "dig", "idg",
    )  # fmt: skip
    inputs = [{"input_ids": [7, mask, 8, mask, 9]}, {"input_ids": [mask] * T}]
    for method, (partly, nowhere) in each(model, inputs, along, baseline="mask").items():
        np.testing.assert_array_equal(partly.scores == 0, [False, True, False, True, False], method)
        np.testing.assert_array_equal(nowhere.scores, 0.0, method)
        assert not nowhere.completeness_gap and not nowhere.output_difference, method


@law(twins_of_paths.special_tokens_move, dtypes=ONE)
def test_special_tokens_move_only_where_they_are_asked_to(dtype):
    model = scored_by(net("tanh", 3), dtype, tokenizer=FrameTokenizer())
    inputs = framed(*token_inputs(T - 2))
    frame = np.isin(np.arange(T), [0, T - 1])
    along = [name for name in GRADIENT if "baseline_special_tokens" in cheap(name)]
    for special in ("keep", "replace"):
        found = each(model, inputs, along, baseline_special_tokens=special)
        for method, (one,) in found.items():
            still = frame if special == "keep" else ~np.isfinite(one.scores)
            np.testing.assert_array_equal(one.scores == 0, still, err_msg=method)


@law(twins_of_paths.magnitudes_are_averaged, twins_of_paths.scores_have_unit_length)
def test_methods_that_add_up_gradients_are_linear_in_the_score(dtype):
    first, second = net("tanh", 3, seed=1), net("sigmoid", 4, seed=2)
    parts = [scored_by(first, dtype), scored_by(second, dtype)]
    both = scored_by(lambda e: 2 * first(e) - 3 * second(e), dtype)
    *apart, together = (each(m, [text()], LINEAR, reduction="sum") for m in (*parts, both))
    for method in LINEAR:
        one, other = (found[method][0].scores for found in apart)
        scale = 3 * max(np.abs(one).max(), np.abs(other).max())
        found = together[method][0].scores
        assert_same(found, 2 * one - 3 * other, dtype, method, scale=scale)


@law(twins_of_paths.guided_backpropagation)
def test_two_networks_of_one_function_have_equal_maps(dtype):
    plain = net("relu", 4)
    order = torch.tensor([2, 0, 3, 1])
    # The units in another order, twice as large and with half the say; and two more that cancel.
    idle = constants(1, T, DIMENSIONS, seed=9)
    twin = Net(
        "relu",
        torch.cat([2 * plain.weights[order], idle, idle]),
        torch.cat([2 * plain.bias[order], torch.zeros(2).double()]),
        torch.cat([plain.out[order] / 2, torch.tensor([3.0, -3.0]).double()]),
    )
    found, other = (each(scored_by(score, dtype), [text()], GRADIENT) for score in (plain, twin))
    for method in GRADIENT:
        assert_same(other[method][0].scores, found[method][0].scores, dtype, method)


@law(twins_of_paths.the_class_is_chosen_again_along_the_path)
def test_the_class_is_that_of_the_input_all_along_the_path(dtype):
    # The two logits are F and -F, and F changes its sign on the way.
    score = net("tanh", 6, seed=1)
    model = scored_by(score, dtype)
    at_zero = score.value(torch.zeros(T, DIMENSIONS).double())
    inputs = [text(seed) for seed in range(12)]
    flipping = [item for item in inputs if score.value(vectors(model, item)) * at_zero < 0]
    assert flipping
    for method in ("integrated_gradients", "idgi", "smoothgrad_x_input"):
        own = {"baseline": "zero"} if "baseline" in cheap(method) else {"noise_std": 2.0}
        options = cheap(method, **own)
        first = scores(model, flipping, method, target=0, **options)
        for item, expected, one in zip(
            flipping,
            first,
            maps(model, flipping, method, target="predicted", **options),
            strict=True,
        ):
            sign = np.sign(score.value(vectors(model, item)))
            assert_same(one.scores, sign * expected, dtype, method)
