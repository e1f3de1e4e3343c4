"""Arrow tables and Parquet files of rows: checked, sorted, and with the same bytes for the same rows."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from saliency_bench.core.errors import InputError, StorageError, one_of, unknown
from saliency_bench.core.rows import ADDED, OK, SORT_KEYS, STATUSES, TABLES

#: The options of every file.
OPTIONS: dict[str, Any] = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 3,
    "store_schema": False,
}
#: In tables of more rows than this, texts are read as dictionaries, which hold equal texts once.
MANY = 1_000_000
_NOT_CONVERTIBLE = (pa.ArrowException, TypeError, ValueError, OverflowError)


def schema_of(name: str) -> pa.Schema:
    """Returns the Arrow schema of a table of `saliency_bench.core.rows.TABLES`."""
    return pa.schema([(column, _arrow_type(kind)) for column, kind in TABLES[name].items()])


def to_table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Returns a table of checked rows in the order of their keys; a column that a row leaves out is null.

    Raises:
        InputError: an unknown table or column, a missing key, a value of another type, a number that is not finite, a value
            without status ok or the reverse, a status without a reason, or two different rows with one key. The message
            names the row.
    """
    one_of("table", name, TABLES)
    for index, row in enumerate(rows):
        _check_columns(name, index, row)
    table = _convert(name, rows)
    check(name, table)
    return merge(name, [table])


def check(name: str, table: pa.Table) -> None:
    """Checks that numbers are finite, that rows with status ok and no others have a value, and that others have a reason.

    Raises:
        InputError: a row does not; the message names the first.
    """
    _check_finite(name, table)
    _check_status(name, table)


def merge(name: str, tables: Sequence[pa.Table]) -> pa.Table:
    """Returns all rows sorted by `SORT_KEYS`; of equal rows one is kept.

    Raises:
        InputError: rows with the same key differ.
    """
    if not tables:
        return schema_of(name).empty_table()
    joined = pa.concat_tables(tables)
    # The writer cuts pages where chunks end, and the bytes must not depend on the blocks: so there is one chunk.
    ordered = joined.sort_by([(key, "ascending") for key in SORT_KEYS[name]]).combine_chunks()
    repeated = _repeated_rows(name, ordered)
    if not repeated:
        return ordered
    return ordered.take([i for i in range(len(ordered)) if i not in repeated]).combine_chunks()


def to_parquet(table: pa.Table) -> bytes:
    """Returns the bytes of a Parquet file with one row group, without time stamps or pandas metadata."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(None),
        sink,
        row_group_size=max(len(table), 1),
        **OPTIONS,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_parquet(name: str, data: bytes, where: object) -> pa.Table:
    """Reads a table back; columns that an earlier version did not have are null.

    Raises:
        StorageError: not Parquet, or not this table's columns.
    """
    with _opened(name, BytesIO(data), where) as file:
        return _select(name, file.read(), [*TABLES[name]])


def read_columns(
    name: str, path: Path, columns: Sequence[str], of: Mapping[str, Collection[Any]]
) -> pa.Table:
    """Reads columns of a file, in the rows whose columns in `of` have one of its values, a row group at a time.

    A missing file has no rows; columns that an earlier version did not have are null.

    Raises:
        StorageError: not Parquet, not this table's columns, or the disk refuses.
    """
    needed = list(dict.fromkeys([*columns, *of]))
    parts = []
    if path.is_file():
        with _opened(name, path, path) as file:
            stored = [column for column in needed if column in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                part = _select(name, file.read_row_group(group, columns=stored), needed)
                for column, values in of.items():
                    wanted = pa.array([*values], part[column].type)
                    part = part.filter(pc.is_in(part[column], wanted))
                part = part.select(columns)
                parts.append(_encoded(part) if file.metadata.num_rows > MANY else part)
    empty = _select(name, schema_of(name).empty_table(), columns)
    return pa.concat_tables(parts or [empty]).unify_dictionaries()


@contextmanager
def _opened(name: str, source: Path | BytesIO, where: object) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file and checks that its columns are those of the table, or of an earlier version of it."""
    try:
        with pq.ParquetFile(source) as file:
            columns, expected = file.schema_arrow.names, set(TABLES[name])
            lacking = expected - set(columns) - set(ADDED.get(name, ()))
            if lacking or sorted(columns) != sorted(expected & set(columns)):
                raise pa.ArrowInvalid(f"columns {columns}, expected {[*TABLES[name]]}")
            yield file
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{where} is not the table {name!r}: {error}") from error


def _select(name: str, table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Returns columns in the types of the schema; a column that is missing is null."""
    fields = [schema_of(name).field(column) for column in columns]
    arrays = [
        table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in fields
    ]
    return pa.table(arrays, names=list(columns)).cast(pa.schema(fields))


def _encoded(table: pa.Table) -> pa.Table:
    """Returns the same table with a dictionary for each column of texts."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            table = table.set_column(place, field.name, table[field.name].dictionary_encode())
    return table


def _arrow_type(kind: str) -> pa.DataType:
    if kind.startswith("list<"):
        return pa.list_(pa.type_for_alias(kind.removeprefix("list<").removesuffix(">")))
    return pa.type_for_alias(kind)


def _label(name: str, index: int, row: Mapping[str, Any]) -> str:
    keys = ", ".join(f"{key}={row.get(key)!r}" for key in SORT_KEYS[name])
    return f"table {name!r}, row {index} ({keys})"


def _check_columns(name: str, index: int, row: Mapping[str, Any]) -> None:
    if extra := row.keys() - TABLES[name].keys():
        error = unknown("column", min(extra), list(TABLES[name]))
        raise InputError(f"{_label(name, index, row)}: {error}")
    if missing := [key for key in SORT_KEYS[name] if key not in row]:
        raise InputError(f"{_label(name, index, row)}: lacks {', '.join(missing)}, part of its key")
    for column, kind in TABLES[name].items():
        if "int64" in kind and _has_fractions(row.get(column)):
            raise InputError(f"{_label(name, index, row)}: {column} takes {kind}, not floats")


def _has_fractions(value: Any) -> bool:
    # Arrow would silently cut 1.5 to 1 in an integer column.
    array = np.asarray(value)
    return array.dtype.kind == "f" and array.size > 0


def _convert(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    schema = schema_of(name)
    try:
        return pa.Table.from_pylist(list(rows), schema=schema)
    except _NOT_CONVERTIBLE:
        for index, row in enumerate(rows):
            try:
                pa.Table.from_pylist([row], schema=schema)
            except _NOT_CONVERTIBLE as error:
                raise InputError(f"{_label(name, index, row)}: {error}") from error
        raise


def _refuse(name: str, table: pa.Table, wrong: pa.Array | pa.ChunkedArray, message: str) -> None:
    """Raises for the first row where `wrong` is true."""
    index = pc.index(wrong, True).as_py()
    if index >= 0:
        row = table.slice(index, 1).to_pylist()[0]
        raise InputError(f"{_label(name, index, row)}: {message}")


def _check_finite(name: str, table: pa.Table) -> None:
    for column, kind in TABLES[name].items():
        if kind == "float64":
            wrong = pc.invert(pc.fill_null(pc.is_finite(table[column]), True))
            message = f"{column} is not finite. Write null, status failed and a reason"
            _refuse(name, table, wrong, message)
        elif kind == "list<float64>":
            finite = pc.is_finite(pc.list_flatten(table[column]))
            parents = pc.list_parent_indices(table[column]).filter(pc.invert(finite))
            wrong = pc.is_in(pa.array(range(len(table)), pa.int64()), parents.combine_chunks())
            _refuse(name, table, wrong, f"{column} are not all finite")


def _check_status(name: str, table: pa.Table) -> None:
    if "status" not in TABLES[name]:
        return
    status = table["status"]
    wrong = pc.invert(pc.is_in(status, pa.array(STATUSES)))
    _refuse(name, table, wrong, f"the status is none of {', '.join(STATUSES)}")
    ok = pc.equal(status, OK)
    wrong = pc.equal(ok, pc.is_null(table["value"]))
    _refuse(name, table, wrong, f"a value belongs to status {OK}, and {OK} needs a value")
    unexplained = pc.and_(pc.invert(ok), pc.equal(pc.fill_null(table["reason"], ""), ""))
    _refuse(name, table, unexplained, f"a status other than {OK} needs a reason")


def _repeated_rows(name: str, ordered: pa.Table) -> set[int]:
    """Returns the positions of rows that equal the row before them, in a sorted table."""
    alike = np.ones(max(len(ordered) - 1, 0), bool)
    for key in SORT_KEYS[name]:
        column = ordered[key].combine_chunks()
        first, second = column.slice(0, len(alike)), column.slice(1)
        both_null = pc.and_(pc.is_null(first), pc.is_null(second))
        same = pc.or_(pc.fill_null(pc.equal(first, second), False), both_null)
        alike &= same.to_numpy(zero_copy_only=False)
    same_key = [int(place) + 1 for place in np.flatnonzero(alike)]
    for i in same_key:
        if not ordered.slice(i, 1).equals(ordered.slice(i - 1, 1)):
            row = ordered.slice(i, 1).to_pylist()[0]
            raise InputError(
                f"{_label(name, i, row)}: another row has the same key and other values"
            )
    return set(same_key)
