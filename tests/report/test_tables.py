"""The tables of a run with invented numbers."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from saliency_bench.core.errors import InputError
from saliency_bench.core.labels import metric_label, ordered_metrics, same_evidence_words
from saliency_bench.core.rows import Setting
from saliency_bench.report.analysis import analyse, with_removal
from saliency_bench.report.convergence_table import gates
from saliency_bench.report.html import caution
from saliency_bench.report.study_tables import agreement, tables
from saliency_bench.store.durable import to_json
from saliency_bench.store.run import Run


def by_label(table, *keys):
    """{(cells of the named columns): row as a dictionary}."""
    names = [column.key for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    return {tuple(row[key] for key in keys): row for row in rows}


def sweep_settings(name="smoothgrad", backend="native"):
    return [
        Setting(
            name,
            "smoothgrad",
            backend,
            "l2",
            "predicted",
            "logit",
            0,
            {"n_samples": n, "noise_std": s},
        )
        for n in (4, 16)
        for s in (0.1, 0.5)
    ]


def test_the_summary_is_sorted_by_srg_and_keeps_both_rankings(run):
    found = tables(analyse(run))["summary"]
    column = [c.key for c in found.columns].index("srg")
    means = [row[column].mean for row in found.rows]
    assert means == sorted(means, reverse=True)
    labels = {row[0] for row in found.rows}
    assert {"Random", "Leave-one-out"} <= labels and len(labels) == 6


def of(name, reduction="sum", backend="native", **hyper):
    return Setting(name, name, backend, reduction, "predicted", "logit", 0, hyper)


def test_rows_letters_and_ranks_go_by_the_primary_metric_in_its_own_direction(make_run):
    settings = [
        of("random"),
        *sweep_settings()[:2],
        of("integrated_gradients", quadrature="left", n_steps=8),
    ]
    for metric, sign in (("comprehensiveness", -1), ("sufficiency", 1)):
        analysis = analyse(make_run(settings, n_examples=100, metrics=(metric,)))
        means = [analysis.estimate(key, metric).mean for key in analysis.shown]
        assert means == sorted(means, key=lambda mean: sign * mean)
        assert analysis.groups[analysis.shown[0]] == "a"
        assert analysis.groups[analysis.shown[-1]] != "a"  # random
        assert analysis.ranks[analysis.shown[0]] < analysis.ranks[analysis.shown[-1]]
        caption = tables(analysis)["headline"].caption
        assert f"Sorted by {metric_label(metric)}." in caption
        assert f"do not differ in {metric_label(metric)} (" in caption
        # What is not SRG was not fixed in advance.
        assert "all of this is exploratory" in tables(analysis)["comparison"].caption
    both = tables(analyse(make_run(settings, n_examples=4, metrics=("sufficiency", "srg"))))
    assert "Sorted by SRG, the primary endpoint." in both["headline"].caption
    assert "SRG is the primary endpoint; the rest" in both["comparison"].caption


def test_a_study_goes_by_the_endpoint_that_it_fixed_in_advance(make_run):
    metrics = ("srg", "comprehensiveness", "sufficiency")
    run = make_run([of("vanilla"), of("random")], n_examples=4, metrics=metrics)
    assert analyse(run).primary == "srg"
    statistics = run.manifest["config"].get("statistics", {}) | {"endpoint": "sufficiency"}
    config = run.manifest["config"] | {"statistics": statistics}
    written = to_json(run.manifest | {"config": config})
    other = analyse(replace(run, manifest=json.loads(written)))
    assert other.primary == "sufficiency"
    assert other.metrics == analyse(run).metrics  # columns stay where they were
    made = tables(other)
    assert "Sorted by Sufficiency, the primary endpoint." in made["headline"].caption
    assert "Sufficiency is the primary endpoint; the rest" in made["comparison"].caption


def test_figures_keep_what_others_are_held_against_and_one_of_each_entry_before_a_second(
    make_run,
):
    """The invented numbers put the reference and the random ranking last, and leave-one-out first."""
    plain = [of(name) for name in ("vanilla", "input_x_gradient", "smoothgrad")]
    rankings = [of("leave_one_out", removal=one) for one in ("mask", "zero")] + [of("random")]
    paths = [
        of("integrated_gradients", baseline=one, n_steps=n, quadrature="left")
        for one in ("mask", "zero")
        for n in (8, 16)
    ]
    kin = [of(f"kin_{number}") for number in range(8)]
    run = make_run([*plain, *rankings, *paths, *kin], n_examples=4, metrics=("srg",))
    analysis = analyse(run)
    names = [analysis.setting(key)["name"] for key in analysis.drawn]
    assert len(names) == len(set(names)) == 10
    assert set(names) >= {"vanilla", "random", "leave_one_out", "smoothgrad", "input_x_gradient"}
    places = [analysis.shown.index(key) for key in analysis.drawn]
    assert places == sorted(places)
    few = analyse(make_run([*plain, *rankings, *paths, *kin[:1]], n_examples=4, metrics=("srg",)))
    names = [few.setting(key)["name"] for key in few.drawn]
    # Seven entries, the second settings of the two that have one, and a third of one.
    assert len(set(names)) == 7
    assert names.count("leave_one_out") == 2 and names.count("integrated_gradients") == 3


def test_figures_prefer_a_setting_that_converged_to_a_better_one_of_its_entry(make_run):
    paths = [of("integrated_gradients", baseline=one, n_steps=8, quadrature="left") for one in "ab"]
    kin = [of(f"kin_{number}") for number in range(10)]
    run = make_run([*paths, *kin], n_examples=4, metrics=("srg",))
    order = [key for key in analyse(run).shown if key in {one.id for one in paths}]
    for unsure, drawn in ((order[:1], order[1]), (order, order[0])):
        found = run.tables["convergence"]
        doubted = found["setting_id"].isin(unsure)
        tables = run.tables | {"convergence": found.assign(tau=np.where(doubted, 0.5, 0.99))}
        own = analyse(
            Run(run.folder, run.manifest | {"reference_setting": kin[0].id}, run.settings, tables)
        )
        assert [key for key in own.drawn if key in order] == [drawn]


def test_a_mean_is_that_of_the_rows(run):
    found = by_label(tables(analyse(run))["summary"], "method")
    rows = run.tables["rows"]
    for setting in run.settings:
        label = analyse(run).labels[setting["setting_id"]]
        own = rows[(rows["setting_id"] == setting["setting_id"]) & (rows["metric"] == "srg")]
        assert found[(label,)]["srg"].mean == pytest.approx(np.mean(own["value"]), rel=1e-12)


def test_labels_say_only_what_differs(run, make_run):
    assert set(analyse(run).labels.values()) == {
        "Vanilla gradient (native)",
        "Vanilla gradient (Captum)",
        "Integrated Gradients (native)",
        "Integrated Gradients (Captum)",
        "Random",
        "Leave-one-out",
    }
    # Ours needs no name where it has no twin.
    some = [of("vanilla"), of("deep_lift", backend="captum"), of("random", backend="none")]
    labels = analyse(make_run(some, n_examples=3)).labels.values()
    assert set(labels) == {"Vanilla gradient", "DeepLift (Captum)", "Random"}
    swept = analyse(make_run(sweep_settings(), n_examples=3))
    assert set(swept.labels.values()) == {
        f"SmoothGrad (n_samples={n}, noise_std={s})" for n in (4, 16) for s in (0.1, 0.5)
    }
    alone = analyse(make_run(sweep_settings()[:1], n_examples=3))
    assert set(alone.labels.values()) == {"SmoothGrad"}


def test_metrics_stand_in_one_order_and_unknown_ones_last():
    assert ordered_metrics(["zeta", "sufficiency", "alpha", "srg"]) == [
        "srg",
        "sufficiency",
        "alpha",
        "zeta",
    ]


def test_a_metric_read_with_two_removals_is_two_metrics():
    rows = pd.DataFrame({"metric": ["srg", "srg", "gap"], "removal": ["mask", "zero", None]})
    assert with_removal(rows, ["zero"])["metric"].tolist() == ["srg (mask)", "srg", "gap"]
    assert with_removal(rows, [])["metric"].tolist() == ["srg (mask)", "srg (zero)", "gap"]
    assert with_removal(rows.iloc[[0, 2]], [])["metric"].tolist() == ["srg", "gap"]


def test_costs_are_per_example_and_the_median_of_the_repeats(run):
    found = by_label(tables(analyse(run))["summary"], "method")
    row = found[("Integrated Gradients (native)",)]
    # The fixture: 0.32 s x 51 for 32 examples, and 0.01 s more for the middle repeat.
    assert row["n_gradients"] == 50
    assert row["seconds"] == pytest.approx((0.32 * 51 + 0.01) / 32, rel=1e-12)
    assert row["examples_per_second"] == pytest.approx(1 / row["seconds"])


def test_a_run_without_timings_has_no_such_columns(make_run):
    found = tables(analyse(make_run(sweep_settings()[:1], n_examples=3, timed=False)))["headline"]
    assert "seconds" not in [column.key for column in found.columns]


def test_a_comparison_has_every_setting_but_the_reference(run):
    found = tables(analyse(run))["comparison"]
    srg = [row for row in found.rows if row[1] == "SRG"]
    assert len(srg) == 5
    assert found.title == "Differences from Vanilla gradient (native)"


def test_pairs_fixed_in_advance_have_a_table_of_their_own(make_run):
    settings = [of("vanilla"), of("smoothgrad", n_samples=4), of("smoothgrad", n_samples=8)]
    run = make_run([*settings, of("leave_one_out")])
    assert "fixed_pairs" not in tables(analyse(run))
    statistics = {"pairs": {"smoothgrad": "vanilla", "vanilla": "leave_one_out"}}
    config = run.manifest["config"] | {"statistics": statistics}
    analysis = analyse(replace(run, manifest=run.manifest | {"config": config}))
    rows = [row for row in tables(analysis)["fixed_pairs"].rows if row[2] == "SRG"]
    assert len(rows) == 3
    vanilla, smooth = (
        analysis.labels[settings[0].id],
        [analysis.labels[one.id] for one in settings[1:]],
    )
    assert {row[:2] for row in rows} == {
        *((one, vanilla) for one in smooth),
        (vanilla, analysis.labels[of("leave_one_out").id]),
    }
    means = {key: analysis.estimate(key, "srg").mean for key in analysis.shown}
    difference = next(row[4].mean for row in rows if row[0] == smooth[0])
    assert difference == pytest.approx(means[settings[1].id] - means[settings[0].id])


def test_few_examples_make_no_claim(run, make_run):
    few = tables(analyse(run))
    assert not any("p" in column.key.split("_") for column in few["comparison"].columns)
    assert not few["headline"].marks_best
    many = tables(analyse(make_run(sweep_settings(), n_examples=100, metrics=("srg",))))
    assert {"p", "p_holm"} <= {column.key for column in many["comparison"].columns}
    assert many["headline"].marks_best


def test_right_and_wrong_predictions_add_up(run):
    found = by_label(tables(analyse(run))["right_and_wrong"], "method", "prediction")
    assert found["Random", "right"]["n"] + found["Random", "wrong"]["n"] == 20
    assert found["Random", "wrong"]["n"] == (~run.tables["examples"]["correct"]).sum()


def test_every_value_without_a_number_is_counted_with_its_reason(run):
    found = tables(analyse(run))["notes"]
    counted = sum(row[3] for row in found.rows if row[0] == "not applicable")
    rows = run.tables["rows"]
    assert counted == (rows["status"] != "ok").sum() > 0
    reasons = {row[2] for row in found.rows}
    assert "vanilla does not claim completeness" in reasons
    assert (
        "warning",
        "e001",
        "the text is longer than the model allows and was cut",
        1,
    ) in found.rows


def test_a_failed_row_is_in_the_notes_and_not_in_the_mean(run):
    rows = run.tables["rows"].copy()
    broken = rows.index[
        (rows["metric"] == "srg") & (rows["setting_id"] == run.settings[0]["setting_id"])
    ][:3]
    rows.loc[broken, "value"] = np.nan
    rows.loc[broken, ["status", "reason"]] = ["failed", "the score is NaN"]
    analysis = analyse(Run(run.folder, run.manifest, run.settings, run.tables | {"rows": rows}))
    summary = analysis.summary.set_index(["setting_id", "metric"])
    assert summary.loc[(run.settings[0]["setting_id"], "srg"), ["n", "n_not_ok"]].tolist() == [
        17,
        3,
    ]
    assert ("failed", "SRG", "the score is NaN", 3) in tables(analysis)["notes"].rows


def test_twins_are_paired_and_judged_by_the_tolerance(make_run):
    settings = [*sweep_settings()[:1], *sweep_settings(backend="captum")[:1]]
    verdicts = {}
    for tolerance in (None, 1e-6, 1e-9, {settings[0].id: 1e-6}, {"other": 1e-6}):
        run = make_run(settings, n_examples=4, parity={"relative_tolerance": tolerance})
        (row,) = tables(analyse(run))["parity"].rows
        verdicts[str(tolerance)] = row[-1]
    # The fixture's Captum scores are larger by 1e-7.
    assert list(verdicts.values()) == [
        "no tolerance given",
        "agrees",
        "differs",
        "agrees",
        "no tolerance given",
    ]
    assert row[4] == pytest.approx(1e-7, rel=1e-5)


def test_a_setting_by_a_backward_rule_says_why_captum_has_no_twin_of_it(make_run):
    plain, captum = sweep_settings()[0], sweep_settings(backend="captum")[0]
    ruled = replace(plain, hyper={**plain.hyper, "backward": "attnlrp"})
    run = make_run([plain, ruled, captum], n_examples=4, parity={"relative_tolerance": 1.0})
    first, second = tables(analyse(run))["parity"].rows
    assert first[-1] == "agrees"
    assert "AttnLRP" in str(second[0])
    assert second[1:] == (*6 * [None], "not compared: Captum has no backward rules")


def parity_run(make_run, backend, n_steps=range(2, 10)):
    """One entry in more settings than a figure has room for, each with its twin."""
    found = [
        of("integrated_gradients", backend=one, baseline="mask", n_steps=n, quadrature="left")
        for n in n_steps
        for one in ("native", backend)
    ]
    return make_run([*found, of("random")], n_examples=4, metrics=("srg",))


@pytest.mark.parametrize("backend", ["captum", "captum_layer"])
def test_agreement_of_a_parity_run_has_every_pair_and_figures_the_first(make_run, backend):
    run = parity_run(make_run, backend)
    analysis = analyse(run)
    by_steps = {}
    for one in run.settings[:-1]:
        by_steps.setdefault(one["n_steps"], []).append(one["setting_id"])
    listed = {frozenset(row[:2]) for row in agreement(analysis).rows}
    for pair in by_steps.values():
        assert frozenset(analysis.labels[key] for key in pair) in listed
    assert len(analysis.drawn) == 10
    assert set(by_steps[2]) <= set(analysis.drawn)  # the reference and its twin
    assert "10 of 17 settings" in agreement(analysis).caption


@pytest.mark.parametrize("backend", ["captum", "captum_layer"])
def test_what_rounding_could_detect_is_not_said(make_run, backend):
    settings = [
        of("vanilla"),
        of("vanilla", backend=backend),
        of("smoothgrad", n_samples=25, noise_std=0.1),
    ]
    run = make_run(settings, n_examples=12, metrics=("srg",))
    rows = run.tables["rows"]
    values = rows.set_index(["setting_id", "example_id"])["value"]
    twin = rows["setting_id"] == settings[1].id
    ours = [values[settings[0].id, example] for example in rows.loc[twin, "example_id"]]
    rows.loc[twin, "value"] = np.array(ours) + 1e-9 * np.arange(12)
    said = caution(analyse(run))
    assert re.search(r"could be detected is 0\.\d+ \(paired", said), said


def test_settings_that_differ_in_a_hyperparameter_are_no_twins(make_run):
    run = make_run([sweep_settings()[0], sweep_settings(backend="captum")[1]], n_examples=3)
    assert "parity" not in tables(analyse(run))


def test_captums_trapezoid_differs_from_ours_by_its_bias(make_run):
    hyper = {"baseline": "mask", "n_steps": 50}
    ours = Setting(
        "trapezoid",
        "integrated_gradients",
        "native",
        "sum",
        "predicted",
        "logit",
        0,
        hyper | {"quadrature": "trapezoid"},
    )
    captum = Setting(
        "integrated_gradients",
        "integrated_gradients",
        "captum",
        "sum",
        "predicted",
        "logit",
        0,
        hyper | {"quadrature": "captum_riemann_trapezoid"},
    )
    run = make_run([ours, captum], n_examples=4, metrics=(), parity={"relative_tolerance": 1e-6})
    maps = run.tables["maps"].set_index(["setting_id", "example_id"])["scores"]
    biased = [np.asarray(scores) * 49 / 50 for scores in maps[ours.id]]
    table = run.tables["maps"]
    table.loc[table["setting_id"] == captum.id, "scores"] = pd.Series(
        biased, index=table.index[table["setting_id"] == captum.id]
    )
    (row,) = tables(analyse(run))["parity"].rows
    assert row[4:6] == (pytest.approx(1 / 49), pytest.approx(1 / 49))
    assert row[-1] == "differs by the known bias"


def test_a_sweep_lists_every_setting_and_marks_what_was_chosen(make_run):
    settings = sweep_settings()
    best = {"smoothgrad": {"setting_id": settings[2].id, "mean": 0.1, "n": 3}}
    chosen = {"split": "validation", "n_examples": 60, "metric": "srg", "best": best}
    analysis = analyse(make_run(settings, n_examples=5, chosen=chosen))
    found = by_label(tables(analysis)["sweep"], "n_samples", "noise_std")
    assert {key: row["chosen"] for key, row in found.items()} == {
        (4, "0.1"): "",
        (4, "0.5"): "",
        (16, "0.1"): "✓",
        (16, "0.5"): "",
    }
    # The main table has what was chosen on the other split alone, and compares with it.
    assert analysis.shown == (settings[2].id,)
    assert analysis.reference == settings[2].id
    assert (
        "chosen by SRG on 60 examples of the validation split"
        in tables(analysis)["headline"].caption
    )


def test_a_run_without_metrics_still_has_its_costs(make_run):
    found = tables(analyse(make_run(sweep_settings(), n_examples=3, metrics=())))
    assert [column.key for column in found["headline"].columns] == [
        "method",
        "n_gradients",
        "seconds",
        "examples_per_second",
    ]
    assert "comparison" not in found


def test_a_run_without_settings_has_nothing_to_report(run):
    with pytest.raises(InputError, match=r"settings\.json lists no setting"):
        analyse(Run(run.folder, {}, [], run.tables))


def test_a_row_whose_texts_did_not_converge_is_marked_wherever_its_name_stands(
    make_run, make_settings
):
    settings = make_settings("integrated_gradients", "vanilla")
    doubtful = analyse(make_run(settings, n_examples=20, n_unsure=2))
    sure = analyse(make_run(settings, n_examples=20, n_unsure=1))
    # 18 of 20 are fewer than 95 %; 19 of 20 are not.
    for name in ("headline", "summary", "convergence"):
        cells = [row[0] for row in tables(doubtful)[name].rows]
        assert sum("✗" in cell for cell in cells) == 2  # ours and Captum's
        assert not any("✗" in row[0] for row in tables(sure)[name].rows)


def test_the_gate_counts_texts_whose_gap_or_order_does_not_hold(make_run, make_settings):
    run = make_run(
        make_settings("integrated_gradients", backends=("native",)), n_examples=10, n_unsure=3
    )
    maps = run.tables["maps"]
    maps["output_difference"] = 1.0
    maps["completeness_gap"] = [0.06 if key == "e009" else 0.04 for key in maps["example_id"]]
    (row,) = gates(run).to_dict("records")
    assert (row["checked"], row["converged"]) == (10, 0.6)
    assert row["gap"] == 0.04


def test_a_method_that_stops_by_itself_says_whether_it_converged(make_run, make_settings):
    run = make_run(make_settings("smoothgrad", backends=("native",)), n_examples=4)
    run.tables["maps"]["converged"] = pd.array([True, True, False, True], dtype="boolean")
    (row,) = gates(run).to_dict("records")
    assert row["converged"] == 0.75


def test_convergence_without_metrics_and_times_is_the_main_table(make_run):
    run = make_run(sweep_settings(), n_examples=3, metrics=(), timed=False)
    found = tables(analyse(run))
    assert [column.key for column in found["headline"].columns][:2] == ["method", "n_gradients"]
    assert "noise" in {column.key for column in found["headline"].columns}


def test_metrics_of_other_removals_come_after_all_of_the_main_one():
    asked = ["sufficiency (zero)", "srg (zero)", "sufficiency", "srg", "zeta"]
    assert ordered_metrics(asked) == [
        "srg",
        "sufficiency",
        "zeta",
        "srg (zero)",
        "sufficiency (zero)",
    ]
    assert metric_label("srg (zero)") == "SRG (zero)"


def test_the_summary_says_which_columns_are_the_same_evidence(make_run):
    run = make_run(sweep_settings()[:2], n_examples=3, metrics=("srg", "deletion_auc"))
    assert "same evidence" not in tables(analyse(run))["summary"].caption
    rows = run.tables["rows"]
    run.tables["rows"] = rows.assign(metric=rows["metric"].replace({"srg": "morf"}))
    caption = tables(analyse(run))["summary"].caption
    assert "The same evidence in other units: Deletion AUC and MoRF." in caption
    # Here the main table has both columns too.
    assert "Deletion AUC and MoRF." in tables(analyse(run))["headline"].caption


def test_what_is_the_same_evidence_on_each_text_alone_is_said_to_be_so():
    auc = ("insertion_auc", "deletion_auc_normalized", "deletion_auc")
    words = same_evidence_words(auc)
    assert (
        "Deletion AUC and Median deletion AUC (norm.). On each text, that is: over texts" in words
    )
    assert "over texts" not in same_evidence_words(auc, of_means=False)
    assert same_evidence_words(("srg", *auc)).endswith("SRG is Insertion AUC − Deletion AUC.")
    assert same_evidence_words(("srg", "log_odds")) == ""


def test_agreement_is_listed_beside_chance_and_runs_of_before_have_none(run):
    table = agreement(analyse(run))
    found = run.tables["agreement"]
    means = found.groupby(["setting_a", "setting_b"])["value"].mean()
    values = [row[4] for row in table.rows]
    assert all(min(abs(means - value)) < 1e-12 for value in values) and values
    assert {row[5] for row in table.rows} == {0.0}
    found["chance"] = float("nan")
    assert {row[5] for row in agreement(analyse(run)).rows} == {None}


def test_what_removal_costs_is_read_off_the_random_rankings(run):
    """The slow oracle: text by text, the first number of tokens that is at least the share."""
    (row,) = tables(analyse(run))["removal_cost"].rows
    (random,) = (one["setting_id"] for one in run.settings if one["method"] == "random")
    curves = run.tables["curves"]
    for cell, share in zip(row[1:], (0, 0.1, 0.5, 0.9), strict=True):
        values = []
        for _, text in curves[curves["setting_id"] == random].groupby("example_id"):
            gone = text[text["k"] * 10 >= round(share * 10) * text["n_units"]]
            values.append(gone.sort_values("k")["deletion"].iloc[0])
        assert cell.mean == pytest.approx(np.mean(values), rel=1e-12)
        assert cell.low <= cell.mean <= cell.high


def test_a_share_that_the_grid_does_not_hold_is_left_out(run):
    curves = run.tables["curves"]
    few = Run(
        run.folder, run.manifest, run.settings, run.tables | {"curves": curves.query("k < 2")}
    )
    (row,) = tables(analyse(few))["removal_cost"].rows
    assert row[1] is not None and row[3:] == (None, None)


def test_without_a_random_ranking_nothing_is_known_of_the_cost(make_run):
    settings = sweep_settings()
    assert "removal_cost" not in tables(analyse(make_run(settings)))
