"""The user's own file: CSV, TSV, JSON lines or Parquet, read strictly."""

import codecs
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from saliency_bench.data.example import Example
from saliency_bench.data.readers import read_csv, read_jsonl, read_parquet, read_tsv
from saliency_bench.data.records import Columns, Record, to_examples
from saliency_bench.errors import InputError, unknown

Reader = Callable[[bytes, str, Columns], Iterator[Record]]

FORMATS: Mapping[str, Reader] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}
SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
PARQUET_MARK = b"PAR1"


def load(
    *,
    path: str,
    text: str,
    text_pair: str | None = None,
    label: str | None = None,
    id: str | None = None,
    relevant: str | None = None,
    relevant_format: str | None = None,
    format: str | None = None,
) -> list[Example]:
    """The rows of a file as examples, in the order of the file.

    Rows are named as an editor numbers lines, the header of CSV and TSV being line 1; the first row
    of Parquet is row 1.

    Args:
        path: the file.
        text: column of the texts.
        text_pair: column of the second texts, for pairs.
        label: column of the gold labels: class indices or names (`labels.resolve_label`).
        id: column of unique names; else they are made from the texts (`records.to_examples`).
        relevant: column of what is known to matter in `text`.
        relevant_format: spans, hatexplain or eraser (`relevance.with_relevant`); told by the values if None.
        format: csv, tsv, jsonl or parquet; told by the suffix if None.

    Raises:
        InputError: the file or a row of it cannot be used; says which (file:row) and what to do.
    """
    columns = Columns(text, text_pair, label, id, relevant)
    data = _read(Path(path).expanduser())
    read = FORMATS[_format(path, data, format)]
    return to_examples(read(data, path, columns), columns, path, relevant_format)


def _read(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"{path}: there is no such file (data.path, seen from {Path.cwd()})")
    if path.is_dir():
        raise InputError(
            f"{path}: expected a file, got a folder. For dataset folders use data=hub."
        )
    if not path.is_file():
        raise InputError(f"{path}: not a regular file. Save the data to a file first.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror}") from None
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise InputError(f"{path}: the file is empty. Expected at least one row.")
    return data


def _format(path: str, data: bytes, named: str | None) -> str:
    for mark, compression in COMPRESSED.items():
        if data.startswith(mark):
            raise InputError(f"{path}: the file is compressed ({compression}). Unpack it first.")
    if named is not None and named not in FORMATS:
        raise unknown("data.format", named, list(FORMATS))
    found = named or SUFFIXES.get(Path(path).suffix.lower())
    if found is None:
        known = ", ".join(FORMATS)
        raise InputError(f"{path}: the suffix tells no known format. Set data.format to {known}.")
    if data.startswith(PARQUET_MARK) and found != "parquet":
        raise InputError(f"{path}: expected {found}, got a Parquet file. Set data.format=parquet.")
    return found
