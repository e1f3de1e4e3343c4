"""The throughput benchmark: nobody is timed who disagrees, and rows and ratios say what was measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saliency_bench.attribution import calibration
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import DISAGREES, FAILED, MATMUL, NOT_APPLICABLE, OK, THROUGHPUT
from saliency_bench.experiments.random_models import random_model, random_texts
from saliency_bench.experiments.throughput.bench import Bench, texts_of_length
from saliency_bench.experiments.throughput.contestants import CONTESTANTS, Contestant, Problem, ours
from saliency_bench.experiments.throughput.floor import (
    Encoder,
    encoder_of,
    gradient_flops,
    layer_products,
)
from saliency_bench.experiments.throughput.report import frame, of, ratio, ratio_of_rates, tables
from saliency_bench.experiments.throughput.sections import SECTIONS, throughput
from saliency_bench.experiments.throughput.trial import (
    Case,
    Expected,
    Protocol,
    differences,
    measured,
)
from saliency_bench.models.references import References

N_REPEATS = 2


@pytest.fixture(scope="module")
def model():
    model = random_model("bert", "float32")
    with model.frozen():
        yield model


@pytest.fixture(scope="module")
def encoded(model):
    return [*random_texts(model, 2, 5, seed=0), *random_texts(model, 1, 9, seed=1)]


def configured(**changes):
    """conf/throughput.yaml with everything small."""
    config = conf_files.read("", "throughput")
    config["runtime"] = conf_files.runtime_defaults()
    small = {
        "sections": ["contestants"],
        "contestants": ["ours", "bare_loop"],
        "n_steps": 4,
        "n_repeats": N_REPEATS,
        "max_warmups": 1,
        "product_seconds": 1e-4,
    }
    config["options"]["captum_sorted"] |= {"batch_sizes": [1, 2], "tokens_at_once": [64]}
    return config | small | changes


def bench(model, encoded, **changes):
    return Bench(configured(**changes), model, encoded, lambda dtype: random_model("bert", dtype))


def contestant(monkeypatch, name, make):
    monkeypatch.setitem(CONTESTANTS._functions, name, make)


def rows_of(rows, name):
    return [row for row in rows if row["contestant"] == name]


def test_a_contestant_with_another_baseline_is_not_timed(model, encoded, monkeypatch):
    runs = []

    def wrong(problem):
        inner = ours(replace(problem, baseline="zero"))

        def run():
            runs.append(1)
            return inner.run()

        return Contestant("wrong", "from another baseline", run)

    contestant(monkeypatch, "wrong", wrong)
    rows = list(throughput(bench(model, encoded, contestants=["ours", "wrong", "bare_loop"])))
    (row,) = rows_of(rows, "wrong")
    assert row["status"] == DISAGREES
    assert "seconds" not in row
    assert row["error"] > 0.01
    assert "expected at most 1e-05" in row["reason"]
    assert len(runs) == 1  # compared, and never run again
    assert len(rows_of(rows, "ours")) == len(rows_of(rows, "bare_loop")) == N_REPEATS
    (table,) = [one for one in tables(frame(rows)) if one.name == "not_timed"]
    assert table.rows[0][2:4] == ("wrong", DISAGREES)


def test_another_class_other_nodes_and_other_texts_are_seen_too(model, encoded, monkeypatch):
    def shuffled(problem):
        return replace(ours(replace(problem, encoded=problem.encoded[::-1])), name="shuffled")

    contestant(
        monkeypatch,
        "steps",
        lambda problem: replace(ours(replace(problem, n_steps=3)), name="steps"),
    )
    contestant(monkeypatch, "shuffled", shuffled)
    contestant(
        monkeypatch,
        "opposite",
        lambda problem: Contestant("opposite", "", lambda: [-one for one in ours(problem).run()]),
    )
    names = ["steps", "shuffled", "opposite"]
    rows = list(throughput(bench(model, encoded, contestants=names)))
    assert [row["status"] for row in rows] == [DISAGREES] * 3


def test_one_that_raises_or_refuses_has_a_row_and_the_others_are_timed(model, encoded, monkeypatch):
    def broken():
        raise ArithmeticError("no  such\nluck")

    def refusing(problem):
        raise InputError("needs another package")

    contestant(monkeypatch, "broken", lambda problem: Contestant("broken", "", broken))
    contestant(monkeypatch, "refusing", refusing)
    rows = list(throughput(bench(model, encoded, contestants=["broken", "refusing", "ours"])))
    (row,) = rows_of(rows, "broken")
    assert (row["status"], row["reason"]) == (FAILED, "ArithmeticError: no such luck")
    (row,) = rows_of(rows, "refusing")
    assert (row["status"], row["reason"]) == (NOT_APPLICABLE, "needs another package")
    assert len(rows_of(rows, "ours")) == N_REPEATS


def test_one_name_may_stand_for_several_and_another_quantity_is_timed_uncompared(
    model, encoded, monkeypatch
):
    def several(problem):
        return [
            Contestant("first", "", ours(problem).run),
            Contestant("cost only", "", lambda: None, same_quantity=False),
            Contestant("silent", "", lambda: None),
        ]

    contestant(monkeypatch, "several", several)
    rows = list(throughput(bench(model, encoded, contestants=["several"])))
    assert [row["status"] for row in rows_of(rows, "first")] == [OK] * N_REPEATS
    assert [row["status"] for row in rows_of(rows, "cost only")] == [OK] * N_REPEATS
    assert [row["status"] for row in rows_of(rows, "silent")] == [FAILED]


def test_what_is_no_number_or_of_another_shape_differs():
    one = [np.array([1.0, -2.0])]
    assert differences(one, one) == [0]
    assert differences([np.array([1.0, -1.0])], one) == [0.5]
    assert differences([np.array([1.0, np.nan])], one) == [np.inf]
    assert differences([np.array([1.0])], one) == [np.inf]
    assert differences([], one) == [np.inf]
    assert differences([np.zeros(2)], [np.zeros(2)]) == [0]
    assert differences(one, [np.zeros(2)]) == [np.inf]


class Worker:
    """Contestants that move a clock by what they say they take, and always agree."""

    def __init__(self):
        self.now = 0.0

    def contestant(self, name, seconds, scores, **known):
        taken = iter(seconds)

        def run():
            self.now += next(taken)
            return scores

        return Contestant(name, name, run, **known)

    def clock(self):
        return self.now


def test_rates_and_ratios_are_those_of_the_repeats_side_by_side(encoded):
    # A module without sizes: nothing multiplies matrices, and the clock is moved by contestants alone.
    problem = Problem(References(sizeless()), tuple(encoded), "mask", "gauss_legendre", 4, 64)
    worker, scores = Worker(), [np.ones(len(one)) for one in encoded]
    # First run, memory pass, two warm-ups (2 s apart by less than 50 %), three repeats.
    a = worker.contestant("ours", [9, 1, 2, 2, 1, 2, 4], scores, padded_tokens=50)
    b = worker.contestant("other", [5, 1, 4, 3, 3, 3, 2], scores, padded_tokens=100)
    protocol = Protocol(3, 4, 0.5, 0.1, 1e-5, worker.clock)
    case = Case("contestants", "by hand", problem)
    rows = frame(list(measured(case, [(one, Expected(scores)) for one in (a, b)], protocol)))
    assert of(rows, "ours")["seconds"].tolist() == [1, 2, 4]
    assert of(rows, "other")["seconds"].tolist() == [3, 3, 2]
    assert set(rows["contestant"]) == {"ours", "other"}
    # Ratios 3, 3/2 and 1/2: the median of pairs, not the ratio of medians 3/2 by accident of order.
    assert ratio(rows, "other", "ours") == (1.5, 0.5, 3.0)
    assert ratio(rows, "ours", "other") == (2 / 3, 1 / 3, 2.0)
    assert ratio(rows, "ours", "absent") is None
    first = rows.iloc[0]
    assert (first["first_seconds"], first["n_warmups"], bool(first["stable"])) == (9, 2, True)
    assert (first["n_gradients"], first["n_tokens"]) == (4 * 3, 7 + 7 + 11)
    (table,) = [one for one in tables(rows) if one.name == "throughput"]
    columns = [column.key for column in table.columns]
    own = dict(zip(columns, table.rows[0], strict=True))
    # Medians over 1, 2 and 4 s.
    assert own["examples_per_second"] == 3 / 2
    assert own["tokens_per_second"] == 25 / 2
    assert own["gradients_per_second"] == 12 / 2
    assert own["padding"] == 50 / 25
    assert own["useful_gflop_per_second"] is own["share_of_matmul"] is None


def sizeless():
    model = random_model("bert", "float32")
    for part in model.module.modules():
        if hasattr(part, "config"):
            part.config = None
    return model


def test_a_share_of_the_matrix_product_is_operations_over_operations_each_per_second():
    rows = frame(
        [
            {"contestant": name, "repeat": repeat, "seconds": seconds, "useful_flop": flop}
            for name, flop, times in (("ours", 30, (3.0, 5.0)), (MATMUL, 100, (2.0, 4.0)))
            for repeat, seconds in enumerate(times)
        ]
    )
    # 10 and 6 operations per second against 50 and 25.
    assert ratio_of_rates(rows, "ours", MATMUL) == pytest.approx((0.22, 0.2, 0.24))


def test_warm_up_goes_on_while_it_changes_and_says_when_it_did_not_settle(encoded):
    problem = Problem(References(sizeless()), tuple(encoded), "mask", "gauss_legendre", 4, 64)
    worker, scores = Worker(), [np.ones(len(one)) for one in encoded]
    restless = worker.contestant("restless", [1, 1, 8, 4, 2, 1, 1], scores)
    protocol = Protocol(2, 3, 0.05, 0.1, 1e-5, worker.clock)
    rows = frame(list(measured(Case("", "", problem), [(restless, Expected(scores))], protocol)))
    assert rows["n_warmups"].tolist() == [3, 3]
    assert not rows["stable"].any()


@pytest.fixture(scope="module")
def everything(model, encoded, little_garbage):
    """All sections on the tiny model; densities are learnt anew, from few texts."""
    names = ["ours", "captum_sorted", "captum_random", "captum_single", "bare_loop"]
    small = {"n_examples": 2, "n_steps": 3, "contestants": ["ours", "captum_sorted"]}
    config = {
        "sections": list(SECTIONS),
        "contestants": names,
        "length": small | {"lengths": [6, 12]},
        "budget": small | {"token_budgets": [16]},
        "steps": small | {"n_steps": [5]},
        "precision": small | {"dtypes": ["float32", "float64"]},
        "sweep": {
            "n_examples": 2,
            "n_steps": [4, 8],
            "quadrature": "clenshaw_curtis",
            "extra_steps": 1,
            "n_samples": [4, 8],
        },
        "memory": {
            "n_steps": [4, 8],
            "length": 8,
            "n_examples": 2,
            "token_budget": 32,
            "contestants": ["ours", "captum_single"],
        },
        "accuracy": configured()["accuracy"] | {"n_examples": 2, "reference_steps": 65},
        "evaluation": configured()["evaluation"]
        | {
            "n_examples": 2,
            "methods": ["vanilla", "smoothgrad"],
            "metrics": ["aopc_comprehensiveness_full", "deletion_auc"],
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "N_TEXTS", 4)
        return list(throughput(bench(model, encoded, **config)))


@pytest.mark.slow
def test_every_section_gives_complete_rows(everything, model):
    columns = set(THROUGHPUT)
    for row in everything:
        assert set(row) <= columns
        assert row["status"] == OK, row
        assert row["seconds"] > 0
        if row["contestant"] != MATMUL:
            assert row["peak_bytes"] is None or row["peak_bytes"] >= 0
            expected = {"first_seconds", "describe"}
            if row["section"] != "evaluation":
                expected |= {"n_gradients", "useful_flop"}
            assert all(row[key] for key in expected), row
    cases = {}
    for row in everything:
        cases.setdefault((row["section"], row["case"]), {}).setdefault(
            row["contestant"], []
        ).append(row["repeat"])
    for (section, _), own in cases.items():
        n = 1 if section == "memory" else N_REPEATS
        assert all(repeats == list(range(n)) for repeats in own.values())
        assert (MATMUL in own) == (section != "memory")
    assert {section: sum(1 for one, _ in cases if one == section) for section in SECTIONS} == {
        "contestants": 1,
        "length": 2,
        "budget": 1,
        "steps": 1,
        "precision": 2,
        "sweep": 2,
        "memory": 2,
        "accuracy": 1,
        "evaluation": 2,
    }
    (table,) = [one for one in tables(frame(everything)) if one.name == "evaluation"]
    assert [row[:2] for row in table.rows] == [
        (f"removal {removal}", way)
        for removal in ("mask", "attention")
        for way in ("From shared curves", "Each metric and method by itself")
    ]


@pytest.mark.slow
def test_useful_work_is_that_of_the_texts_alone(everything, encoded):
    main = [row for row in everything if row["section"] == "contestants"]
    lengths = list(map(len, encoded))
    sizes = encoder_of(random_model("bert", "float32").module)
    assert sizes == Encoder(2, 16, 32)
    for row in main:
        if row["contestant"] != MATMUL:
            assert row["n_gradients"] == 4 * len(encoded)
            assert row["useful_flop"] == gradient_flops(*sizes, lengths, 4)
            assert row["n_tokens"] == sum(lengths)
    # One random batch: everything as long as the longest.
    random = rows_of(main, "captum_random")[0]
    assert random["padded_tokens"] == len(encoded) * max(lengths)


@pytest.mark.slow
def test_a_sweep_takes_the_union_of_its_points_and_captum_their_sum(everything):
    sweeps = {
        (row["case"], row["contestant"]): row["n_gradients"] // row["n_examples"]
        for row in everything
        if row["section"] == "sweep" and row["contestant"] != MATMUL
    }
    assert sweeps == {
        ("4, 8 steps", "ours_sweep"): 9,
        ("4, 8 steps", "ours_largest"): 9,
        ("4, 8 steps", "captum_sweep"): 12,
        ("4, 8 samples", "ours_sweep"): 8,
        ("4, 8 samples", "ours_largest"): 8,
        ("4, 8 samples", "captum_sweep"): 12,
    }


@pytest.mark.slow
def test_errors_are_those_to_ours_to_float64_or_to_a_dense_rule(everything):
    by = {(row["section"], row["case"], row["contestant"]): row.get("error") for row in everything}
    assert by["contestants", "mixed lengths", "ours"] == 0
    assert 0 < by["contestants", "mixed lengths", "captum_single"] <= 1e-5
    assert 1e-9 < by["precision", "float32", "ours"] < 1e-4
    assert by["precision", "float64", "ours"] == 0
    assert by["accuracy", "to 1 %", "ours_adaptive"] < 0.05


def test_texts_of_one_length_are_framed_like_the_others(model, encoded):
    made = texts_of_length(model, encoded, 6, 5)
    assert [len(one) for one in made] == [6] * 5
    assert all(one.special == (True, *[False] * 4, True) for one in made)
    assert len({one.input_ids for one in made}) > 1
    with pytest.raises(InputError, match="special tokens"):
        texts_of_length(model, encoded, 2, 1)


def test_the_products_are_those_of_one_layer():
    _, n_operations = layer_products(Encoder(7, 2, 3), 5, "cpu", torch.float32)
    # 4 of (5, 2) (2, 2), one of (5, 2) (2, 3) and one of (5, 3) (3, 2).
    assert n_operations == 2 * 5 * (4 * 4 + 6 + 6)


def test_sizes_that_are_not_there_are_not_guessed():
    assert encoder_of(sizeless().module) is None
