"""The readers of toxic spans on small files of our own: majority by hand, both layouts, and what is refused."""

import csv

import pytest

from saliency_bench.core.errors import InputError
from saliency_bench.data import toxic_spans

TEXT = "You silly goose, go away"
#: Worker by worker: not toxic, and which stretches of TEXT.
WORKERS = [
    (False, [(4, 15)]),
    (False, [(4, 9), (6, 9)]),
    (False, [(10, 15), (17, 24)]),
    (True, []),
]


def write(path, header, rows):
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def folder(
    tmp_path, workers=WORKERS, comments=(("7", TEXT), ("8", 'A "fine" day,\nindeed')), spans=()
):
    """The three files: comment 7 as the workers say, comment 8 not toxic by all of three."""
    said = [(worker, "7") for worker in workers] + [((True, []), "8")] * 3
    write(tmp_path / "comments.csv", ["comment_id", "comment_text"], comments)
    write(
        tmp_path / "annotations.csv",
        ["annotation", "comment_id", "worker", "country", "all toxic", "not toxic"],
        [(n, name, n, "XXX", False, not_toxic) for n, ((not_toxic, _), name) in enumerate(said)],
    )
    marks = [(n, "Insult", *one) for n, ((_, own), _) in enumerate(said) for one in own]
    write(tmp_path / "spans.csv", ["annotation", "type", "start", "end"], [*marks, *spans])
    return tmp_path


def load(path, **changed):
    return toxic_spans.load(**{"path": str(path), "split": "all", "share": 0.5} | changed)


def by_hand(share, workers=WORKERS):
    """The characters that enough workers marked, asked one by one."""
    return {
        place
        for place in range(len(TEXT))
        if sum(any(a <= place < b for a, b in spans) for _, spans in workers) > share * len(workers)
    }


@pytest.mark.parametrize("share", [0.0, 0.25, 0.4, 0.5, 0.9])
def test_what_matters_is_what_more_than_that_share_of_the_annotators_marked(tmp_path, share):
    toxic, _ = load(folder(tmp_path), share=share)
    places = [place for _, start, end in toxic.relevant for place in range(start, end)]
    assert len(places) == len({*places})
    assert {*places} == by_hand(share)


def test_a_comment_is_toxic_unless_half_of_the_annotators_say_that_it_is_not(tmp_path):
    toxic, fine = load(folder(tmp_path))
    assert (toxic.id, toxic.label, toxic.text) == ("7", 1, TEXT)
    assert (fine.id, fine.label, fine.relevant) == ("8", 0, ())
    assert toxic.extra == {"annotators": 4, "most_agreed": 0.5}  # nobody is counted twice
    undecided = load(folder(tmp_path, [*WORKERS, (True, []), (True, [])]))[0]
    assert (undecided.label, undecided.relevant) == (0, ())


def test_every_comment_is_in_one_split_and_repeated_texts_are_in_the_same(tmp_path):
    comments = [(str(n), f"comment {n % 20}") for n in range(40)]
    where = folder(tmp_path, workers=[], comments=[*comments, ("7x", TEXT)])
    parts = {split: {one.id for one in load(where, split=split)} for split in toxic_spans.SPLITS}
    assert sum(map(len, parts.values())) == len(load(where)) == 41
    for ids in parts.values():
        assert all(str((int(name) + 20) % 40) in ids for name in ids - {"7x"})


def test_a_span_beyond_its_comment_is_left_out_with_a_warning(tmp_path):
    where = folder(tmp_path, spans=[(0, "Insult", 20, 99)])
    with pytest.warns(UserWarning, match="1 spans end after their comment"):
        annotations = toxic_spans.read_annotations(where)
    assert annotations["7"][0].spans == ((4, 15),)


def test_files_of_semeval_hold_the_places_of_characters(tmp_path):
    path = tmp_path / "tsd_trial.csv"
    write(path, ["spans", "text"], [("[4, 5, 6, 7, 8]", TEXT), ("[]", "go away")])
    marked, unmarked = load(path)
    assert (marked.text, marked.relevant, marked.label) == (TEXT, ((0, 4, 9),), None)
    assert unmarked.relevant == ()


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("comments.csv", "comment_id,text\n7,a\n", "no column 'comment_text'"),
        ("comments.csv", "comment_id,comment_text\n7,a\n7,b\n8,c\n", "comment 7 is there twice"),
        ("comments.csv", "comment_id,comment_text\n7, \n8,c\n", "comments.csv:2: the comment is empty"),
        ("comments.csv", 'comment_id,comment_text\n7,"a"b\n', "wrong quotes"),
        ("comments.csv", "comment_id,comment_text\n8,a\n", "there is no comment 7"),
        ("annotations.csv", "annotation,comment_id,not toxic\n0,7,False\n", "there is no annotation 1"),
        ("annotations.csv", "annotation,comment_id,not toxic\n0,7,maybe\n1,7,True\n2,7,True\n", "maybe"),
        ("spans.csv", "annotation,start,end\n0,4\n", "spans.csv:2: expected 3 fields"),
        ("spans.csv", "annotation,start,end\n0,9,4\n", "spans.csv:2: expected a span"),
        ("spans.csv", "annotation,start,end\n0,-1,4\n", "spans.csv:2: expected the number"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_by_its_place(tmp_path, file, content, words):
    where = folder(tmp_path)
    (where / file).write_text(content, "utf-8")
    with pytest.raises(InputError, match=words):
        load(where)


def test_an_absent_folder_and_an_unknown_split_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"comments\.csv: there is no such file"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"data\.split"):
        load(folder(tmp_path), split="dev")
