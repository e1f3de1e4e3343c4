"""Hugging Face datasets from local copies: saved, or as folders of data files. Nothing is fetched."""

import os
import pickle
import socket
import subprocess
import sys

import pytest

from saliency_bench.core.errors import InputError
from saliency_bench.data.hub import load

datasets = pytest.importorskip("datasets", reason="the extra saliency-bench[data] is not installed")

ROWS = {"text": ["good film", "bad\nfilm", "ça va"], "label": [1, 0, 1], "key": ["x", "y", "z"]}
NAMES = ["neg", "pos"]


@pytest.fixture(autouse=True)
def local(tmp_path, monkeypatch):
    """A cache of its own for each test, and no network."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def dataset(**changed):
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=NAMES),
        key=datasets.Value("string"),
    )
    return datasets.Dataset.from_dict(ROWS | changed, features)


def refused(path, *fragments, split="test", text="text", **columns):
    with pytest.raises(InputError) as caught:
        load(path=str(path), split=split, text=text, **columns)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


@pytest.fixture(params=["saved", "saved splits", "parquet", "csv", "json"])
def folder(request, tmp_path):
    """The same rows in every kind of folder, as the split "test"."""
    path, kind = tmp_path / "folder", request.param
    if kind == "saved":
        dataset().save_to_disk(str(path))
    elif kind == "saved splits":
        datasets.DatasetDict(train=dataset().select([0]), test=dataset()).save_to_disk(str(path))
    else:
        path.mkdir()
        getattr(dataset(), f"to_{kind}")(str(path / f"test.{kind}"))
    return path


def test_every_kind_of_folder_gives_the_same_texts(folder):
    examples = load(path=str(folder), split="test", text="text", id="key")
    assert [(e.id, e.text) for e in examples] == list(zip(ROWS["key"], ROWS["text"], strict=True))
    assert [e.source for e in examples] == [f"{folder}[test]:{row}" for row in (1, 2, 3)]


def test_class_labels_become_names(tmp_path):
    dataset().save_to_disk(str(tmp_path / "saved"))
    examples = load(path=str(tmp_path / "saved"), split="test", text="text", label="label")
    assert [e.label for e in examples] == ["pos", "neg", "pos"]


def test_numbers_stay_numbers(tmp_path):
    dataset().to_csv(str(tmp_path / "test.csv"))
    examples = load(path=str(tmp_path), split="test", text="text", label="label")
    assert [e.label for e in examples] == [1, 0, 1]


def test_a_hidden_label_is_refused_with_its_row(tmp_path):
    dataset(label=[1, -1, 0]).save_to_disk(str(tmp_path / "saved"))
    refused(tmp_path / "saved", "[test]:2: the label is missing (-1)", label="label")


def test_the_order_of_rows_is_that_of_the_dataset(tmp_path):
    dataset().select([2, 0]).save_to_disk(str(tmp_path / "saved"))
    examples = load(path=str(tmp_path / "saved"), split="test", text="text")
    assert [e.text for e in examples] == ["ça va", "good film"]


def test_a_format_saved_with_the_dataset_changes_nothing(tmp_path):
    dataset().with_format("numpy", columns=["label"]).save_to_disk(str(tmp_path / "saved"))
    examples = load(path=str(tmp_path / "saved"), split="test", text="text", label="label")
    assert (examples[0].text, examples[0].label) == ("good film", "pos")


def test_a_slice_of_a_split(tmp_path):
    dataset().to_parquet(str(tmp_path / "test.parquet"))
    assert len(load(path=str(tmp_path), split="test[:2]", text="text")) == 2


def test_a_missing_column_is_refused(folder):
    refused(folder, "no column 'txt' (data.text)", "Did you mean 'text'?", "'key'", text="txt")


def test_a_missing_split_is_refused_with_those_there_are(tmp_path):
    datasets.DatasetDict(train=dataset(), test=dataset()).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "files").mkdir()
    dataset().to_csv(str(tmp_path / "files" / "train.csv"))
    refused(tmp_path / "saved", "data.split 'tets'; did you mean 'test'?", split="tets")
    refused(tmp_path / "files", 'Unknown split "test"', "train")


def test_a_saved_split_is_not_passed_off_as_another(tmp_path):
    one = datasets.Dataset.from_dict(ROWS, split=datasets.Split.TRAIN)
    one.save_to_disk(str(tmp_path / "saved"))
    refused(tmp_path / "saved", "data.split 'test'", "train")


@pytest.mark.parametrize("value", ["", None])
def test_an_unusable_text_is_refused_with_its_row(tmp_path, value):
    dataset(text=["a", value, "c"]).save_to_disk(str(tmp_path / "saved"))
    refused(tmp_path / "saved", "[test]:2: expected a text in column 'text', got")


def test_a_file_is_refused(tmp_path):
    dataset().to_csv(str(tmp_path / "test.csv"))
    refused(tmp_path / "test.csv", "data=file")


def test_a_folder_without_data_is_refused(tmp_path):
    refused(tmp_path, "data files")


def test_a_damaged_dataset_is_refused(tmp_path):
    dataset().save_to_disk(str(tmp_path / "saved"))
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "test.parquet").write_bytes(b"PAR1 and no more")
    refused(tmp_path / "saved", "cannot be read")
    refused(tmp_path / "files", "cannot be read")


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["test.pkl", "test.csv", "test.parquet", "data.py", "folder.py"])
def test_nothing_in_a_folder_is_run(tmp_path, name):
    sentinel, path = tmp_path / "sentinel", tmp_path / "folder"
    path.mkdir()
    code = f"open({str(sentinel)!r}, 'w')".encode()
    (path / name).write_bytes(code if name.endswith("py") else pickle.dumps(Bomb(str(sentinel))))
    refused(path)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "path", ["csv", "json", "/no/such/folder", "./none", "s3://bucket/data", "a/b/c"]
)
def test_what_is_neither_folder_nor_hub_id_is_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    dataset().to_csv(str(tmp_path / "train.csv"))
    refused(path, "there is no such folder (data.path", split="train")


@pytest.mark.parametrize("path", ["pandas", "text", "imagefolder"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_builders_that_do_more_than_parse_tables_are_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(Bomb(str(tmp_path / "sentinel"))))
    refused(path, f"data of the kind {path!r}")
    assert not (tmp_path / "sentinel").exists()


def test_a_hub_id_offline_is_refused_at_once():
    refused("owner/name", "no such folder", "HF_HUB_OFFLINE")


def test_the_variable_for_offline_use_is_heeded(tmp_path):
    code = "from saliency_bench.data import hub; hub.load(path='owner/name', split='test', text='text')"
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=60
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "saliency_bench.core.errors.InputError: owner/name: there is no such folder"
    )


def test_a_hub_that_refuses_is_said_so(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        monkeypatch.setattr(
            datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}"
        )
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        refused("owner/name", "does not answer", "HF_HUB_OFFLINE=1", "local folder")


def test_a_hub_that_is_silent_does_not_hang(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # accepts connections, never answers
        monkeypatch.setattr(
            datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("saliency_bench.data.hub.TIMEOUT_SECONDS", 0.2)
        refused("owner/name", "does not answer", "timed out")


def test_what_the_library_logs_is_as_before(tmp_path):
    before = datasets.logging.get_verbosity()
    refused(tmp_path)
    assert datasets.logging.get_verbosity() == before


def test_without_the_extra_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(tmp_path, "pip install 'saliency-bench[data]'")
