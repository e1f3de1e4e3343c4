"""The preflight is taken once per model, and again as soon as anything that it depends on has changed."""

import gc
import json
import os
import warnings

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, scored_by, tiny_bert, token_inputs
from torch import nn
from transformers.models.bert import modeling_bert

import saliency_bench as sb
from saliency_bench.core.errors import InputError
from saliency_bench.models import remembered
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


def other_version(monkeypatch, folder):
    own = remembered.versions
    monkeypatch.setattr(remembered, "versions", lambda names: own(names) | {"torch": "9.9"})


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
        other_version,
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
