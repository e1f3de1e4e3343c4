"""Similarity, sensitivity and shares, by hand and beside Captum."""

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from scipy.stats import kendalltau

from saliency_bench.evaluation.metrics import NotApplicable
from saliency_bench.evaluation.robustness import max_sensitivity, share, similarity


def test_a_map_is_like_itself_and_unlike_its_opposite_which_has_the_same_magnitudes():
    scores, all_of = np.array([0.3, -0.7, 0.1, 0.5]), np.ones(4, bool)
    assert similarity(scores, scores, all_of) == (1.0, 1.0)
    assert similarity(scores, -scores, all_of) == (-1.0, 1.0)


def test_similarity_is_that_of_attributable_tokens():
    stream = np.random.default_rng(0)
    a, b = stream.normal(size=(2, 9))
    chosen = np.arange(9) > 1
    found = similarity(a, b, chosen)
    assert found[0] == pytest.approx(kendalltau(a[2:], b[2:]).statistic, abs=1e-12)
    assert found[1] == pytest.approx(kendalltau(abs(a[2:]), abs(b[2:])).statistic, abs=1e-12)
    with pytest.raises(NotApplicable, match="equal"):
        similarity(np.ones(9), b, chosen)


def test_max_sensitivity_is_captums():
    stream = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 6, generator=stream, dtype=torch.float64)
    moves = 0.02 * (2 * torch.rand(7, 6, generator=stream, dtype=torch.float64) - 1)

    def explain(points):
        return (points**3 + points.sum(-1, keepdim=True).sin(),)

    def points_of(given):
        return given[0] if isinstance(given, tuple) else given

    theirs = sensitivity_max(
        lambda given: explain(points_of(given)),
        inputs,
        perturb_func=lambda given, radius: points_of(given) + moves,
        n_perturb_samples=7,
    )
    ours = max_sensitivity(explain(inputs)[0][0].numpy(), explain(inputs + moves)[0].numpy())
    assert ours == pytest.approx(float(theirs), rel=1e-12)


def test_what_never_moves_has_no_sensitivity_and_a_map_of_zeros_no_scale():
    scores = np.array([1.0, 2.0])
    assert max_sensitivity(scores, np.array([scores, scores])) == 0
    assert max_sensitivity(scores, np.array([scores, 2 * scores])) == 1
    assert np.isnan(max_sensitivity(np.zeros(2), np.ones((1, 2))))


def test_shares_of_magnitude_add_up():
    scores = np.array([-3.0, 1.0, 0.0, 4.0])
    chosen = np.array([True, False, True, False])
    assert share(scores, chosen) == 3 / 8
    assert share(scores, chosen) + share(scores, ~chosen) == 1
    assert np.isnan(share(np.zeros(4), chosen))
