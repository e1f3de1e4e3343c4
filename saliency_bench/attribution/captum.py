"""The same methods through Captum, with the same hyperparameters and the same random draws, as a reference.

Captum differentiates the same score function at the same embeddings, so that a difference between the two backends is a
difference between the two implementations. The backend `captum` passes embeddings to Captum; `captum_layer` passes token
ids and the embedding layer. Captum is imported only when it is used.

Captum draws noise, references and positions from the global generators of torch and numpy. Here it receives our draws
instead, so that no global generator is read or changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods import paths
from saliency_bench.attribution.methods.base import Expectation, Values
from saliency_bench.attribution.noise import Draws, Noise, draw
from saliency_bench.attribution.points import Draw, NoiseCloud, RandomPaths
from saliency_bench.attribution.quadrature import quadrature as rule
from saliency_bench.core.errors import InputError
from saliency_bench.core.registry import Registry
from saliency_bench.core.tensors import at_least_float32
from saliency_bench.models.references import TOKENS
from saliency_bench.models.threads import PROCESS

METHODS: Registry[Any] = Registry("Captum method", "saliency_bench.captum_methods")
#: The module `captum_layer` registers ours.
LAYER_METHODS: Registry[Any] = Registry(
    "Captum layer method", "saliency_bench.captum_layer_methods", "saliency_bench.attribution"
)

BACKENDS: Mapping[str, Registry[Any]] = {"captum": METHODS, "captum_layer": LAYER_METHODS}
#: The names of the backends in text.
LABELS = {"captum": "Captum", "captum_layer": "Captum (layer)"}

#: Captum's names of quadrature rules, by ours. Its trapezoid has other weights than ours: see `quadrature`.
RULES = {
    "left": "riemann_left",
    "right": "riemann_right",
    "midpoint": "riemann_middle",
    "captum_riemann_trapezoid": "riemann_trapezoid",
    "gauss_legendre": "gausslegendre",
}

#: Captum's names of the statistics of a noise tunnel, by ours.
TUNNELS = {"mean": "smoothgrad", "square": "smoothgrad_sq", "variance": "vargrad"}


@METHODS.register
def vanilla(ctx: Context) -> Values:
    """`Saliency(abs=False)`; the default takes absolute values per dimension, which is another method."""
    from captum.attr import Saliency

    return Values(Saliency(ctx.score).attribute(**inputs(ctx), abs=False), 1)


@METHODS.register
def input_x_gradient(ctx: Context) -> Values:
    """`InputXGradient`."""
    from captum.attr import InputXGradient

    return Values(InputXGradient(ctx.score).attribute(**inputs(ctx)), 1)


@METHODS.register
def input_baseline_x_gradient(
    ctx: Context, *, baseline: str, baseline_special_tokens: str
) -> Values:
    """`InputBaselineXGradient`, the class that `GradientShap` averages, with the input as its random position.

    `IntegratedGradients` with one step at the input would be the same, but Captum's Riemann rules refuse one step.
    """
    from captum.attr._core import gradient_shap as module

    path = ctx.path(baseline, baseline_special_tokens)
    with standing_in(module, np=_numpy_that_draws([1.0] * len(ctx.batch))):
        values = module.InputBaselineXGradient(ctx.score).attribute(
            **inputs(ctx), baselines=at_least_float32(path.reference)
        )
    return Values(values, 1)


@METHODS.register
def smoothgrad(ctx: Context, *, draws: Draws, noise: Noise) -> Values:
    """`NoiseTunnel(Saliency(abs=False), "smoothgrad")` with our noise."""
    return _noisy_saliency(ctx, draws, noise, "mean")


@METHODS.register
def smoothgrad_squared(ctx: Context, *, draws: Draws, noise: Noise) -> Values:
    """`NoiseTunnel(Saliency, "smoothgrad_sq")`."""
    return _noisy_saliency(ctx, draws, noise, "square")


@METHODS.register
def vargrad(ctx: Context, *, draws: Draws, noise: Noise) -> Values:
    """`NoiseTunnel(Saliency(abs=False), "vargrad")`: E g² - (E g)², in which digits cancel."""
    return _noisy_saliency(ctx, draws, noise, "variance")


@METHODS.register
def smoothgrad_x_input(ctx: Context, *, draws: Draws, noise: Noise) -> Values:
    """`smoothgrad` times the input; a noise tunnel around `InputXGradient` would multiply by noisy inputs."""
    values = _noisy_saliency(ctx, draws, noise, "mean").values
    return Values(values * ctx.embeddings, draws.n)


@METHODS.register
def integrated_gradients(
    ctx: Context, *, baseline: str, baseline_special_tokens: str, n_steps: int, quadrature: str
) -> Values:
    """`IntegratedGradients` with the named rule."""
    from captum.attr import IntegratedGradients

    path = ctx.path(baseline, baseline_special_tokens)
    values = IntegratedGradients(ctx.score).attribute(
        **inputs(ctx),
        baselines=at_least_float32(path.reference),
        **steps(ctx, quadrature, n_steps),
    )
    return Values(values, paid(quadrature, n_steps), ctx.path_difference(path))


@METHODS.register
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
    """`NoiseTunnel(IntegratedGradients)`, one sample with all its steps at a time."""
    from captum.attr import IntegratedGradients

    path = ctx.path(baseline, baseline_special_tokens)
    tunnel = _tunnel(IntegratedGradients(ctx.score), ctx, draws, noise)
    values = tunnel.attribute(
        **inputs(ctx),
        nt_type=TUNNELS[statistic],
        nt_samples=draws.n,
        nt_samples_batch_size=1,
        baselines=at_least_float32(path.reference),
        **steps(ctx, quadrature, n_steps),
    )
    return Values(values, draws.n * paid(quadrature, n_steps))


@METHODS.register
def expected_gradients(
    ctx: Context, *, references: str, baseline_special_tokens: str, draws: Draws
) -> Values:
    """`GradientShap` without noise, with our references and positions."""
    plan = paths.expected_gradients(
        ctx, references=references, baseline_special_tokens=baseline_special_tokens, draws=draws
    )
    return _gradient_shap(ctx, plan)


@METHODS.register
def gradient_shap(
    ctx: Context, *, references: str, baseline_special_tokens: str, draws: Draws, noise: Noise
) -> Values:
    """`GradientShap` with our references, positions and noise."""
    plan = paths.gradient_shap(
        ctx,
        references=references,
        baseline_special_tokens=baseline_special_tokens,
        draws=draws,
        noise=noise,
    )
    return _gradient_shap(ctx, plan)


def lacks(backend: str, hyper: Mapping[str, Any]) -> str | None:
    """The reason for which a backend of Captum cannot compute these hyperparameters, and a remedy; None if it can."""
    quadrature, baseline = hyper.get("quadrature"), hyper.get("baseline")
    if quadrature is not None and quadrature not in RULES:
        return (
            f"quadrature={quadrature}: the {backend} backend has {', '.join(RULES)}. Use one of them, "
            "or set `backend: [native]` in this entry."
        )
    if quadrature not in (None, "gauss_legendre") and hyper["n_steps"] == 1:
        return (
            f"n_steps=1: the {backend} backend takes at least 2 steps of quadrature={quadrature}. "
            "Use more, or gauss_legendre, or `backend: [native]`."
        )
    if backend == "captum_layer" and baseline is not None and baseline not in TOKENS:
        return (
            f"baseline={baseline}: the captum_layer backend starts from token ids: expected one of {', '.join(TOKENS)} "
            "that the tokenizer has. Use one of them, or `backend: [captum]`."
        )
    return None


def rounded_rule(quadrature: str, n_steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of a rule as Captum uses them: it rounds Riemann nodes and all weights to float32."""
    from captum.attr._utils.approximation_methods import approximation_parameters

    weights, nodes = approximation_parameters(RULES[quadrature])
    return tuple(nodes(n_steps)), tuple(torch.tensor(weights(n_steps)).float().tolist())


def refuse(reason: str | None) -> None:
    """Raises an InputError for a reason, if there is one."""
    if reason is not None:
        raise InputError(reason)


def steps(ctx: Context, quadrature: str, n_steps: int) -> dict[str, Any]:
    """Captum's arguments for a rule, its steps, and the number of rows in a pass.

    Raises:
        InputError: Captum has no such rule, or not with so few steps.
    """
    refuse(lacks("captum", {"quadrature": quadrature, "n_steps": n_steps}))
    return {
        "n_steps": n_steps,
        "method": RULES[quadrature],
        "internal_batch_size": _rows_at_once(ctx),
    }


def paid(quadrature: str, n_steps: int) -> int:
    """The number of gradients of a rule for each text: nodes with weight 0 cost none."""
    return sum(weight != 0 for weight in rule(quadrature, n_steps)[1])


def _rows_at_once(ctx: Context) -> int:
    """The rows of a pass within the token budget; Captum needs at least one row per example."""
    return max(len(ctx.batch), ctx.token_budget // ctx.embeddings.shape[1])


def _noisy_saliency(ctx: Context, draws: Draws, noise: Noise, statistic: str) -> Values:
    from captum.attr import Saliency

    values = _tunnel(Saliency(ctx.score), ctx, draws, noise).attribute(
        **inputs(ctx),
        nt_type=TUNNELS[statistic],
        nt_samples=draws.n,
        nt_samples_batch_size=max(1, min(draws.n, _rows_at_once(ctx) // len(ctx.batch))),
        abs=False,
    )
    return Values(values, draws.n)


def inputs(ctx: Context) -> dict[str, Tensor]:
    """Embeddings that require a gradient, and the example of each row, which Captum repeats together with them."""
    embeddings = at_least_float32(ctx.embeddings).clone().requires_grad_()
    rows = torch.arange(len(ctx.batch), device=embeddings.device)
    return {"inputs": embeddings, "additional_forward_args": rows}


def _tunnel(inner: Any, ctx: Context, draws: Draws, noise: Noise) -> Any:
    """Captum's NoiseTunnel with our samples in place of draws from the global generator."""
    cloud = ctx.noise_cloud(noise.noise_special_tokens)
    return _shared_tunnel(cloud, [draw(draws, noise, sample) for sample in range(draws.n)])(inner)


def _shared_tunnel(cloud: NoiseCloud, nodes: Sequence[Draw]) -> type[Any]:
    """A NoiseTunnel that takes its noisy inputs from a cloud, and one baseline for each row.

    Captum sorts rows by example and then by sample.
    """
    from captum.attr import NoiseTunnel

    class SharedNoiseTunnel(NoiseTunnel):  # type: ignore[misc]
        n_used = 0

        def _add_noise_to_input(
            self, input: Tensor, stdev: float, nt_samples_partition: int
        ) -> Tensor:
            chunk = nodes[self.n_used : self.n_used + nt_samples_partition]
            self.n_used += nt_samples_partition
            return at_least_float32(cloud.at(*_rows(len(input), chunk)).detach())

        @staticmethod
        def _expand_partial(
            nt_samples_partition: int, kwargs_partial: dict[str, Any], inputs: Any, draws: bool
        ) -> None:
            # With `draws` Captum would draw a baseline for each row, but each row has one already.
            baselines = {"baselines": kwargs_partial.pop("baselines")} if draws else {}
            NoiseTunnel._expand_partial(nt_samples_partition, kwargs_partial, inputs, draws)
            kwargs_partial |= baselines

    return SharedNoiseTunnel


def _gradient_shap(ctx: Context, plan: object) -> Values:
    """`GradientShap` at the random points of our plan, a few samples at a time."""
    assert isinstance(plan, Expectation)
    points = plan.points
    assert isinstance(points, RandomPaths)
    nodes = [node for sample in range(plan.draws.n) for node, _ in plan.sample(sample)]
    at_once = max(1, _rows_at_once(ctx) // len(ctx.batch))
    total = torch.zeros_like(at_least_float32(ctx.embeddings))
    for start in range(0, len(nodes), at_once):
        chunk = nodes[start : start + at_once]
        total += len(chunk) * _gradient_shap_of(ctx, points, chunk)
    return Values(total / len(nodes), len(nodes))


def _gradient_shap_of(
    ctx: Context, points: RandomPaths, nodes: Sequence[Draw]
) -> Float[Tensor, "B T D"]:
    """The mean over these samples. Captum's module gets our tunnel and our numbers in place of NoiseTunnel and numpy."""
    from captum.attr._core import gradient_shap as module

    rows, nodes_of_rows = _rows(len(ctx.batch), nodes)
    numbers = [node.number for node in nodes_of_rows]
    starts = at_least_float32(points.reference(rows.tolist(), numbers))
    tunnel = _shared_tunnel(points.cloud, nodes)
    positions = _numpy_that_draws(points.positions(rows, nodes_of_rows))
    with standing_in(module, NoiseTunnel=tunnel, np=positions):
        values: Tensor = module.GradientShap(ctx.score).attribute(
            **inputs(ctx), baselines=starts, n_samples=len(nodes)
        )
    return values


def _rows(n_examples: int, nodes: Sequence[Draw]) -> tuple[Int[Tensor, " R"], list[Draw]]:
    """Every pair of an example and a node in Captum's order: by example, then by node."""
    return torch.arange(n_examples).repeat_interleave(len(nodes)), [*nodes] * n_examples


def _numpy_that_draws(values: Sequence[float]) -> SimpleNamespace:
    """A stand-in for numpy in GradientShap, which only calls `random.uniform`: it returns these values."""

    def uniform(low: float, high: float, size: int) -> Float[np.ndarray, " R"]:
        return np.array(values).reshape(size)

    return SimpleNamespace(random=SimpleNamespace(uniform=uniform))


@contextmanager
def standing_in(module: ModuleType, **names: Any) -> Iterator[None]:
    """Replaces names of a module while the context is open; other threads wait until they may replace names too."""
    with PROCESS:
        before = {name: getattr(module, name) for name in names}
        try:
            for name, value in names.items():
                setattr(module, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(module, name, value)
