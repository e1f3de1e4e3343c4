"""The preflight is taken once per model, and again as soon as anything that it depends on has changed."""

import gc
import json
import os
import warnings
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, scored_by, tiny_bert, token_inputs
from torch import nn
from transformers.models.bert import modeling_bert

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.models import remembered
from saliency_bench.models.model import Model
from saliency_bench.models.preflight import PreflightReport
from saliency_bench.models.remembered import preflight_of, proved
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.store import cache

TEXT = token_inputs(6)


@pytest.fixture
def probes(monkeypatch):
    """The numbers of tokens that models are probed on, as they are probed."""
    lengths, inspect = [], remembered.inspect_model

    def counted(model, ids, types, extra=()):
        lengths.append(len(ids))
        return inspect(model, ids, types, extra)

    monkeypatch.setattr(remembered, "inspect_model", counted)
    return lengths


@pytest.fixture
def place(monkeypatch, tmp_path):
    """A cache folder of this test's own."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def vanilla(model, inputs=TEXT):
    return sb.attribute(model, inputs, "vanilla")


def test_a_model_is_probed_once_and_its_maps_are_the_same(probes):
    model = sb.wrap_model(tiny_bert())
    (first,), (again,) = vanilla(model), vanilla(model)
    vanilla(sb.wrap_model(model.module))
    assert probes == [6]
    np.testing.assert_array_equal(first.scores, again.scores)


def test_a_remembered_model_is_asked_for_the_map_alone():
    model = sb.wrap_model(tiny_bert())
    vanilla(model)
    before = model.ledger.copy()
    vanilla(model)
    spent = model.ledger.since(before)
    assert (spent.calls, spent.total.forward_rows, spent.total.gradients) == (1, 0, 1)


def adapted(module):
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        # peft 0.21 uses what transformers 5 has marked as old.
        warnings.simplefilter("ignore", FutureWarning)
        get_peft_model(module, LoraConfig(target_modules=["query"], r=2))


def stepped(module):
    for weight in module.parameters():
        weight.grad = torch.ones_like(weight)
    torch.optim.SGD(module.parameters(), lr=1e-3).step()


def replaced(module):
    module.classifier = nn.Linear(module.classifier.in_features, 2, dtype=torch.float64)


def through_numpy(module):
    module.classifier.weight.detach().numpy()[:] *= 2


CHANGES = {
    "a weight in place": lambda module: module.classifier.weight.detach().mul_(2),
    "one number of a weight": lambda module: module.bert.embeddings.word_embeddings.weight.detach()[
        3, 1
    ].add_(1),
    "a weight through data": lambda module: module.classifier.weight.data.mul_(2),
    "a weight through numpy": through_numpy,
    "a buffer": lambda module: module.bert.embeddings.position_ids.add_(0),
    "an optimiser's step": stepped,
    "a state dict": lambda module: module.load_state_dict(tiny_bert(seed=1).state_dict()),
    "a cast": lambda module: module.float(),
    "a move": lambda module: module.load_state_dict(tiny_bert(seed=0).state_dict(), assign=True),
    "an adapter": adapted,
    "another head": replaced,
    "a plain attribute": lambda module: setattr(module.bert.embeddings.LayerNorm, "eps", 1e-3),
    "a hook": lambda module: module.classifier.register_forward_hook(lambda *_: None),
    "another forward": lambda module: setattr(
        module.classifier, "forward", lambda x: nn.functional.linear(x, module.classifier.weight)
    ),
    "other attention": lambda module: module.set_attn_implementation("eager"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_module_is_probed_again(probes, name):
    model = sb.wrap_model(tiny_bert())
    vanilla(model)
    CHANGES[name](model.module)
    vanilla(model)
    assert len(probes) == 2


def test_another_hook_in_place_of_one_is_seen(probes):
    model = sb.wrap_model(tiny_bert())
    for _ in range(2):
        handle = model.module.classifier.register_forward_hook(lambda *_: None)
        vanilla(model)
        handle.remove()
    assert len(probes) == 2


def test_training_mode_and_frozen_weights_change_nothing(probes):
    model = sb.wrap_model(tiny_bert())
    vanilla(model)
    model.module.train().requires_grad_(False)
    vanilla(model)
    model.module.eval().requires_grad_(True)
    vanilla(model)
    assert len(probes) == 1


@pytest.mark.parametrize("where", ["class", "file"])
def test_a_library_that_somebody_has_patched_is_probed_again(probes, monkeypatch, where):
    model = sb.wrap_model(tiny_bert())
    vanilla(model)
    if where == "class":
        original = modeling_bert.BertIntermediate.forward
        patched = lambda self, states: original(self, states)  # noqa: E731
        monkeypatch.setattr(modeling_bert.BertIntermediate, "forward", patched)
    else:
        monkeypatch.setattr(modeling_bert, "eager_attention_forward", lambda *_: None)
    vanilla(model)
    assert len(probes) == 2


def test_a_short_text_does_not_stand_for_a_long_one(probes):
    model = sb.wrap_model(tiny_bert())
    for length in (3, 3, 2, 8, 5, 30, 20, 31):
        vanilla(model, token_inputs(length))
    assert probes == [3, 8, 30]


def test_another_arrangement_of_token_types_is_probed_by_itself(probes):
    model = sb.wrap_model(tiny_bert())
    vanilla(model, [[5, 6, 7, 8]])
    vanilla(model, [{"input_ids": [5, 6, 7, 8], "token_type_ids": [0, 0, 1, 1]}])
    vanilla(model, [{"input_ids": [5, 6, 7, 8], "token_type_ids": [0, 1, 1, 1]}])
    assert len(probes) == 2


def test_a_forward_of_the_users_own_is_probed_each_time(monkeypatch):
    times = []
    monkeypatch.setattr(
        remembered,
        "inspect_texts",
        lambda *a, own=remembered.inspect_texts: times.append(1) or own(*a),
    )
    model = sb.wrap_model(tiny_bert(), forward=lambda module, inputs: module(**inputs).logits)
    vanilla(model)
    vanilla(model)
    assert len(times) == 2
    assert model.module not in remembered._MEMORIES


def test_what_is_remembered_goes_with_the_module():
    model = sb.wrap_model(tiny_bert())
    vanilla(model)
    gc.collect()
    before = len(remembered._MEMORIES)
    assert model.module in remembered._MEMORIES
    del model
    gc.collect()
    assert len(remembered._MEMORIES) == before - 1


def test_a_refused_model_is_refused_again_in_the_same_words_without_being_asked(probes):
    model = scored_by(lambda e: e.sum((1, 2)) + torch.rand(()))
    said = []
    for _ in range(2):
        with pytest.raises(InputError, match="random") as caught:
            vanilla(model)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert len(probes) == 1


class Fickle(nn.Module):
    """A classifier that is sound but for texts that begin with id 9."""

    def __init__(self, wrong):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        self.wrong = wrong

    def forward(self, input_ids):
        logits = self.embedding(input_ids).tanh().mean(1)[:, :2]
        return self.wrong(logits) if (input_ids[:, 0] == 9).all() else logits


def fails(_):
    raise RuntimeError("too short for a window")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x * float("nan"), "not finite"),
        (lambda x: x * 0, "zero gradient"),
        (fails, "fails on its first text"),
    ],
)
def test_a_text_that_says_nothing_is_refused_after_another_was_sound(wrong, message):
    model = sb.wrap_model(Fickle(wrong))
    vanilla(model, [[5, 6, 7, 8, 6]])
    with pytest.raises(InputError, match=message):
        vanilla(model, [[9, 6, 7, 8, 6]])
    assert len(vanilla(model, [[5, 6, 7]])) == 1


def loaded(folder, **options):
    """The model of a folder, as a process that has just begun has it."""
    remembered._MEMORIES.clear()
    return sb.load_model(str(folder), device="cpu", **options)


def test_a_later_process_need_not_probe_a_model_that_was_loaded(place, folder, probes):
    (first,) = vanilla(loaded(folder), "the film w1")
    (again,) = vanilla(loaded(folder), "the film w1")
    vanilla(loaded(folder), "a film w2")
    assert len(probes) == 1
    assert len([*place.rglob("*.json")]) == 1
    np.testing.assert_array_equal(first.scores, again.scores)


def test_a_wrapped_model_leaves_no_file(place):
    vanilla(sb.wrap_model(tiny_bert()))
    assert not place.exists()


def test_a_loaded_model_that_was_changed_neither_reads_nor_writes(place, folder, probes):
    for _ in range(2):
        model = loaded(folder)
        with torch.no_grad():
            model.module.classifier.weight.mul_(2)
        vanilla(model, "the film w1")
    assert len(probes) == 2
    assert not place.exists()


def test_a_later_process_refuses_in_the_same_words(place, folder, probes, monkeypatch):
    # Nothing is this close to the difference of outputs.
    monkeypatch.setattr("saliency_bench.models.preflight.LARGEST_GRADIENT_DIFFERENCE", -1.0)
    said = []
    for _ in range(2):
        with pytest.raises(InputError, match="not those of its outputs") as caught:
            vanilla(loaded(folder), "the film w1")
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert len(probes) == 1


def other_package(monkeypatch, folder):
    monkeypatch.setattr(remembered, "__version__", "9.9")


def other_probe(monkeypatch, folder):
    monkeypatch.setattr(remembered, "_code_digest", lambda: "edited")


def other_chip(monkeypatch, folder):
    monkeypatch.setattr(remembered.platform, "machine", lambda: "abacus")


def other_threads(monkeypatch, folder):
    monkeypatch.setattr(remembered.torch, "get_num_threads", lambda: 7)


def other_config(monkeypatch, folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}), "utf-8")


def other_config_of_no_module(monkeypatch, folder):
    """No module keeps this value; whatever reads it, reads the configuration."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    changed = config | {"problem_type": "single_label_classification"}
    (folder / "config.json").write_text(json.dumps(changed), "utf-8")


def other_weights(monkeypatch, folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def patched_library(monkeypatch, folder):
    monkeypatch.setattr(modeling_bert, "eager_attention_forward", lambda *_: None)


@pytest.mark.parametrize(
    "change",
    [
        other_package,
        other_probe,
        other_chip,
        other_threads,
        other_config,
        other_config_of_no_module,
        other_weights,
        patched_library,
    ],
)
def test_nothing_is_trusted_that_was_found_elsewhere(
    place, folder, probes, monkeypatch, tmp_path, change
):
    import shutil

    copy = shutil.copytree(folder, tmp_path / folder.name)
    vanilla(loaded(copy), "the film w1")
    change(monkeypatch, copy)
    vanilla(loaded(copy), "the film w1")
    assert len(probes) == 2


@pytest.fixture
def trials(monkeypatch):
    """One for each trial of a model; every model is found sound, so that none needs to compute."""
    taken, report = [], PreflightReport(*[0.0] * 7, False, False)
    monkeypatch.setattr(remembered, "inspect_model", lambda *_: taken.append(1) or report)
    return taken


def kept(model, where):
    """Takes the preflight twice, the second time from this process's memory or from the file."""
    text = encoded_ids(replace(model, tokenizer=None), TEXT[0], "text", None, "")
    for _ in range(2):
        if where == "file":
            remembered._MEMORIES.clear()
        preflight_of(model, [text])


#: A change of each fact of a model, alone.
FACTS = {
    "task": {"task": "token_classification"},
    "name": {"name": "another"},
    "labels": {"labels": ("no", "yes")},
    "wants_mask": {"wants_mask": True},
    "takes": {"takes": frozenset({"input_ids"})},
    "takes anything": {"takes": None},
    "pad_token_id": {"tokenizer": SimpleNamespace(pad_token_id=7)},
    "max_length": {"max_length": 11},
    "short_last_layer": {"short_last_layer": False},
}


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("fact", [*FACTS, "embedding", "dtype", "placement", "threads"])
def test_every_fact_alone_forgets_what_was_kept(place, folder, trials, monkeypatch, fact, where):
    model = loaded(folder)
    kept(model, where)
    assert len(trials) == 1
    other = replace(model, **FACTS.get(fact, {}))
    if fact == "embedding":
        other = replace(model, embedding=model.module.bert.embeddings)
    elif fact == "dtype":
        monkeypatch.setattr(Model, "dtype", torch.float16)
    elif fact == "placement":
        monkeypatch.setattr(model.module, "hf_device_map", {"": "disk"}, raising=False)
    elif fact == "threads":
        monkeypatch.setattr(remembered.torch, "get_num_threads", lambda: 7)
    kept(other, where)
    assert len(trials) == 2


def test_a_proof_is_made_again_for_other_facts_configurations_and_questions():
    model, made = sb.wrap_model(tiny_bert()), []

    def prove():
        made.append(1)
        return len(made)

    assert [proved(model, "this", prove) for _ in range(2)] == [1, 1]
    assert proved(replace(model, max_length=11), "this", prove) == 2
    assert proved(model, "that", prove) == 3
    model.module.config.problem_type = "single_label_classification"
    assert [proved(model, "this", prove) for _ in range(2)] == [4, 4]


@pytest.mark.parametrize("library", ["torch", "transformers", "accelerate", "peft", "numpy"])
def test_nothing_is_trusted_across_versions_of_a_library(
    place, folder, trials, monkeypatch, library
):
    model = loaded(folder)
    kept(model, "file")
    later = lambda name: "99.9" if name == library else version(name)  # noqa: E731
    monkeypatch.setattr("saliency_bench.core.versions.version", later)
    kept(model, "file")
    assert len(trials) == 2


@pytest.mark.parametrize("part", ["type", "GPU", "abilities of the processor"])
def test_nothing_is_trusted_across_devices(place, folder, trials, monkeypatch, part):
    model = loaded(folder)
    monkeypatch.setattr(remembered.torch.cuda, "get_device_name", lambda _: "chip")
    monkeypatch.setattr(remembered.platform, "machine", lambda: "chip")
    if part == "GPU":
        monkeypatch.setattr(Model, "device", torch.device("cuda"))
    kept(model, "file")
    assert len(trials) == 1
    if part == "type":
        monkeypatch.setattr(Model, "device", torch.device("cuda"))
    elif part == "GPU":
        monkeypatch.setattr(remembered.torch.cuda, "get_device_name", lambda _: "another chip")
    else:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS")
    kept(model, "file")
    assert len(trials) == 2


def test_nothing_is_trusted_of_a_class_from_another_place(place, folder, trials, monkeypatch):
    model = loaded(folder)
    kept(model, "file")
    monkeypatch.setattr(modeling_bert.BertPooler, "__module__", "transformers.elsewhere")
    kept(model, "file")
    assert len(trials) == 2


def test_every_edit_of_a_file_that_probes_is_seen(monkeypatch, tmp_path):
    (tmp_path / "probing.py").write_text("size = 1", "utf-8")
    monkeypatch.setattr(remembered, "__file__", str(tmp_path / "remembered.py"))
    before = remembered._code_digest.__wrapped__()
    (tmp_path / "probing.py").write_text("size = 2", "utf-8")
    assert remembered._code_digest.__wrapped__() != before


@pytest.mark.parametrize("options", [{"dtype": "float64"}, {"attention": "eager"}])
def test_nothing_is_trusted_across_types_and_attention(place, folder, probes, options):
    vanilla(loaded(folder), "the film w1")
    vanilla(loaded(folder, **options), "the film w1")
    assert len(probes) == 2


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[]", "7", '{"key": 1}', None, "n_tokens", "findings"),
        *("one finding", "no number", "another key"),
    ],
)
def test_a_damaged_file_is_as_good_as_none(place, folder, probes, damage):
    vanilla(loaded(folder), "the film w1")
    (file,) = place.rglob("*.json")
    content = json.loads(file.read_text("utf-8"))
    if damage is None:
        file.unlink()
        file.mkdir()
    elif damage == "one finding":
        content["findings"].pop("sum_vanishes")
        file.write_text(json.dumps(content), "utf-8")
    elif damage == "no number":
        content["findings"]["sum_vanishes"] = "no"
        file.write_text(json.dumps(content), "utf-8")
    elif damage == "another key":
        content["key"]["version"] = "another"
        file.write_text(json.dumps(content), "utf-8")
    elif damage in content:
        del content[damage]
        file.write_text(json.dumps(content), "utf-8")
    else:
        file.write_text(damage, "utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if damage is None else "error")
        vanilla(loaded(folder), "the film w1")
    assert len(probes) == 2
    if damage is not None:
        vanilla(loaded(folder), "the film w1")
        assert len(probes) == 2  # it was mended


def test_a_cache_that_cannot_be_written_is_warned_of_once(folder, probes, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match=cache.VARIABLE):
        vanilla(loaded(folder), "the film w1")
    for _ in range(2):
        vanilla(loaded(folder), "the film w1")
    assert len(probes) == 3


def test_a_file_is_there_whole_or_not_at_all(place, folder, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            vanilla(loaded(folder), "the film w1")
    assert not [*place.rglob("*.json")]


def test_where_the_cache_is_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cache.sys, "platform", "linux")
    assert cache.folder() == tmp_path / ".cache" / "saliency_bench"
    monkeypatch.setattr(cache.sys, "platform", "darwin")
    assert cache.folder() == tmp_path / "Library" / "Caches" / "saliency_bench"
    monkeypatch.setattr(cache.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache.folder() == tmp_path / "local" / "saliency_bench" / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "saliency_bench"
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "own"))
    assert cache.folder() == tmp_path / "own"


def test_the_doctor_says_where_the_cache_is_and_how_large(place, monkeypatch):
    from saliency_bench.cli import doctor

    assert str(place) in doctor._cache() and "empty" in doctor._cache()
    cache.write("kind", "name", {"key": "x" * 2**20})
    assert "1 file, 1.0 MiB" in doctor._cache()
