"""Guided IG, IDG and DIG against their papers' algorithms, one text and one number at a time."""

from itertools import pairwise

import numpy as np
import torch
from laws import twins_of_other_paths as twins
from laws.law import ONE, TOLERANCE, assert_same, law
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
from tiny import DIMENSIONS, scored_by

FROM_MEAN = {"baseline": "mean"}


def guided_by_hand(score, x, start, n, fraction, most_apart):
    """Kapishnikov et al. 2021, with the bound of the authors' code; lists of numbers and a loop for each."""
    numbers = [(t, d) for t in range(T) for d in range(DIMENSIONS)]
    way = x - start
    total = float(way.abs().sum())
    point, values = start.clone(), torch.zeros_like(x)

    def at(share, key):
        return float(start[key] + share * way[key])

    for k in range(n):
        gradient, before = gradient_at(score, point), point.clone()
        share = (k + 1) / n
        least, most = max(share - most_apart, 0), min(share + most_apart, 1)
        left_over = total * (1 - share)
        for key in numbers:  # who is behind is brought up
            if (float(point[key]) - float(start[key])) / float(way[key]) < least:
                point[key] = at(least, key)
        done = {key for key in numbers if float((point[key] - start[key]) / way[key]) >= most}
        while float((x - point).abs().sum()) - left_over > 1e-11 * total and len(done) < len(
            numbers
        ):
            order = sorted(
                (key for key in numbers if key not in done), key=lambda key: abs(gradient[key])
            )
            chosen = order[: 1 + int(fraction * (len(numbers) - 1))]
            can = sum(abs(at(most, key) - float(point[key])) for key in chosen)
            gamma = (float((x - point).abs().sum()) - left_over) / can
            for key in chosen:
                point[key] = point[key] + min(gamma, 1) * (at(most, key) - float(point[key]))
                if gamma >= 1:
                    done.add(key)
            if gamma <= 1:
                break
        values += gradient * (point - before)
    return values


@law(
    twins.the_largest_gradients_move_first,
    twins.the_path_has_no_bound,
    twins.numbers_share_one_pace,
    twins.the_gradient_is_that_of_the_next_point,
    dtypes=(torch.float64,),
)
def test_guided_ig_follows_the_papers_algorithm(dtype):
    for score, n, fraction, apart in ((quadratic(), 4, 0.25, 0.2), (net("tanh", 6), 7, 0.1, 0.3)):
        model, item = scored_by(score, dtype), text()
        x, start = vectors(model, item), mean_vector(model).expand(T, DIMENSIONS)
        options = {"n_steps": n, "fraction": fraction, "max_distance": apart}
        (one,) = maps(model, [item], "guided_ig", **FROM_MEAN, **options)
        expected = guided_by_hand(score, x, start, n, fraction, apart).sum(1)
        # Positions are sums of shares of a way, each rounded.
        assert_same(one.scores / 100, expected / 100, dtype, scale=float(expected.abs().max()))
        assert one.n_gradients == n


@law(twins.the_gradient_is_that_of_the_next_point, twins.the_path_has_no_bound)
def test_guided_ig_that_may_not_leave_the_line_is_ig_by_the_left_rule(dtype):
    model, inputs = scored_by(net("tanh", 6), dtype), [text(0), text(1)]
    for n in (1, 5):
        left = scores(
            model, inputs, "integrated_gradients", quadrature="left", n_steps=n, **FROM_MEAN
        )
        own = scores(
            model, inputs, "guided_ig", n_steps=n, fraction=0.25, max_distance=0.0, **FROM_MEAN
        )
        for one, other in zip(own, left, strict=True):
            assert_same(one, other, dtype, n)


@law(twins.pieces_end_where_they_start)
def test_gaps_of_guided_ig_and_dig_shrink_with_the_points_at_the_order_of_a_left_sum(dtype):
    # Of a straight line, and of one path through words: halving the pieces halves the gap.
    model, item = scored_by(net("tanh", 6), dtype), text()
    few, many = (
        maps(model, [item], "guided_ig", n_steps=n, fraction=0.25, max_distance=0.0, **FROM_MEAN)[0]
        for n in (256, 512)
    )
    words = {"strategy": "greedy", "neighbours": 10, "n_steps": 5}
    rough, fine = (
        maps(model, [item], "dig", factor=factor, **words, **FROM_MEAN)[0] for factor in (6, 7)
    )
    for first, second in ((few, many), (rough, fine)):
        assert second.output_difference == first.output_difference
        assert 1.8 < first.completeness_gap / second.completeness_gap < 2.2


@law(twins.the_gradient_is_that_of_the_next_point, twins.pieces_end_where_they_start)
def test_on_a_quadratic_a_path_of_points_is_off_by_half_of_its_squared_pieces(dtype):
    # Σ g(p_k)·Δ_k = F(x) - F(x') - ½ Σ Δ'SΔ, of any path: here of one that is known, the straight line.
    score = quadratic()
    model, item = scored_by(score, dtype), text()
    x, start = vectors(model, item), mean_vector(model).expand(T, DIMENSIONS)
    way = (x - start).flatten()
    for n in (1, 4):
        lost = float(way @ score.hessian @ way) / (2 * n)
        options = {"fraction": 0.25, "max_distance": 0.0, "n_steps": n}
        (one,) = maps(model, [item], "guided_ig", **FROM_MEAN, **options)
        (other,) = maps(
            model, [item], "dig", strategy="greedy", neighbours=5, n_steps=1,
            factor={1: 0, 4: 2}[n], **FROM_MEAN,
        )  # fmt: skip
        size = float((score.matrix.abs() @ x.flatten().abs()) @ x.flatten().abs())
        for found in (one, other):
            assert_same(found.completeness_gap, -lost, dtype, n, scale=10 * size)


@law(twins.gradients_are_not_weighted, twins.gradients_are_weighted_by_the_size_of_the_slope)
def test_idg_weighs_each_gradient_by_the_slope_of_the_output(dtype):
    # One point at a time, of the first net that goes up and down on the way.
    n = 9
    for seed in range(30):
        score = net("tanh", 6, seed=seed, scale=0.8)
        model, item = scored_by(score, dtype), text()
        x, start = vectors(model, item), mean_vector(model).expand(T, DIMENSIONS)
        expected, slopes = torch.zeros_like(x), []
        for k in range(n):
            gradient = gradient_at(score, start + (k + 0.5) / n * (x - start))
            slopes.append(float((gradient * (x - start)).sum()))
            expected += (x - start) * gradient * slopes[-1] / n
        if min(slopes) < -0.1 < 0.1 < max(slopes):
            break
    assert min(slopes) < 0 < max(slopes)
    (one,) = maps(model, [item], "idg", quadrature="midpoint", n_steps=n, **FROM_MEAN)
    assert_same(one.scores, expected.sum(1), dtype)
    assert one.n_gradients == n and one.completeness_gap is None
    # Σ = ∫ F'² dα, so the map of -F is that of F.
    np.testing.assert_allclose(one.scores.sum(), np.mean(np.square(slopes)), rtol=1e-4)
    (other,) = maps(model, [item], "idg", quadrature="midpoint", n_steps=n, target=1, **FROM_MEAN)
    assert_same(other.scores, one.scores, dtype)


@law(twins.gradients_are_not_weighted)
def test_idg_of_a_linear_score_is_weight_times_displacement_times_the_difference(dtype):
    weights = constants(T, DIMENSIONS, seed=5)
    model, item = scored_by(linear(weights), dtype), text()
    x, start = vectors(model, item), mean_vector(model).expand(T, DIMENSIONS)
    share = ((x - start) * weights).sum(1)
    for rule, n in (("left", 1), ("gauss_legendre", 3)):
        (found,) = scores(model, [item], "idg", quadrature=rule, n_steps=n, **FROM_MEAN)
        assert_same(found, share * share.sum(), dtype, rule)


def dig_points_by_hand(table, word, baseline, n_steps, strategy, neighbours):
    """Sanyal & Ren 2021, and what their code does where it says nothing: lists of floats."""
    rows, m = table.tolist(), max(n_steps - 1, 1)
    end = baseline.tolist()

    def distance(a, b):
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    def between(value, before, stop):
        return min(before, stop) <= value <= max(before, stop)

    def made_monotone(vector, before):
        return [
            v if between(v, b, e) else b - (b - e) / m
            for v, b, e in zip(vector, before, end, strict=True)
        ]

    path = [word]
    for _ in range(n_steps - 1):
        last = rows[path[-1]]
        others = sorted(
            (i for i in range(len(rows)) if i != path[-1]),
            key=lambda i: (distance(rows[i], last), i),
        )
        best = None
        for i in others[:neighbours]:
            if i in path or rows[i] == end:
                continue
            if strategy == "greedy":
                cost = distance(rows[i], made_monotone(rows[i], last))
            else:
                cost = sum(not between(v, b, e) for v, b, e in zip(rows[i], last, end, strict=True))
            if best is None or cost < best[0]:
                best = cost, i
        if best is None:
            break
        path.append(best[1])
    points = [rows[word]]
    for anchor in path[1:]:
        points.append(made_monotone(rows[anchor], points[-1]))
    points += [end] * (n_steps + 1 - len(points))
    return torch.tensor(points[::-1], dtype=torch.float64)


@law(
    twins.anchors_are_not_made_monotone,
    twins.anchors_may_be_taken_twice,
    twins.the_nearest_word_is_the_next_anchor,
    twins.pieces_end_where_they_start,
    dtypes=(torch.float64,),
)
def test_dig_follows_the_papers_path_through_words(dtype):
    score = net("tanh", 6)
    for strategy in ("greedy", "maxcount"):
        for n_steps, neighbours in ((1, 10), (6, 10), (12, 5)):
            model, item = scored_by(score, dtype), text()
            table = model.embedding.weight.detach().double()
            start = mean_vector(model)
            paths = [
                dig_points_by_hand(table, word, start, n_steps, strategy, neighbours)
                for word in item["input_ids"]
            ]
            points = torch.stack(paths, 1)  # [S T D]
            expected = sum(
                gradient_at(score, here) * (there - here) for here, there in pairwise(points)
            )
            options = {"strategy": strategy, "neighbours": neighbours, "factor": 0}
            (one,) = maps(model, [item], "dig", n_steps=n_steps, **options, **FROM_MEAN)
            assert_same(one.scores, expected.sum(1), dtype, (strategy, n_steps))
            assert one.n_gradients == n_steps


@law(twins.anchors_are_not_made_monotone, dtypes=ONE)
def test_points_of_dig_lie_on_monotone_ways_from_the_baseline(dtype):
    recorder = Recorder(net("tanh", 3))
    model, item = scored_by(recorder, dtype), text()
    options = {"strategy": "greedy", "neighbours": 10, "n_steps": 8, "factor": 1}
    (one,) = maps(model, [item], "dig", **options, **FROM_MEAN)
    points = torch.stack(recorder.points())
    x, start = vectors(model, item), mean_vector(model).expand(T, DIMENSIONS)
    assert len(points) == one.n_gradients == 16
    share = (points - start) / (x - start)
    steps = torch.diff(torch.cat([share, torch.ones_like(share[:1])]), dim=0)
    assert bool((steps >= -1e-5).all()) and bool((steps.sum(0) > 1 - 1e-5).all())


@law(twins.the_path_has_no_bound, dtypes=ONE)
def test_guided_ig_stays_as_near_to_the_line_as_it_is_told(dtype):
    for apart in (0.05, 0.3):
        recorder = Recorder(net("tanh", 3))
        model, item = scored_by(recorder, dtype), text()
        options = {"n_steps": 10, "fraction": 0.25, "max_distance": apart}
        maps(model, [item], "guided_ig", **options, **FROM_MEAN)
        x, start = vectors(model, item), mean_vector(model).expand(T, DIMENSIONS)
        for k, point in enumerate(recorder.points()):
            share = (point - start) / (x - start)
            assert float((share - k / 10).abs().max()) <= apart + 100 * TOLERANCE[dtype]
