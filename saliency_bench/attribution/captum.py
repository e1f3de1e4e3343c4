"""The same methods through Captum, with the same hyperparameters and the same noise: the reference.

Captum differentiates the same score function at the same embeddings, so that a difference between the two
backends is a difference between the two implementations. Captum is imported only when it is used.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.points import NoiseCloud
from saliency_bench.attribution.quadrature import quadrature as rule
from saliency_bench.attribution.reduction import reduce_scores
from saliency_bench.errors import unknown
from saliency_bench.registry import Registry
from saliency_bench.rows import Setting
from saliency_bench.types import Attribution

#: Values before the reduction, what they cost, and F(x) - F(x') where they should sum to it.
Result = tuple[Float[Tensor, "B T D"], int, Float[Tensor, " B"] | None]

METHODS: Registry[Any] = Registry("Captum method", "saliency_bench.captum_methods")

#: Our names of the rules that Captum has, and Captum's. Its trapezoid is not ours: see `quadrature`.
RULES = {
    "left": "riemann_left",
    "right": "riemann_right",
    "midpoint": "riemann_middle",
    "captum_riemann_trapezoid": "riemann_trapezoid",
    "gauss_legendre": "gausslegendre",
}


def attribute(ctx: Context, setting: Setting) -> Attribution:
    """One setting, computed by Captum and reduced as ours is."""
    values, cost, difference = METHODS[setting.method](ctx, **setting.hyper)
    values = values.detach()
    scores = reduce_scores(setting.reduction, values, ctx.embeddings, ctx.batch.mask)
    total = None if difference is None else values.double().sum((1, 2))
    return Attribution(scores, cost, total, difference)


def vanilla(ctx: Context) -> Result:
    """`Saliency(abs=False)`: its default takes absolute values per dimension, which is another method."""
    from captum.attr import Saliency

    return Saliency(ctx.score).attribute(**_inputs(ctx), abs=False), 1, None


def input_x_gradient(ctx: Context) -> Result:
    """`InputXGradient`."""
    from captum.attr import InputXGradient

    return InputXGradient(ctx.score).attribute(**_inputs(ctx)), 1, None


def smoothgrad(
    ctx: Context, *, n_samples: int, noise_std: float, noise_special_tokens: bool
) -> Result:
    """`NoiseTunnel(Saliency(abs=False))`, given our noise instead of its own draws."""
    from captum.attr import Saliency

    rows_at_once = max(1, ctx.token_budget // ctx.embeddings.shape[1])
    tunnel = _tunnel(Saliency(ctx.score), ctx.noise_cloud(noise_special_tokens))
    values = tunnel.attribute(
        **_inputs(ctx),
        nt_type="smoothgrad",
        nt_samples=n_samples,
        nt_samples_batch_size=max(1, min(n_samples, rows_at_once // len(ctx.batch))),
        stdevs=noise_std * ctx.embedding_std,
        abs=False,
    )
    return values, n_samples, None


def integrated_gradients(
    ctx: Context, *, baseline: str, baseline_special_tokens: str, n_steps: int, quadrature: str
) -> Result:
    """`IntegratedGradients` with the named rule."""
    from captum.attr import IntegratedGradients

    if quadrature not in RULES:
        raise unknown("quadrature of the captum backend", quadrature, list(RULES))
    path = ctx.path(baseline, baseline_special_tokens)
    values = IntegratedGradients(ctx.score).attribute(
        **_inputs(ctx),
        baselines=path.reference,
        n_steps=n_steps,
        method=RULES[quadrature],
        internal_batch_size=max(len(ctx.batch), ctx.token_budget // path.reference.shape[1]),
    )
    paid = sum(weight != 0 for weight in rule(quadrature, n_steps)[1])
    return values, paid, ctx.path_difference(path)


for _method in (vanilla, input_x_gradient, smoothgrad, integrated_gradients):
    METHODS.add(_method.__name__, _method)


def _inputs(ctx: Context) -> dict[str, Tensor]:
    """Embeddings that ask for a gradient, and each row's example, which Captum repeats along with them."""
    embeddings = ctx.embeddings.clone().requires_grad_()
    rows = torch.arange(len(ctx.batch), device=embeddings.device)
    return {"inputs": embeddings, "additional_forward_args": rows}


def _tunnel(inner: Any, cloud: NoiseCloud) -> Any:
    """Captum's NoiseTunnel, adding the samples of `cloud` in order in place of draws from the global generator."""
    from captum.attr import NoiseTunnel

    class SharedNoiseTunnel(NoiseTunnel):  # type: ignore[misc]
        drawn = 0

        def _add_noise_to_input(
            self, input: Tensor, stdev: float, nt_samples_partition: int
        ) -> Tensor:
            samples = range(self.drawn, self.drawn + nt_samples_partition)
            self.drawn += nt_samples_partition
            rows = torch.arange(len(input), device=input.device).repeat_interleave(len(samples))
            return cloud.at(rows, [(stdev, sample) for sample in samples] * len(input)).detach()

    return SharedNoiseTunnel(inner)
