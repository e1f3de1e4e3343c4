"""What a map must not depend on: batch mates, order, padding, the token budget, and what else is asked for."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from laws import twins_of_noise, twins_of_the_engine
from laws.law import assert_same, law
from laws.oracles import NATIVE, bert, cheap, encoded, maps, scores
from tiny import FrameTokenizer, framed, token_inputs

from saliency_bench.attribution.noise import SAMPLERS
from saliency_bench.attribution.settings import single_settings
from saliency_bench.models.references import References
from saliency_bench.studies.block import open_block

#: Texts of three lengths between [CLS] and [SEP]; of one length three, so that a block holds several.
INPUTS = framed(*token_inputs(3, 6, 3, 4, 3))
ALIKE = [0, 2, 4]
PLENTY = 10**6


@cache
def model_of(dtype):
    """A transformer that knows its special tokens."""
    return replace(bert(dtype), tokenizer=FrameTokenizer())


def variants(method):
    """The hyperparameters of a method that are tried: all samplers, noise by the text's range, other paths."""
    found = [cheap(method)]
    if "sampler" in found[0]:
        found = [cheap(method, sampler=sampler) for sampler in SAMPLERS]
    if "noise_std" in found[0]:
        everywhere = {"noise_special_tokens": True, "noise_std": None, "noise_range": 0.02}
        found.append(cheap(method, **everywhere))
    places = {"baseline", "baseline_special_tokens"} <= found[0].keys()
    if places and "tolerance" not in found[0]:  # which learns something for each
        found.append(cheap(method, baseline="uniform", baseline_special_tokens="replace"))
    return found


@cache
def settings():
    """Every variant of every method that is computed here."""
    found = []
    for method in NATIVE:
        for options in variants(method):
            found += single_settings({method: {"method": method, **options}}, target=0).values()
    return found


def explained(dtype, places, budget=PLENTY, asked=None):
    """By setting, the maps of one block of texts."""
    model = model_of(dtype)
    with model.frozen():
        items = encoded(model, [INPUTS[place] for place in places])
        block = open_block(References(model), items, 0, budget)
        return block.explain(settings() if asked is None else asked)


def assert_equal_maps(found, expected, dtype, what):
    for setting in settings():
        if setting.id not in expected:
            continue
        for one, other in zip(found[setting.id], expected[setting.id], strict=True):
            where = (setting.method, dict(setting.hyper), what)
            assert_same(one.scores, other.scores, dtype, where)
            assert one.n_gradients == other.n_gradients, where
            if other.completeness_gap is not None:
                size = max(np.abs(other.scores).max(), abs(other.output_difference))
                assert_same(one.completeness_gap, other.completeness_gap, dtype, where, scale=size)


@law(
    twins_of_noise.draws_belong_to_a_place_in_the_batch,
    twins_of_noise.the_range_is_that_of_the_batch,
    twins_of_the_engine.rows_see_their_chunk,
)
def test_batch_mates_change_no_map(dtype):
    together = explained(dtype, ALIKE)
    turned = explained(dtype, ALIKE[::-1])
    assert_equal_maps(
        {key: found[::-1] for key, found in turned.items()}, together, dtype, "turned"
    )
    for row, place in enumerate(ALIKE[:2]):
        own = {key: found[row : row + 1] for key, found in together.items()}
        assert_equal_maps(own, explained(dtype, [place]), dtype, place)


@law(
    twins_of_the_engine.padding_is_attended_to,
    twins_of_the_engine.gradients_are_taken_without_the_mask,
    twins_of_the_engine.passes_are_as_wide_as_their_first_row,
    twins_of_noise.noise_is_drawn_at_the_width_of_the_batch,
)
def test_padding_in_a_block_changes_no_map(dtype):
    # Blocks of equal length have none; a block of texts of several lengths is padded to the longest.
    places = [0, 3, 1]  # the first two get three tokens and two
    together = explained(dtype, places)
    for row, place in enumerate(places):
        own = {key: found[row : row + 1] for key, found in together.items()}
        assert_equal_maps(own, explained(dtype, [place]), dtype, place)


@law(
    twins_of_the_engine.the_mean_of_the_scores_is_differentiated,
    twins_of_the_engine.rows_see_their_chunk,
)
def test_the_token_budget_changes_no_map(dtype):
    asked = list({setting.method: setting for setting in settings()}.values())
    places = ALIKE[:2]
    plain = explained(dtype, places, asked=asked)
    for budget in (3 * len(INPUTS[0]["input_ids"]), 1):  # three rows at once, and one
        found = explained(dtype, places, budget, asked)
        assert_equal_maps(found, plain, dtype, budget)


@law(
    twins_of_the_engine.settings_of_a_sweep_are_mixed_up,
    twins_of_the_engine.nodes_that_settings_share_count_once,
    dtypes=(torch.float64,),
)
def test_what_else_is_asked_for_changes_no_map(dtype):
    together = explained(dtype, [0])
    for setting in settings():
        alone = explained(dtype, [0], asked=[setting])
        assert_equal_maps(together, alone, dtype, "together")


@law(twins_of_noise.noise_comes_from_the_global_generator)
def test_the_same_call_gives_the_same_bytes(dtype):
    first, again = explained(dtype, ALIKE), explained(dtype, ALIKE)
    for setting in settings():
        for one, other in zip(first[setting.id], again[setting.id], strict=True):
            assert one.scores.tobytes() == other.scores.tobytes(), setting
            assert one.completeness_gap == other.completeness_gap, setting
            if one.standard_errors is not None:
                assert one.standard_errors.tobytes() == other.standard_errors.tobytes(), setting
    model, options = model_of(dtype), cheap("smoothgrad")
    one, other = (scores(model, INPUTS[:1], "smoothgrad", **options)[0] for _ in range(2))
    assert one.tobytes() == other.tobytes()


@law(
    twins_of_the_engine.maps_of_a_block_are_turned_round,
    twins_of_the_engine.all_targets_are_the_first,
    twins_of_the_engine.padding_is_stripped_from_the_end_only,
)
def test_maps_come_by_input_and_target_whatever_padding_the_inputs_bring(dtype):
    # Texts of several lengths are computed in blocks, shortest first; padding may stand on either side.
    model = model_of(dtype)
    padded = []
    for item, (left, right) in zip(INPUTS, ((0, 1), (2, 0), (7, 3), (0, 9), (1, 1)), strict=True):
        ids = item["input_ids"]
        mask = [0] * left + [1] * len(ids) + [0] * right
        padded.append({"input_ids": [0] * left + ids + [0] * right, "attention_mask": mask})
    for method in ("smoothgrad", "leave_one_out"):
        options = cheap(method, target=[2, 0])
        found = maps(model, padded, method, **options)
        places = [(index, target) for index in range(len(INPUTS)) for target in (2, 0)]
        assert [(one.input_index, one.target) for one in found] == places
        alone = [one for item in INPUTS for one in maps(model, [item], method, **options)]
        for one, other in zip(found, alone, strict=True):
            assert list(one.token_ids) == INPUTS[one.input_index]["input_ids"]
            assert_same(one.scores, other.scores, dtype, (method, one.input_index))
