"""Rows become tables exactly, or are refused by name."""

import random
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saliency_bench.core.errors import InputError, StorageError
from saliency_bench.core.rows import ADDED, SORT_KEYS, TABLES
from saliency_bench.store.parquet import from_parquet, merge, schema_of, to_parquet, to_table
from saliency_bench.store.run import read_run

RESULTS = Path(__file__).parents[2] / "results"
VALUES = {
    "string": "naïve 愛 \U0001f600 ',\"\n\t=1+1\x00",
    "int64": -(2**53) - 1,
    "float64": 0.1 + 0.2,
    "bool": True,
    "list<string>": ["[CLS]", "##ing", ""],
    "list<int64>": [101, -1],
    "list<bool>": [True, False],
    "list<float64>": [0.0, -1e-308],
}
NULLABLE = ("text_pair", "gold", "correct", "removal", "reason", "peak_bytes", "completeness_gap")


def row_of(name, number=0, **changed):
    row = {column: VALUES[kind] for column, kind in TABLES[name].items()}
    row |= {"status": "ok"} if "status" in row else {}
    return row | {"example_id": f"e{number:03}"} | changed if "example_id" in row else row | changed


@pytest.mark.parametrize("name", TABLES)
def test_every_value_comes_back_as_it_was_written(name):
    nulls = {column: None for column in NULLABLE if column in TABLES[name]}
    first_key = SORT_KEYS[name][0]
    rows = [row_of(name, **{first_key: "a"}), row_of(name, **{first_key: "b"} | nulls)]
    table = from_parquet(name, to_parquet(to_table(name, rows)), "memory")
    assert table.schema == schema_of(name)
    assert table.to_pylist() == rows


FINITE = st.floats(allow_nan=False, allow_infinity=False)
KINDS = {
    "string": st.text(max_size=4),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": FINITE,
    "bool": st.booleans(),
    "list<string>": st.lists(st.text(max_size=2), max_size=2),
    "list<int64>": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=2),
    "list<bool>": st.lists(st.booleans(), max_size=2),
    "list<float64>": st.lists(FINITE, max_size=2),
}


@st.composite
def any_rows(draw, name):
    """Rows with keys of their own, whose values are any that their columns can hold."""
    columns = {column: KINDS[kind] for column, kind in TABLES[name].items()}
    columns |= {column: st.none() | columns[column] for column in NULLABLE if column in columns}
    if "status" in columns:
        columns |= {"status": st.just("ok"), "reason": st.none()}
    keys = SORT_KEYS[name]
    return draw(
        st.lists(
            st.fixed_dictionaries(columns),
            max_size=3,
            unique_by=lambda row: tuple(row[key] for key in keys),
        )
    )


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=10)
@given(data=st.data())
def test_any_values_come_back_as_they_were_written_whatever_the_order(name, data):
    rows = data.draw(any_rows(name))
    written = to_parquet(to_table(name, rows))
    assert to_parquet(to_table(name, data.draw(st.permutations(rows)))) == written
    back = from_parquet(name, written, "memory").to_pylist()
    # As text, which tells -0.0 from 0.0 and can be sorted.
    columns = TABLES[name]
    assert sorted(repr([row[c] for c in columns]) for row in back) == sorted(
        repr([row[c] for c in columns]) for row in rows
    )


@pytest.mark.parametrize("name", TABLES)
def test_an_empty_table_keeps_its_columns(name):
    table = from_parquet(name, to_parquet(to_table(name, [])), "memory")
    assert table.schema == schema_of(name) and len(table) == 0


def test_numpy_numbers_and_arrays_are_taken_as_they_are():
    row = row_of(
        "maps", scores=np.array([0.5, -2.0]), target=np.int64(1), probability=np.float64(1)
    )
    stored = to_table("maps", [row]).to_pylist()[0]
    assert (stored["scores"], stored["target"], stored["probability"]) == ([0.5, -2.0], 1, 1.0)


def test_the_order_of_rows_changes_no_byte():
    rows = [row_of("rows", number, metric=m) for number in range(40) for m in ("srg", "aopc")]
    expected = to_parquet(to_table("rows", rows))
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert to_parquet(to_table("rows", rows)) == expected


def test_how_rows_are_cut_into_blocks_changes_no_byte():
    rows = [row_of("maps", number) for number in range(30)]
    expected = to_parquet(to_table("maps", rows))
    for cut in (1, 7, 29):
        blocks = [to_table("maps", rows[cut:]), to_table("maps", rows[:cut])]
        assert to_parquet(merge("maps", blocks)) == expected


def test_a_table_is_one_row_group_and_carries_no_metadata():
    rows = [row_of("rows", number) for number in range(3)]
    file = pq.ParquetFile(BytesIO(to_parquet(to_table("rows", rows))))
    assert file.num_row_groups == 1
    assert file.metadata.metadata is None


def test_rows_are_sorted_by_their_keys():
    rows = [row_of("curves", number, k=k) for number in (2, 1) for k in (10, 9, 0)]
    stored = to_table("curves", rows).to_pylist()
    # By hand: example first, then k as a number, not as text.
    assert [(r["example_id"], r["k"]) for r in stored] == [
        *[("e001", 0), ("e001", 9), ("e001", 10)],
        *[("e002", 0), ("e002", 9), ("e002", 10)],
    ]


def test_a_row_said_twice_is_kept_once():
    rows = [row_of("examples", 1), row_of("examples", 1), row_of("examples", 2)]
    assert [r["example_id"] for r in to_table("examples", rows).to_pylist()] == ["e001", "e002"]


def test_two_answers_to_one_question_are_refused():
    rows = [row_of("rows", 7, value=0.25), row_of("rows", 7, value=0.5)]
    with pytest.raises(InputError, match=r"example_id='e007'.*same key"):
        to_table("rows", rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("name", "column", "wrap"),
    [("rows", "value", False), ("curves", "deletion", False), ("maps", "scores", True)],
)
def test_numbers_that_are_not_finite_are_refused_by_row(name, column, wrap, value):
    wrong = row_of(name, 5, **{column: [1.0, value] if wrap else value})
    with pytest.raises(InputError, match=rf"(?s)table '{name}', row 1 .*'e005'.*{column}.*finite"):
        to_table(name, [row_of(name, 4), wrong, row_of(name, 6)])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"value": None}, "a value belongs to status ok"),
        ({"status": "failed", "reason": "NaN"}, "a value belongs to status ok"),
        ({"status": "failed", "value": None, "reason": ""}, "needs a reason"),
        ({"status": "failed", "value": None, "reason": None}, "needs a reason"),
        ({"status": "OK"}, "the status is none of ok, not_applicable, failed"),
        ({"status": None}, "the status is none of"),
        ({"metrik": "srg"}, "unknown column 'metrik'; did you mean 'metric'"),
        ({"value": "0.5"}, "row 1"),
        ({"metric": 3}, "row 1"),
        ({"metric": "\ud800"}, "row 1"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_rows_that_break_the_schema_are_refused_by_row(changed, message):
    with pytest.raises(InputError, match=message) as caught:
        to_table("rows", [row_of("rows", 4), row_of("rows", 5, **changed)])
    assert "e005" in str(caught.value)


@pytest.mark.parametrize("value", [1.5, 2.0, np.float64(1.5)])
def test_fractions_are_not_cut_to_integers(value):
    with pytest.raises(InputError, match="k takes int64"):
        to_table("curves", [row_of("curves", k=value)])
    with pytest.raises(InputError, match="starts takes list<int64>"):
        to_table("maps", [row_of("maps", starts=[0, value])])


def test_integers_beyond_64_bits_are_refused():
    with pytest.raises(InputError, match="row 0"):
        to_table("curves", [row_of("curves", k=2**70)])


def test_a_row_without_its_key_is_refused():
    row = row_of("rows")
    del row["setting_id"]
    with pytest.raises(InputError, match="lacks setting_id"):
        to_table("rows", [row])


def test_a_status_other_than_ok_has_a_reason_and_no_value():
    row = row_of("rows", status="not_applicable", value=None, reason="no baseline")
    assert to_table("rows", [row]).to_pylist() == [row]


def test_an_unknown_table_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"unknown table 'row'; did you mean 'rows'"):
        to_table("row", [])


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all"])
def test_what_is_not_parquet_is_a_storage_error_that_names_the_file(data):
    with pytest.raises(StorageError, match=r"here/rows\.parquet"):
        from_parquet("rows", data, "here/rows.parquet")


def test_another_table_under_this_name_is_a_storage_error():
    data = to_parquet(to_table("maps", [row_of("maps")]))
    with pytest.raises(StorageError, match="columns"):
        from_parquet("rows", data, "rows.parquet")


@pytest.mark.parametrize("name", ADDED)
def test_a_table_of_an_earlier_version_reads_with_nulls_where_it_had_no_column(name):
    table = from_parquet(name, to_parquet(schema_of(name).empty_table()), name)
    old = to_parquet(table.drop_columns(list(ADDED[name])))
    read = from_parquet(name, old, f"{name}.parquet")
    assert read.schema.equals(table.schema)
    lacking = to_parquet(table.drop_columns(["example_id"]))
    with pytest.raises(StorageError, match="columns"):
        from_parquet(name, lacking, f"{name}.parquet")


def test_values_of_an_earlier_version_stay_in_their_columns():
    row = {"cell_id": "c", "setting_id": "s", "example_id": "e", "scores": [1.0], "error": 0.5}
    old = to_parquet(to_table("maps", [row]).drop_columns(list(ADDED["maps"])))
    (read,) = from_parquet("maps", old, "maps.parquet").to_pylist()
    assert (read["scores"], read["error"]) == ([1.0], None)


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in RESULTS.rglob("digests.json")),
    ids=lambda path: str(path.relative_to(RESULTS)),
)
def test_every_committed_run_can_be_read(folder):
    assert len(read_run(folder).tables["examples"])
