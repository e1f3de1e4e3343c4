"""Captum's perturbation and rule-based methods: contestants that only Captum has.

A perturbation method asks what the model says when only some tokens are there. Captum is given that question and
not the model: its input is a row of presence [1 N], ones, over the attributable tokens of one example, and its
baseline is zeros. So special tokens and padding are no features, no example knows of its batch mates, and random
draws belong to (method, seed, text). Occlusion, Shapley values and the surrogate models come in float32, as Captum
computes them: about 1e-7 of F(x) is rounding. Captum is imported only when it is used.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import Values, method
from saliency_bench.attribution.points import StraightPath
from saliency_bench.core.errors import InputError
from saliency_bench.core.seeding import seed_of
from saliency_bench.core.tensors import Attribution, ScoreFn, at_least_float32
from saliency_bench.models.threads import PROCESS


@dataclass(frozen=True)
class Game:
    """F of one example when some of its attributable tokens are there and the others at their baseline.

    Tokens are the players of Shapley's games; those that never move are none.
    """

    ctx: Context
    path: StraightPath
    example: int
    players: Int[Tensor, " N"]

    @torch.no_grad()
    def __call__(self, presence: Float[Tensor, "R N"]) -> Float[Tensor, " R"]:
        """F at each row of presence, 1 for there and 0 for not; in float64, for differences are taken of it."""
        shape, device = (len(presence), self.path.embeddings.shape[1]), presence.device
        there = torch.ones(shape, dtype=torch.bool, device=device)
        there[:, self.players] = presence != 0
        points = torch.where(
            there[:, :, None], self.path.embeddings[self.example], self.path.reference[self.example]
        )
        rows = torch.full((len(presence),), self.example, device=device)
        return self.ctx.score(points, rows).double()

    @property
    def everybody(self) -> Float[Tensor, "1 N"]:
        """The input itself."""
        return torch.ones(1, len(self.players), dtype=torch.float64, device=self.players.device)

    @property
    def rows_at_once(self) -> int:
        """What the token budget comes to."""
        return max(1, self.ctx.token_budget // self.path.embeddings.shape[1])


@method("token", only="captum", label="Feature ablation", signed=True)
def feature_ablation(ctx: Context, *, baseline: str) -> Attribution:
    """F(x) - F(x with one token at its baseline): leave-one-out, through `FeatureAblation`."""
    return _played(ctx, "feature_ablation", baseline, _ablated)


@method("token", only="captum", label="Occlusion", signed=True)
def occlusion(ctx: Context, *, baseline: str, window: int) -> Attribution:
    """The mean of F(x) - F(x without a window) over the windows with the token (Zeiler & Fergus 2014).

    Through `Occlusion` with stride 1. A window is `window` consecutive attributable tokens, special tokens between
    them not counted; all of them in a shorter text. Tokens near an end are in fewer windows.
    """

    def occluded(game: Game) -> Float[Tensor, "1 N"]:
        from captum.attr import Occlusion

        shape = (min(window, len(game.players)),)
        return _attributed(Occlusion(game), game, sliding_window_shapes=shape, strides=1)

    return _played(ctx, "occlusion", baseline, occluded)


@method("token", only="captum", label="Shapley value sampling", signed=True)
def shapley_value_sampling(ctx: Context, *, baseline: str, n_samples: int) -> Attribution:
    """The mean change of F when the token joins those before it in a random order (Castro, Gómez & Tejada 2009).

    Through `ShapleyValueSampling`: `n_samples` orders of the tokens, one forward pass for each token of each. Every
    order sums to F(x) - F(x'), so the scores do.
    """

    def sampled(game: Game) -> Float[Tensor, "1 N"]:
        from captum.attr import ShapleyValueSampling

        return _attributed(ShapleyValueSampling(game), game, n_samples=n_samples)

    return _played(ctx, "shapley_value_sampling", baseline, sampled)


@method("token", only="captum", label="KernelSHAP", signed=True)
def kernel_shap(ctx: Context, *, baseline: str, n_samples: int) -> Attribution:
    """Shapley values by weighted least squares over random coalitions (Lundberg & Lee 2017, theorem 2).

    Through `KernelShap`: `n_samples` forward passes, at x, at x', and at coalitions drawn in proportion to the
    Shapley kernel and weighted alike; x and x' weigh 10⁶, so that the scores sum to F(x) - F(x') nearly. With fewer
    distinct coalitions than tokens, the solution of least norm is taken.
    """

    def fitted(game: Game) -> Float[Tensor, "1 N"]:
        from captum.attr import KernelShap

        if len(game.players) == 1:  # no coalition lies between x and x', and Captum divides by zero
            return _ablated(game)
        explainer = KernelShap(game)
        explainer.interpretable_model = LinearSurrogate(penalty=0.0)
        return _attributed(explainer, game, n_samples=n_samples, return_input_shape=False)

    return _played(ctx, "kernel_shap", baseline, fitted)


@method("token", only="captum", label="LIME", signed=True)
def lime(
    ctx: Context, *, baseline: str, n_samples: int, kernel_width: float, penalty: float
) -> Attribution:
    """Coefficients of a linear model of F around x (Ribeiro, Singh & Guestrin 2016, section 3.4), over all tokens.

    Through `Lime`, with the choices of the authors' code for text in place of Captum's: of x and `n_samples` - 1
    copies, each without a number of tokens drawn uniformly from 1 to N; weights exp(-d² / 2 `kernel_width`²), d the
    cosine distance of presences; ridge regression with an intercept (`penalty` on the squared coefficients, all
    tokens kept). Captum's own are every token present with probability 1/2, a width of 1 and a lasso.
    """

    def fitted(game: Game) -> Float[Tensor, "1 N"]:
        from captum.attr import Lime
        from captum.attr._core.lime import get_exp_kernel_similarity_function

        similarity = get_exp_kernel_similarity_function("cosine", kernel_width)
        copies = _thinned(game.everybody)
        explainer = Lime(
            game, LinearSurrogate(penalty), similarity, perturb_func=lambda *_, **__: next(copies)
        )
        return _attributed(explainer, game, n_samples=n_samples, return_input_shape=False)

    return _played(ctx, "lime", baseline, fitted)


class LinearSurrogate:
    """What Captum asks of a surrogate: min_{b, c} Σ_i w_i (y_i - b - z_i c)² + penalty |c|².

    It stands in for the models of scikit-learn that Captum takes by default, with the same solution: that of least
    norm where there are several. The intercept is not penalised.
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty
        self.coefficients = torch.zeros(0, dtype=torch.float64)

    def fit(self, train_data: Any) -> None:
        """Fits rows of presence, scores and weights, which Captum hands over as one batch of a loader."""
        ((presence, scores, weights),) = train_data
        z, y, w = (one.double().cpu().numpy() for one in (presence, scores, weights))
        root = np.sqrt(w)
        # Around the weighted means the intercept is 0; the penalty is N more rows that ask for c = 0.
        left = [
            root[:, None] * (z - np.average(z, 0, w)),
            np.sqrt(self.penalty) * np.eye(z.shape[1]),
        ]
        right = [root * (y - np.average(y, 0, w)), np.zeros(z.shape[1])]
        solution = np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)[0]
        self.coefficients = torch.from_numpy(solution)

    def representation(self) -> Float[Tensor, " N"]:
        """The coefficients."""
        return self.coefficients


def _thinned(everybody: Float[Tensor, "1 N"]) -> Iterator[Int[Tensor, "1 N"]]:
    """Everybody, then copies without 1 to N tokens: the size is uniform, and so is who goes, given the size."""
    presence = everybody.long()
    yield presence
    n = presence.shape[1]
    while True:
        size = int(torch.randint(1, n + 1, ()))
        copy = presence.clone()
        copy[0, torch.randperm(n)[:size].to(copy.device)] = 0
        yield copy


def _ablated(game: Game) -> Float[Tensor, "1 N"]:
    from captum.attr import FeatureAblation

    return _attributed(FeatureAblation(game), game)


def _attributed(explainer: Any, game: Game, **options: Any) -> Float[Tensor, "1 N"]:
    found: Tensor = explainer.attribute(
        game.everybody, perturbations_per_eval=game.rows_at_once, **options
    )
    return found.reshape(1, -1)


def _played(
    ctx: Context, name: str, baseline: str, solve: Callable[[Game], Float[Tensor, "1 N"]]
) -> Attribution:
    """Every example's game solved by itself, under its own seed."""
    path = ctx.path(baseline, "keep")
    scores = torch.zeros(ctx.batch.mask.shape, dtype=torch.float64)
    for example, text in enumerate(ctx.hashes):
        players = ctx.batch.attributable[example].nonzero()[:, 0]
        if len(players):
            with _seeded(seed_of(name, ctx.seed, text)):
                solved = solve(Game(ctx, path, example, players))
            scores[example, players.cpu()] = solved[0].double().cpu()
    return Attribution(scores, n_gradients=0)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Captum draws from the global generator of the CPU: seeded for the time, and put back where it was.

    Not by torch.manual_seed, which would seed the generators of all devices.
    """
    with PROCESS:
        before = torch.random.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            torch.random.set_rng_state(before)


class ScoreModule(nn.Module):
    """The explained score as a module around the model's own, on whose activations DeepLift sets its hooks."""

    def __init__(self, module: nn.Module, score: ScoreFn) -> None:
        super().__init__()
        self.module = module
        self.score = score

    def forward(
        self, embeddings: Float[Tensor, "R T D"], row_example: Int[Tensor, " R"]
    ) -> Float[Tensor, " R"]:
        """F at each row."""
        return self.score(embeddings, row_example)


@method(
    "product",
    only="captum",
    label="DeepLift",
    color="#8C6D31",
    own_gradient="it is computed by Captum, which has no backward rules",
    sums_to="F(x) - F(x') where all that is not linear has a rule, which no BERT of transformers does",
)
def deep_lift(ctx: Context, *, baseline: str, baseline_special_tokens: str) -> Values:
    """(x - x') ⊙ m, m the gradient with Δout / Δin in place of the slope (Shrikumar et al. 2017, rescale rule).

    Through `DeepLift`, which applies the rule to modules of the types ReLU, ELU, LeakyReLU, Sigmoid, Tanh, Softplus,
    max pooling and Softmax, and to nothing else. LayerNorm, products, functional softmax and GELU in any form keep
    their gradient at x. In a BERT of transformers that leaves the tanh of the pooler: all else is
    `input_baseline_x_gradient`, and Σ = F(x) - F(x') fails by what LayerNorm, attention and GELU bend.
    It is exact where all that is not linear is one of those modules between sums. x and x' go through the model
    side by side, backwards too: 2 gradients.

    Raises:
        InputError: the model calls one activation module in several places.
    """
    path = ctx.path(baseline, baseline_special_tokens)
    rows = torch.arange(len(ctx.batch), device=path.embeddings.device)
    model = ctx.references.model
    module = ScoreModule(model.module, ctx.score)
    width = 2 * path.embeddings.shape[1]  # of x and x'
    rows_at_once = max(1, ctx.token_budget // width)
    if any(type(one) is nn.Softmax for one in model.module.modules()):
        rows_at_once = 1  # Captum's rule for it takes a mean over the whole batch
    try:
        with _unmarked(model.module):
            found = [_lifted(module, path, chunk) for chunk in torch.split(rows, rows_at_once)]
    except RuntimeError as error:
        if "used more than once" not in str(error):
            raise
        raise InputError(
            f"deep_lift: expected every activation module of {model.name} to be called once in a forward pass, but "
            "one is called in several places, which Captum cannot tell apart. Use integrated_gradients."
        ) from error
    return Values(torch.cat(found), 2, ctx.path_difference(path))


def _lifted(
    module: ScoreModule, path: StraightPath, rows: Int[Tensor, " R"]
) -> Float[Tensor, "R T D"]:
    from captum.attr import DeepLift

    with PROCESS, warnings.catch_warnings():
        # It announces its hooks, which it removes, each time.
        warnings.filterwarnings("ignore", "Setting forward, backward hooks", UserWarning)
        found: Tensor = DeepLift(module).attribute(
            at_least_float32(path.embeddings[rows]).requires_grad_(),
            baselines=at_least_float32(path.reference[rows]),
            additional_forward_args=rows,
        )
    return found.detach()


@contextmanager
def _unmarked(root: nn.Module) -> Iterator[None]:
    """Afterwards modules have the attributes they had: DeepLift keeps tensors on those it did not come back to."""
    before = {module: dict(vars(module)) for module in root.modules()}
    try:
        yield
    finally:
        for module, attributes in before.items():
            for name in ("input", "output"):
                if name in attributes:
                    vars(module)[name] = attributes[name]
                else:
                    vars(module).pop(name, None)
