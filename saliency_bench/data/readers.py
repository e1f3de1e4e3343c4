"""Reads data files of each format as rows, each with the number of its line or row."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from saliency_bench.core.errors import InputError
from saliency_bench.data.records import Columns, Record

LINE_BREAK = re.compile(rb"\r\n?|\n")
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


#: The meaning of quotes in CSV and TSV: letters, or marks around a field that contains separators or line breaks.
LETTERS, FIELDS = QUOTES = ("letters", "fields")


def read_jsonl(data: bytes, path: str, columns: Columns) -> Iterator[Record]:
    """Yields one row for each line with a JSON object, with the number of the line. Blank lines are skipped."""
    for number, values in json_lines(data, path):
        columns.check(list(values), f"{path}:{number}")
        yield number, values


def json_lines(data: bytes, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the objects of JSON lines with the numbers of their lines, whatever their keys."""
    for number, line in enumerate(decode(data, path).split("\n"), start=1):
        if line.strip(" \t\r"):
            yield number, _parse_json(line, f"{path}:{number}")


def read_parquet(data: bytes, path: str, columns: Columns) -> Iterator[Record]:
    """Yields the rows of a Parquet file, the first of which is row 1."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        return arrow_records(
            file.schema_arrow.names, lambda names: file.read(columns=names), path, columns
        )
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: not a Parquet file, or a truncated or damaged one ({first_line(error)}). "
            "Write it again."
        ) from None


def arrow_records(
    present: Sequence[str], read: Callable[[list[str]], Any], name: str, columns: Columns
) -> Iterator[Record]:
    """Returns the rows of an Arrow table, the first of which is row 1.

    Args:
        present: the names of its columns.
        read: gives the table with these columns alone.
        name: of the file or dataset, for messages.
        columns: the columns to read.

    Raises:
        InputError: a column is missing, or its texts are not UTF-8.
    """
    columns.check(present, name)
    names = list(dict.fromkeys(columns.wanted().values()))
    table = read(names)
    values = [_to_list(table[column], column, name) for column in names]
    rows = (dict(zip(names, row, strict=True)) for row in zip(*values, strict=True))
    return enumerate(rows, start=1)


def decode(data: bytes, path: str) -> str:
    """Returns the text of a file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: the file is in another encoding or has NULs; the message names line and byte.
    """
    if data.startswith(UTF16_MARKS):
        raise InputError(f"{path}:1: the file is in UTF-16, at byte 0. Save it as UTF-8.")
    nul = data.find(b"\0")
    if nul >= 0:
        raise InputError(f"{path}:{_line_of(data, nul)}: not text: a NUL byte at byte {nul}")
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = start + error.start
        raise InputError(
            f"{path}:{_line_of(data, offset)}: not UTF-8: 0x{data[offset]:02x} at byte {offset}. "
            "Save the file as UTF-8."
        ) from None


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def read_delimited(
    data: bytes, path: str, columns: Columns, delimiter: str, quotes: str
) -> Iterator[Record]:
    """Yields rows of fields under a header (RFC 4180), each with the number of its first line."""
    records = _parse_delimited(decode(data, path), path, delimiter, quotes)
    if not records:
        raise InputError(f"{path}: the file is empty. Expected a header and at least one row.")
    (line, header), *rows = records
    if quotes == LETTERS and all(map(QUOTED.fullmatch, header)):
        raise InputError(f"{path}:{line}: the names of the columns are in quotes. {_SET_FIELDS}")
    columns.check(header, f"{path}:{line}")
    for number, row in rows:
        if len(row) != len(header):
            remedy = (
                f"In a field there is a separator or a line break. {_SET_FIELDS}"
                if quotes == LETTERS
                else "Quote fields that hold the separator, quotes or line breaks. If quotes are letters, set "
                "data.quotes=letters."
            )
            raise InputError(
                f"{path}:{number}: expected {len(header)} fields as in the header, got {len(row)}. {remedy}"
            )
        yield number, dict(zip(header, row, strict=True))


#: A quoted field.
QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)
_SET_FIELDS = "If quotes stand around fields, as in CSV, set data.quotes=fields."


def _parse_delimited(
    text: str, path: str, delimiter: str, quotes: str
) -> list[tuple[int, list[str]]]:
    """Returns every record with the line on which it begins; blank lines are skipped."""
    quoting: Any = csv.QUOTE_NONE if quotes == LETTERS else csv.QUOTE_MINIMAL
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting)
    records, line = [], 1
    limit = csv.field_size_limit(len(text))  # of the whole process; it is restored below
    try:
        for record in reader:
            if record:
                records.append((line, record))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}:{line}: wrong quotes in the row that begins here ({error}). "
            'A field that begins with " ends with " and has its own quotes doubled; if quotes are letters, set '
            "data.quotes=letters."
        ) from None
    finally:
        csv.field_size_limit(limit)
    return records


def _parse_json(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not valid JSON ({error.msg}, column {error.colno}). "
            "Expected one object on each line."
        ) from None
    except (ValueError, RecursionError) as error:  # thousands of digits in a number, or of brackets
        raise InputError(f"{where}: JSON that cannot be read ({first_line(error)})") from None
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise InputError(f"{where}: expected a JSON object with the columns as keys, got {kind}")
    return values


def _to_list(column: Any, name: str, path: str) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        row, error = next(filter(None, map(_undecodable, range(len(column)), column)))
        raise InputError(
            f"{path}:{row}: column {name!r} is not UTF-8 at byte {error.start} of its text"
        ) from None
    return values


def _undecodable(index: int, scalar: Any) -> tuple[int, UnicodeDecodeError] | None:
    try:
        scalar.as_py()
    except UnicodeDecodeError as error:
        return index + 1, error
    return None


def _line_of(data: bytes, offset: int) -> int:
    return len(LINE_BREAK.findall(data, 0, offset)) + 1
