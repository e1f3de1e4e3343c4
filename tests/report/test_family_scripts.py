"""The scripts that make a small folder of runs: orders of methods between families, and people's rationales."""

import csv
import gzip
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from docs import families, known_truth, rationales, runs, trust
from saliency_bench.cli import config
from saliency_bench.core.rows import digest
from saliency_bench.data.toxic_spans import Annotation
from saliency_bench.store.run import write_json
from saliency_bench.studies.run import run

METHODS = "abcdefgh"


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(families, "N_RESAMPLES", 200)


def study(out, *words, methods):
    """Runs a study with some of its methods on the tiny model and returns its folder."""
    cfg = config.load(["convergence.n_examples=0", *words])
    cfg.method = {name: entry for name, entry in cfg.method.items() if name in methods}
    cfg.statistics.reference = "vanilla"
    config.validate(cfg)
    return run(replace(cfg, out=str(out)), config.settings(cfg), ["saliency-bench", *words])


def published(script, monkeypatch, out, *folders):
    """Calls a script, and returns its files as text; a picture has none."""
    monkeypatch.setattr(sys, "argv", ["script.py", str(out), *map(str, folders)])
    script.main()
    contents = {}
    for path in out.iterdir():
        data = path.read_bytes()
        contents[path.name] = gzip.decompress(data) if path.suffix == ".gz" else data
    return contents


def table(family, means, *, seeds=(0,), n=40, noise=0.0, texts="t"):
    """SRG of methods with these means on n texts, with noise that differs by text and method."""
    stream = np.random.default_rng(int(digest([family, noise], 8), 16))
    return pd.DataFrame(
        [
            (family, "mask", "srg", method, seed, f"{texts}{text}", mean + noise * stream.normal())
            for seed in seeds
            for text in range(n)
            for method, mean in zip(METHODS, means, strict=False)
        ],
        columns=["family", "removal", "metric", "method", "training_seed", "example_id", "value"],
    )


def line(orders, family, other):
    return orders[(orders["family"] == family) & (orders["other"] == other)].iloc[0]


def test_tau_between_families_is_that_of_their_means_and_equal_orders_have_one():
    rising, mixed = np.arange(8.0), np.array([3.0, 1, 2, 0, 7, 5, 6, 4])
    rows = pd.concat([table("x", rising), table("y", mixed), table("z", -rising)])
    orders = families.orders(rows, [])
    assert line(orders, "x", "y").tau == pytest.approx(kendalltau(rising, mixed).statistic)
    assert line(orders, "x", "z")[["tau", "low", "high"]].tolist() == pytest.approx([-1] * 3)
    assert line(orders, "x", "x")[["tau", "low", "high"]].tolist() == pytest.approx([1] * 3)
    assert len(orders) == 6


def test_chance_is_not_ordered_and_a_method_that_one_family_lacks_is_left_out():
    rows = pd.concat([table("x", np.arange(8.0)), table("y", np.arange(8.0))])
    rows = rows[(rows["family"] == "x") | (rows["method"] != "c")]
    orders = families.orders(rows, ["a"])
    assert line(orders, "x", "x").n_methods == 7
    assert line(orders, "x", "y").n_methods == line(orders, "y", "y").n_methods == 6


def test_families_that_read_the_same_texts_are_resampled_with_the_same_texts():
    """A copy then has the same order in every resample; on texts of its own it has not, since the means are close."""
    one = table("x", np.linspace(0, 0.1, 8), noise=1.0)
    same, other = one.assign(family="y"), one.assign(family="z")
    other["example_id"] = "other " + other["example_id"]
    orders = families.orders(pd.concat([one, same, other]), [])
    assert line(orders, "x", "y")[["tau", "low", "high"]].tolist() == pytest.approx([1] * 3)
    assert line(orders, "x", "z").low < 0.9


def test_training_seeds_are_resampled_too():
    """Two seeds with opposite orders: between them the interval covers both."""
    rising = np.arange(8.0)
    x = pd.concat([table("x", rising), table("x", -1.01 * rising, seeds=(1,))])
    between = line(families.orders(pd.concat([x, table("y", rising)]), []), "x", "y")
    assert (between.low, between.high) == pytest.approx((-1, 1))
    assert between.n_seeds == 2


def test_a_conclusion_holds_where_the_interval_of_the_difference_is_on_its_side(monkeypatch):
    monkeypatch.setattr(families, "CONCLUSIONS", (("a", "b"), ("b", "c"), ("a", "absent")))
    stream = np.random.default_rng(0)
    rows = pd.concat([table("x", [2.0, 1, 1], seeds=(0, 1)), table("y", [1.0, 2, 2])])
    rows["value"] += 0.1 * stream.normal(size=len(rows))
    found = families.conclusions(rows).set_index(["family", "ahead"])
    assert found["holds"].to_dict() == {
        ("x", "a"): "yes", ("y", "a"): "no", ("x", "b"): "undecided", ("y", "b"): "undecided",
    }  # fmt: skip
    texts = rows[rows["family"] == "x"].groupby(["method", "example_id"])["value"].mean()
    differences = texts["a"] - texts["b"]
    line = found.loc["x", "a"]
    assert (line["n"], line["mean"]) == (40, pytest.approx(differences.mean()))
    assert line["low"] < differences.mean() < line["high"]
    assert families.conclusions(rows[rows["method"] == "a"]).empty


def test_the_convergence_of_all_training_seeds_counts_together():
    """96 of 100 and 9 of 10 are enough; 9 of 10 alone, and 40 of 50, are not; what is not checked is not doubted."""

    def seed(model, **shares):
        settings = [{"setting_id": name, "method": name, "name": name} for name in shares]
        gates = pd.DataFrame(shares.values(), index=[*shares], columns=["converged", "checked"])
        manifest = {"config": {"model": {"name": model}}}
        return SimpleNamespace(
            run=SimpleNamespace(settings=settings, manifest=manifest), gates=gates
        )

    names = {"gradient": (np.nan, np.nan), "ig": (0.9, 10), "guided": (0.9, 10)}
    seeds = [
        seed("x", **names),
        seed("x", **names | {"ig": (0.96, 100), "guided": (0.8, 50)}),
        seed("y", ig=(0.9, 10)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            families, "names", lambda one: dict(zip(one.gates.index, one.gates.index, strict=True))
        )
        assert families.doubtful(seeds) == {("x", "guided"), ("y", "ig")}


@pytest.fixture(scope="module")
def of_family(folder, tmp_path_factory):
    return study(
        tmp_path_factory.mktemp("families") / "run",
        "experiment=families", "n_examples=4", "model=hub", f"model.path={folder}",
        methods=["vanilla", "input_x_gradient", "leave_one_out", "random"],
    )  # fmt: skip


def test_a_folder_of_families_has_every_value_and_what_replaced_tokens(
    of_family, tmp_path, monkeypatch
):
    (own,) = runs.opened([of_family])
    renamed = {"model": own.run.manifest["config"]["model"] | {"name": "nanoguard"}}
    lacking = own.run.manifest | {
        "config": own.run.manifest["config"]
        | renamed
        | {"evaluation": own.run.manifest["config"]["evaluation"] | {"removal": ["pad", "attention", "delete"]}},
        "asked_removal": ["mask", "attention", "delete"],
        "replaced_by": {"pad": "<p>"},
    }  # fmt: skip
    other = replace(own, run=replace(own.run, manifest=lacking))
    monkeypatch.setattr(runs, "opened", lambda folders: [own, other])
    files = published(families, monkeypatch, tmp_path, of_family)
    assert {*files} == {
        "rows.csv.gz", "methods.csv", "orders.csv", "conclusions.csv", "first_token.csv", "replaced.csv",
        "families.png", "manifest.json",
    }  # fmt: skip
    rows = pd.read_csv(tmp_path / "rows.csv.gz", keep_default_na=False)
    values = own.run.tables["rows"].query("status == 'ok'")
    assert rows["family"].value_counts().to_dict()["hub"] == len(values)
    assert set(rows["removal"]) == {"mask", "attention", "delete", ""}
    replaced = pd.read_csv(tmp_path / "replaced.csv").set_index(["family", "removal"])
    assert replaced.loc[("NanoGuard, injections", "mask")].tolist() == ["pad", "<p>"]
    means = pd.read_csv(tmp_path / "methods.csv").query("metric == 'srg_on_grid'")
    assert sorted(means.query("family == 'hub' and removal == 'mask'")["rank"]) == [1, 2, 3, 4]
    shares = pd.read_csv(tmp_path / "first_token.csv")
    assert shares["mean"].between(0, 1).all()
    orders = pd.read_csv(tmp_path / "orders.csv")
    assert orders["n_methods"].eq(3).all()


def test_known_truth_makes_its_folder_of_the_same_parts(of_family, tmp_path, monkeypatch):
    monkeypatch.setattr(known_truth, "SHOWN", {"srg_on_grid": "SRG", "log_odds": "Log-odds"})
    files = published(known_truth, monkeypatch, tmp_path, of_family)
    assert {*files} == {
        "rows.csv.gz", "methods.csv", "orders.csv", "known_truth.png", "manifest.json",
    }  # fmt: skip
    assert set(pd.read_csv(tmp_path / "methods.csv")["truth"]) == {"rated words"}


@pytest.mark.parametrize("script", [families, known_truth, rationales, trust])
def test_a_folder_that_is_no_run_ends_a_script_with_a_sentence_and_leaves_no_folder(
    script, tmp_path, monkeypatch
):
    with pytest.raises(SystemExit, match="empty"):
        published(script, monkeypatch, tmp_path / "out", tmp_path / "empty")
    assert not (tmp_path / "out").exists()


#: Comments of our own, by what of each their annotators marked: characters, or None for "not toxic".
SECRET = ("glorbish", "snorkelous", "wubwub")
COMMENTS = {
    "11": ("the film snorkelous and a glorbish w7", [[(9, 19)], [(9, 19)], [(26, 34)]]),
    "12": ("a wubwub w5 w6 the glorbish", [[(2, 8)], [(2, 8), (19, 27)], [(19, 27)], [(2, 8)]]),
    "13": ("glorbish and w9", [[(0, 8)], [(0, 8)], None]),
    "14": ("the film and a w8", [None, None, [(0, 3)]]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set in the published format."""
    path = tmp_path_factory.mktemp("toxic")
    annotations = [(name, own) for name, (_, marked) in COMMENTS.items() for own in marked]
    tables = {
        "comments": [
            ("comment_id", "comment_text"),
            *((name, text) for name, (text, _) in COMMENTS.items()),
        ],
        "annotations": [
            ("annotation", "comment_id", "not toxic"),
            *((n, name, own is None) for n, (name, own) in enumerate(annotations)),
        ],
        "spans": [
            ("annotation", "start", "end"),
            *((n, *span) for n, (_, own) in enumerate(annotations) for span in own or ()),
        ],
    }
    for name, rows in tables.items():
        with (path / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(rows)
    return path


@pytest.fixture(scope="module")
def of_comments(folder, data, tmp_path_factory):
    return study(
        tmp_path_factory.mktemp("rationales") / "run",
        "experiment=rationales", "model=hub", f"model.path={folder}", f"data.path={data}", "data.split=all",
        "model.labels=[not toxic,toxic,other]", methods=["vanilla", "leave_one_out", "random"],
    )  # fmt: skip


def test_what_is_published_of_comments_has_no_text_token_or_map(
    of_comments, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(rationales, "FEWEST", 1)
    files = published(rationales, monkeypatch, tmp_path, of_comments)
    assert {*files} == {
        "rows.csv.gz", "comments.csv.gz", "methods.csv", "rationales.png", "manifest.json",
    }  # fmt: skip
    (analysis,) = runs.opened([of_comments])
    texts = " ".join(analysis.run.tables["examples"]["text"])
    assert all(word in texts for word in SECRET)  # the run has them
    for name, content in files.items():
        for secret in (*SECRET, str(data)):
            assert secret.encode() not in content, name
    rows = pd.read_csv(tmp_path / "rows.csv.gz", dtype={"example_id": str})
    assert [*rows] == ["model", "training_seed", "example_id", "method", "metric", "value"]
    assert set(rows["example_id"]) == {"11", "12", "13"}  # 14 is not toxic
    comments = pd.read_csv(tmp_path / "comments.csv.gz", dtype={"example_id": str})
    comments = comments.set_index("example_id")
    assert comments["annotators"].to_dict() == {"11": 3, "12": 4, "13": 3}
    assert comments["agree"].to_dict() == {"11": 2, "12": 3, "13": 2}
    assert comments["n_words"].to_dict() == {"11": 7, "12": 6, "13": 3}
    assert comments["n_relevant"].to_dict() == {"11": 1, "12": 1, "13": 1}
    groups = set(pd.read_csv(tmp_path / "methods.csv")["group"])
    assert {"all", "2 agree", "3 agree"} <= groups


def test_annotators_are_measured_against_the_others_by_hand(of_comments):
    (analysis,) = runs.opened([of_comments])
    rows, _ = rationales.of_run(analysis)
    of_people = rows[rows["method"] == rationales.ANNOTATOR]
    values = of_people.pivot_table(index="example_id", columns="metric", values="value")
    # 11: the others of the first and of the second agree on nothing; those of the third on word 3 of 7, of which it marks none.
    assert values.loc["11"].to_dict() == pytest.approx(
        {"auprc": 1 / 7, "token_f1": 0.0, "precision_at_k": 0.0}
    )
    # 13: the others of both who marked agree on nothing, since one of the two found nothing toxic; the third marked nothing.
    assert "13" not in values.index
    # 12: words 2 and 6 are marked 3 and 2 times of 4. The others of the third agree on word 2 (3 of 3), which it does not mark;
    # those of each of the rest on word 2 (2 of 3), and the others of the first and of the fourth on word 6 too (2 of 3).
    assert values.loc["12", "token_f1"] == pytest.approx((2 / 3 + 2 / 3 + 2 / 3 + 0) / 4)
    precision_of_second = 1 / 2  # one of two marks, in random order
    assert values.loc["12", "precision_at_k"] == pytest.approx(
        ((1 + 1 / 5) / 2 * 2 + precision_of_second + 0) / 4
    )


def test_metrics_of_marks_are_the_means_over_all_orders_of_ties():
    """By trying orders at random: precision at k; and F1 is that of the sets."""
    stream = np.random.default_rng(0)
    for _ in range(20):
        own, agreed = stream.random(6) < 0.4, stream.random(6) < 0.4
        if not own.any() or not agreed.any() or agreed.all():
            continue
        orders = [np.lexsort((stream.random(6), ~own)) for _ in range(4000)]
        k = agreed.sum()
        tried = np.mean([agreed[order[:k]].mean() for order in orders])
        values = rationales.of_marks(own, agreed)
        # Four standard errors of 4000 numbers between 0 and 1.
        assert values["precision_at_k"] == pytest.approx(tried, abs=4 * 0.5 / 4000**0.5)
        both = (own & agreed).sum()
        expected = 2 * both / (own.sum() + agreed.sum())
        assert values["token_f1"] == pytest.approx(expected)


def test_an_annotator_who_marks_what_the_others_agree_on_is_perfect():
    words = [[(0, 3)], [(4, 7), (7, 9)], [(10, 12)]]
    same = [Annotation(False, ((4, 9),))] * 3
    assert rationales.of_annotators(words, same, 0.5) == {
        "auprc": 1.0, "token_f1": 1.0, "precision_at_k": 1.0,
    }  # fmt: skip


def trust_folder(path, model, kinds, better, removals):
    """The rows and the manifest of `trust`: two metrics, of which the first prefers the known ranking this often."""
    rows = [
        (kind, 0, f"t{text}", "last", metric, removal, float(text < 10 * (better if metric == "srg" else 0.5)))
        for kind in kinds
        for text in range(10)
        for metric in ("srg", "log_odds")
        for removal in removals
    ]  # fmt: skip
    path.mkdir()
    columns = [
        "kind",
        "training_seed",
        "example_id",
        "corruption",
        "metric",
        "removal",
        "preferred",
    ]
    pd.DataFrame(rows, columns=columns).to_csv(path / "rows.csv.gz", index=False)
    config = {"kinds": kinds} | ({"model": model} if model else {})
    manifest = {"command": "c", "config": config, "models": {}, "identity": {}}
    write_json(path / "manifest.json", manifest)
    return path


def test_trust_is_compared_by_family_over_all_folders_of_it(tmp_path, monkeypatch):
    folders = [
        trust_folder(tmp_path / "a", None, ["single_token", "ordered_pair"], 0.9, ["mask"]),
        trust_folder(tmp_path / "b", "nanoguard", ["planted_instruction"], 0.2, ["pad"]),
        trust_folder(tmp_path / "c", "nanoguard", ["planted_instruction"], 0.4, ["delete"]),
    ]
    out = tmp_path / "out"
    files = published(trust, monkeypatch, out, *folders)
    assert {*files} == {"rows.csv.gz", "auc.csv", "orders.csv", "trust.png", "manifest.json"}
    auc = pd.read_csv(out / "auc.csv").set_index(["family", "metric", "removal"])["auc"]
    auc = auc.sort_index()
    assert auc["MiniLM, shortcuts", "srg", "all"] == pytest.approx(0.9)
    planted = "NanoGuard, planted instruction"
    assert auc[planted, "srg"].to_dict() == pytest.approx({"pad": 0.2, "delete": 0.4, "all": 0.3})
    orders = pd.read_csv(out / "orders.csv")
    assert line(orders, "MiniLM, shortcuts", planted).tau == -1
