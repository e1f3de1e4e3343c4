"""A frozen study: all that it fixes is held by a digest."""

import json
from dataclasses import asdict

import pytest

from saliency_bench.cli import config
from saliency_bench.cli import main as cli
from saliency_bench.store import suite as suites
from saliency_bench.studies import prepare


def composed(*words):
    return config.load([*words, "+suite=v1", "~experiment"])


def content(cfg, texts=(("a film", None),)):
    return suites.content("v1", asdict(cfg), texts)


def test_the_content_of_v1_is_what_it_was():
    cfg = composed()
    texts = [(example.text, example.text_pair) for example in prepare.load_examples(cfg)]
    assert len(texts) == 100
    assert content(cfg, texts) == suites.CONTENTS["v1"] == "e33560f6e1238c51"
    config.validate(cfg)


def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def test_every_value_that_a_submitter_does_not_choose_is_part_of_the_content():
    plain = asdict(composed())
    before = suites.content("v1", plain, [("a film", None)])
    changed = 0
    for path in leaves(plain):
        other = json.loads(json.dumps(plain))
        place = other
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = "something else"
        after = suites.content("v1", other, [("a film", None)])
        assert (after == before) == (path[0] in suites.UNFIXED), path
        changed += after != before
    assert changed > 50


def test_texts_are_part_of_the_content_and_methods_of_ones_own_are_not():
    plain = composed()
    assert content(plain) != content(plain, [("a film", "with another")])
    assert content(plain) != content(plain, [("a movie", None)])
    mine = composed("method.mine.method=vanilla", "method.mine.reduction=l1", "out=elsewhere")
    assert content(mine) == content(plain)


def test_a_key_that_came_later_is_no_part_of_the_content_while_it_changes_nothing(monkeypatch):
    plain = asdict(composed())
    before = suites.content("v1", plain, [])
    monkeypatch.setattr(suites, "ADDED", {"evaluation.newer": "off", "newest": None})
    assert suites.content("v1", plain, []) == before
    later = plain | {"newest": None, "evaluation": plain["evaluation"] | {"newer": "off"}}
    assert suites.content("v1", later, []) == before
    for other in (
        later | {"newest": 1},
        later | {"evaluation": plain["evaluation"] | {"newer": "on"}},
    ):
        assert suites.content("v1", other, []) != before
    monkeypatch.setattr(suites, "ADDED", {})
    assert suites.content("v1", later, []) != before


def test_how_a_report_looks_is_no_part_of_the_content():
    plain = asdict(composed())
    other = plain | {"report": {"n_examples": 99, "added": True}}
    assert suites.content("v1", other, []) == suites.content("v1", plain, [])


@pytest.fixture
def started(monkeypatch):
    """What the verb would run."""
    from saliency_bench.cli import runs

    asked = []
    monkeypatch.setattr(runs, "start", lambda cfg, command: asked.append((cfg, command)))
    return asked


def test_ones_own_methods_come_beside_the_suites(started, capsys):
    words = ["suite", "v1", "method=[attnlrp,vanilla]", "model.training_seed=1", "out=x=1"]
    assert cli.main(words) == 0
    ((cfg, command),) = started
    assert list(cfg.method) == [*suites.opponents("v1"), "attnlrp"]
    assert (cfg.model.training_seed, cfg.out) == (1, "x=1")
    assert command == ["saliency-bench", *words]
    assert capsys.readouterr().out == f"suite v1, content digest {suites.CONTENTS['v1']}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "saliency-bench suite v1"),
        (["v2"], "'v2'"),
        (["v1", "n_examples=10"], "n_examples=10: suite v1 is frozen"),
        (["v1", "data=sst2"], "frozen"),
        (["v1", "-m", "model.training_seed=0,1"], "-m: suite v1 is frozen"),
        (["v1", "hydra.searchpath=[file:///x]"], "frozen"),
        (["v1", "~metric"], "frozen"),
        (["v1", "method.vanilla.reduction=l1"], "it differs in method.vanilla.reduction (l2 → l1)"),
        (["v1", "method=[vanila]"], "'vanilla'"),
        (["v1", "method=[file]", "method.file.path=mine.jsonl"], "method.file.path names a file"),
        (
            ["v1", "method.i.method=expected_gradients"],
            "method.i: method 'expected_gradients' needs",
        ),
    ],
)
def test_what_the_suite_fixes_cannot_be_changed(words, said, started, capfd):
    before = len(started)
    code = cli.main(["suite", *words])
    err = capfd.readouterr().err
    assert (code, len(started)) == (2, before)
    assert said in err and err.count("\n") == 1
