"""Judging maps: what fails is a row, and nothing is asked twice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, FrameTokenizer, framed, token_inputs
from torch import nn

import saliency_bench as sb
from saliency_bench.core import conf as conf_files
from saliency_bench.evaluation.view import View
from saliency_bench.models.references import References
from saliency_bench.studies.agreement_rows import agreement_rows
from saliency_bench.studies.evaluate import evaluate_maps


class Counting(nn.Module):
    """A classifier of two classes that counts the rows it was asked for."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        nn.init.normal_(self.embedding.weight, generator=torch.Generator().manual_seed(0))
        self.rows = 0

    def forward(self, input_ids, **_):
        self.rows += len(input_ids)
        pooled = self.embedding(input_ids).tanh().sum(1)
        return torch.stack([pooled[:, 0], pooled[:, 1:].prod(1)], -1)


@pytest.fixture
def module():
    return Counting()


@pytest.fixture
def maps(module):
    return sb.attribute(sb.wrap_model(module), token_inputs(4, 6), n_steps=2, baseline="zero")


def asked(module, maps, metrics):
    model = once_watched(module)
    before = module.rows
    sb.evaluate(model, maps, metrics, removal="zero")
    return module.rows - before


def once_watched(module):
    """The model after the passes, once in its life, in which it is seen how ids reach it and whether it may be padded."""
    model = sb.wrap_model(module, embeddings=module.embedding)
    with model.frozen():
        _ = model.intake, model.pads_exactly()
    return model


def test_a_metric_that_reads_the_same_curve_adds_no_question(module, maps):
    one = asked(module, maps, ["srg"])
    assert asked(module, maps, ["srg", "deletion_auc", "comprehensiveness", "log_odds"]) == one
    # Per text of U tokens: the full and the empty text, U-1 deletions, U-1 insertions; and one clean pass.
    assert one == sum(2 + 2 * (u - 1) + 1 for u in (4, 6))


def test_the_same_map_twice_costs_nothing_more(module, maps):
    assert asked(module, [*maps, *maps], ["srg"]) == asked(module, maps, ["srg"])


def test_metrics_without_curves_ask_nothing_but_the_clean_pass(module, maps):
    assert asked(module, maps, ["completeness_gap"]) == len(maps)


def test_rows_come_in_the_order_of_maps_and_metrics(module, maps):
    table = sb.evaluate(sb.wrap_model(module), maps[::-1], ["log_odds", "srg"], removal="zero")
    assert table.input_index.tolist() == [1, 1, 0, 0]
    assert table.metric.tolist() == ["log_odds", "srg"] * 2
    assert list(table.columns) == [
        "input_index", "example_id", "method", "backend", "setting_id", "metric", "removal", "replaced_by",
        "value", "unit", "higher_is_better", "status", "reason",
    ]  # fmt: skip


def test_scores_that_are_not_finite_are_failed_rows_and_spoil_no_other(module, maps):
    good, other = maps
    bad = replace(other, scores=np.full_like(other.scores, np.nan))
    table = sb.evaluate(sb.wrap_model(module), [good, bad], ["srg"], removal="zero")
    alone = sb.evaluate(sb.wrap_model(module), [good], ["srg"], removal="zero")
    assert table.status.tolist() == ["ok", "failed"]
    assert table.value[0] == alone.value[0]
    assert "finite" in table.reason[1]


def test_anybodys_scores_are_judged_like_ours(module, maps):
    theirs = [sb.AttributionMap.from_scores(one.scores, one, name="theirs") for one in maps]
    ours = sb.evaluate(sb.wrap_model(module), maps, ["srg", "completeness_gap"], removal="zero")
    table = sb.evaluate(sb.wrap_model(module), theirs, ["srg", "completeness_gap"], removal="zero")
    srg = table.metric == "srg"
    np.testing.assert_array_equal(table.value[srg], ours.value[srg])
    assert set(table.status[~srg]) == {"not_applicable"}
    assert set(table.method) == {"file"}


@pytest.mark.parametrize("scores", [[1.0], [1.0, 2.0, np.nan, 0.0]])
def test_scores_that_do_not_fit_the_tokens_are_refused(maps, scores):
    with pytest.raises(sb.InputError, match="score"):
        sb.AttributionMap.from_scores(scores, maps[0])


def test_maps_of_several_targets_are_judged_by_their_own_class(module):
    model = sb.wrap_model(module)
    both = sb.attribute(model, token_inputs(5), n_steps=2, baseline="zero", target=[0, 1])
    together = sb.evaluate(model, both, ["srg"], removal="zero")
    apart = [sb.evaluate(model, [one], ["srg"], removal="zero").value[0] for one in both]
    assert together.value.tolist() == apart
    assert apart[0] != apart[1]


def test_a_saved_map_comes_back_as_it_was(maps, tmp_path):
    maps[0].save(tmp_path / "map.json")
    again = sb.AttributionMap.load(tmp_path / "map.json")
    assert again.encoded == maps[0].encoded
    assert again.setting == maps[0].setting
    np.testing.assert_array_equal(again.scores, maps[0].scores)
    (tmp_path / "map.json").write_text("{}")
    with pytest.raises(sb.InputError, match="no saved attribution map"):
        sb.AttributionMap.load(tmp_path / "map.json")


def test_every_metric_in_conf_is_read_by_evaluate(module, maps):
    names = conf_files.names("metric")
    table = sb.evaluate(sb.wrap_model(module), maps, names, removal="zero")
    assert set(table.metric) == set(names)
    assert not (table.status == "failed").any()


@pytest.fixture
def worded(module):
    """A text of seven tokens, the first and the last special, whose five others are three words."""
    (one,) = sb.attribute(sb.wrap_model(module), token_inputs(7), n_steps=2, baseline="zero")
    special = tuple(place in (0, 6) for place in range(7))
    words = (-1, 0, 0, 1, 2, 2, -1)
    encoded = replace(one.encoded, special=special, words=words, words_known=True)
    return [replace(one, encoded=encoded)]


def probability(module, one, stays):
    """p(target) with the embeddings of all other tokens 0, by hand."""
    rows = module.embedding.weight[torch.tensor(one.token_ids)].detach().clone()
    rows[[place for place in range(len(rows)) if place not in stays]] = 0
    pooled = rows.tanh().sum(0)
    return float(torch.stack([pooled[0], pooled[1:].prod()]).softmax(-1)[one.target])


def test_words_are_ranked_by_the_sum_of_their_pieces_and_removed_whole(module, worded):
    (one,) = worded
    table = sb.evaluate(
        sb.wrap_model(module), worded, ["aopc_comprehensiveness_full"], removal="zero",
        granularity="word",
    )  # fmt: skip
    words = {"ab": (1, 2), "c": (3,), "de": (4, 5)}
    order = sorted(words, key=lambda word: -sum(one.scores[place] for place in words[word]))
    stays = set(range(7))
    full, without = probability(module, one, stays), []
    for word in order:
        stays -= set(words[word])
        without.append(probability(module, one, stays))
    # The model computes in float32.
    assert table.value[0] == pytest.approx(full - np.mean(without), abs=1e-6)


def test_absolute_rankings_go_by_magnitude(module, maps):
    model = sb.wrap_model(module)
    absolute = sb.evaluate(model, maps, ["srg"], removal="zero", ranking="absolute")
    sizes = [sb.AttributionMap.from_scores(np.abs(one.scores), one, name="sizes") for one in maps]
    signed = sb.evaluate(model, sizes, ["srg"], removal="zero")
    assert absolute.value.tolist() == signed.value.tolist()
    assert (
        absolute.value.tolist() != sb.evaluate(model, maps, ["srg"], removal="zero").value.tolist()
    )


def test_each_removal_is_a_row_and_says_what_it_says_alone(module, maps):
    model = sb.wrap_model(module, embeddings=module.embedding)
    metrics = ["srg", "leave_one_out_tau", "completeness_gap"]
    both = sb.evaluate(model, maps, metrics, removal=["zero", "mean"])
    assert len(both) == len(maps) * (2 + 2 + 1)
    for removal in ("zero", "mean"):
        alone = sb.evaluate(model, maps, metrics[:2], removal=removal)
        own = both[both.removal == removal]
        assert own.value.tolist() == alone.value.tolist()
    assert both[both.metric == "completeness_gap"].removal.isna().all()


def test_a_metric_entry_may_look_at_the_text_in_its_own_way(module, maps):
    model = sb.wrap_model(module)
    model.module.requires_grad_(False)
    entry = conf_files.metric_defaults("aopc_comprehensiveness_full")
    entries = {"usual": entry, "own": entry | {"output": "logit", "ranking": "absolute"}}
    usual = [View("zero", "token", "probability", "signed")]
    rows = evaluate_maps(References(model), maps, entries, usual, 512)
    alone = sb.evaluate(
        model, maps, ["aopc_comprehensiveness_full"], removal="zero", output="logit",
        ranking="absolute",
    )  # fmt: skip
    assert [row["unit"] for row in rows] == ["probability", "logits"] * 2
    assert [row["value"] for row in rows[1::2]] == alone.value.tolist()


def test_what_one_inquiry_asked_the_curves_ask_no_more(module, maps):
    # Leave-one-out asks for every text without one token; the curves hold one of these per text, and both ends.
    curves, one = asked(module, maps, ["srg"]), asked(module, maps, ["leave_one_out_tau"])
    assert one == sum(
        1 + u + 1 for u in (4, 6)
    )  # the clean pass, the text, and one row for each token
    assert asked(module, maps, ["srg", "leave_one_out_tau"]) == curves + sum(
        u - 1 - 1 for u in (4, 6)
    )


@pytest.mark.parametrize("name", ["granularity", "ranking"])
def test_an_unknown_way_to_look_at_a_text_is_refused(module, maps, name):
    with pytest.raises(sb.InputError, match=name):
        sb.evaluate(sb.wrap_model(module), maps, ["srg"], removal="zero", **{name: "sideways"})


def test_removal_by_baseline_is_removal_by_each_maps_own(module):
    model = sb.wrap_model(module, embeddings=module.embedding)
    inputs = token_inputs(5)
    maps = [
        *sb.attribute(model, inputs, n_steps=2, baseline=["zero", "mean"]),
        *sb.attribute(model, inputs, method="vanilla"),
    ]
    metrics = ["srg", "leave_one_out_tau"]
    own = sb.evaluate(model, maps, metrics, removal="baseline")
    for number, removal in enumerate(["zero", "mean"]):
        alone = sb.evaluate(model, [maps[number]], metrics, removal=removal)
        assert own.value[2 * number : 2 * number + 2].tolist() == alone.value.tolist()
    assert own.status.tolist() == ["ok"] * 4 + ["not_applicable"] * 2
    assert own.reason[4] == "the method compares with no vector that could replace a token"
    assert set(own.removal) == {"baseline"}


TRUE = (False, True, False, False, False, True, False)


def test_what_is_known_to_matter_is_compared_with_tokens_or_with_whole_words(module, worded):
    (one,) = worded
    scores = np.array([0, 5.0, -3.0, 4.0, 1.0, 0.5, 9.0])
    known = replace(one, encoded=replace(one.encoded, relevant=TRUE), scores=scores)
    model = sb.wrap_model(module)
    by = {
        unit: sb.evaluate(model, [known], ["mean_rank", "auprc"], granularity=unit)
        for unit in ("token", "word")
    }
    # Tokens 1 and 5 are the first and the fourth of five; of the words ab (2), c (4) and de (1.5), ab and de matter.
    assert by["token"].value.tolist() == [4, (1 / 1 + 2 / 4) / 2]
    assert by["word"].value.tolist() == [3, pytest.approx((1 / 2 + 2 / 3) / 2)]
    assert by["word"].removal.isna().all()
    absolute = sb.evaluate(model, [known], ["mean_rank"], ranking="absolute")
    assert absolute.value.tolist() == [5]


def test_nothing_known_is_not_applicable_and_asks_nothing(module, maps):
    model = once_watched(module)
    before = module.rows
    table = sb.evaluate(model, maps, ["precision_at_k"], removal=["zero", "mean"])
    assert table.status.tolist() == ["not_applicable"] * len(maps)
    assert module.rows - before == len(maps)  # the clean pass


@pytest.mark.parametrize(
    ("scores", "ranking", "status"),
    [
        ((0.0, 0.0, 0.0, 0.0), "signed", "not_applicable"),
        ((2.0, -2.0, 2.0, 2.0), "signed", "ok"),
        ((2.0, -2.0, 2.0, 2.0), "absolute", "not_applicable"),
    ],
)
def test_monotonicity_of_scores_that_are_all_equal_is_not_applicable(
    module, maps, scores, ranking, status
):
    one = replace(maps[0], scores=np.array(scores))
    model = once_watched(module)
    (row,) = sb.evaluate(model, [one], ["monotonicity"], removal="zero", ranking=ranking).to_dict(
        "records"
    )
    assert row["status"] == status
    assert (row["reason"] or "").startswith("all scores are equal") == (status != "ok")


def test_random_rankings_are_averaged_over_their_draws(module, maps):
    model = sb.wrap_model(module)
    (one,) = sb.attribute(model, token_inputs(6), "random", n_rankings=4)
    marked = replace(one, encoded=replace(one.encoded, relevant=(True, *[False] * 5)))
    (found,) = sb.evaluate(model, [marked], ["precision_at_k"]).value
    assert found == np.mean([draw.argmax() == 0 for draw in one.draws])


@pytest.mark.parametrize("granularity", ["token", "word"])
def test_random_rankings_and_their_reverses_have_no_srg_and_ask_no_question_more(
    module, worded, granularity
):
    """The slow oracle is the curves of each draw by itself, in which nothing is shared."""
    model, view = once_watched(module), {"removal": "zero", "granularity": granularity}
    (one,) = sb.attribute(model, token_inputs(7), "random", n_rankings=10)
    drawn = [replace(one, encoded=worded[0].encoded)]
    alone = [sb.AttributionMap.from_scores(draw, drawn[0]) for draw in drawn[0].draws]
    each = [sb.evaluate(model, [one], ["srg"], **view).value[0] for one in alone]
    assert any(each)
    assert each[1::2] == [-value for value in each[::2]]
    assert sb.evaluate(model, drawn, ["srg"], **view).value[0] == 0.0
    halved = [replace(drawn[0], draws=drawn[0].draws[::2])]
    assert asked(module, drawn, ["srg"]) == asked(module, halved, ["srg"])


def test_an_odd_random_ranking_is_the_one_without_a_reverse(module):
    model = sb.wrap_model(module)
    (odd,) = sb.attribute(model, token_inputs(6), "random", n_rankings=3)
    (even,) = sb.attribute(model, token_inputs(6), "random", n_rankings=4)
    np.testing.assert_array_equal(odd.draws, even.draws[:3])
    np.testing.assert_array_equal(even.draws[1::2], -even.draws[::2])


def test_agreement_is_of_words_where_that_is_asked_for(worded):
    # Words (1, 2), (3,), (4, 5) are ordered alike, their tokens are not.
    a, b = (
        sb.AttributionMap.from_scores(np.array(scores), worded[0], name=name)
        for name, scores in (("a", [0.0, 5, 1, 3, 0, 1, 0]), ("b", [0.0, 1, 5, 3, 1, 0, 0]))
    )
    names = ["kendall_tau", "top_k_jaccard", "rbo"]
    by_word = agreement_rows([a, b], names, "word", 0.3, 0.8)
    assert [row["metric"] for row in by_word] == names
    assert [row["value"] for row in by_word] == pytest.approx([1, 1, 1])
    assert [row["chance"] for row in by_word][:2] == pytest.approx([0, 1 / 3])
    by_token = agreement_rows([a, b], names, "token", 0.2, 0.8)
    assert by_token[0]["value"] < 1 and by_token[1]["value"] == 0 and by_token[2]["value"] < 1


def test_scores_without_an_order_agree_with_nothing(maps):
    flat = sb.AttributionMap.from_scores([1.0] * 4, maps[0], name="flat")
    rows = agreement_rows([maps[0], flat], ["kendall_tau", "rbo"], "token", 0.2, 0.8)
    assert {row["status"] for row in rows} == {"not_applicable"}
    assert all(row["value"] is None and row["chance"] is None for row in rows)


class Averaged(Counting):
    """A mean of the inner tokens that are attended to: of none it is NaN, as a softmax in which nothing is left."""

    def forward(self, input_ids, attention_mask=None):
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        seen = seen[:, 1:-1, None]
        return ((self.embedding(input_ids).tanh()[:, 1:-1] * seen).sum(1) / seen.sum(1))[:, :2]


def test_a_row_says_that_the_model_answers_nan_and_the_others_keep_their_values():
    model = sb.wrap_model(Averaged(), FrameTokenizer())
    maps = sb.attribute(model, framed(*token_inputs(4)), "vanilla")
    of = {
        removal: sb.evaluate(model, maps, ["srg"], removal=removal).iloc[0]
        for removal in ("attention", "zero")
    }
    assert of["attention"]["status"] == "failed"
    assert "output is NaN" in of["attention"]["reason"]
    assert (of["zero"]["status"], np.isfinite(of["zero"]["value"])) == ("ok", True)
