"""Comments with the spans that crowd workers found toxic, read from the user's copy of the data set, which is not shipped.

Source: Pavlopoulos et al. 2021 (SemEval-2021 task 5) and 2022 (ACL). `path` is the folder with comments.csv,
annotations.csv and spans.csv, or one of SemEval's files, with the columns `spans` and `text`.
"""

import csv
import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saliency_bench.core.errors import InputError, one_of
from saliency_bench.data import dataset, file
from saliency_bench.data.example import Example, Span, spans_of_characters
from saliency_bench.data.readers import decode

SPLITS = ("train", "validation", "test")
ALL = "all"
#: The class of a comment, by the majority of its annotators.
LABELS = ("not toxic", "toxic")


@dataclass(frozen=True)
class Annotation:
    """The answer of one worker: whether the comment is not toxic, and the toxic spans, each first character and end."""

    not_toxic: bool
    spans: tuple[tuple[int, int], ...]


@dataset
def load(*, path: str, split: str, share: float, marked: bool = False) -> list[Example]:
    """Returns the comments in the order of their file.

    A comment is toxic (class 1) if more than half of its annotators did not tick "not toxic". The characters that more than
    `share` of its annotators marked are `relevant`; in a comment that is not toxic, none are. `extra` has the number of
    annotators, and the largest share of them that marked one character.

    The form of the workers required a span, unless they ticked both "not toxic" and "no specific span is responsible". Of
    those who marked nothing it is therefore unknown which of the two they meant.

    Args:
        path: the folder, or a file of SemEval, whose comments have no label: all of them count as toxic.
        split: train, validation, test (70, 10 and 20 % by the hash of the text, so that equal texts share a split) or all.
        share: the share of annotators above which a marked character is relevant; the files of SemEval have one decision
            for all.
        marked: leaves out comments without a relevant character.

    Raises:
        InputError: there is no such file, a column is missing, or a row refers to another that is not there.
    """
    one_of("data.split", split, (*SPLITS, ALL))
    place = Path(path).expanduser()
    if place.is_file():
        examples = file.load(
            path=path, text="text", relevant="spans", relevant_format="characters", format="csv"
        )
    else:
        annotations = read_annotations(place)
        examples = [
            _example(row, annotations.get(row["comment_id"], []), share) for row in _comments(place)
        ]
    return [
        example
        for example in examples
        if split in (ALL, split_of(example.text)) and (example.relevant or not marked)
    ]


def read_annotations(folder: Path) -> dict[str, list[Annotation]]:
    """Reads every worker's annotation, by comment id. Spans that end after their comment are left out, with a warning."""
    lengths = {row["comment_id"]: len(row["comment_text"]) for row in _comments(folder)}
    rows = _rows(folder / "annotations.csv", ("annotation", "comment_id", "not toxic"))
    comments: dict[str, str] = {}
    for line, row in rows:
        if row["comment_id"] not in lengths:
            raise InputError(
                f"{folder / 'annotations.csv'}:{line}: there is no comment {row['comment_id']}"
            )
        comments[row["annotation"]] = row["comment_id"]
    spans: dict[str, list[tuple[int, int]]] = {}
    n_beyond = 0
    for line, row in _rows(folder / "spans.csv", ("annotation", "start", "end")):
        where = f"{folder / 'spans.csv'}:{line}"
        if row["annotation"] not in comments:
            raise InputError(f"{where}: there is no annotation {row['annotation']}")
        start, end = (_place(row[key], where) for key in ("start", "end"))
        if not start < end:
            raise InputError(f"{where}: expected a span of characters, got {start} to {end}")
        if end > lengths[comments[row["annotation"]]]:
            n_beyond += 1
        else:
            spans.setdefault(row["annotation"], []).append((start, end))
    if n_beyond:
        warnings.warn(
            f"{folder / 'spans.csv'}: {n_beyond} spans end after their comment and are left out",
            stacklevel=2,
        )
    annotations: dict[str, list[Annotation]] = {}
    for line, row in rows:
        one_of(
            f"{folder / 'annotations.csv'}:{line} not toxic", row["not toxic"], ("True", "False")
        )
        marked = tuple(spans.get(row["annotation"], ()))
        annotation = Annotation(row["not toxic"] == "True", marked)
        annotations.setdefault(row["comment_id"], []).append(annotation)
    return annotations


def relevant(annotations: Sequence[Annotation], share: float) -> tuple[Span, ...]:
    """Returns the spans of characters that more than this share of the annotators marked."""
    counts = marks(annotations)
    threshold = share * len(annotations)
    return spans_of_characters(character for character, n in counts.items() if n > threshold)


def split_of(text: str) -> str:
    """Returns the split of a text, from its hash."""
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10
    return SPLITS[(number >= 7) + (number >= 8)]


def _example(row: Mapping[str, str], annotations: Sequence[Annotation], share: float) -> Example:
    name, text = row["comment_id"], row["comment_text"]
    if not annotations:
        return Example(name, text, source=f"comment {name}")
    n_toxic = sum(not annotation.not_toxic for annotation in annotations)
    toxic = 2 * n_toxic > len(annotations)
    most = max(marks(annotations).values(), default=0) / len(annotations)
    return Example(
        name,
        text,
        label=int(toxic),
        source=f"comment {name}",
        relevant=relevant(annotations, share) if toxic else (),
        extra={"annotators": float(len(annotations)), "most_agreed": most},
    )


def marks(annotations: Sequence[Annotation]) -> Counter[int]:
    """Counts the annotators that marked each character; one who marked it twice counts once."""
    counts: Counter[int] = Counter()
    for annotation in annotations:
        counts.update({place for start, end in annotation.spans for place in range(start, end)})
    return counts


def _comments(folder: Path) -> list[dict[str, str]]:
    rows = _rows(folder / "comments.csv", ("comment_id", "comment_text"))
    repeated = [name for name, n in Counter(row["comment_id"] for _, row in rows).items() if n > 1]
    if repeated:
        raise InputError(f"{folder / 'comments.csv'}: comment {repeated[0]} is there twice")
    for line, row in rows:
        if not row["comment_text"].strip():
            raise InputError(f"{folder / 'comments.csv'}:{line}: the comment is empty")
    return [row for _, row in rows]


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Reads the rows of a CSV file, each with the number of its last line, and checks that it has these columns."""
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file. Give the folder with comments.csv, annotations.csv and spans.csv: "
            "data.path=FOLDER"
        )
    reader = csv.DictReader(
        io.StringIO(decode(path.read_bytes(), str(path)), newline=""), strict=True
    )
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise InputError(
            f"{path}:1: no column {missing[0]!r}. The columns are: {reader.fieldnames}"
        )
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: wrong quotes ({error})") from None
    for line, row in rows:
        if None in row or None in row.values():
            raise InputError(f"{path}:{line}: expected {len(reader.fieldnames or ())} fields")
    return rows


def _place(value: str, where: str) -> int:
    if not value.isdecimal():
        raise InputError(f"{where}: expected the number of a character, got {value[:20]!r}")
    return int(value)
