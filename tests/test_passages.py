"""examples/passages.py runs, and what it prints is so; with a tiny model, whose answers mean nothing."""

import re

import pandas as pd
import pytest
from loading import ROOT, loaded
from tiny_chats import bpe_tokenizer, tiny_decoder

import saliency_bench as sb


@pytest.fixture(scope="module")
def passages():
    return loaded(ROOT / "examples" / "passages.py")


def test_passages_are_summed_and_taken_away(passages, tmp_path, capsys):
    model = tiny_decoder("llama", bpe_tokenizer())
    metrics = passages.main(model, tmp_path / "page.html")
    assert {*metrics.index} == {*passages.METHODS}
    assert metrics.notna().all(axis=None)
    out = capsys.readouterr().out
    shown = (tmp_path / "page.html").read_text("utf-8")
    for name in passages.PASSAGES:
        assert name in out and f">{name}</span>" in shown
    maps = passages.explained(model)
    table = passages.by_passage(model, maps)
    for one in maps:
        sums = {unit.name: unit.score for unit in one.units("segment")}
        assert table[one.setting["method"]].to_dict() == pytest.approx(sums)
    # The loss of the passage that a map ranks first is what the metric says of that map.
    for one in maps[:2]:
        first = max(one.units("segment"), key=lambda unit: unit.score).name
        said = metrics.loc[one.setting["method"], "top_k_log_probability_drop"]
        assert said == pytest.approx(table.loc[first, "loss without it"], rel=1e-6)


def test_a_passage_removed_is_a_passage_replaced(passages):
    model = tiny_decoder("gpt2", bpe_tokenizer())
    maps = passages.explained(model)
    (name,) = [part[0] for part in maps[0].encoded.parts][:1]
    one = passages.only(name, maps[0])
    unit = next(unit for unit in one.units("segment") if unit.name == name)
    assert unit.score > 1 and sum(one.scores) == pytest.approx(unit.score)
    assert isinstance(one, sb.AttributionMap)


def test_the_docs_have_the_numbers_of_the_results(passages):
    """The table of docs/tasks.md in three digits, and the losses in its text in one."""
    rows = pd.read_csv(ROOT / "results" / "passages" / "rows.csv")
    text = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    labels = ("gradient × input", "leave-one-out", "random (mean of 10)")
    for method, label in zip(passages.METHODS, labels, strict=True):
        (line,) = re.findall(rf"^\| {re.escape(label)} \|.*$", text, re.MULTILINE)
        shown = [float(cell) for cell in line.strip("| ").split("|")[2:]]
        values = rows[rows["method"] == method].set_index("quantity")["value"]
        assert shown == pytest.approx([values[metric] for metric in passages.METRICS], abs=5e-4)
    (p,) = rows.query("quantity == 'probability'")["value"]
    assert f'SmolLM2 gives "Oslo" p = {p:.2f}' in text
    lost = rows[rows["quantity"].str.startswith("log-probability drop")]
    drops = lost.set_index("passage")["value"]
    said = re.search(r"log p falls by ([\d.]+), without the explorer's by ([\d.]+)", text)
    assert said.groups() == (f"{drops['painter']:.1f}", f"{drops['explorer']:.1f}")
    others = drops.drop(["painter", "explorer"])
    assert others.max() < float(
        re.search(r"without each\s+of the others by less than ([\d.]+)\s", text)[1]
    )
