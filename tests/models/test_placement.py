"""Models that accelerate spreads or offloads give the numbers of one device, and are left as they were."""

import copy
import gc
import json
import weakref
from importlib import util
from types import MethodType

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_heads import tiny_head, word_tokenizer

import saliency_bench as sb
from saliency_bench.cli import main as cli
from saliency_bench.core.errors import InputError
from saliency_bench.evaluation.removal import removal_probe
from saliency_bench.models import placement, remembered
from saliency_bench.models.fingerprint import fingerprint, of_libraries
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import collate, encoded_ids
from saliency_bench.models.tasks.registry import questions
from saliency_bench.models.wrapping import weights_digest
from saliency_bench.store import cache

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

TEXTS = ["the capital of france is", "what is a"]
#: By architecture, its parts, and the one that lies on disk.
PARTS = {
    "llama": ["embed_tokens", "layers.0", "layers.1", "norm", "rotary_emb"],
    "gpt2": ["wte", "wpe", "drop", "h.0", "h.1", "ln_f"],
}
BASE = {"llama": "model", "gpt2": "transformer"}
LAYER = {"llama": "model.layers.1", "gpt2": "transformer.h.0"}
METHODS = {
    "vanilla": {},
    "integrated_gradients": {"n_steps": 4, "quadrature": "midpoint", "baseline": "unk"},
    "smoothgrad": {"n_samples": 4},
    "leave_one_out": {"removal": "unk"},
    "attnlrp": {},
    "raw_attention": {},
}
#: Weights are the same to the bit wherever they lie, and so is the processor: sums in another order are all that may differ.
SAME = 1e-5


@pytest.fixture(scope="module", params=list(LAYER))
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tiny_head("text-generation", request.param).float().save_pretrained(folder)
    tokenizer = word_tokenizer(folder)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return request.param, folder


def load(folder, device_map=None, **named):
    return sb.load_model(folder, task="text-generation", device_map=device_map, **named)


def places(kind, what):
    """A device map with one layer on disk, or all."""
    if what == "all":
        return {"": "disk"}
    parts = [*(f"{BASE[kind]}.{part}" for part in PARTS[kind]), "lm_head"]
    return dict.fromkeys(parts, "cpu") | {LAYER[kind]: "disk"}


def maps(model, method):
    name = "input_x_gradient" if method == "attnlrp" else method
    rule = {"backward": "attnlrp"} if method == "attnlrp" else {}
    return sb.attribute(model, TEXTS, name, **METHODS[method], **rule)


def apart(ours, theirs):
    return max(
        np.abs(a.scores - b.scores).max() / np.abs(b.scores).max()
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("what", ["layer", "all"])
def test_weights_on_disk_give_the_maps_of_one_device(checkpoint, what):
    kind, folder = checkpoint
    one, spread = load(folder), load(folder, places(kind, what))
    assert any(weight.is_meta for weight in spread.module.parameters())
    for method in METHODS:
        assert apart(maps(spread, method), maps(one, method)) <= SAME, method
    assert spread.facts["weights_sha256"] == one.facts["weights_sha256"]


def test_weights_offloaded_to_memory_give_the_maps_of_one_device(checkpoint):
    _, folder = checkpoint
    one = load(folder)
    module = type(one.module).from_pretrained(folder, attn_implementation="sdpa")
    digest = weights_digest(module)
    accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    spread = sb.load_model(module, one.tokenizer, task="text-generation")
    assert all(weight.is_meta for weight in module.parameters())
    for method in METHODS:
        assert apart(maps(spread, method), maps(one, method)) <= SAME, method
    assert weights_digest(module) == digest == one.facts["weights_sha256"]


def test_a_model_that_reads_a_text_twice_has_its_second_reading_replaced_too(tmp_path):
    from architectures import build

    module = build("bart")
    ids = {"input_ids": [0, 17, 23, 31, 2]}
    (one,) = sb.attribute(sb.wrap_model(module), ids, "vanilla")
    accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    (spread,) = sb.attribute(sb.wrap_model(module), ids, "vanilla")
    assert apart([spread], [one]) <= SAME


def test_a_model_that_was_offloaded_is_left_as_it_was(checkpoint):
    kind, folder = checkpoint
    model = load(folder, places(kind, "layer"))
    model.module.train()
    before, hooks = fingerprint(model.module), placement.placement_of(model.module)
    maps(model, "vanilla")
    maps(model, "leave_one_out")
    assert all(weight.requires_grad for weight in model.module.parameters())
    assert model.module.training
    assert fingerprint(model.module) == before
    assert placement.placement_of(model.module) == hooks


def test_a_graph_keeps_no_weight_that_lies_elsewhere_but_reads_it_again(checkpoint, monkeypatch):
    """Else a backward pass would hold the whole model, whose offloading then saves nothing."""
    kind, folder = checkpoint
    model = load(folder, places(kind, "layer"))
    reads, load_weight = [], accelerate.utils.offload.OffloadedWeightsLoader.__getitem__

    def counted(self, key):
        reads.append(key)
        return load_weight(self, key)

    monkeypatch.setattr(accelerate.utils.offload.OffloadedWeightsLoader, "__getitem__", counted)
    ids = torch.tensor([[5, 6, 7]])
    with model.frozen(), torch.enable_grad():
        points = model.embed(ids).requires_grad_()
        logits = model.output(ids, embeddings=points)
        forward = [key for key in reads if key.startswith(LAYER[kind])]
        reads.clear()
        logits[0, -1, 0].backward()
    matrices = {
        key for key in forward if "norm" not in key and "ln_" not in key and "bias" not in key
    }
    assert len(matrices) >= 4
    assert matrices <= {*reads}


@pytest.mark.parametrize("backward", [None, "kept", "freed"])
def test_a_graph_ends_with_its_last_name(checkpoint, backward):
    """Whether it was never gone back through, or was kept for more: a tensor that is saved must not hold its own graph."""
    kind, folder = checkpoint
    model = load(folder, places(kind, "layer"))
    ids = torch.tensor([[5, 6, 7]])
    with model.frozen(), torch.enable_grad():
        points = model.embed(ids).detach().requires_grad_()
        logits = model.output(ids, embeddings=points)
        if backward:
            torch.autograd.grad(logits[0, -1, 0], points, retain_graph=backward == "kept")
        end = weakref.ref(points)  # the graph holds it
        del points
        assert end() is not None
        del logits
    gc.collect()
    assert end() is None


def gradient(model):
    ids = torch.tensor([[5, 6, 7]])
    with model.frozen(), torch.enable_grad():
        points = model.embed(ids).detach().requires_grad_()
        return torch.autograd.grad(model.output(ids, embeddings=points)[0, -1, 0], points)[0]


@pytest.fixture
def reads(monkeypatch):
    """The weights that are read from where they lie for a backward pass."""
    found, read = [], placement.Stored.read

    def noted(self):
        found.append(self.key)
        return read(self)

    monkeypatch.setattr(placement.Stored, "read", noted)
    return found


def offload(module):
    accelerate.cpu_offload(module, execution_device=torch.device("cpu"))


def test_graphs_of_a_module_that_is_offloaded_after_its_first_pass_keep_no_weight(
    checkpoint, reads
):
    model = load(checkpoint[1])
    resident = gradient(model)
    assert not reads
    offload(model.module)
    assert torch.allclose(gradient(model), resident, rtol=SAME, atol=0)
    assert reads


def test_gradients_of_a_module_that_is_brought_back_are_those_of_its_weights_now(checkpoint, reads):
    model = load(checkpoint[1])
    offload(model.module)
    gradient(model)
    reads.clear()
    accelerate.hooks.remove_hook_from_submodules(model.module)
    with torch.no_grad():
        for weight in model.module.parameters():
            weight.set_(weight.clone() * 1.5)  # not where the offloaded ones lay
    copied = sb.wrap_model(copy.deepcopy(model.module), task="text-generation")
    assert torch.equal(gradient(model), gradient(copied))
    assert not reads


def tokens_of(model, may_share):
    """The tokens that leave-one-out reads of a text of 16."""
    ids = {"input_ids": [5 + place % 9 for place in range(16)]}
    with model.frozen():
        (question,) = questions(model, [encoded_ids(model, ids, "text", None, "")])
        batch = collate(model, [question[1]])
        probe = removal_probe(References(model, may_share=may_share), batch, "zero", 2048)
        assert probe.shares == may_share
        before = model.ledger.copy()
        answers = probe(np.zeros(16, int), [*~np.eye(16, dtype=bool)])
        return model.ledger.since(before).total.forward_tokens, answers


def test_beginnings_are_shared_where_weights_lie_elsewhere(checkpoint):
    kind, folder = checkpoint
    model = load(folder, places(kind, "layer"))
    (few, shared), (many, whole) = (tokens_of(model, may_share) for may_share in (True, False))
    assert few < 0.7 * many
    np.testing.assert_allclose(shared, whole, rtol=0, atol=SAME * np.abs(whole).max())


@pytest.mark.parametrize("short", [False, True], ids=["all fits", "memory is short"])
def test_auto_fills_the_memory_that_there_is(checkpoint, short, monkeypatch):
    integration = pytest.importorskip("transformers.integrations.accelerate")
    one = load(checkpoint[1])
    n_bytes = sum(weight.nbytes for weight in one.module.parameters())
    most = {"cpu": n_bytes // 2 if short else 2 * n_bytes}
    monkeypatch.setattr(integration, "get_max_memory", lambda *_: dict(most))
    spread = load(checkpoint[1], "auto")
    placed = {*spread.facts.get("placement", {}).values()}
    assert placed == ({"cpu", "disk"} if short else set())  # on one device nothing is spread
    assert any(weight.is_meta for weight in spread.module.parameters()) == short
    assert apart(maps(spread, "vanilla"), maps(one, "vanilla")) <= SAME


def limit_first_gpu(monkeypatch, n_bytes):
    """The first of two GPUs lacks a byte for a whole model, which transformers would put there otherwise."""
    integration = pytest.importorskip("transformers.integrations.accelerate")
    most = {0: n_bytes - 1, 1: 100 * n_bytes, "cpu": 100 * n_bytes}
    monkeypatch.setattr(integration, "get_max_memory", lambda *_: dict(most))
    return integration


@pytest.mark.parametrize("device_map", ["auto", "balanced"])
def test_a_model_that_one_gpu_cannot_hold_is_placed_on_two(checkpoint, device_map, monkeypatch):
    """What transformers plans, which needs no GPU; the next test is of its numbers."""
    module = load(checkpoint[1]).module
    integration = limit_first_gpu(monkeypatch, sum(weight.nbytes for weight in module.parameters()))
    planned = integration._get_device_map(module, device_map, None, None)
    assert {*planned.values()} == {0, 1}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("device_map", ["auto", "balanced"])
def test_several_gpus_give_the_maps_of_one(checkpoint, device_map, monkeypatch):
    folder = checkpoint[1]
    one = load(folder, device="cuda:0")
    limit_first_gpu(monkeypatch, sum(weight.nbytes for weight in one.module.parameters()))
    spread = load(folder, device_map)
    assert {*spread.facts["placement"].values()} == {"cuda:0", "cuda:1"}
    for method in METHODS:
        assert apart(maps(spread, method), maps(one, method)) <= SAME, method
    assert spread.facts["weights_sha256"] == one.facts["weights_sha256"]


class Doubled(accelerate.hooks.ModelHook):
    """Somebody's hook, which changes what a layer says."""

    def post_forward(self, module, output):
        return (2 * output[0], *output[1:]) if isinstance(output, tuple) else 2 * output


def test_a_hook_of_others_beside_those_of_accelerate_is_code_of_others(checkpoint):
    kind, folder = checkpoint
    module = load(folder, places(kind, "layer")).module
    assert of_libraries(module)
    before = fingerprint(module)
    accelerate.hooks.add_hook_to_module(module.get_submodule(LAYER[kind]), Doubled(), append=True)
    assert not of_libraries(module)
    assert fingerprint(module) != before


@pytest.mark.parametrize("way", ["function", "method"])
def test_a_forward_put_over_that_of_accelerate_is_code_of_others(checkpoint, way):
    kind, folder = checkpoint
    module = load(folder, places(kind, "layer")).module
    (part,) = [one for path, one in module.named_modules() if path == f"{LAYER[kind]}.mlp"]
    inner = part.forward

    def halved(*given, **named):
        return inner(*given, **named) / 2

    part.forward = halved if way == "function" else MethodType(lambda _, x: halved(x), part)
    assert not of_libraries(module)


def test_the_preflight_is_remembered_for_the_same_placement_alone(
    checkpoint, tmp_path, monkeypatch
):
    kind, folder = checkpoint
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    probed, inspect = [], remembered.inspect_model

    def counted(model, ids, types, extra=()):
        probed.append(len(ids))
        return inspect(model, ids, types, extra)

    monkeypatch.setattr(remembered, "inspect_model", counted)
    layer, whole = (load(folder, places(kind, what)) for what in ("layer", "all"))
    maps(layer, "vanilla")
    n_probes = len(probed)
    maps(layer, "vanilla")
    assert (
        len(probed) == n_probes > 0
    )  # its weights are other tensors after each pass, and the same model
    assert remembered._facts(layer) != remembered._facts(whole)
    maps(whole, "vanilla")
    assert len(probed) == 2 * n_probes
    for what in ("layer", "all"):  # other processes would find them too
        maps(load(folder, places(kind, what)), "vanilla")
    assert len(probed) == 2 * n_probes


def test_noise_on_weights_that_lie_elsewhere_is_refused(checkpoint):
    kind, folder = checkpoint
    with pytest.raises(InputError, match=r"spread over devices or offloaded.*runtime\.device_map"):
        sb.attribute(load(folder, places(kind, "layer")), TEXTS, "noisegrad")


@pytest.mark.parametrize(
    ("device_map", "named", "said"),
    [
        ("autto", {}, "auto"),
        ({"model": "cuda:99"}, {}, "cpu, disk or the number of a GPU"),
        ({"model": 99}, {}, "GPUs here"),
        ({"model": True}, {}, "cpu, disk"),
        ("auto", {"device": "cpu"}, "both name the model's device"),
        ({"": "cpu", "lm_head": "disk"}, {}, "name every part"),
        ({"lm_head": "disk"}, {}, "device_map"),
    ],
)
def test_a_device_map_that_is_none_is_refused_in_a_sentence(checkpoint, device_map, named, said):
    with pytest.raises(InputError, match=said) as error:
        load(checkpoint[1], device_map, **named)
    assert "\n" not in str(error.value)


def test_a_number_is_no_device_map():
    with pytest.raises(InputError, match="expected auto, balanced"):
        placement.check_device_map(7)


def test_without_accelerate_the_extra_is_named(checkpoint, monkeypatch):
    there = util.find_spec
    monkeypatch.setattr(
        placement, "find_spec", lambda name: None if name == "accelerate" else there(name)
    )
    with pytest.raises(InputError, match=r"pip install 'saliency-bench\[large\]'"):
        load(checkpoint[1], "auto")


def test_small_models_and_adapters_are_not_spread(checkpoint):
    with pytest.raises(InputError, match="small model"):
        sb.load_model("default", device_map="auto")
    with pytest.raises(InputError, match="a model in memory stays where it is"):
        sb.load_model(tiny_head("text-generation", "llama"), device_map="auto")
    with pytest.raises(InputError, match="adapter"):
        load(checkpoint[1], "auto", adapter="nowhere")


def test_a_study_of_an_offloaded_model_has_the_rows_of_one_device(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("saliency_bench.report.build.FIGURES", {})
    tiny_head("text-generation", "llama").float().save_pretrained("model")
    tokenizer = word_tokenizer(tmp_path / "model")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained("model")
    (tmp_path / "texts.csv").write_text("\n".join(["text", *TEXTS]) + "\n", "utf-8")
    words = ["~experiment", "model=hub", "model.path=model", "model.task=text-generation"]
    words += ["data=file", "data.path=texts.csv", "method=[vanilla,random]", "metric=[srg]"]
    words += ["evaluation.removal=mask", "convergence.n_examples=0", "runtime.threads=1"]
    spread = "runtime.device_map={model.embed_tokens:cpu,model.layers:disk,model.norm:cpu,model.rotary_emb:cpu,lm_head:disk}"
    assert cli.main([*words, "out=one"]) == 0, capsys.readouterr().err
    assert cli.main([*words, "out=two", spread]) == 0, capsys.readouterr().err
    one, two = (pd.read_parquet(tmp_path / name / "rows.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, rtol=SAME)
    manifests = [
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two")
    ]
    assert "placement" not in manifests[0]
    assert manifests[1]["placement"]["model.layers"] == "disk"
    assert manifests[0]["cell_id"] == manifests[1]["cell_id"]
    for runtime in ("processes", "slurm"):
        assert cli.main([*words, "out=three", "runtime.device_map=auto", f"runtime={runtime}"]) == 2
        assert (
            f"each worker of runtime={runtime} would load the whole model"
            in capsys.readouterr().err
        )
    assert cli.main([*words, "out=three", "runtime.device_map=atuo"]) == 2
    assert "'auto'" in capsys.readouterr().err
