"""What is said of a part by its name is so: its command composes, its call is accepted, its claims hold."""

from itertools import zip_longest
from types import SimpleNamespace

import pytest
from tiny import token_inputs

import saliency_bench as sb
from saliency_bench.api import parts
from saliency_bench.api.arguments import metric_entry, settings_of
from saliency_bench.attribution.methods import ABOUT, METHODS
from saliency_bench.cli import config, study_facts
from saliency_bench.cli import main as cli
from saliency_bench.core import conf as conf_files
from saliency_bench.core import ranges
from saliency_bench.core.errors import InputError
from saliency_bench.core.registry import BASELINES
from saliency_bench.evaluation.removal import operators
from saliency_bench.store.suite import CONTENTS


def described(group):
    describe, names = parts.GROUPS[group]
    return [describe(name) for name in names()]


@pytest.mark.parametrize("group", parts.GROUPS)
def test_every_part_is_described_by_a_whole_sentence(group):
    for part in described(group):
        assert part.group == group and part in parts.find(part.name)
        assert part.about.endswith(".") or "=" in part.about or "saliency-bench" in part.about


def test_commands_select_what_they_say():
    """All of a group in one composition, since each takes a moment."""
    for group in ("method", "metric"):
        words = [part.words.split(" ")[1:] for part in described(group)]
        names = ",".join(conf_files.names(group))
        cfg = config.load([f"{group}=[{names}]", *(word for own in words for word in own)])
        assert sorted(getattr(cfg, group)) == conf_files.names(group)
        assert all(part.words.startswith(f"{group}=[{part.name}]") for part in described(group))
    for group, key in (("removal", "evaluation.removal"), ("baseline", "baseline")):
        assert all(part.words.endswith(f"{key}={part.name}") for part in described(group))
    baseline = described("baseline")[0]
    (entry,) = config.load(baseline.words.split(" ")).method.values()
    assert entry["baseline"] == baseline.name
    for model, data in zip_longest(described("model"), described("data")):
        config.load([word for part in (model, data) if part for word in part.words.split(" ")])


def test_calls_are_accepted_by_what_they_call(bert):
    axes = {"backend": "native", "reduction": None, "seed": 0}

    def attribute(model, texts, method="integrated_gradients", baseline=None, **hyper):
        assert baseline is None or baseline in BASELINES
        if "path" not in hyper:  # which must exist
            assert settings_of(bert, [method], hyper, "logit", 5, **axes)

    def evaluate(model, maps, metrics=(), removal="mask"):
        assert removal in operators()
        for name in metrics:
            metric_entry(name, None)

    stub = SimpleNamespace(attribute=attribute, evaluate=evaluate, load_model=lambda path: None)
    names = {"sb": stub, "model": None, "texts": None, "maps": None}
    for group in parts.GROUPS:
        for part in described(group):
            exec(part.python, dict(names))


def test_what_scores_sum_to_is_said_of_the_methods_that_report_a_gap(bert):
    """The others' maps have no completeness gap, which is for claims alone."""
    few = {"n_samples": 8, "max_samples": 32, "n_steps": 2, "beam_size": 1, "neighbours": 2}
    apart = {"file", "partition_shap"}  # scores of a file; asks for a tokenizer
    apart |= {name for name in METHODS.names() if name.startswith("allennlp")}  # a head of BERT's
    for name in sorted({*METHODS.names()} - apart):
        keys = METHODS.hyperparameters(name)
        hyper = {key: value for key, value in few.items() if key in keys}
        if "references" in keys:
            hyper["references"] = "vocabulary"
        if "baseline" in keys:
            hyper["baseline"] = "zero"
        if "removal" in keys:
            hyper["removal"] = "zero"
        (made,) = sb.attribute(bert, [token_inputs(3)[0]], method=name, **hyper)
        assert (made.completeness_gap is not None) == (ABOUT[name].sums_to is not None), name


def test_numbers_beyond_what_is_said_are_refused():
    (noise,) = [one for one in parts.parameters("method", "smoothgrad") if one.name == "noise_std"]
    assert noise.default == 0.1 and noise.allowed == "a number, at least 0 or null"
    (steps,) = [one for one in parts.parameters("method", "idgi") if one.name == "n_steps"]
    assert steps.allowed == str(ranges.range_of("method.n_steps"))
    with pytest.raises(InputError, match=f"expected {steps.allowed}"):
        ranges.check(ranges.MOST_POINTS + 1, "method.idgi.n_steps")


def test_a_file_that_extends_another_has_its_keys():
    keys = {key.name: key for key in parts.parameters("data", "sst2")}
    assert keys["path"].default == "stanfordnlp/sst2" and "commit" in keys["revision"].meaning


def test_a_name_of_several_parts_gives_each():
    assert [part.group for part in parts.find("mask")] == ["removal", "baseline"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("integrated_gradent", "integrated_gradients"),
        ("srgs", "srg"),
        ("movie_review", "movie_reviews"),
    ],
)
def test_a_wrong_name_suggests_the_nearest(typed, meant, capsys):
    assert cli.main(["info", typed]) == 2
    said = capsys.readouterr().err
    assert repr(meant) in said and "saliency-bench list" in said


@pytest.mark.parametrize("group", ["method", "metric"])
def test_every_entry_stands_in_one_family(group):
    listed = parts.listed(group)
    assert sorted(name for names in listed.values() for name in names) == conf_files.names(group)
    assert all(heading and not heading.endswith(".") for heading in listed)


@pytest.mark.parametrize("words", [["list"], ["info", "dig"], ["info", "srg"], ["info", "hub"]])
def test_screens_fit_80_columns_but_for_what_is_copied(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    wide = [line for line in lines if len(line.rstrip()) > 80]
    assert all(line.startswith(("  saliency-bench ", "  sb.")) for line in wide)


def test_commands_are_printed_as_they_were_typed(capsys, monkeypatch):
    monkeypatch.setenv("SALIENCY_BENCH_PROGRAM", "./scripts/bench")
    assert cli.main(["info", "mask"]) == 0
    assert "  ./scripts/bench evaluation.removal=mask\n" in capsys.readouterr().out


def test_what_python_takes_where_nothing_is_chosen_is_what_the_quickstart_composes():
    from saliency_bench.cli import config

    cfg = config.load([])
    assert cfg.name == "quickstart"
    assert conf_files.selected("method") == dict(cfg.method)
    assert conf_files.selected("metric") == dict(cfg.metric)


def shown_of(name, capsys):
    assert cli.main(["info", name]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("group", ["experiment", "suite"])
def test_every_study_of_conf_says_what_it_runs(group, capsys):
    for name in conf_files.names(group):
        said = shown_of(name, capsys)
        cfg = config.load(study_facts.SELECTED[group].format(name).split())
        for part in (
            *cfg.method,
            *cfg.metric,
            *cfg.evaluation.removal,
            f"{cfg.n_examples} of {cfg.data['dataset']}",
        ):
            assert part in said, (name, part)
        if cfg.statistics.endpoint:
            assert f"Endpoint {cfg.statistics.endpoint}" in said


def test_a_suite_says_its_digest_and_the_settings_of_its_opponents(capsys):
    said = shown_of("v1", capsys)
    assert f"Content digest {CONTENTS['v1']}" in said
    assert "integrated_gradients" in said and "n_steps=50" in said
