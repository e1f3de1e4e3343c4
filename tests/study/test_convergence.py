"""How far maps are from converged ones, against the maps made one by one."""

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from tiny import token_inputs
from torch import nn

import saliency_bench as sb
from saliency_bench.attribution.quadrature import NAMES, quadrature
from saliency_bench.core.rows import Setting
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block
from saliency_bench.studies.convergence import (
    FIRST_ORDER,
    OTHER_SEED,
    Dense,
    companions,
    convergence_rows,
    halved,
    reference,
)

PATH = {"baseline": "mean", "baseline_special_tokens": "keep", "n_steps": 6}
DRAWS = {"n_samples": 6, "sampler": "iid", "relative_error": None, "max_samples": None}
NOISE = {
    "noise_std": 0.5,
    "noise_range": None,
    "noise_absolute": None,
    "noise_special_tokens": False,
}
NOTHING = Dense(None, None)


def setting(method, hyper, backend="native", reduction="sum"):
    return Setting(method, method, backend, reduction, "predicted", "logit", 0, hyper)


def ig(rule="left", n=6, backend="native"):
    return setting("integrated_gradients", PATH | {"quadrature": rule, "n_steps": n}, backend)


def smoothgrad(n=6):
    return setting("smoothgrad", DRAWS | NOISE | {"n_samples": n}, reduction="l2")


def rows_of(model, settings, dense, n=3):
    encoded = [
        encoded_ids(model, item, str(index), None, "test")
        for index, item in enumerate(token_inputs(*[6] * n))
    ]
    with model.frozen():
        block = open_block(References(model), encoded, "predicted", 1000)
        pairs = companions(settings, dense)
        maps = block.explain([*settings, *(pair.other for pair in pairs)])
        return convergence_rows(pairs, maps, [str(index) for index in range(n)])


@pytest.mark.parametrize("rule", NAMES)
def test_every_other_node_is_among_those_that_are_paid_for(rule):
    """Left out is at least one, and at most every other."""
    n = 9
    found = halved(ig(rule, n))
    assert (found.hyper["quadrature"], found.hyper["n_steps"]) == (f"half_of_{rule}", n)
    (pair,) = companions([ig(rule, n)], NOTHING)
    assert (pair.against, pair.free) == ("limit", True)
    if rule != "calibrated":
        kept, every = (set(quadrature(name, n)[0]) for name in (f"half_of_{rule}", rule))
        assert kept < every
        assert len(kept) in (n // 2, n // 2 + 1)


@pytest.mark.parametrize(
    ("rule", "n"),
    [
        *[("left", 1), ("gauss_legendre", 1), ("trapezoid", 2), ("clenshaw_curtis", 2)],
        ("half_of_midpoint", 6),
    ],
)
def test_what_has_too_few_nodes_to_halve_is_compared_with_twice_as_many(rule, n):
    (pair,) = companions([ig(rule, n)], NOTHING)
    assert (pair.against, pair.other.hyper["n_steps"], pair.free) == ("doubled", 2 * n, False)


def test_steps_that_choose_the_path_are_halved_and_cost_gradients_of_their_own():
    idgi = setting("idgi", PATH | {"n_steps": 5000})
    (pair,) = companions([idgi], NOTHING)
    assert (pair.against, pair.other.hyper["n_steps"], pair.free) == ("limit", 2500, False)


def test_what_is_not_integrated_has_nothing_to_halve():
    settings = [smoothgrad(), setting("vanilla", {}, reduction="l2")]
    assert companions(settings, NOTHING) == []


def test_what_captum_computed_is_free_where_ours_is_there_too():
    captum = ig(backend="captum")
    assert [one.free for one in companions([captum], NOTHING)] == [False]
    assert [one.free for one in companions([ig(), captum], NOTHING)] == [True, True]


def test_what_captum_computed_is_compared_with_ours():
    assert halved(ig("left", backend="captum")).backend == "native"
    assert reference(ig("left", backend="captum"), Dense(33, None)).backend == "native"


def test_a_reference_is_made_only_where_it_is_asked_for():
    assert reference(ig(), NOTHING) is None
    assert reference(smoothgrad(), Dense(33, None)) is None
    assert reference(ig(), Dense(None, 64)) is None
    assert reference(setting("vanilla", {}, reduction="l2"), Dense(33, 64)) is None


def test_draws_of_a_reference_are_none_of_those_under_test():
    found = reference(smoothgrad(), Dense(None, 64))
    assert (found.seed, found.hyper["n_samples"]) == (OTHER_SEED, 64)


@pytest.mark.parametrize(
    ("rule", "dense", "against", "options", "more"),
    [
        ("left", NOTHING, "limit", {"n_steps": 3, "quadrature": "left"}, 1.0),
        ("trapezoid", NOTHING, "limit", {"n_steps": 4, "quadrature": "trapezoid"}, 1 / 3),
        ("left", Dense(33, None), "reference", {"n_steps": 33, "quadrature": "clenshaw_curtis"}, 0),
    ],
)
def test_rows_say_how_far_each_map_is_from_its_limit(bert, rule, dense, against, options, more):
    """The limit of a sum of first or second order is extrapolated, that of a reference is itself."""
    n = 7 if rule == "trapezoid" else 6
    rows = rows_of(bert, [ig(rule, n)], dense)
    items = token_inputs(6, 6, 6)
    own = sb.attribute(bert, items, baseline="mean", n_steps=n, quadrature=rule)
    others = sb.attribute(bert, items, baseline="mean", **options)
    assert [row["against"] for row in rows] == [against] * 3
    for row, one, other in zip(rows, own, others, strict=True):
        limit = one.scores + more * (one.scores - other.scores) if more else other.scores
        assert row["tau"] == pytest.approx(kendalltau(one.scores, limit)[0])
        expected = np.abs(one.scores - limit).max() / np.abs(limit).max()
        assert row["error"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rule", sorted({*NAMES} - {"calibrated", "captum_riemann_trapezoid"}))
def test_what_a_sum_is_off_by_is_no_more_than_half_of_its_nodes_tell(rule):
    """The estimate of the error, full - half over 2^p - 1, of e^x, whose integral is e - 1.

    Captum's trapezoid tends to another number.
    """
    order = 1 if rule in FIRST_ORDER else 2
    whole, half = (
        float(np.dot(weights, np.exp(nodes)))
        for nodes, weights in map(
            np.array, (quadrature(rule, 17), quadrature(f"half_of_{rule}", 17))
        )
    )
    exact = np.e - 1
    estimate = abs(whole - half) / (2**order - 1)
    # Sums of first and second order have it but for terms of the next order in the step, 1/8.
    assert abs(whole - exact) <= estimate * (1 + 1 / 8) + 1e-15


@pytest.mark.parametrize(
    "method", ["integrated_gradients", "sequential_integrated_gradients", "idg"]
)
def test_a_free_companion_takes_no_gradient(bert, method):
    own = setting(method, PATH | {"quadrature": "midpoint"})
    (pair,) = companions([own], NOTHING)
    encoded = encoded_ids(bert, token_inputs(6)[0], "0", None, "test")
    paid = []
    with bert.frozen():
        for settings in ([own], [own, pair.other]):
            before = bert.ledger.copy()
            open_block(References(bert), [encoded], "predicted", 1000).explain(settings)
            paid.append(bert.ledger.since(before).total.gradients)
    assert paid[0] == paid[1] > 0


def test_errors_of_noise_fall_with_the_draws(bert):
    rows = rows_of(bert, [smoothgrad(4), smoothgrad(256)], Dense(None, 1024))
    errors = [row["error"] for row in rows]
    few, many = np.mean(errors[:3]), np.mean(errors[3:])
    assert many < few / 3  # 1/sqrt(64) of it, give or take


class Constant(nn.Module):
    """Logits that depend on no token."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 4, dtype=torch.float64)

    def forward(self, input_ids, **_):
        zero = 0 * self.embedding(input_ids).sum((1, 2))
        return torch.stack([zero + 1, zero], -1)


def test_a_text_without_scores_has_neither_order_nor_error():
    (row,) = rows_of(sb.wrap_model(Constant()), [ig()], NOTHING, n=1)
    assert (row["tau"], row["error"]) == (None, None)
