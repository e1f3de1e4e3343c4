"""Methods without a path: the gradient, its average under noise, and both times the input."""

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import Expectation, GradientSum, method
from saliency_bench.attribution.noise import Draws, Noise, draw
from saliency_bench.attribution.points import Input
from saliency_bench.attribution.statistics import MEAN, SQUARE, VARIANCE, Moment


@method(
    "gradient",
    label="Vanilla gradient",
    family="vanilla",
    color="#E69F00",
    dot_twin="input_x_gradient",
    at_input=True,
    backward=True,
)
def vanilla(ctx: Context) -> GradientSum:
    """∇F(x) (Simonyan, Vedaldi & Zisserman 2014, section 3)."""
    return GradientSum(Input(ctx.embeddings), nodes=(1.0,), weights=(1.0,))


@method(
    "product",
    label="Gradient × input",
    family="input_x_gradient",
    color="#009E73",
    at_input=True,
    backward=True,
)
def input_x_gradient(ctx: Context) -> GradientSum:
    """X ⊙ ∇F(x) (Shrikumar et al. 2016, section 2)."""
    return GradientSum(
        Input(ctx.embeddings), nodes=(1.0,), weights=(1.0,), multiplier=ctx.embeddings
    )


@method(
    "product",
    label="Gradient × (input − baseline)",
    family="input_x_gradient",
    color="#66C2A5",
    at_input=True,
    backward=True,
)
def input_baseline_x_gradient(
    ctx: Context, *, baseline: str, baseline_special_tokens: str
) -> GradientSum:
    """(x - x') ⊙ ∇F(x): F(x) - F(x') to first order, token by token.

    It approximates Integrated Gradients and leave-one-out with the same baseline by one gradient, and does not claim
    completeness.
    """
    path = ctx.path(baseline, baseline_special_tokens)
    moved = path.embeddings - path.reference
    return GradientSum(Input(ctx.embeddings), nodes=(1.0,), weights=(1.0,), multiplier=moved)


@method(
    "gradient",
    label="SmoothGrad",
    family="smoothgrad",
    color="#CC79A7",
    dot_twin="smoothgrad_x_input",
    backward=True,
)
def smoothgrad(ctx: Context, *, draws: Draws, noise: Noise) -> Expectation:
    """E ∇F(x + ε), ε ~ N(0, σ² I) (Smilkov et al. 2017, section 3). The signed gradient is averaged."""
    return _noisy(ctx, draws, noise, MEAN)


@method("square", label="SmoothGrad-Squared", family="smoothgrad", color="#8E3B6C")
def smoothgrad_squared(ctx: Context, *, draws: Draws, noise: Noise) -> Expectation:
    """E (∇F(x + ε))², element by element, before any reduction (Hooker et al. 2019, section 3)."""
    return _noisy(ctx, draws, noise, SQUARE)


@method("square", label="VarGrad", family="smoothgrad", color="#E3B4D0")
def vargrad(ctx: Context, *, draws: Draws, noise: Noise) -> Expectation:
    """Var ∇F(x + ε), element by element, divided by n (Adebayo et al. 2018, section 2)."""
    return _noisy(ctx, draws, noise, VARIANCE)


@method("product", label="SmoothGrad × input", family="smoothgrad", color="#5A1E44", backward=True)
def smoothgrad_x_input(ctx: Context, *, draws: Draws, noise: Noise) -> Expectation:
    """X ⊙ E ∇F(x + ε): SmoothGrad times the input without noise."""
    plan = _noisy(ctx, draws, noise, MEAN)
    return Expectation(plan.points, plan.draws, plan.sample, multiplier=ctx.embeddings)


def _noisy(ctx: Context, draws: Draws, noise: Noise, moment: Moment) -> Expectation:
    cloud = ctx.noise_cloud(noise.noise_special_tokens)
    return Expectation(cloud, draws, lambda i: [(draw(draws, noise, i), 1.0)], moment)
