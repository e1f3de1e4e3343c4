"""What may be a baseline or a corpus of references, and what is refused with which words."""

import gc
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import scored_by, tiny_bert, token_inputs

import saliency_bench as sb
from saliency_bench.cli import config
from saliency_bench.core.errors import InputError
from saliency_bench.models import contents, references
from saliency_bench.models.references import References


def refusal(*overrides):
    """The one message that these overrides get before data and model are loaded."""
    method = overrides[0].split(".")[1]
    with pytest.raises(InputError) as caught:
        config.validate(config.load(["~experiment", f"method=[{method}]", *overrides]))
    return str(caught.value)


IG, EG = "method.integrated_gradients.baseline", "method.expected_gradients.references"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"{IG}=masc", [IG, "'masc'", "did you mean 'mask'?", "vector:FILE.npy"]),
        (f"{IG}=max_entrpy", ["did you mean 'max_entropy'?"]),
        (f"{IG}=vocabulary", [IG, "unknown"]),
        (f"{IG}=3", [IG, "unknown"]),
        (f"{IG}=[mask,zer]", ["did you mean 'zero'?"]),
        (f"{IG}='text: '", [IG, "expected words"]),
        (f"{IG}='vector:'", [IG, "the path of a file"]),
        (f"{IG}=vector:nowhere.npy", [IG, "there is no file nowhere.npy"]),
        (f"{EG}=vocabluary", [EG, "did you mean 'vocabulary'?", "file:PATH"]),
        (f"{EG}=mask", [EG, "unknown"]),
        (f"{EG}=file:nowhere.txt", [EG, "there is no file nowhere.txt"]),
        (f"{EG}=file:.", [EG, "there is no file ."]),
    ],
)
def test_names_are_checked_before_anything_is_loaded(override, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(override)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", ["uniform", "max_entropy", "'text:the film'", "vector:own.npy"])
def test_what_is_a_baseline_passes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("own.npy", np.zeros(3))
    cfg = config.load(["~experiment", "method=[integrated_gradients]", f"{IG}={name}"])
    config.validate(cfg)
    assert cfg.method["integrated_gradients"]["baseline"] == name.strip("'")


@pytest.mark.parametrize("name", [*references.REFERENCES, "file:own.txt"])
def test_what_are_references_pass(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("a film\n")
    config.validate(config.load(["~experiment", "method=[expected_gradients]", f"{EG}={name}"]))


def test_removal_keeps_to_one_vector_for_all_places():
    for name in ("uniform", "max_entropy", "text:a", "vector:x.npy"):
        with pytest.raises(InputError, match="removal"):
            config.validate(config.load([f"evaluation.removal={name}"]))
        with pytest.raises(InputError, match="removal"):
            sb.attribute(sb.wrap_model(tiny_bert()), token_inputs(3), "leave_one_out", removal=name)


# --- files of numbers ----------------------------------------------------------------------------------------------


class Harmful:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_objects(path, mark):
    np.save(path, np.array([Harmful(mark)] * 6), allow_pickle=True)


def write_pickle(path, mark):
    path.write_bytes(pickle.dumps(Harmful(mark)))


def write_structured(path, mark):
    np.save(path, np.zeros(6, dtype=[("a", "f8"), ("b", "f8")]))


def write_archive(path, mark):
    np.savez(path.with_suffix(".npz"), np.zeros(6), np.zeros(6))
    path.with_suffix(".npz").rename(path)


def write_text(path, mark):
    path.write_text("0 0 0 0 0 0")


def write_half(path, mark):
    np.save(path, np.zeros(6))
    path.write_bytes(path.read_bytes()[:-8])


def write_promise(path, mark):
    np.save(path, np.zeros(6))
    path.write_bytes(path.read_bytes().replace(b"(6,), }", b"(6000000000000,), }"))


@pytest.mark.parametrize(
    "write",
    [
        write_objects,
        write_pickle,
        write_structured,
        write_archive,
        write_text,
        write_half,
        write_promise,
        lambda path, mark: path.write_bytes(b""),
    ],
)
def test_a_file_that_is_no_plain_vector_is_refused_and_never_unpickled(tmp_path, write):
    path, mark = tmp_path / "own.npy", tmp_path / "mark"
    write(path, mark)
    with pytest.raises(InputError, match=r"baseline=vector:.*own\.npy"):
        sb.attribute(
            sb.wrap_model(tiny_bert()), token_inputs(3), baseline=f"vector:{path}", n_steps=1
        )
    assert not mark.exists()


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        (np.zeros(7), "expected 6 numbers.*got 7"),
        (np.zeros((1, 6)), r"got shape \(1, 6\)"),
        (np.zeros(()), r"got shape \(\)"),
        (np.zeros(6, dtype=complex), "complex128"),
        (np.zeros(6, dtype=bool), "bool"),
        (np.array(["a"] * 6), "<U1"),
        (np.array([0, 1, np.nan, 3, 4, 5]), "dimension 2 is nan"),
        (np.array([0, 1, 2, 3, np.inf, 5]), "dimension 4 is inf"),
    ],
)
def test_a_vector_of_another_shape_or_kind_is_refused(tmp_path, vector, words):
    model = scored_by(lambda e: e.sum((1, 2)))
    np.save(tmp_path / "own.npy", vector)
    for baseline in (vector, f"vector:{tmp_path / 'own.npy'}"):
        with pytest.raises(InputError, match=f"baseline.*{words}"):
            sb.attribute(model, token_inputs(3), baseline=baseline, n_steps=1)


def test_a_number_too_large_for_the_models_type_is_refused():
    model = scored_by(lambda e: e.sum((1, 2)), dtype=torch.float16)
    vector = np.array([0, 1, 2, 70_000.0, 4, 5])
    with pytest.raises(InputError, match="dimension 3 is 70000"):
        references.resolve_baseline(model, vector)
    assert references.resolve_baseline(model, vector / 2).startswith("vector:")


@pytest.mark.parametrize("nonsense", [3, 0.5, None, {"mask": 1}, b"mask"])
def test_what_is_neither_a_name_nor_a_vector_is_refused(bert, nonsense):
    with pytest.raises(InputError, match="expected the name of a baseline, or a vector"):
        references.resolve_baseline(bert, nonsense)


def test_a_vector_belongs_to_its_model_and_is_kept_no_longer():
    one, other = (scored_by(lambda e: e.sum((1, 2))) for _ in range(2))
    name = references.resolve_baseline(one, np.arange(6.0))
    assert references.resolve_baseline(one, name) == name
    assert References(one).vector(name).tolist() == list(range(6))
    with pytest.raises(InputError, match="there is no file"):
        references.resolve_baseline(other, name)
    kept = len(contents._VECTORS)
    del one
    gc.collect()
    assert len(contents._VECTORS) == kept - 1


def test_an_array_that_changes_afterwards_changes_nothing():
    model = scored_by(lambda e: e.sum((1, 2)))
    vector = np.arange(6.0)
    name = references.resolve_baseline(model, vector)
    vector += 1
    assert References(model).vector(name).tolist() == list(range(6))


# --- files of texts ------------------------------------------------------------------------------------------------


def letters(texts, add_special_tokens, **_):
    """A tokenizer that makes one token of each letter, and none of anything else."""
    assert not add_special_tokens
    return {"input_ids": [[ord(one) - ord("a") for one in text if one.isalpha()] for text in texts]}


@pytest.fixture
def lettered(bert):
    return replace(bert, tokenizer=letters)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no text"),
        (b"\n  \n\t\n", "has no text"),
        (b"abc\nd\xffe\n", r"own\.txt:2 is not UTF-8"),
        (b"12 34\n!", "expected at least 1 token,"),
        ("abc".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_file_without_text_is_refused(lettered, tmp_path, content, words):
    (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(InputError, match=words):
        references.resolve_references(lettered, f"file:{tmp_path / 'own.txt'}")


def test_a_file_shorter_than_the_longest_text_is_refused(lettered, tmp_path):
    (tmp_path / "own.txt").write_text("abc\nde\n")
    name = f"file:{tmp_path / 'own.txt'}"
    assert references.resolve_references(lettered, name, longest=5).startswith(f"{name}@")
    with pytest.raises(InputError, match=r"at least 6 tokens.*got 5.*longer file"):
        references.resolve_references(lettered, name, longest=6)


def test_a_file_is_known_by_its_text_not_by_its_bytes(lettered, tmp_path):
    path = tmp_path / "own.txt"
    found = []
    for content in ("abc\nde\n", "\ufeffabc\r\n\r\nde", "abcde\n"):
        path.write_bytes(content.encode())
        name = references.resolve_references(lettered, f"file:{path}")
        found.append((name, References(lettered).corpus(name).tolist()))
    assert found[0] == found[1]
    assert found[2][0] != found[0][0]
    assert {tuple(tokens) for _, tokens in found} == {(0, 1, 2, 3, 4)}
    assert contents.identity(found[0][0]) == found[0][0][-12:]


def test_a_file_needs_a_tokenizer(bert, tmp_path):
    (tmp_path / "own.txt").write_text("abc")
    with pytest.raises(InputError, match=r"needs a tokenizer.*vocabulary or uniform"):
        references.resolve_references(bert, f"file:{tmp_path / 'own.txt'}")


def test_a_run_with_too_short_a_file_is_refused_before_anything_is_written(
    default_model, tmp_path, monkeypatch
):
    from saliency_bench.studies import prepare as study
    from saliency_bench.studies import run as runner

    (tmp_path / "own.txt").write_text("two words")
    monkeypatch.setattr(study, "load_configured_model", lambda _: default_model)
    cfg = config.load(
        [
            "~experiment",
            "n_examples=2",
            "method=[expected_gradients]",
            f"{EG}=file:{tmp_path}/own.txt",
        ]
    )
    config.validate(cfg)
    cfg = replace(cfg, out=str(tmp_path / "out"))
    with pytest.raises(InputError, match=rf"{EG}.*at least \d+ tokens.*got 2"):
        runner.run(cfg, config.settings(cfg), ["saliency-bench"])
    assert not (tmp_path / "out").exists()
