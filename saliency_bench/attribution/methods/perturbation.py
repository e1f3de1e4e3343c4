"""Captum's perturbation and rule-based methods, which only Captum has.

A perturbation method evaluates the model with only some tokens present. Captum does not get the model but a function of
presence: its input is a row of ones [1 N], one for each attributable token of an example, and its baseline is zeros.
Special tokens and padding are therefore no features, examples do not depend on each other, and random draws depend only
on method, seed and text. Captum computes occlusion, Shapley values and the surrogate models in float32, with a rounding
error of about 1e-7 of F(x). Captum is imported only when it is used.
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
    """F of one example with some of its attributable tokens present and the others at their baseline.

    `players` are the places of the attributable tokens, the players of a game in the sense of Shapley.
    """

    ctx: Context
    path: StraightPath
    example: int
    players: Int[Tensor, " N"]

    @torch.no_grad()
    def __call__(self, presence: Float[Tensor, "R N"]) -> Float[Tensor, " R"]:
        """F at each row of presence (1 for present, 0 for absent), in float64."""
        shape, device = (len(presence), self.path.embeddings.shape[1]), presence.device
        present = torch.ones(shape, dtype=torch.bool, device=device)
        present[:, self.players] = presence != 0
        points = torch.where(
            present[:, :, None],
            self.path.embeddings[self.example],
            self.path.reference[self.example],
        )
        rows = torch.full((len(presence),), self.example, device=device)
        return self.ctx.score(points, rows).double()

    @property
    def all_present(self) -> Float[Tensor, "1 N"]:
        """The row of presence of the input."""
        return torch.ones(1, len(self.players), dtype=torch.float64, device=self.players.device)

    @property
    def rows_at_once(self) -> int:
        """The number of rows of a pass within the token budget."""
        return max(1, self.ctx.token_budget // self.path.embeddings.shape[1])


@method("token", only="captum", label="Feature ablation", signed=True)
def feature_ablation(ctx: Context, *, baseline: str) -> Attribution:
    """F(x) - F(x with one token at its baseline): leave-one-out, by `FeatureAblation`."""
    return _played(ctx, "feature_ablation", baseline, _ablated)


@method("token", only="captum", label="Occlusion", signed=True)
def occlusion(ctx: Context, *, baseline: str, window: int) -> Attribution:
    """The mean of F(x) - F(x without a window) over the windows with the token (Zeiler & Fergus 2014).

    By `Occlusion` with stride 1. A window has `window` consecutive attributable tokens, not counting special tokens
    between them, or all of a shorter text. Tokens near an end are in fewer windows.
    """

    def occluded(game: Game) -> Float[Tensor, "1 N"]:
        from captum.attr import Occlusion

        shape = (min(window, len(game.players)),)
        return _attributed(Occlusion(game), game, sliding_window_shapes=shape, strides=1)

    return _played(ctx, "occlusion", baseline, occluded)


@method("token", only="captum", label="Shapley value sampling", signed=True)
def shapley_value_sampling(ctx: Context, *, baseline: str, n_samples: int) -> Attribution:
    """The mean change of F when the token joins those before it in a random order (Castro, Gómez & Tejada 2009).

    By `ShapleyValueSampling`: `n_samples` orders of the tokens, with one forward row for each token of each order. The
    changes of every order sum to F(x) - F(x'), and therefore the scores do.
    """

    def sampled(game: Game) -> Float[Tensor, "1 N"]:
        from captum.attr import ShapleyValueSampling

        return _attributed(ShapleyValueSampling(game), game, n_samples=n_samples)

    return _played(ctx, "shapley_value_sampling", baseline, sampled)


@method("token", only="captum", label="KernelSHAP", signed=True)
def kernel_shap(ctx: Context, *, baseline: str, n_samples: int) -> Attribution:
    """Shapley values by weighted least squares over random coalitions (Lundberg & Lee 2017, theorem 2).

    By `KernelShap`: `n_samples` forward rows, at x, at x', and at coalitions that are drawn in proportion to the Shapley
    kernel and have equal weights. x and x' have the weight 10⁶, so that the scores nearly sum to F(x) - F(x'). With fewer
    distinct coalitions than tokens, the solution of least norm is taken.
    """

    def fitted(game: Game) -> Float[Tensor, "1 N"]:
        from captum.attr import KernelShap

        if len(game.players) == 1:  # without a coalition between x and x' Captum divides by zero
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

    By `Lime`, with the choices of the authors' code for text instead of Captum's. The samples are x and `n_samples` - 1
    copies, each without a number of random tokens that is uniform from 1 to N. The weights are
    exp(-d² / 2 `kernel_width`²), d being the cosine distance of presences. The model is a ridge regression on all tokens
    with an intercept and `penalty` on the squared coefficients. Captum by default keeps every token with probability 1/2,
    and uses a width of 1 and a lasso.
    """

    def fitted(game: Game) -> Float[Tensor, "1 N"]:
        from captum.attr import Lime
        from captum.attr._core.lime import get_exp_kernel_similarity_function

        similarity = get_exp_kernel_similarity_function("cosine", kernel_width)
        copies = _thinned(game.all_present)
        explainer = Lime(
            game, LinearSurrogate(penalty), similarity, perturb_func=lambda *_, **__: next(copies)
        )
        return _attributed(explainer, game, n_samples=n_samples, return_input_shape=False)

    return _played(ctx, "lime", baseline, fitted)


class LinearSurrogate:
    """A linear model with the interface of Captum's surrogates: min_{b, c} Σ_i w_i (y_i - b - z_i c)² + penalty |c|².

    It replaces the models of scikit-learn that Captum uses by default, and has the same solution: the one of least norm if
    there are several. The intercept is not penalised.
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty
        self.coefficients = torch.zeros(0, dtype=torch.float64)

    def fit(self, train_data: Any) -> None:
        """Fits rows of presence, scores and weights, which Captum passes as one batch of a loader."""
        (batch,) = train_data
        z, y, w = (tensor.double().cpu().numpy() for tensor in batch)
        root = np.sqrt(w)
        # With weighted means of 0 the intercept is 0. The penalty is N more rows with the target c = 0.
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


def _thinned(all_present: Float[Tensor, "1 N"]) -> Iterator[Int[Tensor, "1 N"]]:
    """All tokens, then copies without some: their number is uniform from 1 to N, and so is the set of this size."""
    presence = all_present.long()
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
    scores: Tensor = explainer.attribute(
        game.all_present, perturbations_per_eval=game.rows_at_once, **options
    )
    return scores.reshape(1, -1)


def _played(
    ctx: Context, name: str, baseline: str, solve: Callable[[Game], Float[Tensor, "1 N"]]
) -> Attribution:
    """The solutions of the examples' games, each with a seed from the method's name, the seed and the text."""
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
    """Seeds the global generator of the CPU, from which Captum draws, and restores its state afterwards.

    torch.manual_seed is not used, since it would seed the generators of all devices.
    """
    with PROCESS:
        before = torch.random.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            torch.random.set_rng_state(before)


class ScoreModule(nn.Module):
    """The explained score as a module around the model, for DeepLift to set hooks on the activations."""

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
    no_rule="it is computed by Captum, which has no backward rules",
    sums_to="F(x) - F(x') if every nonlinear operation has a rule, which is not so in the BERT of transformers",
)
def deep_lift(ctx: Context, *, baseline: str, baseline_special_tokens: str) -> Values:
    """(x - x') ⊙ m, m the gradient with Δout / Δin in place of the slope (Shrikumar et al. 2017, rescale rule).

    By `DeepLift`, which applies the rule to modules of the types ReLU, ELU, LeakyReLU, Sigmoid, Tanh, Softplus, max
    pooling and Softmax only. LayerNorm, products, functional softmax and GELU keep their gradient at x. In a BERT of
    transformers only the tanh of the pooler has the rule, and all else is `input_baseline_x_gradient`, so that
    Σ = F(x) - F(x') does not hold. It holds if all nonlinear operations are such modules between sums. x and x' go
    through the model and back together, which counts as 2 gradients.

    Raises:
        InputError: the model calls one activation module in several places.
    """
    path = ctx.path(baseline, baseline_special_tokens)
    rows = torch.arange(len(ctx.batch), device=path.embeddings.device)
    model = ctx.references.model
    module = ScoreModule(model.module, ctx.score)
    width = 2 * path.embeddings.shape[1]  # of x and x'
    rows_at_once = max(1, ctx.token_budget // width)
    if any(type(part) is nn.Softmax for part in model.module.modules()):
        rows_at_once = 1  # Captum's rule for softmax takes a mean over the whole batch
    try:
        with _unmarked(model.module):
            parts = [_lifted(module, path, chunk) for chunk in torch.split(rows, rows_at_once)]
    except RuntimeError as error:
        if "used more than once" not in str(error):
            raise
        raise InputError(
            f"deep_lift: expected every activation module of {model.name} to be called once in a forward pass, but "
            "one is called in several places, which Captum cannot distinguish. Use integrated_gradients."
        ) from error
    return Values(torch.cat(parts), 2, ctx.path_difference(path))


def _lifted(
    module: ScoreModule, path: StraightPath, rows: Int[Tensor, " R"]
) -> Float[Tensor, "R T D"]:
    from captum.attr import DeepLift

    with PROCESS, warnings.catch_warnings():
        # DeepLift warns of its hooks at each call, but removes them.
        warnings.filterwarnings("ignore", "Setting forward, backward hooks", UserWarning)
        values: Tensor = DeepLift(module).attribute(
            at_least_float32(path.embeddings[rows]).requires_grad_(),
            baselines=at_least_float32(path.reference[rows]),
            additional_forward_args=rows,
        )
    return values.detach()


@contextmanager
def _unmarked(root: nn.Module) -> Iterator[None]:
    """Restores the attributes `input` and `output` of modules, which DeepLift leaves on modules without a backward pass."""
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
