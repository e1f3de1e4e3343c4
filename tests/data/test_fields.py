"""Options, named segments and chats in data files, and the errors in them in one sentence each."""

import json

import pytest

from saliency_bench.core.errors import InputError
from saliency_bench.data.file import load

TEXT = "A first passage. A second one. Which?"


def written(folder, row, name="rows.jsonl"):
    path = folder / name
    if name.endswith("csv"):
        cells = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
        quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells.values()]
        path.write_text(",".join(cells) + "\n" + ",".join(quoted) + "\n")
    else:
        path.write_text(json.dumps(row) + "\n")
    return str(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_file_may_hold_options_and_segments(tmp_path, name):
    row = {
        "text": TEXT,
        "options": [" A", " B"],
        "label": 1,
        "segments": {"one": "A first passage.", "two": [17, 30]},
    }
    path = written(tmp_path, row, name)
    (one,) = load(path=path, text="text", label="label", options="options", segments="segments")
    assert one.options == (" A", " B")
    assert one.label in (1, "1")
    assert one.parts == (("one", 0, 0, 16), ("two", 0, 17, 30))


def test_a_chat_stands_in_the_place_of_the_text(tmp_path):
    path = written(tmp_path, {"chat": [{"role": "user", "content": "Oslo?"}]})
    (one,) = load(path=path, text="text", messages="chat")
    assert one.messages == (("user", "Oslo?"),)
    assert one.text == "Oslo?"


def test_segments_are_numbered_where_they_have_no_name(tmp_path):
    path = written(tmp_path, {"text": TEXT, "segments": ["A", [2, 7], ["question", 31, 37]]})
    (one,) = load(path=path, text="text", segments="segments")
    assert one.parts == (("1", 0, 0, 1), ("2", 0, 2, 7), ("question", 0, 31, 37))


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        ([[0, 5], [4, 9]], "segments 1 and 2 overlap at character 4"),
        (
            [[0, 99]],
            r"segment 1 is \[0, 99\]: expected 0 <= start < end <= 37",
        ),
        ([[-1, 4]], "expected 0 <= start < end"),
        ([[4, 4]], "expected 0 <= start < end"),
        ([[1, 2]], r"segment 1, \[1, 2\], is white space alone"),
        ({"": [0, 1]}, "segment 1 has an empty name"),
        ({"a": 3}, "segment 1: expected"),
        ([["a", 0, 2], ["a", 3, 4]], "two segments are called a"),
        ({"second": "A second", "first": "A first"}, "'A first', is not in the text after"),
        ([""], "'', is not in the text"),
        ([[1, 2, 3]], "segment 1: expected"),
        (3, "expected a list of segments"),
    ],
)
def test_segments_that_overlap_or_leave_the_text_are_refused(tmp_path, segments, reason):
    path = written(tmp_path, {"text": TEXT, "segments": segments})
    with pytest.raises(InputError, match=reason):
        load(path=path, text="text", segments="segments")


def test_a_list_in_a_cell_is_json(tmp_path):
    path = written(tmp_path, {"text": TEXT, "options": "[A, B]"}, "rows.csv")
    with pytest.raises(InputError, match="column 'options': expected a list, as JSON"):
        load(path=path, text="text", options="options")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("beside", [False, True])
def test_messages_of_a_chat_may_have_segments(tmp_path, name, beside):
    """In the message, or in a column of their own, which is of the user's last message."""
    passages = {"one": "A first passage.", "two": [17, 30]}
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": TEXT}]
    row = {"chat": chat, "passages": passages}
    if not beside:
        row = {"chat": [chat[0], chat[1] | {"segments": passages}]}
    columns = {"segments": "passages"} if beside else {}
    path = written(tmp_path, row, name)
    (one,) = load(path=path, text="text", messages="chat", **columns)
    assert one.messages == (("system", "Be kind."), ("user", TEXT))
    assert one.parts == (("one", 1, 0, 16), ("two", 1, 17, 30))


def test_segments_of_parquet_are_read(tmp_path):
    import pandas as pd

    rows = pd.DataFrame({"text": [TEXT], "segments": [[[0, 16], [17, 30]]]})
    rows.to_parquet(tmp_path / "rows.parquet")
    (one,) = load(path=str(tmp_path / "rows.parquet"), text="text", segments="segments")
    assert [part[2:] for part in one.parts] == [(0, 16), (17, 30)]
