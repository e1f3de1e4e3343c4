"""How sure a mean over draws is said to be: by a slow jackknife, and by how far it really is from the truth."""

import numpy as np
import torch
from laws import twins_of_noise
from laws.law import assert_same, law
from laws.oracles import (
    Recorder,
    T,
    cheap,
    gradient_at,
    maps,
    net,
    quadratic,
    reduced,
    text,
    vectors,
)
from scipy import stats
from tiny import DIMENSIONS, FrameTokenizer, framed, scored_by, token_inputs

OPTIONS = {"noise_std": 0.5}
MOMENTS = {
    "smoothgrad": lambda drawn, x: drawn.mean(0),
    "smoothgrad_squared": lambda drawn, x: drawn.square().mean(0),
    "vargrad": lambda drawn, x: (drawn - drawn.mean(0)).square().mean(0),
    "smoothgrad_x_input": lambda drawn, x: drawn.mean(0) * x,
}


def slow_jackknife(values, whole, n_groups):
    """The standard error and the bias from leaving out one of equal groups at a time.

    Efron & Tibshirani 1993, eq. 11.5 and 10.38.
    """
    kept = np.stack([values(group) for group in range(n_groups)])
    error = np.sqrt((n_groups - 1) / n_groups * ((kept - kept.mean(0)) ** 2).sum(0))
    return error, (n_groups - 1) * (kept.mean(0) - whole)


@law(
    twins_of_noise.the_spread_divides_by_the_number_of_groups,
    twins_of_noise.errors_are_divided_by_the_mean_of_the_sample,
    twins_of_noise.antithetic_draws_count_as_independent,
)
def test_standard_errors_are_those_of_a_slow_jackknife(dtype):
    # Equal groups: ten of two draws, of two pairs and of a block of four, and six of one draw.
    for sampler, n, n_groups in (
        ("iid", 20, 10),
        ("antithetic", 40, 10),
        ("centred", 40, 10),
        ("iid", 6, 6),
    ):
        for method, moment in MOMENTS.items():
            how = cheap(method)["reduction"]
            score = Recorder(net("tanh", 6))
            model, item = scored_by(score, dtype), text()
            (one,) = maps(model, [item], method, n_samples=n, sampler=sampler, **OPTIONS)
            x = vectors(model, item)
            drawn = torch.stack([gradient_at(score.score, point) for point in score.points()])
            groups = drawn.view(n_groups, n // n_groups, *x.shape)

            def left_out(group, groups=groups, moment=moment, how=how, x=x):
                others = torch.cat([groups[:group], groups[group + 1 :]])
                return reduced(moment(others.flatten(0, 1), x), how, x)

            expected, bias = slow_jackknife(left_out, one.scores, n_groups)
            # Ten times a difference of scores, with their rounding.
            size = 10 * np.abs(one.scores).max()
            assert_same(one.standard_errors, expected, dtype, (method, sampler), scale=size)
            off = np.hypot(np.linalg.norm(expected), np.linalg.norm(bias))
            relative = off / np.linalg.norm(one.scores)
            assert_same(one.error, relative, dtype, (method, sampler), scale=10.0)


@law(twins_of_noise.halves_overlap, twins_of_noise.special_tokens_are_ranked)
def test_split_half_tau_is_that_of_every_other_group_with_the_rest(dtype):
    for sampler, n in (("iid", 10), ("antithetic", 20), ("centred", 40)):
        score = Recorder(TokenNets(torch.sigmoid, 12, DIMENSIONS))
        model = scored_by(score, dtype, tokenizer=FrameTokenizer())
        (item,) = framed(*token_inputs(10))
        # Special tokens get noise too, so that their scores would have a say.
        options = {"n_samples": n, "sampler": sampler, "noise_special_tokens": True}
        (one,) = maps(model, [item], "smoothgrad", noise_std=2.0, **options)
        drawn = torch.stack([gradient_at(score.score, point) for point in score.points()])
        groups = drawn.view(10, n // 10, *drawn.shape[1:])
        a, b = (
            reduced(half.flatten(0, 1).mean(0), "l2")[1:-1] for half in (groups[::2], groups[1::2])
        )
        agree = [np.sign((a[i] - a[j]) * (b[i] - b[j])) for i in range(10) for j in range(i)]
        assert abs(one.split_half_tau - np.mean(agree)) < 1e-12


@law(
    twins_of_noise.antithetic_draws_count_as_independent,
    twins_of_noise.errors_are_those_of_a_single_group,
    twins_of_noise.sigma_is_a_variance,
    dtypes=(torch.float64,),
)
def test_moments_of_a_quadratic_are_its_closed_forms_within_their_standard_errors(dtype):
    # ∇F(x + σ ε) = Sx + σ S ε: normal with the covariance σ² S², so that its mean, its squares and their standard
    # errors are known. Texts and seeds are independent, tokens of a text are not.
    score = quadratic()
    model, inputs, n, seeds = scored_by(score, dtype), [text(0), text(1)], 200, list(range(4))
    shape = (T, DIMENSIONS)
    sigma = 0.3
    options = {"n_samples": n, "seed": seeds, "noise_std": None, "noise_absolute": sigma}
    spread = sigma**2 * score.squared_hessian(shape)
    by_token = score.hessian.view(T, DIMENSIONS, -1).sum(1)  # of a sum over a token's dimensions
    exactly = (sigma**2 * by_token.square().sum(1) / n).sqrt().numpy()
    mean = [score.gradient(vectors(model, item)) for item in inputs]
    found = maps(model, inputs, "smoothgrad", reduction="sum", sampler="iid", **options)
    for one in found:
        off = one.scores - mean[one.input_index].sum(1).numpy()
        assert (np.abs(off) < 5 * exactly).all()
    # Each is the estimate of a variance from ten groups, which is off by the root of 2/9.
    ratio = np.mean([(one.standard_errors / exactly) ** 2 for one in found])
    assert abs(ratio - 1) < 5 * (2 / 9 / len(found)) ** 0.5
    # Draws that sum to 0 leave nothing to be unsure of.
    for sampler in ("antithetic", "centred"):
        for one in maps(model, inputs, "smoothgrad", reduction="sum", sampler=sampler, **options):
            assert one.standard_errors.max() < 1e-12 * np.abs(one.scores).max(), sampler
    # A square s² ε² has the standard deviation √2 s², and its product with the mean adds 2 |m| s; sums at most add up.
    unsure = (2 / n) ** 0.5 * spread
    for method in ("smoothgrad_squared", "vargrad"):
        for one in maps(model, inputs, method, sampler="iid", **options):
            m = mean[one.input_index] if method == "smoothgrad_squared" else torch.zeros(shape)
            exact = m.square() + spread * (1 if method == "smoothgrad_squared" else 1 - 1 / n)
            off = np.abs(one.scores - exact.sum(1).numpy())
            bound = 5 * (unsure + 2 * m.abs() * (spread / n).sqrt())
            assert (off < bound.sum(1).numpy()).all(), method
            # Known to a quarter, from ten groups: one in 10,000 is further off.
            assert (off < 8 * one.standard_errors).all(), method


class TokenNets:
    """A net for every token of its own: tokens, texts and seeds are independent measurements."""

    width = 8

    def __init__(self, activation, n_tokens, dimensions):
        generator = torch.Generator().manual_seed(3)
        self.weights = torch.randn(n_tokens, self.width, dimensions, generator=generator).double()
        self.bias = torch.randn(n_tokens, self.width, generator=generator).double()
        self.out = torch.rand(n_tokens, self.width, generator=generator).double() + 0.5
        self.activation = activation

    def before(self, e):
        return torch.einsum("tkd,btd->btk", self.weights.to(e), e) + self.bias.to(e)

    def __call__(self, e):
        return (self.activation(self.before(e)) * self.out.to(e)).sum((1, 2))

    def smoothed(self, x):
        """E ∇F(x + σ ε) of ReLU: Σ_k a_k w_k Φ(z_k / (σ |w_k|)), since z_k + σ |w_k| N(0, 1) is what is positive."""
        z = self.before(x[None])[0] / (SIGMA * self.weights.norm(dim=2))
        return torch.einsum("tk,tkd->td", self.out * torch.special.ndtr(z), self.weights)

    def variance(self, x):
        """Of Σ a z²: Var ∇F = σ² rowsum(S²), S = 2 Σ_k a_k w_k w_k'."""
        hessian = 2 * torch.einsum("tk,tkd,tke->tde", self.out, self.weights, self.weights)
        return SIGMA**2 * hessian.square().sum(2)

    def square(self, x):
        """Of Σ a z²: E (∇F)² = (∇F)² + Var ∇F."""
        mean = 2 * torch.einsum("tk,tkd->td", self.out * self.before(x[None])[0], self.weights)
        return mean.square() + self.variance(x)


TOKENS, TEXTS, DEPTH, SIGMA = 64, 3, 3, 1.5


def z_scores(score, dtype, expected, method, reductions, **options):
    """By reduction, (found - expected) / reported standard error of every token, text and seed."""
    model = scored_by(score, dtype, dimensions=DEPTH)
    inputs = token_inputs(*[TOKENS] * TEXTS)
    noise = {"noise_std": None, "noise_absolute": SIGMA}
    found = maps(model, inputs, method, reduction=reductions, **noise, **options)
    inside = [vectors(model, item) for item in inputs]
    exact = [reduced(expected(x), how, x) for x in inside for how in reductions]
    n_seeds = len(options["seed"])
    z = np.stack(
        [
            (one.scores - exact[index // n_seeds]) / one.standard_errors
            for index, one in enumerate(found)  # by text, then reduction, then seed
        ]
    )
    by_reduction = z.reshape(TEXTS, len(reductions), -1).swapaxes(0, 1)
    return dict(zip(reductions, by_reduction, strict=True))


def assert_calibrated(z, what):
    """That z is Student's t with nine degrees of freedom: a normal over a standard error from ten groups.

    |z| > 2 in 7.7 % of cases. Tokens are independent, so the share has the standard error of a coin; four of it, and
    one percentage point for what is not quite normal.
    """
    share = np.mean(np.abs(z) > 2)
    expected = 2 * stats.t.sf(2, df=9)
    slack = 4 * np.sqrt(expected * (1 - expected) / z.size) + 0.01
    assert abs(share - expected) < slack, (what, share, expected, slack)


@law(
    twins_of_noise.antithetic_draws_count_as_independent,
    twins_of_noise.errors_are_those_of_a_single_group,
    twins_of_noise.sigma_is_a_variance,
    dtypes=(torch.float64,),
)
def test_standard_errors_of_smoothgrad_say_how_far_it_is_from_its_expectation(dtype):
    score = TokenNets(torch.relu, TOKENS, DEPTH)
    for sampler in ("antithetic", "centred", "iid"):
        draws = {"n_samples": 120, "sampler": sampler, "seed": list(range(3))}
        found = z_scores(score, dtype, score.smoothed, "smoothgrad", ["l2", "sum", "dot"], **draws)
        for how, z in found.items():
            assert_calibrated(z, (how, sampler))


@law(
    twins_of_noise.errors_are_those_of_a_single_group,
    twins_of_noise.sigma_is_a_variance,
    dtypes=(torch.float64,),
)
def test_standard_errors_of_squares_and_variances_say_how_far_they_are_off(dtype):
    score = TokenNets(torch.square, TOKENS, DEPTH)
    # The variance of antithetic draws is not tried: it is their square less that of a mean that is exact.
    for method, sampler in (
        ("smoothgrad_squared", "iid"),
        ("smoothgrad_squared", "antithetic"),
        ("vargrad", "iid"),
    ):
        draws = {"n_samples": 100, "sampler": sampler, "seed": list(range(3))}
        expected = score.square if method == "smoothgrad_squared" else score.variance
        (z,) = z_scores(score, dtype, expected, method, ["sum"], **draws).values()
        assert_calibrated(z, (method, sampler))
