"""A run is read back as it was written, or not at all."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from saliency_bench.core.errors import InputError, StorageError
from saliency_bench.core.rows import TABLES, Setting
from saliency_bench.store.parts import PartStore
from saliency_bench.store.run import read_run, write_json

EXAMPLE = {
    "cell_id": "c",
    "example_id": "e0",
    "text": "Très bon, 愛",
    "predicted": 1,
    "predicted_label": "positive",
    "probability": 0.75,
    "n_tokens": 6,
    "truncated": False,
}
SETTINGS = [
    Setting(
        "ig", "integrated_gradients", "native", "dot", "predicted", "logit", 0, {"n_steps": n}
    ).to_dict()
    for n in (4, 8)
]
WARNING = {"cell_id": "c", "example_id": None, "source": "model", "message": "no pad token"}


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "manifest.json", {"seed": 0})
    write_json(tmp_path / "settings.json", SETTINGS)
    store = PartStore(tmp_path)
    gold = EXAMPLE | {"example_id": "e1", "gold": 1, "gold_label": "positive", "correct": True}
    store.write("b0", {"examples": [EXAMPLE, gold], "warnings": [WARNING]})
    store.seal(["b0"])
    return tmp_path


def test_a_run_comes_back_as_it_was_written(folder):
    run = read_run(folder)
    assert (run.folder, run.manifest, run.settings) == (
        folder,
        {"seed": 0},
        SETTINGS,
    )
    examples = run.tables["examples"]
    assert list(examples["text"]) == ["Très bon, 愛"] * 2
    assert list(examples["probability"]) == [0.75, 0.75]
    assert list(examples["gold"].isna()) == [True, False]
    assert pd.isna(run.tables["warnings"]["example_id"][0])


def test_examples_of_one_text_are_known_in_each_cell(folder):
    run = read_run(folder)
    assert run.repeated == {"c": {"e1": "e0"}}
    examples = pd.DataFrame(
        [
            ("c", "a", "one", None),
            ("c", "b", "one", "two"),
            ("c", "d", "one", None),
            ("c", "e", "one", "two"),
            ("other", "a", "one", None),
        ],
        columns=["cell_id", "example_id", "text", "text_pair"],
    )
    again = replace(run, tables={"examples": examples})
    assert again.repeated == {"c": {"d": "a", "e": "b"}}


def test_every_table_is_there_with_its_columns(folder):
    run = read_run(folder)
    assert {name: list(frame.columns) for name, frame in run.tables.items()} == {
        name: list(columns) for name, columns in TABLES.items()
    }
    assert len(run.tables["rows"]) == 0
    assert run.tables["rows"]["value"].dtype == "float64"


def test_a_table_is_read_when_it_is_asked_for_and_columns_of_chosen_rows_alone(folder):
    run = read_run(folder)
    chosen = run.columns("examples", ["n_tokens", "text"], {"example_id": ["e1", "e9"]})
    assert chosen.to_dict("list") == {"n_tokens": [6], "text": ["Très bon, 愛"]}
    assert run.columns("maps", ["scores"]).to_dict("list") == {"scores": []}
    assert run.tables["examples"] is run.tables["examples"]


def test_booleans_with_nulls_can_be_negated(folder):
    correct = read_run(folder).tables["examples"]["correct"]
    assert correct.dtype == "boolean"
    assert list((~correct).fillna(True)) == [True, False]


def test_reading_changes_no_file(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    read_run(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_what_is_no_run_folder_is_bad_input(tmp_path, name):
    with pytest.raises(InputError, match=r"no run folder: it has no manifest\.json"):
        read_run(tmp_path / name)


def test_what_another_command_wrote_is_no_run_folder_and_not_unfinished(tmp_path):
    write_json(tmp_path / "manifest.json", {"name": "validate"})
    with pytest.raises(InputError, match="no run folder: 'validate' wrote it"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "settings.json"])
def test_an_unfinished_run_says_how_to_go_on(tmp_path, name):
    write_json(tmp_path / name, {})
    write_json(tmp_path / "config.json", {})  # what `resume` reads
    PartStore(tmp_path).write("b0", {"warnings": [WARNING]})
    with pytest.raises(StorageError, match=r"unfinished.*saliency-bench resume"):
        read_run(tmp_path)


def test_a_run_that_was_killed_before_its_manifest_is_unfinished(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(StorageError, match="unfinished"):
        read_run(folder)


def test_a_table_that_was_altered_is_named(folder):
    path = folder / "examples.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"examples\.parquet was truncated or altered"):
        read_run(folder)
    with pytest.raises(StorageError, match=r"examples\.parquet was truncated or altered"):
        PartStore(folder).finished()


def test_a_table_that_is_gone_is_named(folder):
    (folder / "warnings.parquet").unlink()
    with pytest.raises(StorageError, match=r"warnings\.parquet is missing"):
        read_run(folder)


@pytest.mark.parametrize("name", ["manifest.json", "settings.json", "digests.json"])
@pytest.mark.parametrize("content", ["", "{", "7"])
def test_damaged_json_is_a_storage_error_that_names_the_file(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(StorageError, match=name):
        read_run(folder)


def test_json_does_not_depend_on_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": ["é", None]})
    write_json(tmp_path / "b.json", {"a": ["é", None], "b": 1})
    expected = '{\n "a": [\n  "é",\n  null\n ],\n "b": 1\n}\n'
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == expected
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_finite_numbers_is_refused_and_the_old_file_stays(tmp_path, value):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": value})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_settings_that_have_changed_ids_are_refused_by_name(folder):
    first, second = SETTINGS
    swapped = [
        first | {"setting_id": second["setting_id"]},
        second | {"setting_id": first["setting_id"]},
    ]
    write_json(folder / "settings.json", swapped)
    with pytest.raises(StorageError, match=f"setting '{second['setting_id']}' .'ig'.*another's"):
        read_run(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{}], "entry 0: name: expected a text, got nothing"),
        (["a"], "entry 0: expected an object, got 'a'"),
        ([1, 2], "entry 0: expected an object, got 1"),
        ([SETTINGS[0], SETTINGS[1] | {"seed": "x" * 500}], "entry 1: seed: expected a number"),
        ([SETTINGS[0] | {"n_steps": 5}], "has the hyperparameters of"),
        ([SETTINGS[0] | {"setting_id": ["x"]}], "has the hyperparameters of"),
    ],
)
def test_settings_that_are_none_are_one_short_sentence(folder, content, said):
    write_json(folder / "settings.json", content)
    with pytest.raises(StorageError, match=r"settings\.json") as caught:
        read_run(folder)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(folder))


def test_settings_of_another_run_are_refused(folder):
    write_json(folder / "identity.json", {"settings": [one["setting_id"] for one in SETTINGS]})
    read_run(folder)
    write_json(folder / "settings.json", SETTINGS[:1])
    with pytest.raises(StorageError, match="names other settings"):
        read_run(folder)


@pytest.mark.parametrize(
    ("manifest", "key"),
    [
        ({"config": {"statistics": "x"}}, "config.statistics"),
        ({"config": {"statistics": {"n_resamples": -5}}}, "config.statistics.n_resamples"),
        ({"config": {"statistics": {"n_resamples": 10**12}}}, "config.statistics.n_resamples"),
        ({"config": {"statistics": {"confidence": 2}}}, "config.statistics.confidence"),
        ({"config": {"statistics": {"confidence": True}}}, "config.statistics.confidence"),
        ({"config": {"seed": -1}}, "config.seed"),
        ({"config": {"evaluation": {"removal": [1]}}}, "config.evaluation.removal"),
        ({"config": []}, "config"),
        ({"model": "m"}, "model"),
        ({"chosen": {"best": 1}}, "chosen.best"),
        ({"parity": {"relative_tolerance": {"s": "x"}}}, "parity.relative_tolerance"),
        ({"name": 7}, "name"),
        ({"config": {"report": 7}}, "config.report"),
        ({"config": {"report": {"n_examples": "many"}}}, "config.report.n_examples"),
        ({"config": {"report": {"n_examples": -1}}}, "config.report.n_examples"),
        ({"config": {"convergence": {"largest_gap": "x"}}}, "config.convergence.largest_gap"),
        ({"config": {"convergence": {"smallest_tau": 7}}}, "config.convergence.smallest_tau"),
        ({"config": {"statistics": {"endpoint": ["srg"]}}}, "config.statistics.endpoint"),
        ({"config": {"target": {"a": 1}}}, "config.target"),
        ({"config": {"output": 1}}, "config.output"),
        ({"data": {"dataset": 1}}, "data.dataset"),
        ({"model": {"name": []}}, "model.name"),
    ],
)
def test_a_manifest_that_is_none_is_refused_by_its_field(folder, manifest, key):
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(StorageError, match=rf"manifest\.json: {key}: expected"):
        read_run(folder)
