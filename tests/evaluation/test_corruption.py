"""Known rankings and their corruptions: what is demoted, how far, and that all else stays."""

import numpy as np
import pytest

from saliency_bench.evaluation.corruption import CORRUPTIONS, as_scores, correct_ranking, corrupted
from saliency_bench.evaluation.ranking import rank


def cases(n_cases=200):
    """Rankings of texts with one or two units that matter and at least one that does not."""
    for seed in range(n_cases):
        stream = np.random.default_rng(seed)
        n_relevant, n_others = int(stream.integers(1, 3)), int(stream.integers(1, 12))
        relevant = np.zeros(n_relevant + n_others, dtype=bool)
        relevant[stream.choice(len(relevant), n_relevant, replace=False)] = True
        yield relevant, stream


def test_in_the_known_ranking_what_matters_comes_first():
    firsts = set()
    for relevant, stream in cases():
        found = correct_ranking(relevant, stream)
        assert sorted(found) == list(range(len(relevant)))
        assert relevant[found[: relevant.sum()]].all()
        if relevant[:2].all():
            firsts.add(int(found[0]))
    assert firsts == {0, 1}  # among themselves in random order


@pytest.mark.parametrize("how", CORRUPTIONS)
def test_a_corruption_demotes_what_matters_and_keeps_the_order_of_the_rest(how):
    for relevant, stream in cases():
        known = correct_ranking(relevant, stream)
        found = corrupted(known, int(relevant.sum()), how, stream)
        assert sorted(found) == sorted(known)
        assert [u for u in found if not relevant[u]] == [u for u in known if not relevant[u]]
        assert not relevant[found[: relevant.sum()]].all()


def test_last_is_behind_all_others():
    for relevant, stream in cases():
        known = correct_ranking(relevant, stream)
        found = corrupted(known, int(relevant.sum()), "last", stream)
        assert relevant[found[-relevant.sum() :]].all()


def test_slight_moves_one_unit_behind_one_other():
    moved = set()
    for relevant, stream in cases():
        n = int(relevant.sum())
        known = correct_ranking(relevant, stream)
        found = corrupted(known, n, "slight", stream)
        # Position n of the known ranking is the first of the others; it gains one place, and nothing else differs.
        assert found[n - 1] == known[n]
        assert sorted(found[: n + 1]) == sorted(known[: n + 1])
        assert (found[n + 1 :] == known[n + 1 :]).all()
        moved.add((n, list(known).index(found[n])))
    assert moved == {(1, 0), (2, 0), (2, 1)}


def test_random_reaches_every_place_behind_the_first_other_alike():
    known = np.arange(5)
    counts = np.zeros(5)
    stream = np.random.default_rng(0)
    for _ in range(4000):
        counts[list(corrupted(known, 1, "random", stream)).index(0)] += 1
    assert counts[0] == 0
    # Four binomial standard errors of 4,000 draws at 1/4.
    assert np.abs(counts[1:] / 4000 - 0.25).max() <= 4 * (0.25 * 0.75 / 4000) ** 0.5


def test_two_that_matter_are_demoted_independently():
    stream = np.random.default_rng(0)
    found = {tuple(corrupted(np.arange(4), 2, "random", stream)) for _ in range(500)}
    # 0 and 1 before or after 3, behind 2; side by side they keep their order.
    assert found == {(2, 0, 1, 3), (2, 0, 3, 1), (2, 1, 3, 0), (2, 3, 0, 1)}


def test_scores_give_the_ranking_back():
    for relevant, stream in cases(20):
        n_tokens = len(relevant) + 2
        ranked = 1 + correct_ranking(relevant, stream)  # between two special tokens
        scores = as_scores(ranked, n_tokens)
        attributable = np.ones(n_tokens, dtype=bool)
        attributable[[0, -1]] = False
        found = rank(scores, attributable, signed=True, tie_seed="")
        assert (found == ranked).all()
        assert (rank(scores, attributable, signed=False, tie_seed="") == ranked).all()
