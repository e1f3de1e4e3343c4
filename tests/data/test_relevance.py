"""What is known to matter, read from columns: every format of files and of values, and faults named with their row."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saliency_bench.core.errors import InputError
from saliency_bench.data.file import load

FILES = pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
TEXTS = ["a truly  griping film", "dull"]
#: What each format says of the two texts: griping and film; nothing of the other.
SAID = {
    "spans": [[[9, 16], [17, 21]], []],
    "characters": [[*range(9, 16), *range(17, 21)], []],
    "hatexplain": [[0, 0, 1, 1], [0]],
    "eraser": [[{"start_token": 2, "end_token": 4}], []],
}


def write(folder, kind, said, texts=TEXTS):
    """A file of texts and what is said of them; lists are JSON in a table of texts."""
    path = folder / f"data.{kind}"
    rows = [{"text": text, "why": value} for text, value in zip(texts, said, strict=True)]
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            tabs = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
            writer = csv.writer(file, **(tabs if kind == "tsv" else {}))
            writer.writerow(["text", "why"])
            writer.writerows(
                [row["text"], "" if row["why"] is None else json.dumps(row["why"])] for row in rows
            )
    return str(path)


def parts(example):
    """The stretches that matter, as text."""
    if example.relevant is None:
        return None
    return [example.text[start:end] for _, start, end in example.relevant]


@FILES
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("format", SAID)
def test_every_format_in_every_file_says_the_same(tmp_path, kind, format, named):
    path = write(tmp_path, kind, SAID[format])
    first, second = load(
        path=path, text="text", relevant="why", relevant_format=format if named else None
    )
    assert "".join(parts(first)).replace("  ", " ") in ("gripingfilm", "griping film")
    assert parts(second) == []


@FILES
def test_a_missing_value_says_that_nothing_is_known(tmp_path, kind):
    path = write(tmp_path, kind, [None, [[0, 4]]])
    assert [parts(one) for one in load(path=path, text="text", relevant="why")] == [None, ["dull"]]


def test_without_a_column_nothing_is_known(tmp_path):
    path = write(tmp_path, "jsonl", SAID["spans"])
    assert [one.relevant for one in load(path=path, text="text")] == [None, None]


@pytest.mark.parametrize(
    ("annotators", "found"),
    [
        ([[0, 1, 1], [0, 1, 0], [0, 0, 0]], ["b"]),  # two of three
        ([[0, 1, 1], [0, 1, 0]], ["b"]),  # one of two is no majority
        ([[1, 0, 0]], ["a"]),
        ([], None),
    ],
)
def test_of_several_annotators_the_majority_counts(tmp_path, annotators, found):
    path = write(tmp_path, "jsonl", [annotators], ["a b c"])
    (one,) = load(path=path, text="text", relevant="why", relevant_format="hatexplain")
    assert parts(one) == found


def test_evidence_may_come_in_groups_with_other_keys(tmp_path):
    evidence = [[{"docid": "x", "start_token": 0, "end_token": 1}], [{"start_token": 2, "end_token": 3}]]  # fmt: skip
    (one,) = load(path=write(tmp_path, "jsonl", [evidence], ["a b c"]), text="text", relevant="why")
    assert parts(one) == ["a", "c"]


@pytest.mark.parametrize(
    ("format", "value", "said"),
    [
        ("spans", [[0, 99]], "within its 4 characters"),
        ("spans", [[2, 2]], "within its 4 characters"),
        ("spans", [[-1, 2]], "within its 4 characters"),
        ("spans", [[0.0, 2.0]], "within its 4 characters"),
        ("spans", [0, 1], "character spans"),
        ("hatexplain", [0, 1], "for its 1 word "),
        ("hatexplain", [[1], [0, 1]], "for its 1 word "),
        ("hatexplain", [2], "for its 1 word "),
        ("eraser", [{"start_token": 0}], "within its 1 word"),
        ("eraser", [{"start_token": -1, "end_token": -1}], "within its 1 word"),
        ("eraser", [{"start_token": 0, "end_token": 2}], "within its 1 word"),
        ("eraser", [[0, 1]], "evidence"),
        ("spans", {"start": 0}, "expected a list"),
        ("spans", "[[0, 1", "expected JSON"),
        ("characters", [3, 4], "within its 4 characters"),
        ("characters", [-1], "within its 4 characters"),
        ("characters", [1.0], "numbers of characters"),
        (None, [3, 4], "within its 4 characters"),
        (None, [0.5], "no format"),
        ("letters", [[0, 1]], "relevant_format"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(tmp_path, format, value, said):
    path = write(tmp_path, "jsonl", [None, value])
    with pytest.raises(InputError, match=said) as caught:
        load(path=path, text="text", relevant="why", relevant_format=format)
    assert format == "letters" or ":2" in str(caught.value)


def test_rows_of_different_formats_and_rows_of_two_are_refused(tmp_path):
    mixed = write(tmp_path, "jsonl", [[[0, 1]], [1]])
    with pytest.raises(InputError, match="no format"):
        load(path=mixed, text="text", relevant="why")
    either = write(tmp_path, "jsonl", [[[0, 1]]], ["a b"])
    with pytest.raises(InputError, match="hatexplain or spans"):
        load(path=either, text="text", relevant="why")


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"data\.relevant"):
        load(path=write(tmp_path, "csv", SAID["spans"]), text="text", relevant="reason")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_semevals_places_of_characters_are_read_as_they_are_published(tmp_path, kind):
    """SemEval-2021 task 5: `spans` is the place of every character of what is toxic."""
    text, value = "you are an idiot, a damn fool", [*range(11, 16), *range(20, 29)]
    path = write(tmp_path, kind, [value, []], [text, "thank you"])
    toxic, clean = load(path=path, text="text", relevant="why")
    assert parts(toxic) == ["idiot", "damn fool"]
    assert parts(clean) == []


def test_places_of_the_first_characters_are_no_marks_of_words(tmp_path):
    path = write(tmp_path, "jsonl", [[0, 1], [4, 5]], ["so it is", "not so"])
    assert [parts(one) for one in load(path=path, text="text", relevant="why")] == [["so"], ["so"]]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_hatexplains_words_are_a_text_and_their_marks_fit(tmp_path, kind):
    """HateXplain: `post_tokens` are words, `rationales` a list of marks for each annotator."""
    words = ["<user>", "you", "'re", "a", "fool", "."]
    marks = [[0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 0], [0, 1, 0, 0, 0, 0]]
    path = write(tmp_path, kind, [marks, []], [words, ["thanks"]])
    first, second = load(path=path, text="text", relevant="why", relevant_format="hatexplain")
    assert first.text == "<user> you 're a fool ."
    assert parts(first) == ["fool"]
    assert (second.text, parts(second)) == ("thanks", None)


@pytest.mark.parametrize("words", [["two words", "here"], ["", "a"], ["a", 3], [" a"]])
def test_a_list_that_is_not_of_words_is_no_text(tmp_path, words):
    path = write(tmp_path, "jsonl", [None], [words])
    with pytest.raises(InputError, match=r":1: .*list, of which not every one is a single word"):
        load(path=path, text="text")
