"""The primitive against a slow loop, one point at a time."""

import pytest
import torch

from saliency_bench.attribution.gradient import GradientEngine
from saliency_bench.attribution.noise import Draws
from saliency_bench.attribution.points import (
    Draw,
    Input,
    NoiseCloud,
    SingleTokenPaths,
    StraightPath,
)
from saliency_bench.attribution.statistics import gradient
from saliency_bench.core.errors import InputError
from saliency_bench.core.tensors import TokenBudget

B, T, D = 3, 4, 5


def smooth_score(points, rows):
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=points.dtype)[rows]
    return scale * (points.sum((1, 2)).sin() + (points**3).sum((1, 2)))


@pytest.fixture
def embeddings():
    return torch.randn(B, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def path(embeddings):
    return StraightPath(("path",), embeddings, torch.zeros_like(embeddings))


def slow_sums(path, nodes, weights):
    sums = torch.zeros(len(weights), B, T, D, dtype=torch.float64)
    for example in range(B):
        for s, node in enumerate(nodes):
            x, reference = path.embeddings[example], path.reference[example]
            point = (reference + node * (x - reference)).clone().requires_grad_()
            score = smooth_score(point[None], torch.tensor([example])).sum()
            (found,) = torch.autograd.grad(score, point)
            for k in range(len(weights)):
                sums[k, example] += weights[k, s] * found
    return sums


def clean_of(engine, embeddings):
    scores = smooth_score(embeddings, torch.arange(len(embeddings)))
    return engine.clean(embeddings, scores)


def sums_of(score, budget, path, nodes, weights, embeddings):
    engine = GradientEngine(score, TokenBudget(budget))
    sums = engine.weighted_sums(path, nodes, {gradient: weights}, clean_of(engine, embeddings))
    return engine, sums[gradient]


@pytest.mark.parametrize("budget", [1, T, 2 * T, 3 * T + 1, 1000])
def test_sums_are_those_of_a_loop_whatever_the_token_budget(budget, embeddings, path):
    nodes = [0.0, 0.25, 0.5, 1.0]
    weights = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, sums = sums_of(smooth_score, budget, path, nodes, weights, embeddings)
    # Sums of 4 terms in another order: a few rounding errors of the largest.
    torch.testing.assert_close(
        sums, slow_sums(path, nodes, weights), rtol=0, atol=1e-13 * float(sums.abs().max())
    )


def test_the_gradient_at_the_input_is_paid_for_once(embeddings, path):
    engine, _ = sums_of(smooth_score, 1000, path, [0.0, 0.5, 1.0], torch.ones(1, 3), embeddings)
    assert engine.n_gradients == B * (1 + 2)  # the clean pass, and two nodes that are not the input


def test_a_sweep_costs_its_largest_setting_where_points_nest(embeddings, path):
    nodes = [index / 8 for index in range(8)]
    engine, _ = sums_of(smooth_score, 1000, path, nodes, torch.ones(4, 8), embeddings)
    assert engine.n_gradients == B * 8  # none at the input, and so no clean gradient either


def test_no_pass_exceeds_the_token_budget(embeddings, path):
    seen = []

    def watched(points, rows):
        seen.append(points.shape[0] * points.shape[1])
        return smooth_score(points, rows)

    sums_of(watched, 2 * T, path, [0.0, 0.5], torch.ones(1, 2), embeddings)
    assert max(seen) <= 2 * T


def test_a_pass_is_as_wide_as_its_widest_row_and_changes_no_sum(embeddings, path):
    widths = (2, T, 3)
    real = torch.arange(T) < torch.tensor(widths)[:, None]
    seen = []

    def score(points, rows):
        seen.append((max(widths[row] for row in rows.tolist()), tuple(points.shape[:2])))
        kept = points * real[rows][:, : points.shape[1], None]
        return kept.sin().sum(1).prod(1)

    nodes, weights = [0.0, 0.5], {gradient: torch.ones(1, 2, dtype=torch.float64)}
    sums = []
    for own in (None, widths):
        engine = GradientEngine(score, TokenBudget(3 * T), own)
        clean = clean_of(engine, embeddings)
        seen.clear()
        sums.append(engine.weighted_sums(path, nodes, weights, clean)[gradient])
    assert all(width == widest and n * width <= 3 * T for widest, (n, width) in seen)
    # Products of D sines, whose gradients are below 1: a few roundings of each of two nodes.
    torch.testing.assert_close(sums[0], sums[1], rtol=0, atol=1e-14)
    assert not sums[1][:, ~real].any()
    # Rows of two tokens alone are six to a pass; beside wider ones they are fewer.
    narrow = GradientEngine(score, TokenBudget(3 * T), widths)
    seen.clear()
    pairs = [(0, 0)] * 7
    assert [len(rows.nodes) for rows in narrow.pairs(path, nodes, pairs, clean)] == [6, 1]


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_running_out_of_memory_halves_the_chunk_and_changes_nothing(failing_call, embeddings, path):
    calls = 0

    def scarce(points, rows):
        nonlocal calls
        calls += 1
        if calls == failing_call and len(points) > 1:
            raise torch.OutOfMemoryError("injected")
        return smooth_score(points, rows)

    nodes, weights = [0.0, 0.25, 0.5, 0.75], torch.ones(1, 4, dtype=torch.float64)
    engine, sums = sums_of(scarce, 4 * T, path, nodes, weights, embeddings)
    assert engine.budget.halvings == 1
    torch.testing.assert_close(
        sums, slow_sums(path, nodes, weights), rtol=0, atol=1e-13 * float(sums.abs().max())
    )


def test_a_single_row_that_does_not_fit_is_an_error(embeddings, path):
    def never(points, rows):
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(torch.OutOfMemoryError):
        GradientEngine(never, TokenBudget(T)).clean(embeddings, torch.zeros(B)).gradients.sum()


def test_half_precision_gradients_are_added_in_float32(embeddings):
    halves = embeddings.to(torch.bfloat16)
    points = Input(halves)
    engine = GradientEngine(smooth_score, TokenBudget(1000))
    sums = engine.weighted_sums(
        points, (1.0,), {gradient: torch.ones(1, 1)}, clean_of(engine, halves)
    )
    assert sums[gradient].dtype == torch.float32


def cloud(embeddings, seed=0, hashes=("a", "b", "c"), noisy=None, unit=None):
    noisy = torch.ones(embeddings.shape[:2], dtype=torch.bool) if noisy is None else noisy
    unit = torch.ones(B, dtype=torch.float64) if unit is None else unit
    return NoiseCloud(embeddings, noisy, hashes, lambda name: unit, seed, False)


def noise_of(cloud, example, number):
    return cloud.noise([example], [number])[0]


def test_noise_belongs_to_the_text_the_seed_and_the_sample(embeddings):
    here = cloud(embeddings)
    flipped = cloud(embeddings.flip(0), hashes=here.hashes[::-1])
    assert torch.equal(noise_of(here, 0, 3), noise_of(flipped, B - 1, 3))
    assert not torch.equal(noise_of(here, 0, 3), noise_of(here, 1, 3))
    assert not torch.equal(noise_of(here, 0, 3), noise_of(here, 0, 4))
    assert not torch.equal(noise_of(here, 0, 3), noise_of(cloud(embeddings, seed=1), 0, 3))


def test_noise_does_not_depend_on_padding(embeddings):
    padded = torch.cat([embeddings, torch.zeros(B, 3, D, dtype=embeddings.dtype)], 1)
    noisy = torch.arange(T + 3)[None].expand(B, -1) < T
    here, wide = noise_of(cloud(embeddings), 1, 0), noise_of(cloud(padded, noisy=noisy), 1, 0)
    assert torch.equal(here, wide[:T])
    assert wide[T:].abs().sum() == 0


def test_noise_is_standard_normal(embeddings):
    draws = cloud(embeddings).noise([0] * 2000, range(2000))
    n = draws.numel()
    # Mean and variance of n draws: standard errors n^-1/2 and (2/n)^1/2; five of each.
    assert abs(float(draws.mean())) < 5 * n**-0.5
    assert abs(float(draws.var()) - 1) < 5 * (2 / n) ** 0.5


def test_noise_in_half_precision_is_centred_before_it_is_rounded(embeddings):
    halves = cloud(embeddings.to(torch.bfloat16)).blocks([0, 1], [5, 6], 4)
    singles = cloud(embeddings.float()).blocks([0, 1], [5, 6], 4)
    assert torch.equal(halves, singles.to(torch.bfloat16))


def test_points_of_a_noise_cloud_are_input_plus_noise_in_the_units_of_each_text(embeddings):
    here = cloud(embeddings, unit=torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64))
    points = here.at(torch.tensor([2, 0]), [Draw(1, 1, "range", 0.5), Draw(7, -1, "range", 2.0)])
    assert torch.equal(points[0], embeddings[2] + 2.0 * noise_of(here, 2, 1))
    assert torch.equal(points[1], embeddings[0] - 2.0 * noise_of(here, 0, 7))


def test_rows_are_every_pair_once_sorted_by_example(embeddings, path):
    engine = GradientEngine(smooth_score, TokenBudget(3 * T))
    clean = clean_of(engine, embeddings)
    nodes = [0.0, 0.5, 1.0]
    pairs = [
        pair
        for rows in engine.rows(path, nodes, clean, examples=[0, 2])
        for pair in zip(rows.examples, rows.nodes, strict=True)
        if pair[1] != 2
    ]
    assert pairs == [(0, 0), (0, 1), (2, 0), (2, 1)]


def test_an_example_has_only_the_nodes_that_apply_to_it(embeddings, path):
    moves = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    engine = GradientEngine(smooth_score, TokenBudget(1000))
    nodes = [(token, 0.5) for token in range(T)]
    found = engine.rows(SingleTokenPaths(path, moves), nodes, clean_of(engine, embeddings))
    assert [e for rows in found for e in rows.examples] == [0, 0, 2, 2, 2, 2]


def test_noises_of_a_centred_block_sum_to_nothing_and_are_standard_normal_each(embeddings):
    here = cloud(embeddings)
    blocks = here.blocks([0] * 500, range(500), 4).unflatten(0, (500, 4))
    assert blocks.sum(1).abs().max() < 1e-12
    for place in range(4):
        draws = blocks[:, place]
        n = draws.numel()
        # Mean and variance of n draws: standard errors n^-1/2 and (2/n)^1/2; five of each.
        assert abs(float(draws.mean())) < 5 * n**-0.5
        assert abs(float(draws.var()) - 1) < 5 * (2 / n) ** 0.5


def test_a_block_of_two_is_an_antithetic_pair(embeddings):
    pair = cloud(embeddings).blocks([1], [3], 2)
    assert torch.allclose(pair[0], -pair[1], rtol=0, atol=1e-15)


def test_rows_of_a_centred_block_do_not_depend_on_which_are_asked_for(embeddings):
    here = cloud(embeddings)
    alone = here.at(torch.tensor([0]), [Draw(6, 1, "absolute", 0.5, 4)])
    others = [Draw(number, 1, "absolute", 0.5, 4) for number in (4, 6, 7)]
    together = here.at(torch.tensor([0, 0, 0]), others)
    assert torch.equal(alone[0], together[1])


def test_rows_of_several_texts_and_samplers_have_the_points_that_each_has_alone(embeddings):
    here = cloud(embeddings)
    examples = [0, 0, 1, 1, 0, 2]
    sizes_and_numbers = [(1, 6), (4, 6), (4, 1), (1, 6), (1, 6), (4, 3)]
    nodes = [Draw(number, 1, "absolute", 0.5, size) for size, number in sizes_and_numbers]
    together = here.at(torch.tensor(examples), nodes)
    for place, (example, node) in enumerate(zip(examples, nodes, strict=True)):
        assert torch.equal(together[place], here.at(torch.tensor([example]), [node])[0])


@pytest.mark.parametrize("sampler", ["iid", "antithetic", "centred"])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 24, 25, 40])
def test_groups_are_every_sample_once_and_split_nothing_that_depends_on_itself(sampler, n):
    if sampler == "centred" and n % 4:
        n += 4 - n % 4
    draws = Draws(n, sampler, None, None)
    groups = draws.groups(range(n))
    assert [sample for group in groups for sample in group] == list(range(n))
    assert all(group.start % draws.per_unit == 0 for group in groups)
    assert all(len(group) > 0 for group in groups)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 25, 50])
def test_a_block_that_would_not_be_whole_is_refused_with_numbers_that_fit(n):
    with pytest.raises(InputError, match=r"in blocks of 4.*Use .*sampler=antithetic"):
        Draws(n, "centred", None, None)


def test_where_memory_ran_out_once_all_who_share_the_budget_ask_for_less(embeddings, path):
    def scarce(points, rows):
        if points.shape[0] * points.shape[1] > 2 * T:
            raise torch.OutOfMemoryError("injected")
        return smooth_score(points, rows)

    budget, weights = TokenBudget(8 * T), {gradient: torch.ones(1, 4)}
    for _ in range(3):  # blocks, each with an engine of its own
        engine = GradientEngine(scarce, budget)
        engine.weighted_sums(path, [0.0, 0.25, 0.5, 0.75], weights, clean_of(engine, embeddings))
    assert budget.tokens <= 2 * T
    # 8, 4 and 2 rows: halved until it fitted, and never tried again. The clean pass has only three rows.
    assert budget.halvings <= 3
