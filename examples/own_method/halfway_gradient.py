"""A method of one's own: the gradient halfway between the baseline and the text, times the way between them."""

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods import method
from saliency_bench.attribution.methods.base import GradientSum


@method("product", label="Halfway gradient")
def halfway_gradient(ctx: Context, *, baseline: str) -> GradientSum:
    """Integrated Gradients with one step, the midpoint: (x - x') ⊙ ∇F((x + x') / 2).

    Args:
        ctx: the texts and the model.
        baseline: x', see `saliency-bench info mask`.
    """
    path = ctx.path(baseline, "keep")
    way = path.embeddings - path.reference
    return GradientSum(path, nodes=[0.5], weights=[1.0], multiplier=way)
