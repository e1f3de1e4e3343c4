"""The sanity checks: each section against what is known of small models, and the verb to its end."""

import csv
import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from rebuilding import assert_made_again_from_its_rows
from tiny import FrameTokenizer, framed, scored_by, tiny_bert, token_inputs

from saliency_bench.cli import main as cli
from saliency_bench.core.rows import SANITY
from saliency_bench.data import DATASETS
from saliency_bench.experiments.sanity import random_removal as removal
from saliency_bench.experiments.sanity import (
    randomisation,
    report,
    seeds,
    sensitivity,
    special_tokens,
)
from saliency_bench.experiments.sanity.plots import figures
from saliency_bench.experiments.sanity.run import EXPERIMENT
from saliency_bench.experiments.sanity.subjects import (
    Subject,
    compared,
    explained,
    fix_class,
    settings_of,
)
from saliency_bench.models.loading import wrap_model
from saliency_bench.models.shifting import shifted
from saliency_bench.models.tasks.encoding import encode, encoded_ids
from saliency_bench.report.stats import Resampling, crossed_interval, intervals

BUDGET = 4096
RESAMPLING = Resampling(0.95, 100, 0)


def quiet(done, total):
    """No progress."""


def subject(model=None, *lengths, **changed):
    model = model or wrap_model(tiny_bert(), tokenizer=FrameTokenizer())
    texts = [
        encoded_ids(model, one, f"text-{place}", None, "here")
        for place, one in enumerate(framed(*token_inputs(*(lengths or (5, 7, 5)))))
    ]
    words = [f"{key}={json.dumps(value)}" for key, value in changed.items()]
    config = EXPERIMENT.options(words).config
    return Subject(model, tuple(texts), fix_class(model, texts, BUDGET), config, BUDGET)


def values(rows, **where):
    return [row["value"] for row in rows if all(row[key] == value for key, value in where.items())]


METHODS = ["vanilla", "integrated_gradients", "random"]
DRAWS = {"randomisation.n_draws": 2}


# --- random weights


def test_a_method_that_never_looks_at_the_model_is_the_same_whatever_is_random():
    rows = list(randomisation.rows(subject(methods=METHODS, **DRAWS), quiet))
    own = values(rows, method="random", measure="tau_absolute")
    # Two orders, three texts: two draws of the head, one of each of three other parts.
    assert len(own) == 2 * 3 * (2 + 3)
    assert own == pytest.approx([1.0] * len(own))


def test_a_method_without_signs_is_compared_by_magnitudes_alone():
    rows = list(randomisation.rows(subject(methods=METHODS, **DRAWS), quiet))
    for method in ("vanilla", "random"):
        assert set(values(rows, method=method, measure="tau")) == {None}
        assert None not in values(rows, method=method, measure="tau_absolute")
    assert None not in values(rows, method="integrated_gradients")


def test_the_head_is_drawn_as_often_as_asked_and_each_draw_is_a_head_of_its_own():
    n_draws = {"randomisation.n_draws": 3, "randomisation.n_draws_deeper": 2}
    one = subject(methods=["vanilla"], **n_draws)
    rows = list(randomisation.rows(one, quiet))
    drawn = {}
    for row in rows:
        drawn.setdefault(row["level"], set()).add(row["draw"])
    assert drawn.pop("head") == {"0", "1", "2"}
    assert all(one == {"0", "1"} for one in drawn.values())
    twin = tiny_bert()
    fresh = randomisation.fresh_weights(twin, one.config["seed"] + 2)
    own = dict(twin.named_parameters())
    with torch.no_grad():
        for name in randomisation.stages(twin)[0].parameters:
            own[name].copy_(fresh[name])
    new = wrap_model(twin, tokenizer=FrameTokenizer())
    settings = settings_of(one.model, ["vanilla"], 0)
    maps = [explained(model, one.fixed, settings, BUDGET) for model in (one.model, new)]
    expected = [row["value"] for row in compared(*maps) if row["measure"] == "tau_absolute"]
    found = values(rows, case="cascading", level="head", draw="2", measure="tau_absolute")
    assert found == pytest.approx(expected, abs=1e-12)


def test_everything_random_is_a_new_model_and_both_orders_begin_alike():
    one = subject(methods=METHODS, **DRAWS)
    rows = list(randomisation.rows(one, quiet))
    twin = tiny_bert()
    fresh = randomisation.fresh_weights(twin, one.config["seed"])
    twin.load_state_dict(fresh, strict=False)
    new = wrap_model(twin, tokenizer=FrameTokenizer())
    settings = settings_of(one.model, METHODS, 0)
    before = explained(one.model, one.fixed, settings, BUDGET)
    after = explained(new, one.fixed, settings, BUDGET)
    expected = [row["value"] for row in compared(before, after)]
    found = values(rows, case="cascading", level="embeddings")
    assert [one is None for one in found] == [one is None for one in expected]
    numbers = [[one for one in own if one is not None] for own in (found, expected)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-12)
    for method in METHODS:
        both = [
            values(rows, case=case, level="head", method=method) for case in randomisation.ORDERS
        ]
        assert both[0] == both[1]


def test_a_head_with_its_sign_turned_round_turns_the_maps_round(monkeypatch):
    one = subject(methods=["integrated_gradients"], **{"randomisation.orders": ["independent"]})
    own = dict(one.model.module.named_parameters())
    turned = {name: -weight.detach() for name, weight in own.items()}
    monkeypatch.setattr(randomisation, "fresh_weights", lambda module, seed: turned)
    part = randomisation.Stage("head", ("classifier.weight",))
    monkeypatch.setattr(randomisation, "stages", lambda module: [part])
    rows = list(randomisation.rows(one, quiet))
    n = 3 * one.config["randomisation"]["n_draws"]
    assert values(rows, measure="tau") == pytest.approx([-1.0] * n)
    assert values(rows, measure="tau_absolute") == pytest.approx([1.0] * n)


# --- seeds


def test_only_methods_that_draw_have_noise_seeds():
    one = subject(methods=[*METHODS, "smoothgrad"], **{"stability.noise_seeds": [0, 1, 0 + 2]})
    rows = list(seeds.stability(one, quiet))
    assert {row["method"] for row in rows} == {"random", "smoothgrad"}
    assert {row["level"] for row in rows} == {"0, 1", "0, 2", "1, 2"}
    assert {row["case"] for row in rows} == {seeds.NOISE}
    smooth, random = (
        values(rows, method=method, measure="tau_absolute") for method in ("smoothgrad", "random")
    )
    assert min(smooth) > max(random) - 1e-12


def test_a_model_of_ones_own_has_no_other_training_seeds():
    assert list(seeds.random_labels(subject(), quiet)) == []


def test_training_seeds_are_compared_on_the_class_that_the_first_model_predicts(default_model):
    from saliency_bench.models.loading import load_default

    examples = DATASETS["movie_reviews"](split="test")[:3]
    texts = encode(default_model, examples)
    config = EXPERIMENT.options(["methods=[vanilla]", "stability.training_seeds=[0,2]"]).config
    fixed = fix_class(default_model, texts, BUDGET)
    one = Subject(default_model, tuple(texts), fixed, config, BUDGET)
    rows = list(seeds.stability(one, quiet))
    other = load_default(training_seed=2)
    maps = [
        explained(model, fixed, settings_of(model, ["vanilla"], 0), BUDGET)
        for model in (default_model, other)
    ]
    assert [row["value"] for row in rows] == [row["value"] for row in compared(*maps)]
    assert {row["level"] for row in rows} == {"0, 2"}


# --- sensitivity


def test_sensitivity_is_that_of_gradients_at_moved_embeddings():
    one = subject(None, 4, 6, methods=["vanilla"], **{"sensitivity.radius": 0.3})
    rows = {row["example_id"]: row["value"] for row in sensitivity.rows(one, quiet)}
    for item in one.fixed:
        ids = torch.tensor([item.input_ids])
        start = one.model.embed(ids)

        def scores(point, label=item.gold, ids=ids):
            point = point.clone().requires_grad_()
            with torch.enable_grad():
                logit = one.model.module(inputs_embeds=point[None]).logits[0, label]
                (gradient,) = torch.autograd.grad(logit, point)
            return gradient.norm(dim=-1).numpy()

        moves = sensitivity.perturbations(one.model, item, 0, 0.3, 10)
        assert moves.abs().max() <= 0.3
        first = scores(start[0])
        apart = [np.linalg.norm(scores(start[0] + move) - first) for move in moves]
        expected = max(apart) / np.linalg.norm(first)
        assert rows[item.example_id] == pytest.approx(expected, rel=1e-9)


def test_a_linear_model_has_maps_that_no_small_change_moves():
    weight = torch.linspace(-1, 1, 8, dtype=torch.float64)

    def score(embeddings):
        return (embeddings[..., :8] * weight[: embeddings.shape[-1]]).sum((-1, -2))

    model = scored_by(score, tokenizer=FrameTokenizer())
    rows = list(sensitivity.rows(subject(model, methods=["vanilla", "random"]), quiet))
    assert values(rows) == pytest.approx([0.0] * len(rows), abs=1e-12)


def test_a_shift_moves_the_ids_that_it_is_meant_for_and_is_gone_afterwards():
    model = wrap_model(tiny_bert())
    ids, other = torch.tensor([[5, 6]]), torch.tensor([[5, 7]])
    before = [model.embed(one) for one in (ids, other)]
    with shifted(model, ids, torch.ones(1, 2, 16, dtype=torch.float64)):
        assert torch.equal(model.embed(ids), before[0] + 1)
        assert torch.equal(model.embed(other), before[1])
    assert torch.equal(model.embed(ids), before[0])


# --- removal


def test_removal_is_what_the_model_says_of_texts_without_those_tokens():
    one = subject(**{"removal.operators": ["zero", "delete"], "removal.fractions": [0.5]})
    rows = list(removal.rows(one, quiet))
    for item in one.encoded:
        stays = removal.kept_at_random(item, 0.5, one.config)
        assert (stays[:, [0, -1]]).all()
        assert ((~stays).sum(1) == -(-(len(item) - 2) // 2)).all()
        ids = torch.tensor([item.input_ids])
        whole = one.model.output(ids).argmax().item()
        for operator in ("zero", "delete"):
            kept, sure = [], []
            for row in stays:
                if operator == "delete":
                    logits = one.model.output(ids[:, torch.from_numpy(row)])[0]
                else:
                    vectors = one.model.embed(ids) * torch.from_numpy(row)[None, :, None]
                    logits = one.model.output(ids, embeddings=vectors)[0]
                kept.append(logits.argmax().item() == whole)
                sure.append(logits.detach().softmax(-1).max().item())
            where = {"example_id": item.example_id, "case": operator, "level": "0.5"}
            assert values(rows, measure="kept_class", **where) == pytest.approx([np.mean(kept)])
            assert values(rows, measure="max_probability", **where) == pytest.approx(
                [np.mean(sure)], rel=1e-9
            )
    assert values(rows, level="0", measure="kept_class") == [1.0] * 6
    assert values(rows, measure="accuracy") == []  # nobody knows the right labels


def test_larger_shares_take_more_of_the_same_tokens():
    one = subject(None, 12)
    some, more = (removal.kept_at_random(one.encoded[0], share, one.config) for share in (0.2, 0.7))
    assert (more <= some).all()
    assert len({row.tobytes() for row in more}) > 1


# --- special tokens


def test_a_path_that_keeps_special_tokens_gives_them_nothing_and_one_that_replaces_them_something():
    one = subject(methods=METHODS)
    rows = list(special_tokens.rows(one, quiet))
    kept = values(rows, case="keep")
    replaced = values(rows, case="replace", level=special_tokens.ALL)
    assert kept == [0.0] * len(kept)
    assert min(replaced) > 0
    assert {row["case"] for row in rows if row["method"] == "vanilla"} == {special_tokens.NO_CASE}


def test_shares_of_special_tokens_are_those_of_their_gradients():
    one = subject(methods=["vanilla"])
    rows = list(special_tokens.rows(one, quiet))
    maps = explained(one.model, one.fixed, settings_of(one.model, ["vanilla"], 0), BUDGET)
    for made in maps["vanilla"]:
        expected = np.abs(made.scores[[0, -1]]).sum() / np.abs(made.scores).sum()
        found = values(rows, example_id=made.example_id, level=special_tokens.ALL)
        assert found == pytest.approx([expected])


# --- tables and figures


def rows_of_everything():
    stream = np.random.default_rng(0)
    of = {
        "randomisation": ["cascading", "independent"],
        "random_labels": ["random labels"],
        "stability": ["noise seeds", "training seeds"],
        "sensitivity": ["0.02"],
        "removal": ["mask", "delete"],
        "special_tokens": ["keep", "replace"],
    }
    levels = {
        "randomisation": ["head", "embeddings"],
        "removal": ["0", "0.5"],
        "special_tokens": ["[CLS]", "all special tokens"],
    }
    measures = {"removal": ["accuracy", "kept_class", "max_probability"], "sensitivity": ["s"]}
    rows = []
    for section, cases in of.items():
        for case in cases:
            for level in levels.get(section, ["0, 1"]):
                for measure in measures.get(section, ["tau", "tau_absolute"]):
                    for method in ["vanilla", "smoothgrad"] if section != "removal" else [None]:
                        for text in range(4):
                            for draw in "01" if level == "head" else [None]:
                                found = [section, "m", method, case, level, draw, measure]
                                value = float(stream.random()) if text else None
                                found += [f"t{text}", value, None if text else "no order"]
                                rows.append(dict(zip(SANITY, found, strict=True)))
    return pd.DataFrame(rows, columns=list(SANITY)).astype({"value": float})


def test_means_count_each_text_once_and_leave_out_what_has_no_value():
    rows = rows_of_everything()
    found = report.means(rows, ["section", "case"], RESAMPLING)
    for line in found.to_dict("records"):
        own = rows[(rows["section"] == line["section"]) & (rows["case"] == line["case"])]
        of_text = [one["value"].mean() for _, one in own.dropna().groupby("example_id")] or [
            one["value"].mean() for _, one in own.dropna(subset=["value"]).groupby("example_id")
        ]
        assert line["n"] == 3
        assert line["mean"] == pytest.approx(np.mean(of_text), abs=1e-12)
        assert line["low"] <= line["mean"] <= line["high"]


def test_every_section_has_its_table_and_its_figure():
    rows = rows_of_everything()
    made = report.tables(rows, RESAMPLING)
    not_shown = report.not_shown(made)
    assert [one.name for one in made if one.name not in not_shown] == [
        "randomisation_cascading",
        "randomisation_cascading_absolute",
        "randomisation_independent",
        "randomisation_independent_absolute",
        "seeds",
        "seeds_absolute",
        "sensitivity",
        "removal_accuracy",
        "special_tokens",
    ]
    assert not_shown == {"removal_max_probability", "removal_kept_class"}
    assert set(figures(rows, RESAMPLING)) == {"randomisation", "seeds", "removal", "special_tokens"}
    assert "no order" in " ".join(report.notes(rows))
    (one,) = [table for table in made if table.name == "removal_accuracy"]
    assert [row[0] for row in one.rows] == ["mask", "delete"]
    assert [column.label for column in one.columns] == ["Operator", "0%", "50%"]


def test_a_part_that_was_drawn_several_times_has_an_interval_over_draws_and_texts():
    rows = rows_of_everything()
    own = rows[(rows["section"] == "randomisation") & (rows["case"] == "cascading")]
    own = own[(own["measure"] == "tau") & (own["method"] == "vanilla")]
    found = report.means(own, ["level", "method"], RESAMPLING).set_index("level")
    table = own[own["level"] == "head"].pivot(index="example_id", columns="draw", values="value")
    expected = crossed_interval(table.to_numpy(), 0.95)
    assert tuple(found.loc["head", ["low", "high"]]) == pytest.approx(expected)
    alone = own[own["level"] == "embeddings"]["value"].dropna().to_numpy()[:, None]
    low, high = intervals(alone, RESAMPLING)
    assert tuple(found.loc["embeddings", ["low", "high"]]) == pytest.approx((low[0], high[0]))
    made = {one.name: one for one in report.tables(rows, RESAMPLING)}
    caption = made["randomisation_cascading"].caption
    assert "Of head, 2 draws" in caption and "one draw" in caption


def test_methods_without_signs_are_in_no_table_of_signed_scores():
    rows = rows_of_everything()
    none = (rows["measure"] == "tau") & (rows["method"] == "vanilla")
    made = {
        one.name: one
        for one in report.tables(rows.assign(value=rows["value"].mask(none)), RESAMPLING)
    }
    for name in ("randomisation_cascading", "randomisation_independent"):
        assert [column.key for column in made[name].columns] == ["level", "smoothgrad"]
        columns = [column.key for column in made[f"{name}_absolute"].columns]
        assert columns == ["level", "vanilla", "smoothgrad"]
    signed = rows.assign(value=rows["value"].mask(rows["measure"] == "tau"))
    names = {one.name for one in report.tables(signed, RESAMPLING)}
    assert "seeds" not in names and "seeds_absolute" in names


def test_operators_stand_beside_each_other_with_whiskers_and_no_bands():
    figure = figures(rows_of_everything(), RESAMPLING)["removal"]
    assert [one.get_text() for one in figure.legends[0].get_texts()] == ["mask", "delete"]
    for axes in figure.axes:
        lines = [one.lines[0] for one in axes.containers]
        assert len(lines) == 2
        shares = np.array([line.get_xdata() for line in lines])
        # Beside each other, nearer than a tenth of what lies between two shares that are asked for.
        assert (np.diff(shares, axis=0) > 0).all() and (np.diff(shares, axis=0) < 0.05).all()
        assert shares.mean(0) == pytest.approx([0, 0.5])
        assert all(one.has_yerr for one in axes.containers)
        assert {type(one).__name__ for one in axes.collections} == {"LineCollection"}


def test_an_operator_from_elsewhere_has_a_line_that_no_other_has():
    rows = rows_of_everything()
    names = ["mask", "delete", "_from_elsewhere", "costs_$"]
    removal = rows[(rows["section"] == "removal") & (rows["case"] == "mask")]
    figure = figures(pd.concat([removal.assign(case=name) for name in names]), RESAMPLING)[
        "removal"
    ]
    assert [
        one.get_text().strip().replace("\\", "") for one in figure.legends[0].get_texts()
    ] == names
    lines = [one.lines[0] for one in figure.axes[0].containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(names)


def test_shares_of_special_tokens_have_the_interval_of_all_together():
    rows = rows_of_everything()
    (axes,) = figures(rows, RESAMPLING)["special_tokens"].axes
    whole = rows[(rows["section"] == "special_tokens") & (rows["level"] == "all special tokens")]
    expected = report.means(whole, ["method", "case"], RESAMPLING)
    (whiskers,) = axes.collections
    found = sorted(tuple(ends[:, 0]) for ends in whiskers.get_segments())
    ends = sorted(zip(expected["low"], expected["high"], strict=True))
    assert np.array(found) == pytest.approx(np.array(ends))


# --- the verb


def test_the_verb_runs_to_the_end_on_a_model_and_texts_of_ones_own(capsys, elsewhere, folder):
    (elsewhere / "mine.txt").write_text("good film\n\nbad bad film\n", "utf-8")
    words = [f"model={folder}", "texts=mine.txt", "methods=[vanilla,smoothgrad]", "out=here"]
    words += ["randomisation.n_draws=2"]
    words += ["statistics.n_resamples=100", "removal.operators=[mask,delete]"]
    assert cli.main(["sanity", *words]) == 0
    out, err = capsys.readouterr()
    assert "Written to here" in out
    assert "Warning: n = 2." in out
    assert "Traceback" not in err
    here = elsewhere / "here"
    text = gzip.decompress((here / "rows.csv.gz").read_bytes()).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == SANITY
    assert {row["section"] for row in rows} == {
        "randomisation",
        "stability",
        "sensitivity",
        "removal",
        "special_tokens",
    }
    assert {row["example_id"] for row in rows} == {"mine.txt:1", "mine.txt:3"}
    manifest = json.loads((here / "manifest.json").read_text("utf-8"))
    assert len(manifest["models"]) == 1
    assert (here / "figures" / "randomisation.png").is_file()
    assert_made_again_from_its_rows(here, capsys)
