"""Guided IG, IDG and DIG against their papers' algorithms, one text and one number at a time."""

from itertools import pairwise

import torch
from laws import twins_of_other_paths as twins
from laws.law import ONE, assert_same, law
from laws.oracles import (
    Recorder,
    T,
    gradient_at,
    maps,
    mean_vector,
    net,
    text,
    vectors,
)
from tiny import DIMENSIONS, scored_by

FROM_MEAN = {"baseline": "mean"}


def dig_points_by_hand(table, word, baseline, n_steps, strategy, neighbours):
    """Sanyal & Ren 2021, section 3, and what their code does where it says nothing: lists of floats."""
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
