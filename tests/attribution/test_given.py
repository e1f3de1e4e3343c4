"""Scores from a file: judged as they stand, refused where they do not fit."""

import json

import numpy as np
import pytest

import saliency_bench as sb
from saliency_bench.cli import main as cli
from saliency_bench.core.errors import InputError
from saliency_bench.data.scores import read_scores
from saliency_bench.models.loading import load_model
from saliency_bench.store.run import read_run

TEXTS = ["good film", "bad bad film", "a film"]


@pytest.fixture
def model(folder):
    return load_model(str(folder), device="cpu")


@pytest.fixture
def write(tmp_path):
    def to_file(*lines, name="scores.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return str(path)

    return to_file


def lines(maps, **more):
    return [{"text": one.encoded.text, "scores": one.scores.tolist()} | more for one in maps]


def test_scores_from_a_file_are_judged_as_the_method_that_made_them(model, write):
    own = sb.attribute(model, TEXTS, "integrated_gradients", baseline="zero", n_steps=4)
    given = sb.attribute(model, TEXTS, "file", path=write(*lines(own)[::-1]))
    for a, b in zip(own, given, strict=True):
        assert (a.scores == b.scores).all()
        assert (b.n_gradients, b.setting["backend"]) == (0, "none")
    tables = [
        sb.evaluate(model, maps, ["srg", "sufficiency"], removal="zero") for maps in (own, given)
    ]
    assert tables[0]["value"].tolist() == tables[1]["value"].tolist()


def test_special_tokens_may_be_left_out_and_texts_named_by_id(model, write):
    (own,) = sb.attribute(model, TEXTS[:1], "vanilla")
    ranked = np.flatnonzero(own.attributable)
    line = {
        "id": own.example_id,
        "scores": own.scores[ranked].tolist(),
        "tokens": [own.tokens[place] for place in ranked],
        "label": own.label,
    }
    (given,) = sb.attribute(model, TEXTS[:1], "file", path=write(line))
    assert (given.scores[ranked] == own.scores[ranked]).all()
    assert (np.delete(given.scores, ranked) == 0).all()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"text": "good film", "scores": [1]}, ["1 score, ", "tokens"]),
        ({"text": "good", "scores": [1, 2]}, ["no scores of", "good film"]),
        ({"text": "good film", "scores": [1, "a"]}, ["scores[1]", "finite"]),
        ({"text": "good film", "scores": [1, float("nan")]}, ["scores[1]", "finite"]),
        ({"text": "good film", "scores": []}, ["list of numbers"]),
        ({"text": "good film"}, ["list of numbers"]),
        ({"scores": [1, 2]}, ["a text or an id"]),
        ({"text": "good film", "scores": [1, 2], "score": 1}, ["'score'", "Known"]),
        ({"text": "good film", "scores": [1, 2], "tokens": ["good"]}, ["as many"]),
        ({"text": "good film", "scores": [1, 2], "tokens": ["cat", "cat"]}, ["'cat'", "there"]),
        ({"text": "good film", "scores": [1, 2], "label": "neither"}, ["'neither'", "target"]),
        ({"text": "good film", "scores": [1, 2], "label": [1]}, ["label"]),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(model, write, line, said):
    with pytest.raises(InputError) as error:
        sb.attribute(model, "good film", "file", path=write(line))
    assert all(word in str(error.value) for word in said), str(error.value)


@pytest.mark.parametrize("written", ["␣London", " London", "London", 7])
def test_a_word_of_a_vocabulary_may_be_written_with_its_space_or_without(model, write, written):
    (own,) = sb.attribute(model, ["good film"], "vanilla")
    found = read_scores(write(*lines([own], label=written)))
    assert found.of(own.encoded, 7, "␣London") == own.scores.tolist()
    with pytest.raises(InputError, match="is explained"):
        found.of(own.encoded, 8, "␣Paris")


def test_a_text_with_two_lines_and_a_file_that_is_not_there_are_refused(model, write):
    line = {"text": "good film", "scores": [1, 2]}
    with pytest.raises(InputError, match=r"scores already.*:1"):
        sb.attribute(model, "good film", "file", path=write(line, line))
    with pytest.raises(InputError, match="cannot be read"):
        sb.attribute(model, "good film", "file", path="nowhere.jsonl")


def test_a_setting_holds_the_content_of_its_file(model, write):
    a = {"text": "good film", "scores": [1, 2]}
    (one,) = sb.attribute(model, "good film", "file", path=write(a))
    (other,) = sb.attribute(model, "good film", "file", path=write(a | {"scores": [2, 1]}))
    assert one.setting["setting_id"] != other.setting["setting_id"]
    with pytest.raises(InputError, match="has changed"):
        sb.attribute(model, "good film", "file", path=one.setting["path"])


def test_a_study_compares_a_file_with_our_methods(write, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = load_model(str(folder), device="cpu")
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(TEXTS) + "\n", "utf-8")
    maps = sb.attribute(model, TEXTS, "vanilla")
    path = write(*lines(maps))
    words = ["model=hub", f"model.path={folder}", "data=file", "data.path=texts.csv", "~experiment"]
    words += ["data.text=text", "method=[vanilla,file]", f"method.file.path={path}", "out=run"]
    words += ["metric=[srg]", "name=mine", "evaluation.removal=[zero]", "runtime.device=cpu"]
    assert cli.main(words) == 0, capsys.readouterr().err
    rows = read_run(tmp_path / "run").tables["rows"]
    by = rows.pivot(index="example_id", columns="setting_id", values="value")
    assert by.shape == (3, 2)
    assert (by.iloc[:, 0] == by.iloc[:, 1]).all()
