"""Reading CSV, TSV, JSON lines and Parquet: nothing is changed, and every fault is named with its row."""

import csv
import gzip
import io
import json
import re
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saliency_bench.core.errors import InputError
from saliency_bench.data.file import load
from saliency_bench.data.labels import resolve_label

FORMATS = ("csv", "tsv", "jsonl", "parquet")
LINE_FORMATS = ("csv", "tsv", "jsonl")
FIRST_ROW = {"csv": 2, "tsv": 2, "jsonl": 1, "parquet": 1}  # a header takes line 1

#: Any text that has something to explain; NUL is refused, and lone surrogates are no text.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
).filter(lambda text: text.strip())


def write(folder, format, rows, name="data"):
    """The rows in a format, by the standard library and pyarrow."""
    path = folder / f"{name}.{format}"
    if format == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif format == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if format == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(text.getvalue().encode())
    return str(path)


def quoted(format):
    """What says of a format that it is quoted as the standard library writes it."""
    return {"quotes": "fields"} if format == "tsv" else {}


def refused(path, *fragments, text="text", **columns):
    """The one message of a refusal, which names the file and holds the fragments."""
    with pytest.raises(InputError) as caught:
        load(path=str(path), text=text, **columns)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith(str(path))
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    return message


def raw(folder, data, name="data.csv"):
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize("format", FORMATS)
@settings(deadline=None)  # the first call imports the readers
@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_any_text_comes_back_unchanged(folder, format, texts):
    rows = [{"text": text, "second": pair} for text, pair in texts]
    path = write(folder, format, rows)
    examples = load(path=path, text="text", text_pair="second", **quoted(format))
    assert [(example.text, example.text_pair) for example in examples] == texts


@pytest.mark.parametrize("format", ["csv", "tsv"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@settings(deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_line_endings_of_the_file_do_not_reach_the_texts(folder, format, ending, texts):
    text = io.StringIO(newline="")
    delimiter = "\t" if format == "tsv" else ","
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerows([["text"], *([text] for text in texts)])
    path = raw(folder, text.getvalue().encode(), f"endings.{format}")
    examples = load(path=str(path), text="text", quotes="fields")
    assert [example.text for example in examples] == texts


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_says_the_same(tmp_path, format):
    rows = [
        {"a": "good", "b": "film", "gold": "positive", "key": "x"},
        {"a": "bad", "b": "film", "gold": "negative", "key": "y"},
    ]
    path = write(tmp_path, format, rows)
    examples = load(path=path, text="a", text_pair="b", label="gold", id="key")
    assert [(e.id, e.text, e.text_pair, e.label) for e in examples] == [
        ("x", "good", "film", "positive"),
        ("y", "bad", "film", "negative"),
    ]
    assert [e.source for e in examples] == [f"{path}:{FIRST_ROW[format] + row}" for row in (0, 1)]


@pytest.mark.parametrize("format", LINE_FORMATS)
def test_a_byte_order_mark_changes_nothing(tmp_path, format):
    path = write(tmp_path, format, [{"text": "fine", "label": 1}])
    marked = raw(tmp_path, b"\xef\xbb\xbf" + Path(path).read_bytes(), f"marked.{format}")
    texts = [[e.text for e in load(path=str(p), text="text")] for p in (path, marked)]
    assert texts == [["fine"], ["fine"]]


@pytest.mark.parametrize("format", FORMATS)
def test_a_named_format_overrides_the_suffix(tmp_path, format):
    path = write(tmp_path, format, [{"text": "fine"}])
    other = raw(tmp_path, Path(path).read_bytes(), "data.txt")
    assert load(path=str(other), text="text", format=format)[0].text == "fine"


def test_rows_are_numbered_as_an_editor_numbers_lines(tmp_path):
    lines = ["text,label", '"two', 'lines",1', "", '"a ""quote""",0', "three,1"]
    path = raw(tmp_path, "\r\n".join(lines).encode())
    examples = load(path=str(path), text="text", label="label")
    assert [e.source for e in examples] == [f"{path}:2", f"{path}:5", f"{path}:6"]
    assert [e.text for e in examples] == ["two\r\nlines", 'a "quote"', "three"]


def test_blank_lines_of_json_are_counted_and_passed_over(tmp_path):
    path = raw(tmp_path, b'\n{"text": "a"}\r\n  \n{"text": "b"}\n\n', "data.jsonl")
    assert [e.source for e in load(path=str(path), text="text")] == [f"{path}:2", f"{path}:4"]


def test_a_unicode_line_separator_is_no_line_break(tmp_path):
    path = raw(tmp_path, '{"text": "a\u2028b"}\n{"text": "c\x85d"}\n'.encode(), "data.jsonl")
    assert [e.text for e in load(path=str(path), text="text")] == ["a\u2028b", "c\x85d"]


def test_a_long_text_is_read_whole_and_the_limit_of_csv_is_put_back(tmp_path):
    limit = csv.field_size_limit()
    path = write(tmp_path, "csv", [{"text": "long " * limit}])
    assert len(load(path=path, text="text")[0].text) == 5 * limit
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("format", "labels"),
    [("csv", ["1", "1"]), ("jsonl", [1, True]), ("jsonl", [1.0, 1]), ("parquet", [1.0, 1.0])],
)
def test_labels_that_mean_a_number_mean_the_same_number(tmp_path, format, labels):
    path = write(tmp_path, format, [{"text": "a", "label": label} for label in labels])
    found = [e.label for e in load(path=path, text="text", label="label")]
    assert [resolve_label(label, ["no", "yes"], "here") for label in found] == [1, 1]


@pytest.mark.parametrize("format", FORMATS)
def test_a_repeated_id_is_refused_with_both_rows(tmp_path, format):
    path = write(tmp_path, format, [{"text": t, "n": n} for t, n in ("ax", "by", "cx")])
    row = FIRST_ROW[format]
    refused(path, f"{path}:{row + 2}:", f"{path}:{row}.", "'x'", id="n")


# Quotes


GLUE = [  # as in the files of GLUE: a quote is a letter, wherever it stands
    ('"good film', "1"),
    ('bad film"', "0"),
    ("dull", "0"),
    ('"a ""great"" one"', "1"),
    ('5\'10" tall , " he said', "1"),
    ('"', "0"),
]


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.sampled_from('ab" ,'), min_size=1).filter(str.strip),
            st.sampled_from(["0", "1"]),
        ),
        min_size=1,
        max_size=20,
    )
)
@pytest.mark.filterwarnings("ignore:.*doubled quotes")
def test_a_line_of_tsv_is_a_row_and_a_quote_a_letter(folder, rows):
    for ending in ("\n", "\r\n"):
        lines = ["sentence\tlabel", *("\t".join(row) for row in [*GLUE, *rows])]
        path = raw(folder, (ending.join(lines) + ending).encode(), "glue.tsv")
        found = load(path=str(path), text="sentence", label="label")
        assert [(one.text, one.label) for one in found] == [*GLUE, *rows]
        assert [one.source for one in found] == [
            f"{path}:{line}" for line in range(2, 2 + len(GLUE) + len(rows))
        ]


def test_text_that_looks_quoted_brings_a_warning_unless_the_meaning_of_quotes_is_set(tmp_path):
    data = b'text\n"a ""great"" one"\n"plain"\n'
    path = str(raw(tmp_path, data, "data.tsv"))
    with pytest.warns(UserWarning, match=r"data.tsv:2: .*\(1 such\).*data.quotes=fields"):
        found = load(path=path, text="text")
    assert [one.text for one in found] == ['"a ""great"" one"', '"plain"']
    for quotes, texts in {
        "letters": ['"a ""great"" one"', '"plain"'],
        "fields": ['a "great" one', "plain"],
    }.items():
        assert [one.text for one in load(path=path, text="text", quotes=quotes)] == texts


def test_quotes_of_csv_may_be_letters(tmp_path):
    path = raw(tmp_path, b'text,label\n"good film,1\nbad film",0\n')
    found = load(path=str(path), text="text", label="label", quotes="letters")
    assert [(one.text, one.label) for one in found] == [('"good film', "1"), ('bad film"', "0")]


def test_quotes_around_the_columns_of_tsv_are_no_part_of_their_names(tmp_path):
    path = raw(tmp_path, b'"text"\t"label"\n"good"\t"1"\n', "data.tsv")
    refused(path, f"{path}:1: the names of the columns are in quotes", "data.quotes=fields")


def test_a_field_that_runs_over_a_line_of_tsv_is_refused_with_its_line(tmp_path):
    path = raw(tmp_path, b'text\tlabel\n"good\nfilm"\t1\n', "data.tsv")
    refused(path, f"{path}:2: expected 2 fields", "data.quotes=fields", label="label")


@pytest.mark.parametrize("format", FORMATS)
def test_what_quotes_are_is_one_of_two_and_of_csv_and_tsv_alone(tmp_path, format):
    path = write(tmp_path, format, [{"text": "a"}])
    with pytest.raises(InputError, match=r"data\.quotes"):
        load(path=path, text="text", quotes="letter" if format in ("csv", "tsv") else "letters")


# Files that cannot be read


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "none.csv", "no such file")


def test_a_folder_is_refused(tmp_path):
    refused(tmp_path, "folder", "data=hub")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, format, data):
    refused(raw(tmp_path, data, f"data.{format}"), "empty")


@pytest.mark.parametrize("format", ["csv", "tsv", "parquet"])
def test_a_header_alone_is_refused(tmp_path, format):
    if format == "parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "data.parquet")
    else:
        raw(tmp_path, b"text\n", f"data.{format}")
    refused(tmp_path / f"data.{format}", "no rows")


def test_an_unknown_suffix_is_refused(tmp_path):
    refused(raw(tmp_path, b"text\na\n", "data.txt"), "data.format", "csv, tsv, jsonl, parquet")


def test_an_unknown_format_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"data\.format 'json'; did you mean 'jsonl'\?"):
        load(path=str(raw(tmp_path, b"x")), text="text", format="json")


@pytest.mark.parametrize("format", FORMATS)
def test_a_compressed_file_is_refused(tmp_path, format):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.csv", "text\na\n")
    refused(raw(tmp_path, gzip.compress(b"text\na\n"), f"data.{format}"), "gzip", "Unpack")
    refused(raw(tmp_path, gzip.compress(b"text\na\n"), f"data.{format}.gz"), "gzip", "Unpack")
    refused(raw(tmp_path, archive.getvalue(), f"data.{format}"), "zip", "Unpack")


def test_a_parquet_file_with_another_suffix_is_refused(tmp_path):
    data = Path(write(tmp_path, "parquet", [{"text": "a"}])).read_bytes()
    refused(raw(tmp_path, data, "data.csv"), "data.format=parquet")


def test_a_parquet_file_cut_anywhere_is_refused(tmp_path):
    data = Path(write(tmp_path, "parquet", [{"text": f"text {n}"} for n in range(50)])).read_bytes()
    for part in range(1, 16):
        path = raw(tmp_path, data[: len(data) * part // 16], "cut.parquet")
        refused(path, "truncated or damaged")


def test_what_is_not_parquet_is_refused(tmp_path):
    refused(raw(tmp_path, b"text\na\n" * 9, "data.parquet"), "not a Parquet file")


# Encodings


@pytest.mark.parametrize("format", LINE_FORMATS)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_what_is_not_utf8_is_refused_with_line_and_byte(tmp_path, format, start):
    row = {"csv": b'"text"\n"%s"\n', "tsv": b'"text"\n"%s"\n', "jsonl": b'\n{"text": "%s"}\n'}[
        format
    ]
    data = start + row % b"caf\xe9 ole"  # Latin-1
    path = raw(tmp_path, data, f"data.{format}")
    refused(path, f"{path}:2: not UTF-8: 0xe9 at byte {data.index(0xE9)}.")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
def test_utf16_is_refused(tmp_path, encoding):
    refused(raw(tmp_path, "text\na\n".encode(encoding)), ":1:", "byte")


@pytest.mark.parametrize("format", LINE_FORMATS)
def test_a_nul_byte_is_refused_with_line_and_byte(tmp_path, format):
    data = Path(write(tmp_path, format, [{"text": "good"}, {"text": "baXd"}])).read_bytes()
    path = raw(tmp_path, data.replace(b"X", b"\0"), f"nul.{format}")
    line = FIRST_ROW[format] + 1
    refused(path, f"{path}:{line}: not text: a NUL byte at byte {data.index(b'X')}")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_nul_character_is_refused(tmp_path, format):
    path = write(tmp_path, format, [{"text": "a\0b"}])
    refused(path, f"{path}:1:", "NUL at character 2")


@pytest.mark.parametrize("column", ["text", "label", "id"])
def test_a_lone_surrogate_is_refused(tmp_path, column):
    row = json.dumps({"text": "a", "label": "x", "id": "i"} | {column: "b\ud83d"})
    path = raw(tmp_path, row.encode(), "data.jsonl")
    message = refused(path, f"{path}:1:", "lone surrogate", label="label", id="id")
    message.encode()  # can be printed


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    path = raw(tmp_path, b'{"text": "\\ud83d\\ude00"}', "data.jsonl")
    assert load(path=str(path), text="text")[0].text == "\U0001f600"


def test_a_parquet_text_that_is_not_utf8_is_refused_with_its_row(tmp_path):
    wrong = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": wrong}), tmp_path / "data.parquet")
    path = tmp_path / "data.parquet"
    refused(path, f"{path}:2: column 'text' is not UTF-8 at byte 3")


# Columns


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("key", ["text", "text_pair", "label", "id"])
def test_a_missing_column_is_refused_with_the_columns_there_are(tmp_path, format, key):
    path = write(tmp_path, format, [{"Review": "a", "sentiment": "b"}])
    columns = {"text": "Review"} | {key: "review_"}
    message = refused(
        path, f"no column 'review_' (data.{key})", "Did you mean 'Review'?", **columns
    )
    assert message.endswith("The columns are: 'Review', 'sentiment'")
    assert (":1:" in message) == (format != "parquet")


def test_a_json_row_without_the_column_is_refused(tmp_path):
    path = raw(tmp_path, b'{"text": "a"}\n{"txt": "b"}\n', "data.jsonl")
    refused(path, f"{path}:2: no column 'text'", "'txt'")


def test_another_separator_is_suggested(tmp_path):
    path = raw(tmp_path, b"text;label\na;1\n")
    refused(path, "separated by semicolons")


def test_a_column_name_that_is_there_twice_is_refused(tmp_path):
    refused(raw(tmp_path, b"text,text\na,b\n"), ":1:", "two columns are named 'text'")


@pytest.mark.parametrize(("row", "n_fields"), [(b"a,b,c", 3), (b"a", 1)])
def test_a_ragged_row_is_refused(tmp_path, row, n_fields):
    path = raw(tmp_path, b'text,label\n"x\ny",1\n' + row + b"\n")
    refused(path, f"{path}:4: expected 2 fields as in the header, got {n_fields}")


@pytest.mark.parametrize("row", [b'"open,1\nb,2\n', b'"Frailty" starts well,1\n'])
def test_wrong_quotes_are_refused_where_the_row_begins(tmp_path, row):
    path = raw(tmp_path, b"text,label\na,0\n" + row)
    refused(path, f"{path}:3: wrong quotes")


# Values


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("column", ["text", "second", "key"])
@pytest.mark.parametrize(("value", "said"), [("", "empty"), (" \t\n\u3000", "only whitespace")])
def test_an_empty_text_is_refused(tmp_path, format, column, value, said):
    rows = [{"text": "a", "second": "b", "key": n} for n in "xy"]
    rows[1][column] = value
    path = write(tmp_path, format, rows)
    where = f"{path}:{FIRST_ROW[format] + 1}: "
    columns = {"text_pair": "second", "id": "key"} | quoted(format)
    refused(path, where, f"column {column!r}", said, **columns)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null"),
        (3, "int"),
        (0.5, "float"),
        (True, "bool"),
        (["a b", "c"], "list"),
        ({"a": "b"}, "dict"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, format, value, said):
    path = write(tmp_path, format, [{"text": value}])
    refused(path, f"{path}:1: expected a text in column 'text', got", said)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", ["", "  ", "nan", "NaN"])
def test_a_missing_label_is_refused(tmp_path, format, value):
    path = write(tmp_path, format, [{"text": "a", "label": "x"}, {"text": "b", "label": value}])
    refused(path, f"{path}:{FIRST_ROW[format] + 1}: the label is missing", label="label")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_label_without_a_value_is_refused(tmp_path, format, value):
    path = write(tmp_path, format, [{"text": "a", "label": 1.0}, {"text": "b", "label": value}])
    refused(path, f"{path}:2: the label is missing", label="label")


@pytest.mark.parametrize("value", [1.5, float("inf"), [1], {"a": 1}])
def test_what_is_no_label_is_refused(tmp_path, value):
    path = write(tmp_path, "jsonl", [{"text": "a", "label": value}])
    refused(
        path, f"{path}:1: a label is a class number or a class name, not {value!r}", label="label"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "not valid JSON"),
        (b'{"text": "a"} {"text": "b"}', "not valid JSON"),
        (b'{"text": "tab\there"}', "not valid JSON"),
        (b"[1, 2]", "got list"),
        (b'"text"', "got str"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"text": %s}' % (b"1" * 5000), "cannot be read"),
    ],
)
def test_a_line_that_is_no_json_object_is_refused(tmp_path, line, said):
    path = raw(tmp_path, b'{"text": "fine"}\n' + line + b"\n", "data.jsonl")
    refused(path, f"{path}:2: ", said)


def test_a_message_says_what_to_do():
    message = refused("none.csv")
    assert re.search(r"data\.path", message)
