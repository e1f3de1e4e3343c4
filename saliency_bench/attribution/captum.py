"""The same methods through Captum, with the same hyperparameters and the same random draws: the reference.

Captum differentiates the same score function at the same embeddings, so that a difference between the two
backends is a difference between the two implementations. `captum` gives Captum the embeddings as its inputs;
`captum_layer` gives it token ids and names the embedding layer. Captum is imported only when it is used.

Captum draws noise, references and positions from the global generators of torch and numpy. Here it is handed ours in
their place, so that nothing global is read or moved.
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
#: Ours are in `captum_layer`.
LAYER_METHODS: Registry[Any] = Registry(
    "Captum layer method", "saliency_bench.captum_layer_methods", "saliency_bench.attribution"
)

BACKENDS: Mapping[str, Registry[Any]] = {"captum": METHODS, "captum_layer": LAYER_METHODS}
#: What they are called in text.
LABELS = {"captum": "Captum", "captum_layer": "Captum (layer)"}

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

    return Values(Saliency(ctx.score).attribute(**inputs(ctx), abs=False), 1)


def input_x_gradient(ctx: Context) -> Values:
    """`InputXGradient`."""
    from captum.attr import InputXGradient

    return Values(InputXGradient(ctx.score).attribute(**inputs(ctx)), 1)


def input_baseline_x_gradient(
    ctx: Context, *, baseline: str, baseline_special_tokens: str
) -> Values:
    """`InputBaselineXGradient`, which `GradientShap` averages, at the end of the path in place of a random position.

    Captum's Riemann rules refuse the one step that would be the same.
    """
    from captum.attr._core import gradient_shap as module

    path = ctx.path(baseline, baseline_special_tokens)
    with standing_in(module, np=_numpy_that_draws([1.0] * len(ctx.batch))):
        values = module.InputBaselineXGradient(ctx.score).attribute(
            **inputs(ctx), baselines=at_least_float32(path.reference)
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
        **inputs(ctx),
        baselines=at_least_float32(path.reference),
        **steps(ctx, quadrature, n_steps),
    )
    return Values(values, paid(quadrature, n_steps), ctx.path_difference(path))


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


def expected_gradients(
    ctx: Context, *, references: str, baseline_special_tokens: str, draws: Draws
) -> Values:
    """`GradientShap` without noise, given our references and positions."""
    plan = paths.expected_gradients(
        ctx, references=references, baseline_special_tokens=baseline_special_tokens, draws=draws
    )
    return _gradient_shap(ctx, plan)


def gradient_shap(
    ctx: Context, *, references: str, baseline_special_tokens: str, draws: Draws, noise: Noise
) -> Values:
    """`GradientShap`, given our references, positions and noise."""
    plan = paths.gradient_shap(
        ctx,
        references=references,
        baseline_special_tokens=baseline_special_tokens,
        draws=draws,
        noise=noise,
    )
    return _gradient_shap(ctx, plan)


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
    expected_gradients,
    gradient_shap,
):
    METHODS.add(_method.__name__, _method)


def lacks(backend: str, hyper: Mapping[str, Any]) -> str | None:
    """Why a backend cannot compute hyperparameters that ours can, and what to do; None where it can."""
    quadrature, baseline = hyper.get("quadrature"), hyper.get("baseline")
    if quadrature is not None and quadrature not in RULES:
        return (
            f"quadrature={quadrature}: the {backend} backend has {', '.join(RULES)}. Use one of them, "
            "or give the entry a `backend: [native]` of its own."
        )
    if quadrature not in (None, "gauss_legendre") and hyper["n_steps"] == 1:
        return (
            f"n_steps=1: the {backend} backend takes at least 2 steps of quadrature={quadrature}. "
            "Use more, or gauss_legendre, or `backend: [native]`."
        )
    if backend == "captum_layer" and baseline is not None and baseline not in TOKENS:
        return (
            f"baseline={baseline}: the captum_layer backend starts from token ids, so {', '.join(TOKENS)}, "
            "and from one that the tokenizer has. Use one of them, or `backend: [captum]`."
        )
    return None


def rounded_rule(quadrature: str, n_steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of a rule as Captum uses them: Riemann nodes and all weights rounded to float32."""
    from captum.attr._utils.approximation_methods import approximation_parameters

    weights, nodes = approximation_parameters(RULES[quadrature])
    return tuple(nodes(n_steps)), tuple(torch.tensor(weights(n_steps)).float().tolist())


def refuse(reason: str | None) -> None:
    """Raises an InputError for a reason, if there is one."""
    if reason is not None:
        raise InputError(reason)


def steps(ctx: Context, quadrature: str, n_steps: int) -> dict[str, Any]:
    """Captum's words for a rule, its steps, and how many rows it may take at once."""
    refuse(lacks("captum", {"quadrature": quadrature, "n_steps": n_steps}))
    return {
        "n_steps": n_steps,
        "method": RULES[quadrature],
        "internal_batch_size": _rows_at_once(ctx),
    }


def paid(quadrature: str, n_steps: int) -> int:
    """How many gradients a rule takes for each text."""
    return sum(weight != 0 for weight in rule(quadrature, n_steps)[1])


def _rows_at_once(ctx: Context) -> int:
    """What our token budget comes to in Captum's unit; it never takes less than one row per example."""
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
    """Embeddings that ask for a gradient, and each row's example, which Captum repeats along with them."""
    embeddings = at_least_float32(ctx.embeddings).clone().requires_grad_()
    rows = torch.arange(len(ctx.batch), device=embeddings.device)
    return {"inputs": embeddings, "additional_forward_args": rows}


def _tunnel(inner: Any, ctx: Context, draws: Draws, noise: Noise) -> Any:
    """Captum's NoiseTunnel, adding our samples in order in place of draws from the global generator."""
    cloud = ctx.noise_cloud(noise.noise_special_tokens)
    return _shared_tunnel(cloud, [draw(draws, noise, sample) for sample in range(draws.n)])(inner)


def _shared_tunnel(cloud: NoiseCloud, nodes: Sequence[Draw]) -> type[Any]:
    """A NoiseTunnel that takes its noisy inputs from a cloud, node by node, and baselines as they come.

    Captum's rows are example by example, and within one sample by sample.
    """
    from captum.attr import NoiseTunnel

    class SharedNoiseTunnel(NoiseTunnel):  # type: ignore[misc]
        drawn = 0

        def _add_noise_to_input(
            self, input: Tensor, stdev: float, nt_samples_partition: int
        ) -> Tensor:
            of_chunk = nodes[self.drawn : self.drawn + nt_samples_partition]
            self.drawn += nt_samples_partition
            return at_least_float32(cloud.at(*_rows(len(input), of_chunk)).detach())

        @staticmethod
        def _expand_partial(
            nt_samples_partition: int, kwargs_partial: dict[str, Any], inputs: Any, drawn: bool
        ) -> None:
            # Where Captum would draw a baseline for each row, each row has one already.
            given = {"baselines": kwargs_partial.pop("baselines")} if drawn else {}
            NoiseTunnel._expand_partial(nt_samples_partition, kwargs_partial, inputs, drawn)
            kwargs_partial |= given

    return SharedNoiseTunnel


def _gradient_shap(ctx: Context, plan: object) -> Values:
    """`GradientShap` at the random points of a plan of ours, a few samples at a time."""
    assert isinstance(plan, Expectation)
    points = plan.points
    assert isinstance(points, RandomPaths)
    nodes = [node for sample in range(plan.draws.n) for node, _ in plan.sample(sample)]
    at_once = max(1, _rows_at_once(ctx) // len(ctx.batch))
    total = torch.zeros_like(at_least_float32(ctx.embeddings))
    for start in range(0, len(nodes), at_once):
        of_chunk = nodes[start : start + at_once]
        total += len(of_chunk) * _gradient_shap_of(ctx, points, of_chunk)
    return Values(total / len(nodes), len(nodes))


def _gradient_shap_of(
    ctx: Context, points: RandomPaths, nodes: Sequence[Draw]
) -> Float[Tensor, "B T D"]:
    """The mean over these samples. Captum looks its tunnel and numpy up by name: for the time, they are ours."""
    from captum.attr._core import gradient_shap as module

    rows, of_rows = _rows(len(ctx.batch), nodes)
    pairs = zip(rows.tolist(), of_rows, strict=True)
    starts = at_least_float32(
        torch.stack([points.reference(example, node.number) for example, node in pairs])
    )
    tunnel = _shared_tunnel(points.cloud, nodes)
    positions = _numpy_that_draws(points.positions(rows, of_rows))
    with standing_in(module, NoiseTunnel=tunnel, np=positions):
        values: Tensor = module.GradientShap(ctx.score).attribute(
            **inputs(ctx), baselines=starts, n_samples=len(nodes)
        )
    return values


def _rows(n_examples: int, nodes: Sequence[Draw]) -> tuple[Int[Tensor, " R"], list[Draw]]:
    """Every pair of an example and a node in Captum's order: the examples slowest."""
    return torch.arange(n_examples).repeat_interleave(len(nodes)), [*nodes] * n_examples


def _numpy_that_draws(values: Sequence[float]) -> SimpleNamespace:
    """What Captum uses of numpy in GradientShap: uniform random numbers, here given."""

    def uniform(low: float, high: float, size: int) -> Float[np.ndarray, " R"]:
        return np.array(values).reshape(size)

    return SimpleNamespace(random=SimpleNamespace(uniform=uniform))


@contextmanager
def standing_in(module: ModuleType, **names: Any) -> Iterator[None]:
    """While open, what the module finds under these names; other threads find the same, and wait to do likewise."""
    with PROCESS:
        before = {name: getattr(module, name) for name in names}
        try:
            for name, value in names.items():
                setattr(module, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(module, name, value)
