"""Plans for rows that begin alike: each beginning is computed once, and each token sees its own row."""

from itertools import combinations, product

import numpy as np
import pytest
import torch

from saliency_bench.models import prefixes
from saliency_bench.models.prefixes import Seed, Tree, first_differences, order, plan, walk

WIDTH = 7
CPU = torch.device("cpu")


def rows_of(seed, n=30, n_texts=3):
    """Different rows of a few texts, sorted by the definition: as tuples. In all of them the first `seed` tokens stay."""
    rng = np.random.default_rng(seed)
    stays = rng.random((n, WIDTH)) < 0.7
    stays[:, :seed] = True
    rows = sorted({(int(rng.integers(n_texts)), *map(bool, row)) for row in stays})
    return torch.tensor([row[0] for row in rows]), torch.tensor([row[1:] for row in rows])


def beginnings(examples, stays, length):
    """The different beginnings of a number of tokens."""
    pairs = zip(examples.tolist(), stays.tolist(), strict=True)
    return {(text, *row[:length]) for text, row in pairs}


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_sorted_by_their_text_and_from_their_first_token_on(seed):
    examples, stays = rows_of(seed)
    shuffled = np.random.default_rng(seed).permutation(len(stays))
    indices = order(examples.numpy()[shuffled], stays.numpy()[shuffled])
    assert shuffled[indices].tolist() == [*range(len(stays))]


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_compared_token_by_token_with_the_row_before(seed):
    examples, stays = rows_of(seed)
    expected = [0]
    for row in range(1, len(stays)):
        same = examples[row] == examples[row - 1]
        places = [t for t in range(WIDTH) if not same or stays[row, t] != stays[row - 1, t]]
        expected.append(places[0])
    assert first_differences(examples, stays).tolist() == expected


@pytest.mark.parametrize(("text", "expected"), [(0, 4), (1, 0)])
def test_the_first_row_is_compared_with_a_seed_of_the_same_text_alone(text, expected):
    stays = torch.ones(2, WIDTH, dtype=torch.bool)
    stays[0, 4] = False
    seed = Seed(text, torch.ones(WIDTH, dtype=torch.bool), [])
    assert first_differences(torch.zeros(2, dtype=torch.long), stays, seed).tolist() == [
        expected,
        4,
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("from_seed", [False, True])
def test_each_different_beginning_is_computed_once(seed, from_seed):
    examples, stays = rows_of(seed)
    every = [beginnings(examples, stays, n) for n in range(1, WIDTH + 1)]
    before = None
    if from_seed:
        before = Seed(int(examples[0]), stays[0], [])
        every = [
            rows - {(before.example, *before.stays[:n].tolist())} for n, rows in enumerate(every, 1)
        ]
        examples, stays = examples[1:], stays[1:]
    first = first_differences(examples, stays, before)
    expected = sum(map(len, every))
    assert Tree(first, WIDTH).n_tokens == expected
    assert walk(first, WIDTH, 0.0).n_tokens >= expected
    ends = {*first.tolist(), WIDTH}
    cut_everywhere = walk(first, WIDTH, -1e6)  # a pass that costs less than nothing
    assert {step.stop for step in cut_everywhere.steps} | {int(first.min())} == ends
    assert cut_everywhere.n_tokens == expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("from_seed", [False, True])
def test_a_token_of_a_sequence_sees_the_tokens_of_its_own_row_up_to_itself(seed, from_seed):
    examples, stays = rows_of(seed)
    before = Seed(int(examples[0]), stays[0], []) if from_seed else None
    examples, stays = examples[from_seed:], stays[from_seed:]
    first = first_differences(examples, stays, before)
    tree = Tree(first, WIDTH)
    row, place = (side.tolist() for side in tree.nodes)
    # What stands at each place of the keys: beginnings of the seed, then one for each token of the sequence.
    of_seed = (
        []
        if before is None
        else [(before.example, *before.stays[: t + 1].tolist()) for t in range(int(first[0]))]
    )
    keys = of_seed + [
        (int(examples[r]), *stays[r, : t + 1].tolist()) for r, t in zip(row, place, strict=True)
    ]
    assert len(keys) == len({*keys})
    for r, t, sees in zip(row, place, tree.sees.tolist(), strict=True):
        whole = (int(examples[r]), *stays[r].tolist())
        assert [keys[k] for k, seen in enumerate(sees) if seen] and len(sees) == len(keys)
        assert {keys[k] for k, seen in enumerate(sees) if seen} == {
            whole[: n + 2] for n in range(t + 1)
        }
    for r in range(len(stays)):
        whole = (int(examples[r]), *stays[r].tolist())
        assert [keys[k] for k in tree.places[r].tolist()] == [whole[: n + 2] for n in range(WIDTH)]


def cost(first, ends, pass_tokens):
    """Of a walk with these ends, by its definition."""
    total, start = 0.0, int(first.min())
    for stop in ends:
        n_rows = int((first < stop).sum())
        total += pass_tokens + n_rows * (stop - start) + n_rows * start * prefixes.COPY_TOKENS
        start = stop
    return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pass_tokens", [0.0, 3.0, 20.0])
def test_no_other_cuts_of_a_walk_cost_less(seed, pass_tokens):
    first = first_differences(*rows_of(seed, n=8, n_texts=1))
    if seed % 2:
        first = (first + 2).clamp(max=WIDTH - 1)  # as after a seed
    inner = range(int(first.min()) + 1, WIDTH)
    every = [(*some, WIDTH) for n in range(len(inner) + 1) for some in combinations(inner, n)]
    least = min(cost(first, ends, pass_tokens) for ends in every)
    ours = [step.stop for step in walk(first, WIDTH, pass_tokens).steps]
    assert cost(first, ours, pass_tokens) == pytest.approx(least, rel=1e-12)


def test_a_walk_is_never_cut_where_nothing_branches():
    first = torch.tensor([0, 5])
    assert [(step.start, step.stop) for step in walk(first, WIDTH, 0.0).steps] == [(0, 5), (5, 7)]
    assert len(walk(first, WIDTH, 100.0).steps) == 1
    assert len(walk(torch.zeros(3, dtype=torch.long), WIDTH, 0.0).steps) == 1


@pytest.mark.parametrize("most", [1, WIDTH, 3 * WIDTH, 1000])
def test_sequences_have_at_most_so_many_tokens_or_one_row(most, monkeypatch):
    monkeypatch.setattr(prefixes, "MOST_TOKENS", most)
    first = first_differences(*rows_of(0))
    parts = plan(prefixes.ONE_SEQUENCE, first, WIDTH, CPU)
    rows = [row for part, _ in parts for row in range(part.start, part.stop)]
    assert rows == [*range(len(first))]
    for (part, tree), after in zip(parts, [*parts[1:], None], strict=True):
        n_tokens = int(tree.first[0]) + tree.n_tokens  # with those of the seed
        assert n_tokens <= most or len(tree.first) == 1
        if after is not None:  # another row would not fit
            assert n_tokens + WIDTH - int(first[part.stop]) > most
        assert torch.equal(tree.first, first[part])


def test_a_walk_on_a_gpu_has_fewer_passes():
    first = torch.arange(40)
    on_cpu, on_gpu = (
        plan(prefixes.STEPS, first, 41, torch.device(kind))[0][1] for kind in ("cpu", "cuda")
    )
    assert len(on_gpu.steps) == 1 < len(on_cpu.steps)


def test_the_earlier_beginning_of_a_row_is_the_one_that_it_continues():
    for n_rows, from_seed in product((2, 9), (False, True)):
        examples, stays = rows_of(5, n=n_rows + 20)
        before = Seed(int(examples[0]), stays[0], []) if from_seed else None
        examples, stays = examples[from_seed:], stays[from_seed:]
        steps = walk(first_differences(examples, stays, before), WIDTH, -1e6).steps
        named = [(int(text), *row.tolist()) for text, row in zip(examples, stays, strict=True)]
        held = []
        for step in steps:
            known = held if before is None else [(before.example, *before.stays.tolist()), *held]
            for row, earlier in zip(step.rows.tolist(), step.earlier.tolist(), strict=True):
                if step.start:
                    assert known[earlier][: step.start + 1] == named[row][: step.start + 1]
            held = [named[row] for row in step.rows.tolist()]
