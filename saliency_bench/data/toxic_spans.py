"""Comments with the spans that crowd workers found toxic, read from the user's copy of the data set; none of it is shipped.

Pavlopoulos et al. 2021 (SemEval-2021 task 5) and 2022 (ACL). `path` is the folder with comments.csv, annotations.csv and
spans.csv, or one of SemEval's files, with the columns `spans` and `text`.
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
from saliency_bench.data.example import Example, Span
from saliency_bench.data.readers import decode

SPLITS = ("train", "validation", "test")
ALL = "all"
#: What a comment is by the majority, by class.
LABELS = ("not toxic", "toxic")

#: Start and end in characters, the end left out.
Stretch = tuple[int, int]


@dataclass(frozen=True)
class Annotation:
    """What one worker said of a comment: that it is not toxic, and which stretches are."""

    not_toxic: bool
    spans: tuple[Stretch, ...]


@dataset
def load(*, path: str, split: str, share: float) -> list[Example]:
    """The comments in the order of their file.

    A comment is toxic (class 1) where more than half of its annotators did not tick "not toxic". What matters in it are the
    characters that more than `share` of all its annotators marked; in a comment that is not toxic, nothing. `extra` has the
    number of annotators, and the largest share of them that marked one character.

    The workers' form let nobody pass without a span who had not ticked both "not toxic" and "no specific span is
    responsible": of those who marked nothing it is not known which of the two they meant.

    Args:
        path: the folder, or a file of SemEval's, whose comments have no label: all of them were posted as toxic.
        split: train, validation, test (70, 10 and 20 %, by the hash of the text, so that a text is in one alone) or all.
        share: what more of the annotators marked matters; files of SemEval hold what was decided already.

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
        spoken = read_annotations(place)
        examples = [
            _example(row, spoken.get(row["comment_id"], []), share) for row in _comments(place)
        ]
    return [example for example in examples if split in (ALL, split_of(example.text))]


def read_annotations(folder: Path) -> dict[str, list[Annotation]]:
    """Every worker's annotation by comment id. Spans that end after their comment are left out, with a warning."""
    lengths = {row["comment_id"]: len(row["comment_text"]) for row in _comments(folder)}
    rows = _rows(folder / "annotations.csv", ("annotation", "comment_id", "not toxic"))
    comments: dict[str, str] = {}
    for line, row in rows:
        if row["comment_id"] not in lengths:
            raise InputError(
                f"{folder / 'annotations.csv'}:{line}: there is no comment {row['comment_id']}"
            )
        comments[row["annotation"]] = row["comment_id"]
    spans: dict[str, list[Stretch]] = {}
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
    found: dict[str, list[Annotation]] = {}
    for line, row in rows:
        one_of(
            f"{folder / 'annotations.csv'}:{line} not toxic", row["not toxic"], ("True", "False")
        )
        own = Annotation(row["not toxic"] == "True", tuple(spans.get(row["annotation"], ())))
        found.setdefault(row["comment_id"], []).append(own)
    return found


def marked(annotations: Sequence[Annotation], share: float) -> tuple[Span, ...]:
    """The stretches of characters that more than this share of the annotators marked."""
    counts = _marks(annotations)
    spans: list[Span] = []
    for place in sorted(place for place, n in counts.items() if n > share * len(annotations)):
        start = spans.pop()[1] if spans and spans[-1][2] == place else place
        spans.append((0, start, place + 1))
    return tuple(spans)


def split_of(text: str) -> str:
    """The split that a text is in: its hash decides."""
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10
    return SPLITS[(number >= 7) + (number >= 8)]


def _example(row: Mapping[str, str], annotations: Sequence[Annotation], share: float) -> Example:
    name, text = row["comment_id"], row["comment_text"]
    if not annotations:
        return Example(name, text, source=f"comment {name}")
    n_toxic = sum(not one.not_toxic for one in annotations)
    toxic = 2 * n_toxic > len(annotations)
    most = max(_marks(annotations).values(), default=0) / len(annotations)
    return Example(
        name,
        text,
        label=int(toxic),
        source=f"comment {name}",
        relevant=marked(annotations, share) if toxic else (),
        extra={"annotators": float(len(annotations)), "most_agreed": most},
    )


def _marks(annotations: Sequence[Annotation]) -> Counter[int]:
    """How many annotators marked each character; one who marked it twice counts once."""
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
    """The rows of a CSV file, each with its last line, of which these columns are there."""
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
