"""Scores that are very small or very large, and texts whose scores are no numbers."""

import numpy as np
import torch
from laws import twins_of_noise, twins_of_paths, twins_of_the_engine
from laws.law import law
from laws.oracles import GRADIENT, T, cheap, each, maps, net, scores, text
from tiny import scored_by

from saliency_bench.attribution.methods import KINDS

#: A text that the models of these laws cannot read, and one that they can, with noise too: its first token is six times as
#: far from what they cannot read as the hole is wide.
UNREADABLE, READABLE = {"input_ids": [49, 7, 8, 9, 10]}, {"input_ids": [16, 7, 8, 9, 10]}


def unreadable(dtype):
    """A model that says NaN of texts that start with the token 49."""
    plain = net("tanh", 3)
    model = scored_by(plain, dtype)
    place = model.embedding.weight[49, 0].item()
    hole = torch.tensor([torch.nan, 1.0], dtype=dtype)
    model.module.score = lambda e: plain(e) * hole[((e[:, 0, 0] - place).abs() > 0.2).long()]
    return model


@law(twins_of_paths.scores_have_unit_length)
def test_a_score_in_other_units_has_its_maps_in_these_units(dtype):
    # A power of two changes the exponent of every number on the way and no digit.
    score = net("tanh", 6)
    models = scored_by(score, dtype), scored_by(lambda e: score(e) * 2.0**-30, dtype)
    plain, small = (each(model, [text()], GRADIENT) for model in models)
    for method in [name for name in GRADIENT if name != "idgi"]:
        one, other = plain[method][0].scores, small[method][0].scores
        degree = 2 if KINDS[method] == "square" or method == "idg" else 1
        np.testing.assert_array_equal(other, one * 2.0 ** (-30 * degree), err_msg=method)


@law(twins_of_paths.idgi_divides_by_the_length_of_the_gradient)
def test_idgi_does_not_lose_gradients_whose_squares_have_no_exponent(dtype):
    # Squares of 2^-70 and 2^70 are beyond float32, of 2^-540 and 2^540 beyond float64; the gradients are not.
    score = net("tanh", 6)
    plain = scored_by(score, dtype)
    size = 70 if dtype == torch.float32 else 540
    for power in (-size, size):
        scaled = scored_by(lambda e, power=power: score(e) * 2.0**power, dtype)
        options = {"baseline": "mean", "n_steps": 5}
        (one,), (other,) = (scores(model, [text()], "idgi", **options) for model in (plain, scaled))
        np.testing.assert_allclose(other / 2.0**power, one, rtol=1e-4)


@law(twins_of_the_engine.rows_see_their_chunk)
def test_a_text_without_a_number_does_not_spoil_its_batch_mates(dtype):
    model, methods = unreadable(dtype), [*GRADIENT, "leave_one_out"]
    alone, apart, together = (
        each(model, inputs, methods)
        for inputs in ([READABLE], [UNREADABLE], [READABLE, UNREADABLE])
    )
    # Paths may lead through what the model cannot read, alone too; these do not.
    for method in ("vanilla", "smoothgrad", "leave_one_out"):
        assert alone[method][0].finite and not apart[method][0].finite, method
    for method in methods:
        for beside, by_itself in zip(together[method], alone[method] + apart[method], strict=True):
            np.testing.assert_array_equal(
                np.isfinite(beside.scores), np.isfinite(by_itself.scores), err_msg=method
            )


@law(twins_of_the_engine.rows_see_their_chunk)
def test_a_point_without_a_number_spoils_only_the_settings_that_use_it(dtype):
    # At zero the length of a vector has no gradient. The left rule has a node there, and the midpoint has none.
    model = scored_by(lambda e: e.square().sum((1, 2)).sqrt(), dtype)
    options = {"baseline": "zero", "n_steps": 2}
    left, midpoint = scores(
        model, [text()], "integrated_gradients", quadrature=["left", "midpoint"], **options
    )
    (alone,) = scores(model, [text()], "integrated_gradients", quadrature="midpoint", **options)
    assert np.isnan(left).all() and np.isfinite(alone).all() and len(alone) == T
    np.testing.assert_allclose(midpoint, alone, rtol=1e-6)


@law(twins_of_noise.every_text_is_said_to_have_converged)
def test_a_map_without_a_number_has_not_converged(dtype):
    options = cheap("smoothgrad", n_samples="auto", max_samples=32, relative_error=0.5)
    _, one = maps(unreadable(dtype), [READABLE, UNREADABLE], "smoothgrad", **options)
    assert not one.finite
    assert one.converged is False and one.reason
