"""Measures the memory that a table needs before it is unpacked, since a small file may be made to unpack to a large table.

The sums in the footer of a Parquet file cannot be trusted. The unpacked size follows from the header before each page, a
struct of Thrift's compact protocol (https://github.com/apache/parquet-format, `PageHeader`). A page has repeated values
once. For numbers it also has their count; texts are read as dictionaries, in which each text is once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from saliency_bench.core.errors import StorageError
from saliency_bench.store.parquet import schema_of

#: Thrift's types by their number in the compact protocol.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
#: Fields of a page's header: its sizes, and the structs of a data page, a dictionary page and a data page of version 2, each
#: with its field that names the encoding.
_UNPACKED, _PACKED = 2, 3
_KINDS = {5: 2, 7: 2, 8: 4}
_N_VALUES = 1  # the field of each of these structs with its number of values
#: The encodings that we write: plain, dictionaries and run lengths. Others can make many long texts of a few bytes.
_ENCODINGS = (0, 2, 3, 8)
#: The deepest nesting of structs that is read; a header has two levels.
_DEEPEST = 8
#: The bytes of a value, except for texts.
_VALUE_BYTES = 8
#: The bytes that count for each page besides its values, since a footer may name the same page over and over.
_PAGE_BYTES = 64


class _Compact:
    """Reads Thrift's compact protocol; other data raises `IndexError` or `ValueError`."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def value(self, kind: int, depth: int) -> Any:
        """Returns a number of 32 bits, or the fields of a struct by their id; None for values that are skipped."""
        if kind in (_I16, _I32, _I64):
            zigzag = self.varint()
            return (zigzag >> 1) ^ -(zigzag & 1) if kind == _I32 else None
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_BYTE, _DOUBLE, _BINARY):
            length = {_BYTE: 1, _DOUBLE: 8}.get(kind) or self.varint()
            self.at += length
        elif kind not in (_TRUE, _FALSE):
            raise ValueError(f"a field of type {kind}, which no header of a page has")
        return None

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise ValueError("structs in structs")
        fields: dict[int, Any] = {}
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.value(_I32, depth)
            if number in fields:
                raise ValueError("a field twice")
            fields[number] = self.value(head & 0x0F, depth)
        return fields


@dataclass(frozen=True)
class Page:
    """The header of a page: its bytes in the file, its bytes when unpacked, and its number of values."""

    n_packed: int
    n_unpacked: int
    n_values: int

    @property
    def n_bytes(self) -> int:
        """The most bytes that the page needs in memory, where repeated values are no longer stored once."""
        return _PAGE_BYTES + self.n_unpacked + _VALUE_BYTES * self.n_values


def refuse_bombs(folder: Path, most: int) -> None:
    """Refuses a folder whose tables would take more than `most` bytes of memory, before anything is unpacked.

    Raises:
        StorageError: the tables would take more, or a file is not a table.
    """
    total = 0
    for path in sorted(folder.glob("*.parquet")):
        try:
            total += unpacked_bytes(path.stem, path.read_bytes(), most - total)
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{path} is not a table: {error}") from error
        if total > most:
            raise StorageError(f"{folder}: its tables would take more than {most / 1e6:g} MB.")


def unpacked_bytes(name: str, data: bytes, most: int) -> int:
    """Returns the bytes that a table needs in memory.

    If its pages alone need more than `most`, their bytes are returned and nothing is unpacked.

    Args:
        name: a name in `saliency_bench.core.rows.TABLES`.
        data: the whole file.
        most: the limit in bytes.

    Raises:
        pyarrow.ArrowInvalid: a page's header cannot be read, has a field twice, a number below 0 or an encoding that we do
            not write, or a column has another type than that of the table.
    """
    of_pages = 0
    try:
        for page in pages(data):
            of_pages += page.n_bytes
            if of_pages > most:
                return of_pages
        return of_pages + _bytes_of_texts(name, data)
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(f"a name in it is no text: {error}") from error


def _bytes_of_texts(name: str, data: bytes) -> int:
    plain = {field.name: field.type for field in schema_of(name)}
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        for field in file.schema_arrow:
            if field.type != plain.get(field.name):
                raise pa.ArrowInvalid(f"column {field.name!r} of type {field.type}")
        columns = [column.path for column in file.schema if column.physical_type == "BYTE_ARRAY"]
    with pq.ParquetFile(pa.BufferReader(data), read_dictionary=columns) as file:
        table = file.read(columns=columns)
    total = 0
    for chunk in (chunk for column in table.columns for chunk in column.chunks):
        texts = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
        lengths = pc.binary_length(texts.dictionary).take(texts.indices)
        total += pc.sum(lengths.cast(pa.int64())).as_py() or 0
    return total


def pages(data: bytes) -> Iterator[Page]:
    """Reads the headers of all pages of a file.

    Args:
        data: the whole file.

    Raises:
        pyarrow.ArrowInvalid: see `unpacked_bytes`.
    """
    metadata = pq.read_metadata(pa.BufferReader(data))
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            first = chunk.dictionary_page_offset
            at = first if first and 0 < first < chunk.data_page_offset else chunk.data_page_offset
            if chunk.num_values:  # the pages of a column without values are never read
                yield from _of_chunk(data, at, at + chunk.total_compressed_size)


def _of_chunk(data: bytes, at: int, end: int) -> Iterator[Page]:
    """Yields the pages of a column, which follow each other."""
    try:
        while 0 <= at < min(end, len(data)):
            reader = _Compact(data, at)
            fields = reader.struct()
            (kind,) = (kind for kind in _KINDS if kind in fields)
            if fields[kind][_KINDS[kind]] not in _ENCODINGS:
                raise ValueError("an encoding that is not ours")
            page = Page(fields[_PACKED], fields[_UNPACKED], fields[kind][_N_VALUES])
            if min(page.n_packed, page.n_unpacked, page.n_values) < 0:
                raise ValueError("a number below 0")
            yield page
            at = reader.at + page.n_packed
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise pa.ArrowInvalid(
            f"the header of a page at byte {at} cannot be read: {error}"
        ) from error
