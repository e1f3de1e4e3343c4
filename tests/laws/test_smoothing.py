"""SmoothGrad with a σ of its own for each number (AdaptGrad), and with noise on the weights (NoiseGrad, FusionGrad)."""

import math

import numpy as np
import torch
from laws import twins_of_noise
from laws import twins_of_smoothing as twins
from laws.law import ONE, assert_same, law
from laws.oracles import Recorder, T, bert, gradient_at, maps, net, reduced, scores, text, vectors
from tiny import DIMENSIONS, FrameTokenizer, framed, scored_by, tiny_bert, token_inputs

from saliency_bench.attribution.philox import normal
from saliency_bench.core.random import generator_for
from saliency_bench.core.seeding import seed_of, token_hash

PLAIN = {"sampler": "iid", "relative_error": None, "max_samples": None}


def room_of(model, x):
    """Number by number, how far it is from the nearer end of its column of the embedding table."""
    table = model.embedding.weight.detach().double()
    found = torch.zeros_like(x)
    for token in range(len(x)):
        for d in range(DIMENSIONS):
            column = sorted(table[:, d].tolist())
            found[token, d] = min(x[token, d] - column[0], column[-1] - x[token, d])
    return found


def quantile(confidence):
    """z with P(|N(0, 1)| < z) = confidence, by halving intervals."""
    low, high = 0.0, 40.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle / 2**0.5) < confidence else (low, middle)
    return low


@law(
    twins.the_confidence_is_that_of_one_side,
    twins.all_numbers_have_the_same_room,
    twins.the_bounds_are_those_of_the_text,
    twins.the_farther_bound_counts,
)
def test_adaptgrads_noise_is_smoothgrads_scaled_to_the_room_of_each_number(dtype):
    x = vectors(scored_by(net("tanh", 3), dtype), text())
    for confidence in (0.6, 0.95):
        plain, adapted = Recorder(net("tanh", 3)), Recorder(net("tanh", 3))
        model = scored_by(plain, dtype)
        same = PLAIN | {"n_samples": 4}
        noise = {"noise_std": None, "noise_absolute": 1.0}
        maps(model, [text()], "smoothgrad", **same, **noise)
        (found,) = scores(
            scored_by(adapted, dtype), [text()], "adaptgrad", confidence=confidence, **same
        )
        scale = room_of(model, x) / quantile(confidence)
        expected = torch.zeros_like(x)
        for one, other in zip(plain.points(), adapted.points(), strict=True):
            # The noisy point is rounded once in each.
            assert_same(other - x, scale * (one - x), dtype, confidence, scale=10.0)
            expected += gradient_at(adapted.score, x + scale * (one - x)) / 4
        assert_same(found, reduced(expected, "l2"), dtype, confidence)


@law(twins.the_confidence_is_that_of_one_side, twins.the_farther_bound_counts, dtypes=ONE)
def test_adaptgrad_stays_in_range_as_often_as_it_says(dtype):
    for confidence in (0.6, 0.9):
        score = Recorder(net("tanh", 1))
        model = scored_by(score, dtype)
        maps(model, [text()], "adaptgrad", confidence=confidence, **PLAIN | {"n_samples": 1000})
        x = vectors(model, text())
        room = room_of(model, x)
        noisy = torch.stack(score.points()) - x
        inside = (noisy.abs() < room)[:, room > 0].double()
        # The standard error of a share of independent draws; five of it.
        error = (confidence * (1 - confidence) / inside.numel()) ** 0.5
        assert abs(float(inside.mean()) - confidence) < 5 * error


@law(twins.all_numbers_have_the_same_room)
def test_what_stands_at_its_bound_gets_no_noise(dtype):
    score = Recorder(net("tanh", 1))
    model = scored_by(score, dtype)
    low, high = model.embedding.weight.detach().aminmax(dim=0)
    with torch.no_grad():
        model.embedding.weight[7], model.embedding.weight[8] = low, high
    item = {"input_ids": [7, 8, 9, 10, 11]}
    maps(model, [item], "adaptgrad", confidence=0.95, **PLAIN | {"n_samples": 2})
    x = vectors(model, item)
    for point in score.points():
        moved = (point != x).any(1).numpy()
        np.testing.assert_array_equal(moved, [False, False, True, True, True])


@law(
    twins_of_noise.special_tokens_get_noise,
    twins_of_noise.noise_is_kept_from_special_tokens,
    dtypes=ONE,
)
def test_special_tokens_get_adaptgrads_noise_only_where_they_are_asked_to(dtype):
    # The sum over tokens of a function of each: a token's gradient moves where its own embedding does.
    def score(e):
        return (e * torch.linspace(-0.5, 1, DIMENSIONS).to(e)).sum(2).tanh().sum(1)

    recorder = Recorder(score)
    model, inputs = scored_by(recorder, dtype, tokenizer=FrameTokenizer()), framed(*token_inputs(3))
    x = vectors(model, inputs[0])
    room = room_of(model, x).any(1).numpy()
    for asked in (False, True):
        recorder.seen.clear()
        options = PLAIN | {"n_samples": 1, "noise_special_tokens": asked, "confidence": 0.95}
        maps(model, inputs, "adaptgrad", **options)
        (point,) = recorder.points()
        largest = (point - x).abs().amax(1).numpy()
        words = np.array([asked, True, True, True, asked]) & room
        np.testing.assert_array_equal(largest > 0, words)
        # Five σ, of which none is above half of the range over the quantile.
        assert largest.max() < 5 * float(room_of(model, x).max()) / quantile(0.95)


def noisy_gradients(dtype, item, points, sampler, n, sigma):
    """Of each draw a copy of the BERT with other weights, and its gradient at the points of that draw."""
    found = []
    for i in range(n):
        module = tiny_bert(dtype)
        for name, weight in module.named_parameters():
            if name != "bert.embeddings.word_embeddings.weight":
                weight.data *= 1 + sigma * epsilon(name, weight, i, sampler)
        for point in points[i]:
            e = point[None].to(dtype).requires_grad_()
            logit = module(inputs_embeds=e).logits[0, 0]
            found.append(torch.autograd.grad(logit, e)[0][0].double())
    return torch.stack(found)


def epsilon(name, weight, i, sampler):
    def normal(number):
        stream = generator_for("cpu", "weights", 0, name, number)
        return torch.randn(weight.shape, generator=stream).to(weight.dtype)

    if sampler == "iid":
        return normal(i)
    if sampler == "antithetic":
        return normal(i // 2) * (-1) ** i
    block = [normal(i - i % 4 + k) for k in range(4)]
    return (block[i % 4] - sum(block) / 4) * (4 / 3) ** 0.5


@law(
    twins.noise_is_added_to_the_weights,
    twins.all_draws_have_the_first_model,
    twins.weights_share_their_noise,
    twins.partners_have_the_same_model,
    twins.the_clean_gradient_stands_for_every_model,
)
def test_noisegrad_is_the_mean_gradient_of_copies_with_noisy_weights(dtype):
    model, (item,) = bert(dtype), token_inputs(T)
    x = vectors(model, item)
    for sampler, n in (("iid", 3), ("antithetic", 4), ("centred", 4)):
        options = PLAIN | {"sampler": sampler, "n_samples": n, "weight_noise": 0.1}
        (one,) = maps(model, [item], "noisegrad", **options)
        drawn = noisy_gradients(dtype, item, [[x]] * n, sampler, n, 0.1)
        # Of gradients that are a hundred times as large where signs cancel.
        scale = float(drawn.norm(dim=2).max())
        assert_same(one.scores, reduced(drawn.mean(0), "l2"), dtype, sampler, scale=10 * scale)
        assert one.n_gradients == n


@law(
    twins.models_share_their_noisy_inputs,
    twins.all_draws_have_the_first_model,
    twins.the_clean_gradient_stands_for_every_model,
)
def test_fusiongrad_takes_noisy_inputs_of_its_own_for_each_noisy_model(dtype):
    model, (item,) = bert(dtype), token_inputs(T)
    x = vectors(model, item)
    name = token_hash(item["input_ids"])
    for sigma in (0.0, 0.3):
        options = PLAIN | {"n_samples": 3, "weight_noise": 0.1, "n_inputs": 2}
        options |= {"noise_std": None, "noise_absolute": sigma}
        (one,) = maps(model, [item], "fusiongrad", **options)
        key = seed_of("noise", 0, name)
        noise = sigma * normal([key] * 6, range(6), tuple(x.shape), x.device).double()
        points = [[x + noise[2 * i], x + noise[2 * i + 1]] for i in range(3)]
        drawn = noisy_gradients(dtype, item, points, "iid", 3, 0.1)
        scale = float(drawn.norm(dim=2).max())
        assert_same(one.scores, reduced(drawn.mean(0), "l2"), dtype, sigma, scale=10 * scale)
        assert one.n_gradients == 6


@law(twins.weights_always_have_a_little_noise)
def test_without_noise_on_the_weights_noisegrad_is_the_gradient_and_fusiongrad_smoothgrad(dtype):
    model, inputs = bert(dtype), token_inputs(T, T)
    for method, plain, own in (
        ("noisegrad", "vanilla", {}),
        ("fusiongrad", "smoothgrad", {"noise_std": 0.3, "n_inputs": 2}),
    ):
        draws = PLAIN | {"n_samples": 3, "weight_noise": 0.0}
        found = scores(model, inputs, method, **draws, **own)
        same = PLAIN | {"n_samples": 6, "noise_std": 0.3} if own else {}
        for one, other in zip(found, scores(model, inputs, plain, **same), strict=True):
            assert_same(one, other, dtype, method)


@law(twins.all_draws_have_the_first_model, dtypes=ONE)
def test_noisegrad_draws_until_it_is_sure(dtype):
    model, inputs = bert(dtype), token_inputs(T, T, T)
    options = PLAIN | {"n_samples": "auto", "relative_error": 0.2, "max_samples": 128}
    found = maps(model, inputs, "noisegrad", weight_noise=0.1, **options)
    assert len({one.n_gradients for one in found}) > 1
    for item, one in zip(inputs, found, strict=True):
        assert one.error > 0 and one.converged == (one.error <= 0.2)
        fixed = PLAIN | {"n_samples": one.n_gradients, "weight_noise": 0.1}
        (alone,) = maps(model, [item], "noisegrad", **fixed)
        assert_same(one.scores, alone.scores, dtype)
