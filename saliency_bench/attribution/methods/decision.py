"""Integrated Gradients weighted by how fast the output changes."""

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import GradientSum, method
from saliency_bench.attribution.quadrature import quadrature as rule
from saliency_bench.attribution.statistics import SLOPED


@method("product", label="Integrated Decision Gradients", family="integrated_gradients")
def idg(
    ctx: Context, *, baseline: str, baseline_special_tokens: str, n_steps: int, quadrature: str
) -> GradientSum:
    """(x - x') ⊙ ∫ ∇F(p) dF/dα dα, p = x' + α (x - x') (Walker et al. 2024).

    Gradients count where the output changes. dF/dα is ∇F(p) · (x - x'), exactly, so that the weights cost nothing; the
    authors' code takes differences of neighbouring outputs, and puts the nodes of a left sum where these are large. Here the
    integral is taken by any rule, and its gradients are those of `integrated_gradients` at the same nodes.

    It claims no completeness: Σ = ∫ (dF/dα)² dα, in the square of the output's unit, and never negative. The
    sign says whether a token moves with the output along the path, not for which class it speaks: F and -F have the same map.
    """
    path = ctx.path(baseline, baseline_special_tokens)
    nodes, weights = rule(quadrature, n_steps)
    return GradientSum(path, nodes, weights, SLOPED, path.embeddings - path.reference)
