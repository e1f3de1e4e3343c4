"""Integrated Gradients weighted by the slope of the output along the path."""

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import GradientSum, method
from saliency_bench.attribution.quadrature import quadrature as rule
from saliency_bench.attribution.statistics import SLOPED


@method("product", label="Integrated Decision Gradients", family="integrated_gradients")
def idg(
    ctx: Context, *, baseline: str, baseline_special_tokens: str, n_steps: int, quadrature: str
) -> GradientSum:
    """(x - x') ⊙ ∫ ∇F(p) dF/dα dα, p = x' + α (x - x') (Walker et al. 2024).

    Gradients count in proportion to the change of the output. dF/dα is exactly ∇F(p) · (x - x'), so that the weights need
    no further gradient. The authors' code takes differences of neighbouring outputs instead, and a left sum with nodes
    where these are large. Here the integral is taken by any rule, with the gradients of `integrated_gradients` at its
    nodes.

    It does not claim completeness: Σ = ∫ (dF/dα)² dα, in the square of the output's unit, which is never negative. A
    positive score means that the token changes the output in the direction in which it changes along the path. It does not
    mean that the token supports the class: F and -F have the same map.
    """
    path = ctx.path(baseline, baseline_special_tokens)
    nodes, weights = rule(quadrature, n_steps)
    return GradientSum(path, nodes, weights, SLOPED, path.embeddings - path.reference)
