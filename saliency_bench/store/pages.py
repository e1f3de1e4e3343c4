"""What a table takes in memory, found before it is unpacked: a small file may become large.

Sums in the footer of a Parquet file are the sender's word. What is unpacked is what the header before each page says, a
struct of Thrift's compact protocol (https://github.com/apache/parquet-format, `PageHeader`). A page holds values that
repeat once. It says how many values it has, so that numbers are counted from that. Texts differ in length: they are
read as dictionaries, which hold each text once, and their lengths are added up.
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
_N_VALUES = 1  # of each of these structs
#: Plain, dictionaries and run lengths, which are all that we write: others make many long texts out of a few bytes.
_ENCODINGS = (0, 2, 3, 8)
#: Structs in structs; a header has two.
_DEEPEST = 8
#: Of a value of any column but texts, which pages hold as they are.
_VALUE_BYTES = 8
#: Of a page without any: a footer may name the same ones over and over.
_PAGE_BYTES = 64


class _Compact:
    """Reads Thrift's compact protocol; what is no such data raises `IndexError` or `ValueError`."""

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
        """A number of 32 bits, or the fields of a struct by their id; None for what has been passed over."""
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
    """A page, by its header: bytes as they stand in the file and once unpacked, and how many values it has."""

    n_packed: int
    n_unpacked: int
    n_values: int

    @property
    def n_bytes(self) -> int:
        """What it may take in memory: values that repeat are stored once, and are many when they are read."""
        return _PAGE_BYTES + self.n_unpacked + _VALUE_BYTES * self.n_values


def refuse_bombs(folder: Path, most: int) -> None:
    """Refuses a folder whose tables would take more than `most` bytes of memory, before anything is unpacked.

    Raises:
        StorageError: they would, or one is not a table.
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
    """What a table takes in memory. Where its pages alone take more than `most`, that is returned, and nothing is unpacked.

    Args:
        name: of `saliency_bench.core.rows.TABLES`.
        data: the whole file.
        most: bytes.

    Raises:
        pyarrow.ArrowInvalid: a page's header cannot be read, says a thing twice, has a number below 0 or an encoding
            that we do not write, or a column is of another type than the table's.
    """
    of_pages = 0
    for page in pages(data):
        of_pages += page.n_bytes
        if of_pages > most:
            return of_pages
    try:
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
            if chunk.num_values:  # of a column without values no page is read
                yield from _of_chunk(data, at, at + chunk.total_compressed_size)


def _of_chunk(data: bytes, at: int, end: int) -> Iterator[Page]:
    """The pages of a column, which stand one after the other."""
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
