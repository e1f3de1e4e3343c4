"""examples/passages.py runs, and what it prints is so; with a tiny model, whose answers mean nothing."""

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
