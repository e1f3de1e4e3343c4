"""Merges many sorted parts of a table to one sorted Parquet file, in memory that does not grow with their number.

Rows are dealt to buckets, which follow each other in the order of keys; each bucket is sorted alone. The file has row groups
of one size (fewer rows if lists are long), so that its bytes depend on the rows alone. A table of one group is written as
`to_parquet` writes it.
"""

import hashlib
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saliency_bench.core.rows import SORT_KEYS, TABLES
from saliency_bench.store.durable import put_in_place, replace_file, sha256, storing
from saliency_bench.store.parquet import OPTIONS, from_parquet, merge, schema_of, to_parquet

#: Rows of a row group, and the most that are in memory at once, about.
GROUP_ROWS = 65_536
#: The same in values, for tables with lists: a map has a value of every column for every token, some 10 bytes each.
GROUP_VALUES = 2_097_152
#: Sampled rows per bucket, whose keys decide where buckets begin.
SAMPLES_PER_BUCKET = 1000

_Key = tuple[str, ...]


def merge_files(
    name: str, files: Sequence[Path], target: Path, scratch: Path, most: int = GROUP_ROWS
) -> str:
    """Merges the rows of the files into one file at `target`, in one step, and returns its SHA-256.

    `scratch` is a folder for rows that do not fit memory; it is made if needed, and left empty.

    Raises:
        InputError: rows with the same key differ.
        StorageError: the disk refuses, or a file is not this table; `target` is as it was.
    """
    with storing(target):
        metadata = [pq.ParquetFile(file).metadata for file in files]
        total = sum(file_metadata.num_rows for file_metadata in metadata)
        most = min(most, _rows_of_lists(name, metadata, total))
        if total > most:
            return _merge_in_buckets(name, files, target, scratch, total, most)
        tables = [from_parquet(name, file.read_bytes(), file) for file in files]
    data = to_parquet(merge(name, tables))
    replace_file(target, data)
    return sha256(data)


def _rows_of_lists(name: str, metadata: Sequence[pq.FileMetaData], total: int) -> int:
    """Returns the most rows with at most `GROUP_VALUES` values on average; `GROUP_ROWS` for a table without lists.

    Values are counted, not bytes, since their number depends on the rows alone and not on the parts. The result is a power
    of two, so that a row that two parts share changes nothing.
    """
    if not total or not any(kind.startswith("list<") for kind in TABLES[name].values()):
        return GROUP_ROWS
    n_values: int = sum(
        group.column(place).num_values
        for of_file in metadata
        for group in map(of_file.row_group, range(of_file.num_row_groups))
        for place in range(group.num_columns)
    )
    rows = int(GROUP_VALUES * total // n_values)
    return 1 << max(rows, 1).bit_length() - 1


def _merge_in_buckets(
    name: str, files: Sequence[Path], target: Path, scratch: Path, total: int, most: int
) -> str:
    cuts = _cuts(name, files, total, most)
    shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
    scratch.mkdir(parents=True)
    digest = hashlib.sha256()
    with (
        put_in_place(target) as stream,
        pq.ParquetWriter(Hashed(stream, digest), schema_of(name), **OPTIONS) as writer,
    ):
        left = schema_of(name).empty_table()
        for bucket in _dealt(name, files, cuts, scratch):
            left = pa.concat_tables([left, merge(name, [bucket])])
            while len(left) >= most:
                _write(writer, left.slice(0, most))
                left = left.slice(most)
        if len(left):
            _write(writer, left)
    return digest.hexdigest()


def _write(writer: pq.ParquetWriter, table: pa.Table) -> None:
    writer.write_table(table.combine_chunks(), row_group_size=len(table))


def _cuts(name: str, files: Sequence[Path], total: int, most: int) -> list[_Key]:
    """Returns the keys at which buckets of about `most` rows begin, without the first bucket, from a sample of the rows."""
    step = max(1, most // SAMPLES_PER_BUCKET)
    sampled, passed = [], 0
    for file in files:
        table = pq.ParquetFile(file).read(columns=_leading(name))
        places = range(-passed % step, len(table), step)
        sampled += _keys(name, table.take(pa.array(places, pa.int64())))
        passed += len(table)
    sampled.sort()
    per_bucket = -(-len(sampled) // -(-total // most))
    return sorted(set(sampled[per_bucket::per_bucket]))


def _dealt(
    name: str, files: Sequence[Path], cuts: Sequence[_Key], scratch: Path
) -> Iterator[pa.Table]:
    """Yields the rows of each bucket in turn."""
    schema = schema_of(name)
    paths = [scratch / f"{place}.arrow" for place in range(len(cuts) + 1)]
    writers = [pa.ipc.new_file(str(path), schema) for path in paths]
    try:
        for file in files:
            table = from_parquet(name, file.read_bytes(), file)
            places = np.array([bisect_right(cuts, key) for key in _keys(name, table)], int)
            for place in np.unique(places):
                writers[place].write_table(table.take(np.flatnonzero(places == place)))
    finally:
        for writer in writers:
            writer.close()
    for path in paths:
        with pa.OSFile(str(path)) as source:
            yield pa.ipc.open_file(source).read_all()
        path.unlink()


def _leading(name: str) -> list[str]:
    """Returns the key columns up to the text; rows that share them are in one bucket."""
    keys = SORT_KEYS[name]
    return keys[: keys.index("example_id") + 1] if "example_id" in keys else keys[:2]


def _keys(name: str, table: pa.Table) -> list[_Key]:
    """Returns the leading key columns of every row; nulls come last, as Arrow sorts them."""
    columns = [table[column].to_pylist() for column in _leading(name)]
    return [tuple(_last(value) for value in row) for row in zip(*columns, strict=True)]


def _last(value: Any) -> str:
    """Returns a text that sorts as Arrow sorts the value: by bytes, and null after everything."""
    return "\U0010ffff" if value is None else str(value)


class Hashed:
    """A binary file that computes the digest of what is written."""

    closed = False

    def __init__(self, stream: Any, digest: Any) -> None:
        self._stream, self._digest = stream, digest

    def write(self, data: Any) -> int:
        """Writes and digests."""
        self._digest.update(data)
        return int(self._stream.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
