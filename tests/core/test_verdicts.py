"""Which maps to trust: nothing is said without its number, and the numbers are those of the map and of the committed study."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import token_inputs

import saliency_bench as sb
from saliency_bench.core import verdicts
from saliency_bench.core.scored_text import ScoredText, Word
from saliency_bench.core.verdicts import Limits, conclusion, judged, largest_words, result, verdict

ROOT = Path(__file__).parents[2]
LIMITS = Limits(largest_gap=0.05, smallest_tau=0.95)
BUNDLED = "default-seed0"
STUDIES = ("results/full_comparison/seed0", "results/method_comparison")


@pytest.fixture(scope="module")
def ids():
    """Setting ids of the committed studies by the name of the method."""
    return {
        one["name"]: one["setting_id"]
        for folder in STUDIES
        for one in json.loads((ROOT / folder / "settings.json").read_text("utf-8"))
    }


@pytest.fixture
def make(bert, ids):
    """A map of a method of the committed study, with facts of its own."""
    (like,) = sb.attribute(bert, token_inputs(5), "vanilla")

    def of(name, **facts):
        setting = {"name": name, "method": name, "setting_id": ids.get(name, "unknown")}
        return replace(like, setting=setting, **facts)

    return of


def test_the_evidence_is_what_the_committed_tables_print():
    made = runpy.run_path(str(ROOT / "scripts" / "evidence.py"))["evidence"]()
    kept = json.loads(verdicts.EVIDENCE.read_text("utf-8"))
    assert kept == made, "a study has changed: run scripts/evidence.py"
    # The oracles read the rows, and the numbers and letters that the tables print.
    import pyarrow.parquet as pq

    known = set()
    for folder in STUDIES:
        rows = pq.read_table(ROOT / folder / "rows.parquet").to_pandas()
        means = rows[(rows.metric == "srg") & (rows.removal == "mask")].groupby("setting_id")
        table = (ROOT / folder / "tables" / "headline.md").read_text("utf-8").replace("\\", "")
        for setting, mean in means.value.mean().items():
            number, low, high = kept["settings"][setting]["srg"]
            assert number == pytest.approx(mean, abs=5.1e-4)
            assert f"[{low:.3f}, {high:.3f}]" in table
            known.add(setting)
    assert set(kept["settings"]) == known


def test_settings_of_two_studies_share_letters_as_their_numbers_say(ids):
    """18 calibrated nodes and 50 of Gauss-Legendre, of one study each, give the same SRG on every text."""
    groups = {name: set(verdicts._study()["settings"][key]["group"]) for name, key in ids.items()}
    assert groups["integrated_gradients"] == groups["integrated_gradients_50"]
    assert groups["integrated_gradients"] & groups["attnlrp"]
    assert not groups["integrated_gradients"] & groups["leave_one_out"]


def test_a_gap_is_held_against_the_change_and_the_limit(make):
    good = verdict(
        make("integrated_gradients", completeness_gap=0.04, output_difference=-2.0), LIMITS
    )
    bad = verdict(
        make("integrated_gradients", completeness_gap=0.2, output_difference=-2.0), LIMITS
    )
    assert good.passed is True and "2 %" in good.why and "limit 5 %" in good.why
    assert bad.passed is False and "10 %" in bad.why


def test_halves_of_draws_are_held_against_the_limit(make):
    good, bad = (verdict(make("smoothgrad", split_half_tau=tau), LIMITS) for tau in (0.97, 0.5))
    assert good.passed is True and "0.97" in good.why
    assert bad.passed is False and "0.50" in bad.why and "0.95" in bad.why


def test_a_map_that_did_not_converge_or_is_no_number_fails(make):
    failed = verdict(make("integrated_gradients", converged=False, reason="too few steps"), LIMITS)
    assert failed.passed is False and "too few steps" in failed.why
    lost = verdict(make("vanilla", scores=np.array([1.0, np.nan, 0, 0, 0])), LIMITS)
    assert lost.passed is False and "1 of 5" in lost.why


def test_one_gradient_has_nothing_to_be_checked_by(make):
    alone = verdict(make("vanilla"), LIMITS)
    assert alone.passed is None and alone.why == "nothing to check it by"


def test_the_highest_srg_is_named_with_its_number_and_what_did_not_differ(make):
    names = ("vanilla", "smoothgrad", "input_x_gradient")
    said = conclusion([verdict(make(name), LIMITS) for name in names], BUNDLED)
    assert "Trust vanilla most." in said and "0.232 [0.209, 0.255]" in said
    assert "smoothgrad did not differ from it" in said
    assert "input_x_gradient" not in said
    assert "200 sentences" in said and "random ranking has 0.000" in said
    assert "Your model was not in that study" not in said
    other = conclusion([verdict(make(name), LIMITS) for name in names], "mine")
    assert "Your model was not in that study" in other


def test_a_method_that_compares_with_what_replaces_tokens_is_said_to_be_favoured(make):
    vanilla, best = make("vanilla"), make("integrated_gradients")
    compared = {"baseline": "mask"}, {"removal": "mask"}, {"baseline": "zero"}, {}
    for more in compared:
        own = replace(best, setting=best.setting | more)
        said = conclusion([verdict(map_, LIMITS) for map_ in (vanilla, own)], BUNDLED)
        assert ("which favours it" in said) == ("mask" in more.values())


def test_a_map_that_fails_its_check_is_not_named_whatever_its_srg(make):
    failed = verdict(
        make("integrated_gradients", completeness_gap=1.0, output_difference=1.0), LIMITS
    )
    said = conclusion([failed, verdict(make("vanilla"), LIMITS)], BUNDLED)
    assert "Trust vanilla most" in said and "0.232" in said
    assert conclusion([failed], BUNDLED) == "Trust none of these maps: each fails its own check."


@pytest.mark.parametrize("passes", [True, False])
def test_a_map_behind_others_in_the_study_is_not_preferred_to_an_unmeasured_one(make, passes):
    facts = {"completeness_gap": 0.0, "output_difference": 1.0} if passes else {}
    unknown = make("other", scores=np.array([0, 9.0, 0, 0, 0]), **facts)
    maps = [make("input_x_gradient", scores=np.array([0, 0, 5.0, 0, 0])), unknown]
    verdicts_ = [verdict(map_, LIMITS) for map_ in maps]
    said = conclusion(verdicts_, BUNDLED)
    assert "Trust" not in said and "highest" not in said
    assert said.startswith("No number here says which map to prefer. input_x_gradient has an SRG")
    assert "0.071 [0.038, 0.105]" in said and "the best method 0.527" in said
    why = "own check passed" if passes else "nothing to check it by"
    assert f"Not measured: other, {why}." in said
    # An unmeasured map that passed its check comes before one that was measured behind others.
    words = result(maps, verdicts_, BUNDLED)
    assert words.count("(by ") == 1 + passes
    assert ("(by other)" in words) == passes
    assert ("(by other)" in words.split("(by input_x_gradient)")[0]) == passes


def test_a_map_that_nothing_is_better_than_in_the_study_is_preferred_to_an_unmeasured_one(make):
    best = next(key for key, one in verdicts._study()["settings"].items() if "a" in one["group"])
    one = make("top")
    top = replace(one, setting=one.setting | {"setting_id": best})
    said = conclusion([verdict(map_, LIMITS) for map_ in (top, make("other"))], BUNDLED)
    assert "Trust top most" in said and "Not measured: other, nothing to check it by." in said


def test_no_map_is_preferred_for_being_the_highest_of_those_at_chance(make, ids):
    study = verdicts._study()["settings"]
    chance = {*study[ids["random"]]["group"]}
    key = next(
        key for key, one in study.items() if key != ids["random"] and chance & {*one["group"]}
    )
    one = make("near")
    near = replace(one, setting=one.setting | {"setting_id": key})
    said = conclusion([verdict(map_, LIMITS) for map_ in (near, make("random"))], BUNDLED)
    assert "Trust" not in said and "did not differ from a random ranking" in said


def test_settings_of_one_method_have_verdicts_of_different_names(make):
    one = make("integrated_gradients")
    few, many = (replace(one, setting=one.setting | {"n_steps": n}) for n in (20, 40))
    labels = [found.label for found in judged([[few], [many]], LIMITS)]
    assert [label.partition(" (")[2] for label in labels] == ["n_steps=20)", "n_steps=40)"]
    assert judged([[few]], LIMITS)[0].label == verdict(few, LIMITS).label


def test_a_single_map_is_not_called_the_best_and_the_best_is_named_beside_it(make):
    said = conclusion([verdict(make("vanilla"), LIMITS)], BUNDLED)
    assert "Trust" not in said and "vanilla has an SRG" in said and "0.232 [0.209, 0.255]" in said
    assert "a random ranking has 0.000, the best method 0.527" in said


def test_no_number_is_claimed_for_a_setting_that_was_not_in_the_study(make):
    unknown = verdict(make("other"), LIMITS)
    assert unknown.evidence is None and "not measured" in unknown.cells
    assert "none of these settings" in conclusion([unknown], BUNDLED)


def test_the_study_says_nothing_of_other_tasks(make):
    one = make("vanilla")
    asked = replace(one, encoded=replace(one.encoded, position=2))
    assert verdict(asked, LIMITS).evidence is None


def test_the_words_that_matter_most_are_the_largest_magnitudes(make):
    scores = np.array([0.1, -3.0, 0.0, 2.0, 0.5])
    one = make("vanilla", scores=scores)
    words = [word.text for word in one.words()]
    expected = f"{words[1]} -3 · {words[3]} +2 · {words[4]} +0.5"
    assert largest_words(one, has_sign=True) == f"Words that matter most: {expected}"
    assert largest_words(make("vanilla", scores=scores * 0), True) == "No word matters."


@pytest.mark.parametrize(
    ("texts", "named"),
    [(("good", ",", "a1"), ["good", "a1"]), ((",", "...", "!"), [",", "...", "!"])],
)
def test_a_unit_without_a_letter_or_digit_is_no_word_unless_all_are(
    make, monkeypatch, texts, named
):
    words = [Word(text, 3.0 - at, -1, -1) for at, text in enumerate(texts)]
    monkeypatch.setattr(ScoredText, "words", lambda _: words)
    said = largest_words(make("vanilla"), has_sign=True).removeprefix("Words that matter most: ")
    assert [part.split()[0] for part in said.split(" · ")] == named


def test_the_result_is_what_the_map_to_trust_says(make):
    maps = [make("vanilla"), make("attnlrp", scores=np.array([0, -3.0, 1.0, 2.0, 0]))]
    judged = [verdict(map_, LIMITS) for map_ in maps]
    said = result(maps, judged, "mine")
    assert said.startswith(f"mine: {maps[0].label} (") and "-3" in said
    assert said.endswith("(by attnlrp).")
    # Several questions have several results, and a map that cannot be trusted none.
    assert result([maps[0], replace(maps[1], label="other")], judged, "mine") == ""
    failed = verdict(make("attnlrp", converged=False), LIMITS)
    assert result(maps[1:], [failed], "mine") == ""


def test_a_map_of_one_word_is_said_to_compare_nothing(make):
    like = make("vanilla")
    for n, said in ((1, True), (2, False)):
        scores = np.where(np.arange(5) < n, 1.0, np.nan)
        found = result([replace(like, scores=scores)], [verdict(like, LIMITS)], "mine")
        assert ("one word" in found) == said
