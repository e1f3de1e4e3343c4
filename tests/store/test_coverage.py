"""Rows that are not those of the plan are noticed: in one part, between parts, in either direction."""

from itertools import product

import pytest

from saliency_bench.errors import StorageError
from saliency_bench.store.coverage import require_planned
from saliency_bench.store.parts import PartStore

PLAN = {"a": ["e1", "e2"], "b": ["e3"], "timing": []}
SETTINGS = ["s1", "s2"]
METRICS = [("srg", "mask"), ("srg", "pad"), ("gap", None)]


def rows_of(ids, settings=SETTINGS, metrics=METRICS):
    return [
        {"cell_id": "c", "setting_id": setting, "example_id": example, "metric": metric}
        | {"removal": removal, "value": 0.5, "unit": "nats", "status": "ok"}
        for setting, example, (metric, removal) in product(settings, ids, metrics)
    ]


def examples_of(ids):
    return [{"cell_id": "c", "example_id": example, "text": "t", "n_tokens": 3} for example in ids]


def stored(folder, rows=rows_of, examples=examples_of):
    store = PartStore(folder)
    store.write("a", {"rows": rows_of(PLAN["a"]), "examples": examples_of(PLAN["a"])})
    store.write("b", {"rows": rows(PLAN["b"]), "examples": examples(PLAN["b"])})
    return folder


def test_rows_of_the_plan_are_taken(tmp_path):
    require_planned(stored(tmp_path), PLAN, SETTINGS)


def test_a_study_without_metrics_has_texts_and_no_rows(tmp_path):
    PartStore(tmp_path).write("b", {"examples": examples_of(["e3"])})
    require_planned(tmp_path, {"b": ["e3"]}, [])
    with pytest.raises(StorageError, match="lacks 2 rows"):
        require_planned(tmp_path, {"b": ["e3"]}, SETTINGS)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (lambda ids: rows_of(ids)[:-1], "lacks 1 rows, for instance of s2 e3 gap None"),
        (lambda ids: rows_of(ids)[3:], "lacks 3 rows, for instance of s1 e3 gap None"),
        (lambda ids: rows_of(ids, metrics=METRICS[1:]), "lacks 2 rows"),
        (lambda ids: rows_of(ids, metrics=[*METRICS, ("new", None)]), "has unplanned 2 rows"),
        (lambda ids: rows_of([*ids, "e1"]), "has unplanned 6 rows, for instance of s1 e1"),
        (lambda ids: rows_of(ids, settings=[*SETTINGS, "s3"]), "has unplanned 3 rows"),
    ],
)
def test_rows_that_are_missing_or_too_many_are_named(tmp_path, rows, said):
    folder = stored(tmp_path, rows)
    with pytest.raises(StorageError, match=said):
        require_planned(folder, PLAN, SETTINGS)


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        (lambda _: [], "'examples' lacks 1 rows, for instance of e3"),
        (lambda ids: examples_of([*ids, "e1"]), "'examples' has unplanned 1 rows"),
    ],
)
def test_texts_that_are_missing_or_too_many_are_named(tmp_path, examples, said):
    folder = stored(tmp_path, examples=examples)
    with pytest.raises(StorageError, match=said):
        require_planned(folder, PLAN, SETTINGS)
