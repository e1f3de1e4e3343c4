"""SmoothGrad with a σ of its own for each number (AdaptGrad), and with noise on the weights (NoiseGrad, FusionGrad)."""

import math

import numpy as np
import torch
from laws import twins_of_noise
from laws import twins_of_smoothing as twins
from laws.law import ONE, assert_same, law
from laws.oracles import Recorder, gradient_at, maps, net, reduced, scores, text, vectors
from tiny import DIMENSIONS, FrameTokenizer, framed, scored_by, token_inputs

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
