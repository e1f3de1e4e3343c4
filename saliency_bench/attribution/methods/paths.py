"""Methods that integrate the gradient along a path from a baseline to the input."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution import baselines
from saliency_bench.attribution.adaptive import integrate
from saliency_bench.attribution.calibration import density_of
from saliency_bench.attribution.context import Context
from saliency_bench.attribution.density import calibrated_rule
from saliency_bench.attribution.methods.base import Expectation, GradientSum, Values, method
from saliency_bench.attribution.noise import Draws, Noise, draw
from saliency_bench.attribution.points import NoisyPaths, RandomPaths, SingleTokenPaths
from saliency_bench.attribution.quadrature import CALIBRATED, whole
from saliency_bench.attribution.quadrature import quadrature as rule
from saliency_bench.attribution.statistics import MEAN, PRODUCT, SQUARE, VARIANCE
from saliency_bench.core.tensors import Attribution

#: The statistics of the noisy copies' integrated gradients, by name; None is their mean.
STATISTICS = {"mean": None, "square": SQUARE, "variance": VARIANCE}


@method(
    "product",
    label="Integrated Gradients",
    family="integrated_gradients",
    color="#0072B2",
    limit="integrated_gradients",
    calibrated=True,
    backward=True,
    sums_to="F(x) - F(x') in the limit of many steps",
)
def integrated_gradients(
    ctx: Context, *, baseline: str, baseline_special_tokens: str, n_steps: int, quadrature: str
) -> GradientSum:
    """(x - x') ⊙ ∫ ∇F(x' + α (x - x')) dα (Sundararajan, Taly & Yan 2017, eq. 1)."""
    path = ctx.path(baseline, baseline_special_tokens)
    nodes, weights = _rule(ctx, baseline, baseline_special_tokens, quadrature, n_steps)
    moved = path.embeddings - path.reference
    return GradientSum(path, nodes, weights, MEAN, moved, ctx.path_difference(path))


def _rule(
    ctx: Context, baseline: str, special_tokens: str, quadrature: str, n_steps: int
) -> tuple[Sequence[float], Sequence[float]]:
    if whole(quadrature) != CALIBRATED:
        return rule(quadrature, n_steps)
    density = density_of(ctx, baseline, special_tokens)
    nodes, weights = calibrated_rule(density, n_steps, half=quadrature != CALIBRATED)
    return nodes.tolist(), weights.tolist()


@method(
    "token",
    only="native",
    label="Integrated Gradients (adaptive)",
    family="integrated_gradients",
    color="#56B4E9",
    signed=True,
    limit="integrated_gradients",
    no_rule="it estimates its error from differences of F, to which a rule's gradient does not sum",
    sums_to="F(x) - F(x') within the tolerance where it has converged",
)
def integrated_gradients_adaptive(
    ctx: Context, *, baseline: str, baseline_special_tokens: str, tolerance: float, max_steps: int
) -> Attribution:
    """Integrated Gradients, summed per token, to a stated accuracy, with as many points as each example needs.

    `tolerance` bounds the estimate of the largest token error and the completeness gap, both in units of the text's
    largest score. An example that needs more than `max_steps` points is marked as not converged, with the reason. The
    error is estimated: on nets with known integrals about one converged map in 250 had an error above a tolerance of 1 %,
    on the bundled classifier none of 200. See `adaptive`.
    """
    path = ctx.path(baseline, baseline_special_tokens)
    density = density_of(ctx, baseline, baseline_special_tokens)
    return integrate(ctx, path, density, tolerance, max_steps)


@method(
    "product",
    label="SmoothGrad of Integrated Gradients",
    family="integrated_gradients",
    color="#6BAED6",
    sums_to="E F(x + ε) - F(x') with statistic=mean, in the limit of many steps",
    backward=True,
)
def smooth_integrated_gradients(
    ctx: Context,
    *,
    baseline: str,
    baseline_special_tokens: str,
    n_steps: int,
    quadrature: str,
    draws: Draws,
    noise: Noise,
    statistic: str,
) -> Expectation:
    """Integrated Gradients of noisy copies x + ε from one baseline: their mean, mean square or variance.

    Smilkov et al. 2017 (section 4.3) on Sundararajan et al. 2017; Captum's NoiseTunnel(IntegratedGradients). Each copy has
    its own path and displacement. The mean claims Σ = E F(x + ε) - F(x').
    """
    points = NoisyPaths(
        ctx.path(baseline, baseline_special_tokens), ctx.noise_cloud(noise.noise_special_tokens)
    )
    nodes, weights = rule(quadrature, n_steps)
    complete = statistic == "mean" and not draws.auto
    return Expectation(
        points,
        draws,
        lambda i: [
            ((draw(draws, noise, i), node), weight)
            for node, weight in zip(nodes, weights, strict=True)
        ],
        PRODUCT,
        across=STATISTICS[statistic],
        difference=_noisy_difference(ctx, points, draws, noise) if complete else None,
    )


def _noisy_difference(
    ctx: Context, points: NoisyPaths, draws: Draws, noise: Noise
) -> Float[Tensor, " B"]:
    """The mean of F at the noisy copies, minus F(x')."""
    ends = [ctx.scores_at(points.cloud, draw(draws, noise, i)) for i in range(draws.n)]
    return torch.stack(ends).mean(0) - ctx.reference_score(points.path)


@method(
    "product",
    label="Sequential Integrated Gradients",
    family="integrated_gradients",
    color="#444444",
    backward=True,
)
def sequential_integrated_gradients(
    ctx: Context, *, baseline: str, baseline_special_tokens: str, n_steps: int, quadrature: str
) -> GradientSum:
    """Integrated Gradients of one token at a time, with the others at their input (Enguehard 2023, eq. 3).

    A token's score is F(x) - F(x with the token at its baseline) up to quadrature, which is leave-one-out, at the cost of
    n gradients instead of one forward pass. The paper divides the scores of a text by their norm; here they are not
    divided.
    """
    path = ctx.path(baseline, baseline_special_tokens)
    moves = (path.embeddings != path.reference).any(-1).cpu()
    points = SingleTokenPaths(path, moves)
    nodes, weights = rule(quadrature, n_steps)
    pairs = [
        ((token, node), weight)
        for token in range(moves.shape[1])
        for node, weight in zip(nodes, weights, strict=True)
    ]
    return GradientSum(points, [node for node, _ in pairs], [w for _, w in pairs], PRODUCT)


@method(
    "product",
    label="Expected Gradients",
    family="integrated_gradients",
    color="#08306B",
    backward=True,
)
def expected_gradients(
    ctx: Context, *, references: str, baseline_special_tokens: str, draws: Draws
) -> Expectation:
    """E (x - x') ⊙ ∇F(x' + α (x - x')) over random x' and α ~ U(0, 1) (Erion et al. 2021, eq. 2).

    Its sum is F(x) - E F(x') in expectation only, so that it does not claim completeness.
    """
    return _random_paths(ctx, references, baseline_special_tokens, draws, None)


@method(
    "product",
    label="GradientSHAP",
    family="integrated_gradients",
    color="#4292C6",
    backward=True,
)
def gradient_shap(
    ctx: Context, *, references: str, baseline_special_tokens: str, draws: Draws, noise: Noise
) -> Expectation:
    """Expected Gradients of noisy copies of the input, called GradientShap by Captum (Lundberg & Lee 2017)."""
    return _random_paths(ctx, references, baseline_special_tokens, draws, noise)


def _random_paths(
    ctx: Context, references: str, special_tokens: str, draws: Draws, noise: Noise | None
) -> Expectation:
    cloud = ctx.noise_cloud(noise is not None and noise.noise_special_tokens)
    points = RandomPaths(
        cloud,
        f"{references}/{special_tokens}",
        baselines.random_reference(ctx, references, special_tokens),
    )
    return Expectation(points, draws, lambda i: [(draw(draws, noise, i), 1.0)], PRODUCT)


@method(
    "product",
    label="IDGI",
    family="integrated_gradients",
    color="#7A5195",
    no_rule="it distributes differences of F in proportion to squared gradients of F",
    sums_to="F(x) - F(x') at any number of steps",
)
def idgi(ctx: Context, *, baseline: str, baseline_special_tokens: str, n_steps: int) -> Values:
    """Σ_k (F_{k+1} - F_k) g_k² / |g_k|², F_k and g_k at k/n on the path (Yang, Wang & Bilgic 2023, algorithm 1).

    Its sum is F(x) - F(x') at any number of steps, because the differences telescope. Only tokens that move get a share. A
    step with a gradient of 0 contributes nothing.
    """
    path = ctx.path(baseline, baseline_special_tokens)
    nodes = [k / n_steps for k in range(n_steps)]
    dtype = torch.promote_types(ctx.embeddings.dtype, torch.float32)
    values = torch.zeros(ctx.embeddings.shape, dtype=dtype, device=ctx.embeddings.device)
    moves = (path.embeddings != path.reference).any(-1, keepdim=True)
    last_steps: dict[int, tuple[Tensor, Tensor]] = {}  # by example, shares and score
    for rows in ctx.engine.rows(path, nodes, ctx.clean):
        gradients = rows.gradients.to(dtype) * moves[rows.row_example]
        # Scaled first, so that squares of small gradients do not underflow; only ratios are used.
        largest = gradients.abs().amax((1, 2), keepdim=True)
        squares = (gradients / largest.clamp_min(torch.finfo(dtype).tiny)).square()
        total = squares.sum((1, 2), keepdim=True)
        shares = torch.where(total > 0, squares / total.clamp_min(torch.finfo(dtype).tiny), 0.0)
        for row, example in enumerate(rows.examples):
            if example in last_steps:
                share, score = last_steps[example]
                values[example] += share * (rows.scores[row] - score)
            last_steps[example] = shares[row], rows.scores[row]
    for example, (share, score) in last_steps.items():
        values[example] += share * (ctx.clean_score[example] - score)
    return Values(values, n_steps, ctx.path_difference(path))
