"""The laws for published tools: each holds of a right tool and catches a tool that is broken in its own way."""

import copy
import csv
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks.tools import laws, models, table
from benchmarks.tools.adapters import shared
from benchmarks.tools.cases import TOOLS, Case, apart, cases, loads, measure
from benchmarks.tools.laws import LAWS, NAMES, PARTS, Subject, measured, restores
from benchmarks.tools.state import state
from benchmarks.tools.table import cells_table, command_of, markdown
from saliency_bench.attribution.backward import RULES, hooks
from saliency_bench.attribution.parity import REORDERING
from saliency_bench.core.conf import PACKAGE

#: Where a tool's import is not its name.
IMPORTED = {"gim": "gim", "saliency_bench": "saliency_bench"}


def right(**given) -> Subject:
    """Letters of each word as scores, which sum to the text's number of letters."""

    def explain(texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array([float(len(word)) for word in text.split()]) for text in texts]

    def letters(text: str) -> float:
        return float(len(text.replace(" ", "")))

    def halved(texts: Sequence[str]) -> list[np.ndarray]:
        return [scores / 2 for scores in explain(texts)]

    parts = dict.fromkeys(PARTS, halved)
    subject = Subject(explain, letters, parts=parts, output=lambda text: (letters(text),) * 2)
    return replace(subject, **given)


def broken(law: str) -> Subject:
    """The right tool with one law broken by more than its limit."""
    fine = right()
    calls = []

    def drifting(texts):
        calls.append(texts)
        return [scores + 1e-6 * len(calls) for scores in fine.explain(texts)]

    def mixed(texts):  # the second text has a part of the first's
        found = fine.explain(texts)
        return [found[0], *(one + 1e-3 for one in found[1:])]

    def attends_padding(texts):
        longest = max(len(text.split()) for text in texts)
        return [scores * (1 + 1e-3 * (longest - len(scores))) for scores in fine.explain(texts)]

    if law.startswith("acts_"):
        return right(parts={**fine.parts, law.removeprefix("acts_"): fine.explain})
    return {
        "repeat": right(explain=drifting),
        "batch": right(explain=mixed),
        "padding": right(explain=attends_padding),
        "complete": right(change=lambda text: 1.2 * fine.change(text)),
        "conserve": right(total=lambda text: fine.change(text) + 1e-2),
        "forward": right(output=lambda text: (1.0, 1.001)),
    }[law]


@pytest.mark.parametrize("law", LAWS)
def test_a_law_holds_of_a_right_tool_and_catches_a_broken_one(law):
    assert measured(law, right()).verdict == "held"
    found = measured(law, broken(law))
    assert found.verdict == "not held"
    assert found.limit is not None


@pytest.mark.parametrize("law", LAWS)
def test_scores_that_are_not_numbers_hold_no_law(law):
    def explain(texts):
        return [np.full(len(text.split()), np.nan) for text in texts]

    subject = right(explain=explain, output=lambda text: (float("nan"), 1.0))
    assert measured(law, subject).verdict == "not held"


def test_batch_and_padding_ask_what_their_names_say():
    asked = []

    def explain(texts):
        asked.append(tuple(texts))
        return right().explain(texts)

    measured("batch", right(explain=explain))
    measured("padding", right(explain=explain))
    lengths = [[len(text.split()) for text in texts] for texts in asked if len(texts) == 2]
    assert [len(set(one)) for one in lengths] == [1, 2]


def test_a_law_that_does_not_apply_says_why():
    found = measured("padding", right(reasons={"padding": "one text a call"}))
    assert (found.verdict, found.measured, found.note) == (
        "not applicable",
        None,
        "one text a call",
    )


def test_limits_are_those_that_the_library_keeps_itself():
    assert REORDERING[torch.float32] == laws.ROUNDING
    conf = yaml.safe_load((PACKAGE.parent / "conf" / "config.yaml").read_text())
    assert laws.LARGEST_GAP in (
        value for part in conf.values() if isinstance(part, dict) for value in part.values()
    )


CHANGES = {
    "weights": lambda module, _: next(module.parameters()).data.add_(1e-6),
    "requires_grad of parameters": lambda module, _: module.requires_grad_(False),
    "grad of parameters": lambda module, _: setattr(
        next(module.parameters()), "grad", torch.zeros_like(next(module.parameters()))
    ),
    "training mode": lambda module, _: module.bert.pooler.train(),
    "modules": lambda module, _: setattr(module, "dropout", torch.nn.Identity()),
    "hooks": lambda module, _: module.bert.register_forward_hook(lambda *_: None),
    "configuration": lambda module, _: setattr(module.config, "pad_token_id", 3),
    "tokenizer": lambda _, tokenizer: tokenizer.add_tokens(["new"]),
    "shared functions": lambda *_: setattr(torch.nn.LayerNorm, "forward", lambda self, x: x),
    "classes of the model": lambda module, _: setattr(
        type(module.bert.pooler), "forward", lambda self, x: x[:, 0]
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_a_tool_leaves_changed_is_named(name):
    def changed():
        module, tokenizer = models.build("bert"), models.tokenizer("bert")
        before = state(module, tokenizer)
        assert restores(before, state(module, tokenizer)).verdict == "held"
        CHANGES[name](module, tokenizer)
        return restores(before, state(module, tokenizer))

    found = apart(changed)  # some changes are to classes that other tests use
    assert found.verdict == "not held"
    assert name in found.note.split(", ")


def test_what_a_process_apart_raises_or_patches_stays_there():
    def patched():
        models.SEED = 7
        return models.SEED

    assert apart(patched) == 7
    assert models.SEED == 0
    with pytest.raises(RuntimeError, match="KeyError"):
        apart(lambda: {}["none"])


@pytest.mark.parametrize("name", models.MODELS)
def test_a_models_weights_follow_from_names_alone(name):
    first, second = (models.build(name) for _ in range(2))
    changed = copy.deepcopy(second)
    for parameter in changed.parameters():
        parameter.data.zero_()
    models.fill(changed)
    for one, two, three in zip(
        *(module.parameters() for module in (first, second, changed)), strict=True
    ):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    lengths = [len(models.tokenizer(name)(text)["input_ids"]) for text in models.PAIR]
    assert len(set(lengths)) == 1
    assert len(models.tokenizer(name)(models.LONG)["input_ids"]) > lengths[0]


def test_the_change_of_a_linear_model_is_its_gradient_times_the_way():
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(len(models.VOCABULARY), 3)
            self.head = torch.nn.Linear(3, 2)

        def get_input_embeddings(self):
            return self.words

        def forward(self, input_ids, **_):
            return type("Output", (), {"logits": self.head(self.words(input_ids)).sum(1)})()

    module, tokenizer = Linear(), models.tokenizer("bert")
    change = shared.change(module, tokenizer, shared.from_padding(module, tokenizer))
    ids = tokenizer(models.LONG, return_tensors="pt")["input_ids"]
    way = module.words(ids) - module.words(shared.baseline_ids(tokenizer, ids))
    expected = (way @ module.head.weight[models.TARGET]).sum().item()
    assert change(models.LONG) == pytest.approx(expected, rel=1e-5)


CAPTUM = [case for case in cases("captum") if case.model == "bert"]


@pytest.mark.filterwarnings("ignore")  # as the table asks tools
@pytest.mark.parametrize("case", CAPTUM, ids=lambda case: case.method)
def test_captums_cells(case):
    found = {
        law: measure(law, case).verdict for law in ("batch", "padding", "restores", "complete")
    }
    drawn = case.method == "noise_tunnel"
    integrates = case.method.endswith("integrated_gradients")
    assert found["restores"] == "held"
    assert found["complete"] == ("held" if integrates else "not applicable")
    assert found["padding"] == ("not held" if drawn else "held")
    assert measure("repeat", case).verdict == ("not held" if drawn else "held")


OWN_RULES = [
    case
    for case in cases("saliency_bench")
    if case.method in RULES and case.model in ("bert", "llama_lm") and case.attention == "eager"
]


@pytest.mark.filterwarnings("ignore")  # as the table asks tools
@pytest.mark.parametrize("case", OWN_RULES, ids=lambda case: f"{case.method}-{case.model}")
def test_the_cells_of_our_own_rules(case):
    """Every part acts, and none that the rule lacks is asked for; what CP-LRP promises comes out."""
    absent = {
        "attnlrp": {"softmax"},
        "cp_lrp": {"softmax"} | ({"nonlinearity"} if case.model == "llama_lm" else set()),
        "gim": {"nonlinearity"},
    }[case.method] | ({"gate"} if case.model == "bert" else set())
    for part in PARTS:
        expected = "not applicable" if part in absent else "held"
        assert measure(f"acts_{part}", case).verdict == expected, part
    conserve = measure("conserve", case)
    assert conserve.verdict == ("held" if case.method == "cp_lrp" else "not applicable")
    assert measure("forward", case).verdict == measure("restores", case).verdict == "held"


def test_a_part_of_our_own_that_does_nothing_is_seen(monkeypatch):
    monkeypatch.setattr(hooks, "constant_deviation", lambda node: None)
    assert measure("acts_norm", OWN_RULES[0]).verdict == "not held"
    assert (
        measure("conserve", Case("saliency_bench", "cp_lrp", "bert", "sdpa")).verdict == "not held"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", [name for name in TOOLS if name != "captum"])
def test_a_tool_that_is_installed_loads_and_keeps_one_law_apart(tool):
    name = IMPORTED.get(tool, tool)
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{TOOLS[tool][0]} is not installed: benchmarks/tools/environments.sh")
    assert apart(lambda: loads(tool)).verdict == "held"
    assert apart(lambda: measure("repeat", cases(tool)[0])).verdict == "held"


def test_a_tool_that_is_absent_is_a_cell_with_the_message(monkeypatch):
    monkeypatch.setitem(TOOLS, "absent", ("absent", {"method": ("bert/sdpa",)}))
    found = loads("absent")
    assert found.verdict == "raises"
    assert "No module named" in found.note
    assert measure("repeat", Case("absent", "method", "bert", "sdpa")).verdict == "raises"


def answer(law: str, **given):
    case = {"tool": "gim", "method": "context", "model": "bert", "attention": "sdpa"}
    cell = {"verdict": "held", "measured": 0.0, "limit": 0.0, "note": ""}
    version = {"gim-explain": "0.1.4", "transformers": "5.23.0", "torch": "2.13.0"}
    return {"law": law, **case, **cell, "versions": version, **given}


def test_the_table_has_every_cell_with_its_command():
    answers = [answer(law) for law in NAMES]
    answers[0] = answer("repeat", verdict="raises", measured=None, note="TypeError: dtype | here")
    answers[-1] = answer("restores", verdict="not held", measured=2.0, note="hooks, weights")
    table = cells_table(answers)
    assert len(table.rows) == len(NAMES)
    assert {row[-1] for row in table.rows} == {command_of(one) for one in answers}
    shown = markdown(answers)
    assert "raises" in shown
    assert "not held, 2" in shown
    assert "hooks, weights" in shown


def test_with_only_a_tool_the_rows_and_the_manifest_of_the_others_stay(tmp_path, monkeypatch):
    calls = []

    def asked(tool, python):
        calls.append(tool)
        version = {TOOLS[tool][0]: f"{len(calls)}", "transformers": "5", "torch": "2"}
        cell = {"tool": tool, "versions": version, "measured": 0.25 * len(calls)}
        return [answer(law, **cell) for law in NAMES]

    monkeypatch.setattr(table, "asked", asked)
    table.write_table(tmp_path, [], command=["first"])
    before = {one["tool"]: one for one in table.read_cells(tmp_path)}
    table.write_table(tmp_path, [], command=["second"], only=["gim"])
    after = {one["tool"]: one for one in table.read_cells(tmp_path)}
    assert [*after] == [*before] == [*TOOLS] and calls == [*TOOLS, "gim"]
    assert {tool for tool in TOOLS if after[tool] != before[tool]} == {"gim"}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["tools"] == ["gim"] and manifest["command"] == "second"
    assert manifest["earlier"]["tools"] == [*TOOLS] and manifest["earlier"]["command"] == "first"


def test_the_committed_cells_are_those_of_the_code():
    file = Path(__file__).parents[2] / "results" / "tools" / "tools.csv"
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    shown = {
        tuple(row[name] for name in ("tool", "method", "model", "attention", "law")) for row in rows
    }
    expected = {
        (case.tool, case.method, case.model, case.attention, law)
        for tool in TOOLS
        for case in cases(tool)
        for law in NAMES
    }
    assert expected <= shown
    assert {row["verdict"] for row in rows} <= {"held", "not held", "not applicable", "raises"}
