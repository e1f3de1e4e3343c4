"""What a table takes in memory is known before it is unpacked, whatever its file says of itself."""

import io
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from saliency_bench.store import pages as reading
from saliency_bench.store.pages import pages, unpacked_bytes
from saliency_bench.store.parquet import schema_of, to_parquet, to_table

MOST = 200_000_000


def file_of(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, **({"compression": "zstd"} | options))
    return sink.getvalue()


def warned(n):
    return [
        {"cell_id": "c", "example_id": f"e{i}", "source": "data", "message": "m" * i}
        for i in range(n)
    ]


@pytest.fixture
def nothing_is_opened(monkeypatch):
    def opened(*_, **__):
        raise AssertionError("the file was opened")

    monkeypatch.setattr(reading.pq, "ParquetFile", opened)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_headers_say_what_arrow_says_of_an_honest_file(version, use_dictionary):
    """Arrow's footer counts a column's headers too: what is left are some bytes for each page."""
    table = pa.table({"text": [f"w{i}" for i in range(5000)], "number": np.arange(5000) / 3})
    data = file_of(
        table, data_page_size=4000, data_page_version=version, use_dictionary=use_dictionary
    )
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    chunks = [group.column(index) for index in range(2)]
    headers = list(pages(data))
    assert len(headers) > 5
    n_headers = sum(chunk.total_uncompressed_size for chunk in chunks) - sum(
        page.n_unpacked for page in headers
    )
    assert 0 < n_headers < 100 * len(headers)
    packed = sum(chunk.total_compressed_size for chunk in chunks) - sum(
        page.n_packed for page in headers
    )
    assert packed == n_headers
    distinct = 5000 * 2 if use_dictionary else 0  # of the dictionaries' own pages
    assert sum(page.n_values for page in headers) == 5000 * 2 + distinct


def test_the_memory_of_an_honest_table_is_within_it():
    table = to_table("warnings", warned(300))
    taken = unpacked_bytes("warnings", to_parquet(table), MOST)
    texts = sum(len(text) for column in table.columns for text in column.to_pylist())
    assert texts <= taken < 4 * table.nbytes


@pytest.mark.usefixtures("nothing_is_opened")
def test_one_huge_page_is_not_unpacked():
    text = pa.array(["x" * 220_000_000])
    data = file_of(pa.table({"message": text}), use_dictionary=False)
    assert len(data) < 100_000
    assert unpacked_bytes("warnings", data, MOST) > MOST


@pytest.mark.usefixtures("nothing_is_opened")
def test_a_row_of_millions_of_equal_numbers_is_not_read():
    """Run lengths: the page itself is small."""
    numbers = pa.FixedSizeListArray.from_arrays(pa.repeat(pa.scalar(1.0), 30_000_000), 30_000_000)
    data = file_of(pa.table({"scores": numbers.cast(pa.list_(pa.float64()))}))
    assert len(data) < 100_000 and max(page.n_unpacked for page in pages(data)) < 10_000_000
    assert unpacked_bytes("maps", data, MOST) > MOST


def test_a_text_that_is_repeated_counts_each_time():
    texts = pa.DictionaryArray.from_arrays(np.zeros(110_000, np.int32), ["x" * 2000])
    data = file_of(pa.table({"message": texts}), store_schema=False)
    assert sum(page.n_bytes for page in pages(data)) < 2_000_000
    assert unpacked_bytes("warnings", data, MOST) > 110_000 * 2000


def test_texts_that_continue_each_other_are_refused():
    data = file_of(
        pa.table({"message": ["x" * 1000] * 10}),
        use_dictionary=False,
        column_encoding={"message": "DELTA_BYTE_ARRAY"},
    )
    with pytest.raises(pa.ArrowInvalid, match="an encoding that is not ours"):
        unpacked_bytes("warnings", data, MOST)


def field(number, kind, value):
    """A field in Thrift's long form: its type, and its number and value as zigzag bytes."""
    return bytes([kind, 2 * number, 2 * value])


@pytest.mark.parametrize(
    "header",
    [
        field(2, 5, 9) + field(2, 5, 1),  # a size twice
        field(2, 6, 1) + field(3, 5, 1),  # a size of 64 bits, which Arrow passes over
        field(1, 5, 0),  # none
        b"\x1c" * 20,  # structs in structs
        b"\x18\xff\xff\xff\xff\x7f",  # a text beyond the end
        b"\x15" + b"\xff" * 12,  # a number without end
    ],
)
def test_a_header_that_two_readers_may_read_differently_is_refused(header):
    data = file_of(pa.table({"message": ["x" * 200]}), use_dictionary=False, compression="none")
    start = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0).data_page_offset
    forged = data[:start] + header + bytes(40) + data[start + len(header) + 40 :]
    with pytest.raises(pa.ArrowInvalid):
        list(pages(forged))


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=6))
@example(1578, b"\x80")  # a name of the footer that is not UTF-8
def test_bytes_that_were_changed_raise_nothing_else(place, changed):
    data = bytearray(to_parquet(to_table("warnings", warned(20))))
    place %= len(data)
    data[place : place + len(changed)] = changed
    with suppress(pa.ArrowException, OSError):
        unpacked_bytes("warnings", bytes(data), MOST)


def test_columns_are_those_of_the_table():
    assert schema_of("warnings").field("message").type == pa.string()
    with pytest.raises(pa.ArrowInvalid, match="of type int64"):
        unpacked_bytes("warnings", file_of(pa.table({"message": [1]})), MOST)
