"""The user's own file: CSV, TSV, JSON lines or Parquet, read strictly."""

import codecs
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from saliency_bench.core.errors import InputError, one_of, unknown
from saliency_bench.data import dataset
from saliency_bench.data.example import Example
from saliency_bench.data.readers import (
    FIELDS,
    LETTERS,
    QUOTED,
    QUOTES,
    read_delimited,
    read_jsonl,
    read_parquet,
)
from saliency_bench.data.records import Columns, Record, to_examples

Reader = Callable[..., Iterator[Record]]

FORMATS: Mapping[str, Reader] = {
    "csv": partial(read_delimited, delimiter=",", quotes=FIELDS),
    "tsv": partial(read_delimited, delimiter="\t", quotes=LETTERS),
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}
DELIMITED = ("csv", "tsv")
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


@dataset
def load(
    *,
    path: str,
    text: str,
    text_pair: str | None = None,
    label: str | None = None,
    id: str | None = None,
    relevant: str | None = None,
    relevant_format: str | None = None,
    options: str | None = None,
    segments: str | None = None,
    messages: str | None = None,
    format: str | None = None,
    quotes: str | None = None,
) -> list[Example]:
    """Returns the rows of a file as examples, in the order of the file.

    Messages name rows by the numbers of their lines, where the header of CSV and TSV is line 1; the first row of Parquet is
    row 1.

    Args:
        path: the file.
        text: column of the texts, or of lists of their words, which single spaces join.
        text_pair: column of the second texts, for pairs.
        label: column of the gold labels: class indices or names (`labels.resolve_label`).
        id: column of unique names; without it they are made from the texts (`records.to_examples`).
        relevant: column of the parts of `text` that are known to matter.
        relevant_format: spans, characters, hatexplain or eraser (`relevance.with_relevant`); None: by the values.
        options: column of lists of texts of which one may follow `text` (`fields.options_of`).
        segments: column of named segments of `text` (`fields.segments_of`), or of the user's last message in a chat.
        messages: column of chats, which are read instead of `text` (`fields.messages_of`).
        format: csv, tsv, jsonl or parquet; None: by the suffix.
        quotes: the meaning of quotes in CSV and TSV: "fields" (they stand around fields, RFC 4180; the default of CSV) or
            "letters" (they are letters, and each line is a row, as in GLUE's files; the default of TSV).

    Raises:
        InputError: the file or a row of it cannot be used; the message names it (file:row) and says what to do.
    """
    columns = Columns(text, text_pair, label, id, relevant, options, segments, messages)
    data = _read(Path(path).expanduser())
    name = _format(path, data, format)
    read = FORMATS[name]
    if quotes is not None:
        _check_quotes(quotes, name)
        read = partial(read, quotes=quotes)
    examples = to_examples(read(data, path, columns), columns, path, relevant_format)
    if name == "tsv" and quotes is None:
        _warn_of_doubled_quotes(examples)
    return examples


def _warn_of_doubled_quotes(examples: list[Example]) -> None:
    """Warns of texts that look like quoted fields of CSV."""
    texts = (
        (example.source, text)
        for example in examples
        for text in (example.text, example.text_pair or "")
    )
    if places := [where for where, text in texts if QUOTED.fullmatch(text) and '""' in text[1:-1]]:
        warnings.warn(
            f"{places[0]}: this text looks like a field of CSV in quotes, with doubled quotes in it ({len(places)} such), "
            "but quotes in TSV are read as letters. Set data.quotes=fields if they stand around fields, else data.quotes=letters",
            stacklevel=3,
        )


def _check_quotes(quotes: str, format: str) -> None:
    one_of("data.quotes", quotes, QUOTES)
    if format not in DELIMITED:
        raise InputError(f"data.quotes={quotes}: only for {' and '.join(DELIMITED)}, not {format}")


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
    format = named or SUFFIXES.get(Path(path).suffix.lower())
    if format is None:
        names = ", ".join(FORMATS)
        raise InputError(f"{path}: the suffix is of no known format. Set data.format to {names}.")
    if data.startswith(PARQUET_MARK) and format != "parquet":
        raise InputError(f"{path}: expected {format}, got a Parquet file. Set data.format=parquet.")
    return format
