"""Captum's methods against enumerations, closed forms and what they are seen to ask of the model, in float64.

ROUNDING bounds, relative to the largest score, what reordered sums of a few hundred terms in float64 can differ by.
SINGLE is for what Captum keeps in float32 (rounding 2**-24 = 6e-8): sums of at most 50 such terms, at worst 50 times
that, which is 3e-6.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import DIMENSIONS, scored_by, tiny_bert, token_inputs
from torch import nn

import saliency_bench as sb
from saliency_bench.attribution.methods import METHODS
from saliency_bench.attribution.methods.perturbation import LinearSurrogate
from saliency_bench.core.errors import InputError
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block

ROUNDING = 1e-12
SINGLE = 3e-6
WEIGHTS = torch.linspace(-1, 1, DIMENSIONS, dtype=torch.float64)

GAMES = {
    "feature_ablation": {},
    "occlusion": {"window": 2},
    "shapley_value_sampling": {"n_samples": 3},
    "kernel_shap": {"n_samples": 30},
    "lime": {"n_samples": 30, "kernel_width": 0.25, "penalty": 1.0},
}
RANDOM = ["shapley_value_sampling", "kernel_shap", "lime"]
METHODS_HERE = GAMES | {"deep_lift": {"baseline_special_tokens": "keep"}}


def close(found, expected, tolerance=ROUNDING):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def tolerance_of(name):
    return ROUNDING if name in ("feature_ablation", "deep_lift") else SINGLE


def scores(model, inputs, name, **options):
    return [one.scores for one in sb.attribute(model, inputs, name, target=0, **options)]


def context_of(model, inputs, budget=1000, seed=0, special=()):
    """A padded block's context; tokens at the places in `special` are special."""
    encoded = [encoded_ids(model, item, str(i), None, "") for i, item in enumerate(inputs)]
    framed = [
        replace(item, special=tuple(place in special for place in range(len(item))))
        for item in encoded
    ]
    return open_block(References(model), framed, 0, budget).context("logit", seed)


def additive(embeddings):
    return (embeddings @ WEIGHTS).tanh().sum(1)


def entangled(embeddings):
    """Products of neighbours, so that no order of the tokens gives the same changes."""
    z = embeddings @ WEIGHTS
    return (z[:, 1:] * z[:, :-1]).sum(1) + z.square().sum(1)


def game(model, item, score, baseline="zero"):
    """F as a function of who is there, asked of the score directly, one subset at a time."""
    embeddings = model.embed(torch.tensor([item["input_ids"]]))
    reference = References(model).vector(baseline)

    @torch.no_grad()
    def play(there):
        mask = torch.tensor([bool(one) for one in there])[None, :, None]
        return float(score(torch.where(mask, embeddings, reference)))

    return play


def additive_scores(model, item):
    play = game(model, item, additive)
    n = len(item["input_ids"])
    nobody = play([0] * n)
    return np.array([play([i == j for i in range(n)]) - nobody for j in range(n)])


def shapley_of(play, n):
    """Shapley 1953: the mean of every player's change over all orders."""
    found = np.zeros(n)
    for order in itertools.permutations(range(n)):
        there = [0] * n
        for player in order:
            before = play(there)
            there[player] = 1
            found[player] += play(there) - before
    return found / math.factorial(n)


# What the methods are.


def test_feature_ablation_is_leave_one_out_with_the_same_vector(bert):
    inputs = token_inputs(5, 8)
    for vector in ("zero", "mean"):
        ours = scores(bert, inputs, "leave_one_out", removal=vector)
        captums = scores(bert, inputs, "feature_ablation", baseline=vector)
        for one, other in zip(ours, captums, strict=True):
            close(other, one)


def test_occlusion_of_one_token_is_feature_ablation(bert):
    inputs = token_inputs(5, 8)
    single = scores(bert, inputs, "feature_ablation", baseline="mean")
    for one, other in zip(
        single, scores(bert, inputs, "occlusion", baseline="mean", window=1), strict=True
    ):
        close(other, one, SINGLE)


@pytest.mark.parametrize("window", [2, 3, 6, 99])
def test_occlusion_is_the_mean_over_the_windows_with_the_token(window):
    model, (item,) = scored_by(entangled), token_inputs(6)
    play = game(model, item, entangled)
    n, size = 6, min(window, 6)
    changes = {
        start: play([1] * n) - play([not start <= i < start + size for i in range(n)])
        for start in range(n - size + 1)
    }
    expected = [
        np.mean([change for start, change in changes.items() if start <= i < start + size])
        for i in range(n)
    ]
    (found,) = scores(model, [item], "occlusion", baseline="zero", window=window)
    close(found, np.array(expected), SINGLE)


@pytest.mark.parametrize("name", sorted(GAMES.keys() - {"lime"}))  # whose penalty shrinks
def test_of_an_additive_score_every_token_gets_its_own_term(name):
    options = GAMES[name] | ({"window": 1} if name == "occlusion" else {})
    model, (item,) = scored_by(additive), token_inputs(6)
    (found,) = scores(model, [item], name, baseline="zero", **options)
    close(found, additive_scores(model, item), 10 * SINGLE)  # x and x' weigh 10⁶ in kernel_shap


def test_lime_without_penalty_is_exact_on_an_additive_score():
    model, (item,) = scored_by(additive), token_inputs(6)
    options = {"baseline": "zero", "n_samples": 60, "kernel_width": 0.25, "penalty": 0.0}
    (found,) = scores(model, [item], "lime", **options)
    # Weights span exp(-8) ... 1, and least squares amplify the rounding of scores by up to their root, 55.
    close(found, additive_scores(model, item), 55 * SINGLE)


@pytest.mark.parametrize("name", ["shapley_value_sampling", "kernel_shap"])
def test_shapley_values_of_any_score_sum_to_its_difference(bert, name):
    (item,) = token_inputs(7)
    (found,) = scores(bert, [item], name, baseline="mean", **GAMES[name])
    ids = torch.tensor([item["input_ids"]])
    play = game(bert, item, lambda e: bert.output(ids, embeddings=e)[0, 0], "mean")
    difference = play([1] * 7) - play([0] * 7)
    # x and x' weigh 10⁶ and the other samples 1, so that 30 of these pull by up to 3e-5 of their residuals.
    slack = 3e-5 if name == "kernel_shap" else SINGLE
    assert found.sum() == pytest.approx(difference, abs=slack * np.abs(found).sum())


@pytest.mark.parametrize(
    ("name", "n_samples"), [("shapley_value_sampling", 300), ("kernel_shap", 1500)]
)
def test_shapley_values_are_those_of_an_enumeration_up_to_sampling(name, n_samples):
    n = 4
    model, (item,) = scored_by(entangled), token_inputs(n)
    play = game(model, item, entangled)
    expected = shapley_of(play, n)
    (found,) = scores(model, [item], name, baseline="zero", n_samples=n_samples)
    subsets = list(itertools.product([0, 1], repeat=n))
    if name == "kernel_shap":
        # Least squares: standard errors are at most U / sqrt(n λ), U the largest residual of the exact fit and λ the
        # variance of presences under the Shapley kernel where it is least: E k/n - E k(k-1)/(n(n-1)) off the sum.
        spread = max(abs(play(z) - play([0] * n) - np.dot(z, expected)) for z in subsets)
        share = np.array([1 / (k * (n - k)) for k in range(1, n)])
        share /= share.sum()
        least = sum(p * k / n * (1 - (k - 1) / (n - 1)) for k, p in enumerate(share, 1))
        error = spread / np.sqrt(n_samples * least)
    else:
        # Means of changes, none of which is further from the mean than the largest change is from the smallest.
        changes = [
            play([*z[:i], 1, *z[i + 1 :]]) - play([*z[:i], 0, *z[i + 1 :]])
            for z in subsets
            for i in range(n)
        ]
        error = (max(changes) - min(changes)) / np.sqrt(n_samples)
    assert (np.abs(found - expected) < 5 * error).all()
    assert (
        np.abs(found - expected).max() < 0.2 * np.abs(expected).max()
    )  # and that is not everything


# What they ask of the model: the score writes down who was there, and an oracle redoes the sums.


class Recorder:
    """A score that keeps the presence and the value of every row it is asked about."""

    def __init__(self, score):
        self.score = score
        self.asked = []
        self.sizes = []

    def __call__(self, embeddings):
        values = self.score(embeddings)
        self.asked += zip((embeddings != 0).any(-1).tolist(), values.tolist(), strict=True)
        self.sizes.append(embeddings.shape[0] * embeddings.shape[1])
        return values


def recorded(name, n, score=entangled, budget=1000, **options):
    """The scores of one text, presences [R N] and values [R] that were asked for, and tokens per call."""
    recorder = Recorder(score)
    model = scored_by(recorder)
    context = context_of(model, token_inputs(n), budget)
    context.path("zero", "keep")
    with model.frozen():  # what is asked to know the model is no question of the method's
        recorder.asked.clear(), recorder.sizes.clear()
        found = METHODS[name](context, baseline="zero", **options).scores[0].numpy()
    there = np.array([presence for presence, _ in recorder.asked], dtype=float)
    return found, there, np.array([value for _, value in recorder.asked]), recorder.sizes


def surrogate_of(there, values, weights, penalty):
    """Normal equations of [1 Z], the intercept not penalised."""
    design = np.column_stack([np.ones(len(there)), there])
    penalties = penalty * np.diag([0, *[1] * there.shape[1]])
    return np.linalg.solve(
        design.T @ (weights[:, None] * design) + penalties, design.T @ (weights * values)
    )[1:]


def test_shapley_sampling_adds_the_changes_along_each_order():
    n, n_samples = 5, 7
    found, there, values, _ = recorded("shapley_value_sampling", n, n_samples=n_samples)
    assert (there[0] == 0).all()  # x', once
    expected = np.zeros(n)
    for order in np.arange(1, 1 + n * n_samples).reshape(n_samples, n):
        for before, now in itertools.pairwise([0, *order]):
            (joined,) = np.flatnonzero(there[now] - there[before])
            expected[joined] += (values[now] - values[before]) / n_samples
    close(found, expected, SINGLE)


def test_kernel_shap_is_least_squares_over_what_it_drew():
    n = 5
    found, there, values, _ = recorded("kernel_shap", n, n_samples=60)
    sizes = there.sum(1)
    assert sizes[0] == n
    assert sizes[1] == 0
    assert set(sizes[2:]) == {1, 2, 3, 4}
    weights = np.where((sizes == 0) | (sizes == n), 1e6, 1.0)
    # float32 scores, in equations whose weights span 10⁶: the root of that is what rounding can grow by.
    close(found, surrogate_of(there, values, weights, 0.0), 2**-24 * 1e3)


def test_kernel_shap_draws_sizes_by_the_shapley_kernel():
    n, n_samples = 5, 2000
    _, there, _, _ = recorded("kernel_shap", n, n_samples=n_samples)
    share = np.array([1 / (k * (n - k)) for k in range(1, n)])
    expected = n_samples * share / share.sum()
    counts = np.bincount(there.sum(1).astype(int)[2:], minlength=n + 1)[1:n]
    assert (
        np.abs(counts - expected) < 5 * np.sqrt(expected) + 2
    ).all()  # binomial; 2 went to the ends


@pytest.mark.parametrize(("width", "penalty"), [(0.25, 1.0), (0.5, 0.1)])
def test_lime_is_ridge_regression_weighted_by_cosine_distance(width, penalty):
    n = 5
    options = {"n_samples": 80, "kernel_width": width, "penalty": penalty}
    found, there, values, _ = recorded("lime", n, **options)
    # Between ones and a subset of size k the cosine is k / sqrt(n k), and 0 for the empty one.
    distance = 1 - np.sqrt(there.sum(1) / n)
    weights = np.exp(-(distance**2) / (2 * width**2))
    # The condition of the equations is at most (80 + penalty) / penalty, and float32 comes in once.
    close(found, surrogate_of(there, values, weights, penalty), 2**-24 * (80 + penalty) / penalty)


def test_lime_draws_how_many_tokens_go_uniformly():
    n, n_samples = 4, 1600
    options = {"n_samples": n_samples, "kernel_width": 0.25, "penalty": 1.0}
    _, there, _, _ = recorded("lime", n, **options)
    assert there[0].sum() == n  # the text itself
    counts = np.bincount(n - there[1:].sum(1).astype(int), minlength=n + 1)
    assert counts[0] == 0
    # Binomial with probability 1/n.
    spread = np.sqrt(n_samples / n * (1 - 1 / n))
    assert (np.abs(counts[1:] - n_samples / n) < 5 * spread).all()
    removed = (1 - there[1:]).sum(0)  # every token goes equally often: E size / n of the time
    assert (
        np.abs(removed / (n_samples - 1) - (n + 1) / 2 / n) < 5 * 0.5 / np.sqrt(n_samples)
    ).all()


@pytest.mark.parametrize("name", GAMES)
def test_a_call_never_takes_more_tokens_than_the_budget(name):
    found, *_ = recorded(name, 5, **GAMES[name])
    small, _, _, sizes = recorded(name, 5, budget=11, **GAMES[name])
    assert max(sizes) == 10
    close(small, found)


def test_deep_lift_never_takes_more_tokens_than_the_budget(bert):
    inputs = token_inputs(5, 5, 5)
    large = scores(bert, inputs, "deep_lift", baseline="mean", token_budget=1000)
    for one, other in zip(
        large, scores(bert, inputs, "deep_lift", baseline="mean", token_budget=1), strict=True
    ):
        close(other, one)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_the_surrogate_is_the_solution_of_its_normal_equations(penalty):
    draw = np.random.default_rng(0)
    z, y, w = draw.random((30, 4)), draw.random(30), draw.random(30)
    surrogate = LinearSurrogate(penalty)
    surrogate.fit([tuple(map(torch.from_numpy, (z, y, w)))])
    close(surrogate.representation().numpy(), surrogate_of(z, y, w, penalty))


def test_where_it_is_not_determined_the_surrogate_has_the_least_norm():
    draw = np.random.default_rng(0)
    z, y, w = draw.random((3, 6)), draw.random(3), draw.random(3)
    surrogate = LinearSurrogate(0.0)
    surrogate.fit([tuple(map(torch.from_numpy, (z, y, w)))])
    centred, wanted = z - np.average(z, 0, w), y - np.average(y, 0, w)
    root = np.sqrt(w)
    close(
        surrogate.representation().numpy(),
        np.linalg.pinv(root[:, None] * centred) @ (root * wanted),
        1e-10,  # the condition of six random columns
    )


# DeepLIFT.


class Hidden(nn.Module):
    """Σ_t v·relu(W e_t + b): one hidden layer."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(DIMENSIONS, 8).double()
        self.activation = activation()
        self.last = nn.Linear(8, 1).double()

    def forward(self, embeddings):
        return self.last(self.activation(self.first(embeddings))).sum((1, 2))


def test_deep_lift_is_complete_on_one_hidden_layer():
    hidden = Hidden()
    model, inputs = scored_by(hidden), token_inputs(6, 4)
    for one in sb.attribute(model, inputs, "deep_lift", baseline="mean", target=0):
        assert abs(one.completeness_gap) < ROUNDING * np.abs(one.scores).sum()
        assert one.n_gradients == 2


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_deep_lift_is_the_rescale_rule_by_hand(activation):
    hidden = Hidden(activation)
    model, (item,) = scored_by(hidden), token_inputs(5)
    (found,) = scores(model, [item], "deep_lift", baseline="zero")
    with torch.no_grad():
        embeddings = model.embed(torch.tensor([item["input_ids"]]))[0]
        weight, bias = hidden.first.weight, hidden.first.bias
        expected = []
        for token in embeddings:
            score = 0.0
            for unit in range(8):
                moved = weight[unit] @ token
                slope = (
                    hidden.activation(moved + bias[unit]) - hidden.activation(bias[unit])
                ) / moved
                score += float(hidden.last.weight[0, unit] * slope * moved)
            expected.append(score)
    close(found, np.array(expected))


class Slopes(nn.Module):
    """Multiplies by fixed numbers: what the rescale rule puts in the place of an activation."""

    def __init__(self, slopes):
        super().__init__()
        self.slopes = slopes

    def forward(self, values):
        return values * self.slopes


def test_in_a_bert_deep_lift_is_the_gradient_but_for_the_poolers_tanh():
    module, (item,) = tiny_bert(), token_inputs(6)
    model = sb.wrap_model(module)
    found = sb.attribute(model, [item], "deep_lift", baseline="mean", target=0)[0].scores
    ids = torch.tensor([item["input_ids"]])
    seen = []
    handle = module.bert.pooler.dense.register_forward_hook(lambda *all_: seen.append(all_[2]))
    model.output(ids)
    model.output(ids, embeddings=References(model).vector("mean").expand(1, 6, -1))
    handle.remove()
    module.bert.pooler.activation = Slopes(
        ((seen[0].tanh() - seen[1].tanh()) / (seen[0] - seen[1])).detach()
    )
    plain = "input_baseline_x_gradient"
    close(found, sb.attribute(model, [item], plain, baseline="mean", target=0)[0].scores)


class Gated(nn.Module):
    """A softmax module over the tokens, for which Captum's rule looks at the whole batch."""

    def __init__(self):
        super().__init__()
        self.softmax = nn.Softmax(dim=1)

    def forward(self, embeddings):
        z = embeddings @ WEIGHTS
        return (self.softmax(z) * z.square()).sum(1)


def test_deep_lift_of_a_softmax_does_not_depend_on_the_company():
    model, inputs = scored_by(Gated()), token_inputs(5, 5, 5)
    for one, item in zip(scores(model, inputs, "deep_lift", baseline="mean"), inputs, strict=True):
        close(one, scores(model, [item], "deep_lift", baseline="mean")[0])


class Twice(Hidden):
    def forward(self, embeddings):
        return self.activation(super().forward(embeddings))


def test_deep_lift_refuses_an_activation_that_is_called_twice():
    model = scored_by(Twice())
    found = state(model.module)
    with pytest.raises(InputError, match="one is called in several places"):
        sb.attribute(model, token_inputs(4), "deep_lift", baseline="mean", target=0)
    assert state(model.module) == found


# What holds of all.


@pytest.mark.parametrize(("name", "options"), METHODS_HERE.items())
def test_order_company_and_token_budget_change_nothing(bert, name, options):
    inputs = token_inputs(5, 9, 5, 5, 7)
    together = scores(bert, inputs, name, baseline="mean", **options)
    turned = scores(bert, inputs[::-1], name, baseline="mean", **options)[::-1]
    small = scores(bert, inputs, name, baseline="mean", token_budget=1, **options)
    for index, item in enumerate(inputs):
        (alone,) = scores(bert, [item], name, baseline="mean", **options)
        for other in (turned[index], small[index], together[index]):
            close(other, alone, tolerance_of(name))


@pytest.mark.parametrize(("name", "options"), METHODS_HERE.items())
def test_padding_gets_nothing_and_changes_nothing(bert, name, options):
    inputs = token_inputs(5, 9, 7)
    with bert.frozen():
        context = context_of(bert, inputs)
        made = METHODS[name](context, baseline="mean", **options)
    found = made.values.sum(-1) if name == "deep_lift" else made.scores
    assert found.dtype == torch.float64
    assert (found[~context.batch.mask] == 0).all()
    for item, of_item in zip(inputs, found.numpy(), strict=True):
        (alone,) = scores(bert, [item], name, baseline="mean", **options)
        close(of_item[: len(alone)], alone, tolerance_of(name))


@pytest.mark.parametrize(("name", "options"), GAMES.items())
def test_special_tokens_are_no_features(name, options):
    # Of an additive score the other tokens' scores are as if the special ones were not there at all.
    model, (item,) = scored_by(additive), token_inputs(6)
    inner = {"input_ids": item["input_ids"][1:5]}
    options = options | {"n_samples": 200} if "n_samples" in options else options
    with model.frozen():
        made = METHODS[name](context_of(model, [item], special=(0, 5)), baseline="zero", **options)
    found = made.scores[0].numpy()
    assert found[0] == 0
    assert found[5] == 0
    if name in RANDOM[:2] or name == "feature_ablation":
        close(found[1:5], additive_scores(model, item)[1:5], 10 * SINGLE)
    if name == "occlusion":
        close(found[1:5], scores(model, [inner], name, baseline="zero", **options)[0], SINGLE)


@pytest.mark.parametrize(("name", "options"), GAMES.items())
def test_one_token_and_none_are_games_too(name, options):
    model, (item,) = scored_by(additive), token_inputs(1)
    with model.frozen():
        nobody = METHODS[name](context_of(model, [item], special=(0,)), baseline="zero", **options)
    assert (nobody.scores == 0).all()
    (found,) = scores(model, [item], name, baseline="zero", **options)
    assert np.sign(found) == np.sign(additive_scores(model, item))
    if name != "lime":
        close(found, additive_scores(model, item), SINGLE)


@pytest.mark.parametrize("name", GAMES)
def test_games_take_no_gradient(bert, name):
    (one,) = sb.attribute(bert, token_inputs(4), name, baseline="mean", **GAMES[name])
    assert one.n_gradients == 0


@pytest.mark.parametrize("name", RANDOM)
def test_draws_belong_to_the_seed(bert, name):
    first, again, other = (
        scores(bert, token_inputs(6), name, baseline="mean", seed=seed, **GAMES[name])[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3 * np.abs(first).max()


@pytest.mark.parametrize(("name", "options"), METHODS_HERE.items())
def test_the_global_random_states_are_untouched_and_unread(bert, name, options):
    # Python's own generator cannot be watched here: the tests' type checks draw from it.
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the state that must not be touched
        torchs, numpys = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        found += scores(bert, token_inputs(6), name, baseline="mean", **options)
        assert torch.equal(torch.get_rng_state(), torchs)
        np.testing.assert_array_equal(np.random.get_state()[1], numpys[1])  # noqa: NPY002
        assert np.random.get_state()[2:] == numpys[2:]  # noqa: NPY002
    np.testing.assert_array_equal(*found)


def state(module):
    """Everything about a module that Captum could change."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "hooks": [[len(getattr(m, name)) for name in hooks] for m in module.modules()],
        "attributes": [sorted(vars(m)) for m in module.modules()],
        "training": [m.training for m in module.modules()],
        "gradients": [(weight.requires_grad, weight.grad) for weight in module.parameters()],
    }


@pytest.mark.parametrize(("name", "options"), METHODS_HERE.items())
def test_the_model_is_left_as_found_also_after_an_error(name, options):
    module = tiny_bert().train()
    module.classifier.weight.requires_grad_(False)
    model = sb.wrap_model(module)
    found = state(module)
    sb.attribute(model, token_inputs(5), name, baseline="mean", **options)
    assert state(module) == found
    context = context_of(model, token_inputs(5))
    generator = torch.get_rng_state()
    handle = module.classifier.register_forward_hook(lambda *_: 1 / 0)
    with model.frozen(), pytest.raises(ZeroDivisionError):
        METHODS[name](context, baseline="mean", **options)
    handle.remove()
    assert state(module) == found
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("occlusion", "window", 0),
        ("shapley_value_sampling", "n_samples", 0),
        ("kernel_shap", "n_samples", -1),
        ("lime", "n_samples", True),
        ("lime", "kernel_width", 0.0),
        ("lime", "penalty", -1.0),
    ],
)
def test_numbers_without_a_meaning_are_refused(name, option, value):
    with pytest.raises(InputError, match=option):
        sb.attribute(scored_by(additive), token_inputs(4), name, baseline="zero", **{option: value})
