"""Bad configurations, data, models and places: one sentence that names what is wrong, and nothing is left behind."""

import gzip
import json
import os
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from saliency_bench.cli import main as cli

GOOD = b"text,label\nthe film,LABEL_0\na w1 and w2,LABEL_1\n"

#: Words of the command, and what the message must say.
CONFIG = {
    "an unknown key": (["n_exmples=3"], ["n_exmples", "n_examples"]),
    "an unknown key of a part": (["data.pth=x"], ["data.pth"]),
    "a wrong type": (["n_examples=many"], ["n_examples", "many"]),
    "a text for a list": (["metric={srg: 1}"], ["metric"]),
    "no example": (["n_examples=0"], ["n_examples=0"]),
    "fewer than none": (["n_examples=-3"], ["n_examples=-3"]),
    "an unknown method": (["method=[vanila]"], ["vanila", "vanilla"]),
    "an unknown metric": (["metric=[sgr]"], ["sgr", "srg"]),
    "an unknown model": (["model=defualt"], ["defualt"]),
    "an unknown dataset": (["data=fiel"], ["fiel"]),
    "an unknown experiment": (["experiment=quickstrat"], ["quickstrat"]),
    "no step": (["method.integrated_gradients.n_steps=0"], ["n_steps"]),
    "fewer steps than none": (["method.integrated_gradients.n_steps=-3"], ["n_steps"]),
    "a billion steps too many": (["method.integrated_gradients.n_steps=1.5"], ["n_steps", "1.5"]),
    "steps that are no number": (["method.integrated_gradients.n_steps=nan"], ["n_steps"]),
    "an unknown rule": (["method.integrated_gradients.quadrature=simpson"], ["quadrature", "simpson"]),
    "an unknown baseline": (["method.integrated_gradients.baseline=blur"], ["baseline", "blur"]),
    "a vector that is not there": (
        ["method.integrated_gradients.baseline=vector:none.npy"],
        ["none.npy"],
    ),
    "an unknown reduction": (["method.integrated_gradients.reduction=l3"], ["reduction", "l3"]),
    "negative noise": (
        ["method=[smoothgrad]", "method.smoothgrad.noise_std=-1"],
        ["noise_std", "-1"],
    ),
    "infinite noise": (["method=[smoothgrad]", "method.smoothgrad.noise_std=inf"], ["noise_std"]),
    "noise that is no number": (
        ["method=[smoothgrad]", "method.smoothgrad.noise_std=nan"],
        ["noise_std"],
    ),
    "no sample": (["method=[smoothgrad]", "method.smoothgrad.n_samples=0"], ["n_samples"]),
    "an empty sweep": (["method.integrated_gradients.n_steps=[]"], ["n_steps"]),
    "no method": (["method=[]"], ["method"]),
    "a key that the method lacks": (["+method.integrated_gradients.sigma=1"], ["sigma"]),
    "an unknown target": (["target=nobody"], ["nobody"]),
    "a class that is not there": (["target=9"], ["9"]),
    "an unknown output": (["output=logits"], ["logits", "logit"]),
    "an unknown removal": (["evaluation.removal=blur"], ["blur"]),
    "an unknown grid": (
        ["metric=[comprehensiveness]", "metric.comprehensiveness.grid=half"],
        ["grid", "half"],
    ),
    "a fraction above one": (
        ["metric=[comprehensiveness]", "metric.comprehensiveness.grid=[0.5,1.5]"],
        ["grid", "1.5"],
    ),
    "an unknown unit": (["evaluation.granularity=paragraph"], ["paragraph"]),
    "an unknown type": (["runtime.dtype=float8"], ["float8"]),
    "an unknown device": (["runtime.device=tpu"], ["tpu"]),
    "no token in a pass": (["runtime.token_budget=0"], ["token_budget"]),
    "an unknown executor": (["runtime=rya"], ["rya"]),
    "workers without threads": (["runtime=processes", "runtime.threads=null"], ["threads"]),
    "a confidence of two": (["statistics.confidence=2"], ["confidence"]),
    "an interpolation to nothing": (["name=${nothing}"], ["nothing"]),
    "a circle of interpolations": (["name=${name}"], ["name"]),
    "a missing value": (["data.path=???"], ["data.path"]),
    "an open bracket": (["method=[vanilla"], ["[vanilla"]),
    "a target of Hydra's": (["+data._target_=os.getcwd"], ["_target_"]),
    "the head of another task": (["model.task=fill-mask"], ["model.path"]),
    "an unknown task": (["model.task=summarization"], ["summarization"]),
    "names of too few classes": (["model.labels=[one]"], ["model.labels"]),
}  # fmt: skip

#: A file of data, words of the command, and what the message must say.
DATA = {
    "an empty file": (b"", [], ["texts.csv"]),
    "a header only": (b"text,label\n", [], ["texts.csv"]),
    "no such column": (GOOD, ["data.text=review"], ["review", "text"]),
    "no such label column": (GOOD, ["data.label=stars"], ["stars"]),
    "an empty text": (b"text\nthe film\n\"\"\n", [], ["texts.csv:3"]),
    "blanks for a text": (b"text\nthe film\n\"  \"\n", [], ["texts.csv:3"]),
    "a label that is none of the classes": (
        b"text,label\nthe film,LABEL_9\n", ["data.label=label"], ["texts.csv:2", "LABEL_9"],
    ),
    "a label out of range": (b"text,label\nthe film,7\n", ["data.label=label"], ["texts.csv:2", "7"]),
    "a label that is missing": (b"text,label\nthe film,\n", ["data.label=label"], ["texts.csv:2", "label"]),
    "a label of one and a half": (
        b"text,label\nthe film,1.5\n", ["data.label=label"], ["texts.csv:2", "1.5"],
    ),
    "an id that is there twice": (
        b"text,id\nthe film,x\na film,x\n", ["data.id=id"], ["texts.csv", "x"],
    ),
    "a byte that is no UTF-8": (b"text\nthe \xff film\n", [], ["texts.csv", "UTF-8"]),
    "UTF-16": ("text\nthe film\n".encode("utf-16"), [], ["texts.csv", "UTF-8"]),
    "a byte of nothing": (b"text\nthe \x00 film\n", [], ["texts.csv"]),
    "a ragged line": (b"text,label\nthe film,LABEL_0,more\n", [], ["texts.csv"]),
    "a quote that is not closed": (b"text\n\"the film\n", [], ["texts.csv"]),
    "gzip by mistake": (gzip.compress(GOOD, mtime=0), [], ["texts.csv"]),
    "a format of another": (GOOD, ["data.format=parquet"], ["texts.csv"]),
    "an unknown format": (GOOD, ["data.format=xlsx"], ["xlsx"]),
    "a file that is not there": (None, [], ["texts.csv"]),
    "JSON lines that are none": (b"{\"text\": \"the film\"}\n{\"text\": \n", ["data.format=jsonl"], ["texts.csv:2"]),
    "JSON of a list": (b"[1, 2]\n", ["data.format=jsonl"], ["texts.csv:1"]),
    "half a surrogate": (b"{\"text\": \"the \\ud800 film\"}\n", ["data.format=jsonl"], ["texts.csv:1"]),
    "a number for a text": (b"{\"text\": 5}\n", ["data.format=jsonl"], ["texts.csv:1"]),
    "a text longer than the model reads": (
        b"text\n" + b"the film " * 200 + b"\n", ["too_long=error"], ["texts.csv:2"],
    ),
    "rationales of another length": (
        b"text,why\nthe film,\"[1, 0, 1, 0]\"\n", ["data.relevant=why", "data.relevant_format=hatexplain"],
        ["texts.csv:2"],
    ),
}  # fmt: skip


def without(name):
    return lambda folder: (folder / name).unlink()


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def with_config(**values):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def with_weights(change):
    def rewrite(folder):
        path = folder / "model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path, metadata={"format": "pt"})

    return rewrite


def pickled(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(name):
    """All weights in one file of that name, as an index says."""

    def rewrite(folder):
        weights = folder / "model.safetensors"
        index = {
            "metadata": {"total_size": 1},
            "weight_map": dict.fromkeys(load_file(weights), name),
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        torch.save(load_file(weights), folder / "w.bin")  # that transformers would load
        weights.unlink()

    return rewrite


def spoilt(weights):
    weights["classifier.weight"][0, 0] = float("nan")


def headless(weights):
    del weights["classifier.weight"]


def too_small(weights):
    weights["classifier.weight"] = weights["classifier.weight"][:1].clone()


#: What is done to a model's folder, and what the message must say.
MODELS = {
    "no configuration": (without("config.json"), ["config.json"]),
    "a configuration that is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"), ["config.json"],
    ),
    "no weights": (without("model.safetensors"), ["safetensors"]),
    "pickles for weights": (pickled, ["safetensors"]),
    "weights that end early": (truncated, ["model.path"]),
    "a configuration that is a number": (
        lambda folder: (folder / "config.json").write_text("5"), ["config.json", "int"],
    ),
    "a configuration that is too deep": (
        lambda folder: (folder / "config.json").write_text("[" * 100_000), ["config.json", "JSON"],
    ),
    "a width that is a text": (with_config(hidden_size="x"), ["model.path", "hidden_size"]),
    "a width that no machine has": (with_config(hidden_size=10**9), ["model.path"]),
    "a vocabulary of three words": (
        with_config(vocab_size=3), ["word_embeddings.weight", "[50, 16]", "[3, 16]"],
    ),
    "weights of another shape": (
        with_weights(too_small), ["tensor classifier.weight", "[1, 16]", "[3, 16]"],
    ),
    "weights without a head": (with_weights(headless), ["lack classifier.weight"]),
    "an index that names a pickle": (sharded("w.bin"), ["index.json", "'w.bin'", "Pickled"]),
    "an index that names a file outside": (
        sharded("../outside/w.safetensors"), ["index.json", "'../outside/w.safetensors'"],
    ),
    "an index that names an absolute path": (
        sharded("/outside/w.safetensors"), ["index.json", "'/outside/w.safetensors'"],
    ),
    "an index that names what is not there": (sharded("w.safetensors"), ["'w.safetensors'", "not there"]),
    "an index of nothing": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),
        ["index.json", "weight_map"],
    ),
    "a tokenizer that is no JSON": (
        lambda folder: (folder / "tokenizer.json").write_text('{"model": 5}'), ["tokenizer"],
    ),
    "weights that are no numbers": (with_weights(spoilt), ["finite"]),
    "an architecture that there is not": (with_config(model_type="berd"), ["model.path"]),
    "code of its own": (with_config(auto_map={"AutoModel": "evil.Model"}), ["auto_map"]),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("*token*")] + [(folder / "vocab.txt").unlink(missing_ok=True)],
        ["tokenizer"],
    ),
    "one class": (with_config(num_labels=1, id2label={"0": "x"}, label2id={"x": 0}), ["model.path"]),
    "no folder": (shutil.rmtree, ["model"]),
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to stand in."""
    for key in cli.QUIET:
        monkeypatch.setenv(key, cli.QUIET[key])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def refused(folder, place, words, said, capfd, code=2):
    """The command fails with the code and one line that says all of this; nothing is left behind."""
    given = ["~experiment", "model=hub", f"model.path={folder}", "data=file"]
    given += [f"data.path={place / 'texts.csv'}", "method=[integrated_gradients]", "metric=[srg]"]
    given += ["convergence.n_examples=0", "runtime.threads=1", "out=run", *words]
    keys = [word.partition("=")[0].lstrip("~") for word in given]
    later = {word.partition("=")[0] for word in words}
    n = len(given) - len(words)
    given = [word for i, word in enumerate(given) if i >= n or keys[i] not in later]
    ended = cli.main(given)
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.strip()]
    assert ended == code, err
    assert out == ""
    assert [line for line in lines if line.startswith("saliency-bench: ")] == lines[-1:], err
    assert "Traceback" not in err
    assert not lines[-1].startswith("saliency-bench: unexpected"), err
    assert all(word in lines[-1] for word in said), lines[-1]
    assert not list(place.joinpath("here").rglob("*.parquet"))
    assert not (place / "here" / "run").exists()


@pytest.mark.parametrize("case", CONFIG)
def test_a_bad_configuration_is_refused(case, folder, place, capfd, record_property):
    (place / "texts.csv").write_bytes(GOOD)
    words, said = CONFIG[case]
    refused(folder, place, words, said, capfd)
    record_property("faults: a bad input", 1)


@pytest.mark.parametrize("case", DATA)
def test_bad_data_are_refused_by_file_and_row(case, folder, place, capfd, record_property):
    data, words, said = DATA[case]
    if data is not None:
        (place / "texts.csv").write_bytes(data)
    refused(folder, place, words, said, capfd)
    record_property("faults: a bad input", 1)


@pytest.mark.parametrize("share", range(16))
def test_a_parquet_file_that_ends_early_is_refused(share, folder, place, capfd, record_property):
    path = place / "texts.csv"
    pd.DataFrame({"text": ["the film", "a w1"]}).to_parquet(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * share // 16])
    refused(folder, place, ["data.format=parquet"], ["texts.csv"], capfd)
    record_property("faults: a bad input", 1)


@pytest.mark.parametrize("case", MODELS)
def test_a_bad_model_is_refused(case, folder, place, capfd, record_property):
    (place / "texts.csv").write_bytes(GOOD)
    change, said = MODELS[case]
    shutil.copytree(folder, place / "model")
    change(place / "model")
    refused(place / "model", place, [], said, capfd)
    record_property("faults: a bad input", 1)


def test_a_file_where_the_results_should_go_is_a_matter_of_storage(folder, place, capfd):
    (place / "texts.csv").write_bytes(GOOD)
    (place / "file").write_text("mine")
    refused(folder, place, [f"out={place / 'file'}"], ["file"], capfd, code=4)
    assert (place / "file").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="permissions are of another kind there")
@pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="an administrator may write anywhere"
)
def test_a_folder_that_cannot_be_written_is_a_matter_of_storage(folder, place, capfd):
    (place / "texts.csv").write_bytes(GOOD)
    (place / "closed").mkdir(mode=0o500)
    refused(folder, place, [f"out={place / 'closed' / 'run'}"], ["closed"], capfd, code=4)
