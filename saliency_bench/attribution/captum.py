"""The same methods through Captum, with the same hyperparameters and the same noise: the reference.

Captum differentiates the same score function at the same embeddings, so that a difference between the two
backends is a difference between the two implementations. Captum is imported only when it is used.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import Values
from saliency_bench.attribution.methods.paths import STATISTICS
from saliency_bench.attribution.noise import Draws, Noise, draw
from saliency_bench.attribution.points import NoiseCloud
from saliency_bench.attribution.quadrature import quadrature as rule
from saliency_bench.errors import unknown
from saliency_bench.registry import Registry

METHODS: Registry[Any] = Registry("Captum method", "saliency_bench.captum_methods")

BACKENDS: Mapping[str, Registry[Any]] = {"captum": METHODS}

#: Our names of the rules that Captum has, and Captum's. Its trapezoid is not ours: see `quadrature`.
RULES = {
    "left": "riemann_left",
    "right": "riemann_right",
    "midpoint": "riemann_middle",
    "captum_riemann_trapezoid": "riemann_trapezoid",
    "gauss_legendre": "gausslegendre",
}

#: Our names of what a noise tunnel takes of its samples, and Captum's.
TUNNELS = {"mean": "smoothgrad", "square": "smoothgrad_sq", "variance": "vargrad"}


def vanilla(ctx: Context) -> Values:
    """`Saliency(abs=False)`: its default takes absolute values per dimension, which is another method."""
    from captum.attr import Saliency

    return Values(Saliency(ctx.score).attribute(**_inputs(ctx), abs=False), 1)


def input_x_gradient(ctx: Context) -> Values:
    """`InputXGradient`."""
    from captum.attr import InputXGradient

    return Values(InputXGradient(ctx.score).attribute(**_inputs(ctx)), 1)


def input_baseline_x_gradient(
    ctx: Context, *, baseline: str, baseline_special_tokens: str
) -> Values:
    """`IntegratedGradients` with one step of the right rule, whose one node is the input."""
    from captum.attr import IntegratedGradients

    path = ctx.path(baseline, baseline_special_tokens)
    values = IntegratedGradients(ctx.score).attribute(
        **_inputs(ctx), baselines=path.reference, n_steps=1, method="riemann_right"
    )
    return Values(values, 1)


def smoothgrad(ctx: Context, *, draws: Draws, noise: Noise) -> Values:
    """`NoiseTunnel(Saliency(abs=False), "smoothgrad")`, given our noise instead of its own draws."""
    return _noisy_saliency(ctx, draws, noise, "mean")


def smoothgrad_squared(ctx: Context, *, draws: Draws, noise: Noise) -> Values:
    """`NoiseTunnel(Saliency, "smoothgrad_sq")`."""
    return _noisy_saliency(ctx, draws, noise, "square")


def vargrad(ctx: Context, *, draws: Draws, noise: Noise) -> Values:
    """`NoiseTunnel(Saliency(abs=False), "vargrad")`: E g² - (E g)², which cancels."""
    return _noisy_saliency(ctx, draws, noise, "variance")


def smoothgrad_x_input(ctx: Context, *, draws: Draws, noise: Noise) -> Values:
    """`smoothgrad` times the input; Captum's tunnel around `InputXGradient` would multiply noisy inputs in."""
    values = _noisy_saliency(ctx, draws, noise, "mean").values
    return Values(values * ctx.embeddings, draws.n)


def integrated_gradients(
    ctx: Context, *, baseline: str, baseline_special_tokens: str, n_steps: int, quadrature: str
) -> Values:
    """`IntegratedGradients` with the named rule."""
    from captum.attr import IntegratedGradients

    path = ctx.path(baseline, baseline_special_tokens)
    values = IntegratedGradients(ctx.score).attribute(
        **_inputs(ctx),
        baselines=path.reference,
        n_steps=n_steps,
        method=_rule(quadrature),
        internal_batch_size=_rows_at_once(ctx),
    )
    return Values(values, _paid(quadrature, n_steps), ctx.path_difference(path))


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
) -> Values:
    """`NoiseTunnel(IntegratedGradients)`; it expands all steps of a sample at once."""
    from captum.attr import IntegratedGradients

    if statistic not in STATISTICS:
        raise unknown("statistic", statistic, list(STATISTICS))
    path = ctx.path(baseline, baseline_special_tokens)
    tunnel = _tunnel(IntegratedGradients(ctx.score), ctx, draws, noise)
    values = tunnel.attribute(
        **_inputs(ctx),
        nt_type=TUNNELS[statistic],
        nt_samples=draws.n,
        nt_samples_batch_size=1,
        baselines=path.reference,
        n_steps=n_steps,
        method=_rule(quadrature),
        internal_batch_size=_rows_at_once(ctx),
    )
    return Values(values, draws.n * _paid(quadrature, n_steps))


for _method in (
    vanilla,
    input_x_gradient,
    input_baseline_x_gradient,
    smoothgrad,
    smoothgrad_squared,
    vargrad,
    smoothgrad_x_input,
    integrated_gradients,
    smooth_integrated_gradients,
):
    METHODS.add(_method.__name__, _method)


def _rule(quadrature: str) -> str:
    if quadrature not in RULES:
        raise unknown("quadrature of the captum backend", quadrature, list(RULES))
    return RULES[quadrature]


def _paid(quadrature: str, n_steps: int) -> int:
    return sum(weight != 0 for weight in rule(quadrature, n_steps)[1])


def _rows_at_once(ctx: Context) -> int:
    """What our token budget comes to in Captum's unit; it never takes less than one row per example."""
    return max(len(ctx.batch), ctx.token_budget // ctx.embeddings.shape[1])


def _noisy_saliency(ctx: Context, draws: Draws, noise: Noise, statistic: str) -> Values:
    from captum.attr import Saliency

    values = _tunnel(Saliency(ctx.score), ctx, draws, noise).attribute(
        **_inputs(ctx),
        nt_type=TUNNELS[statistic],
        nt_samples=draws.n,
        nt_samples_batch_size=max(1, min(draws.n, _rows_at_once(ctx) // len(ctx.batch))),
        abs=False,
    )
    return Values(values, draws.n)


def _inputs(ctx: Context) -> dict[str, Tensor]:
    """Embeddings that ask for a gradient, and each row's example, which Captum repeats along with them."""
    embeddings = ctx.embeddings.clone().requires_grad_()
    rows = torch.arange(len(ctx.batch), device=embeddings.device)
    return {"inputs": embeddings, "additional_forward_args": rows}


def _tunnel(inner: Any, ctx: Context, draws: Draws, noise: Noise) -> Any:
    """Captum's NoiseTunnel, adding our samples in order in place of draws from the global generator."""
    from captum.attr import NoiseTunnel

    cloud: NoiseCloud = ctx.noise_cloud(noise.noise_special_tokens)

    class SharedNoiseTunnel(NoiseTunnel):  # type: ignore[misc]
        drawn = 0

        def _add_noise_to_input(
            self, input: Tensor, stdev: float, nt_samples_partition: int
        ) -> Tensor:
            samples = range(self.drawn, self.drawn + nt_samples_partition)
            self.drawn += nt_samples_partition
            rows = torch.arange(len(input), device=input.device).repeat_interleave(len(samples))
            nodes = [draw(draws, noise, sample) for sample in samples] * len(input)
            return cloud.at(rows, nodes).detach()

    return SharedNoiseTunnel(inner)
