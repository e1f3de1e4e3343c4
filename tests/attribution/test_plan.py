"""What settings share is known before it is computed, and is what is then computed."""

import pytest
from tiny import token_inputs

from saliency_bench.api.arguments import settings_of
from saliency_bench.api.inputs import encode_all
from saliency_bench.attribution.explain import explain, plan
from saliency_bench.models.references import References
from saliency_bench.studies.block import open_block


@pytest.mark.parametrize(
    ("axes", "union", "largest"),
    [
        ({"n_steps": [2, 4, 8], "quadrature": "left"}, 8, 8),  # nested: the largest alone
        (
            {"n_steps": [2, 4, 8], "quadrature": "right"},
            7,
            7,
        ),  # its last point is the input, paid for
        ({"n_steps": [3, 5, 9], "quadrature": "clenshaw_curtis"}, 8, 8),
        ({"n_steps": [2, 4], "quadrature": "gauss_legendre"}, 6, 4),  # not nested: the sum
        (
            {"n_steps": [3, 5], "quadrature": "gauss_legendre"},
            7,
            5,
        ),  # but for the middle, which both have
    ],
)
def test_a_sweep_costs_the_union_of_its_points_and_the_plan_says_so(bert, axes, union, largest):
    given = axes | {"baseline": "zero"}
    with bert.frozen():
        options = {"backend": "native", "reduction": "l2", "seed": 0}
        settings = settings_of(bert, ["integrated_gradients"], given, "logit", 1, **options)
        block = open_block(
            References(bert), encode_all(bert, token_inputs(5, 5), None), "predicted", 64
        )
        context = block.context("logit", 0)
        (family,) = plan(context, settings).families
        assert (family.union, family.largest) == (union, largest)
        assert len(family.members) == len(settings)
        _ = context.clean_gradient  # is no family's
        before = context.engine.n_gradients
        explain(context, settings)
        assert context.engine.n_gradients - before == 2 * union
