"""Scores with known attributions, and what the laws ask of the public interface.

Constants are numbers that float32 holds exactly, so that a score is the same function in both dtypes and its oracle,
in float64 throughout, is exact for both.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from tiny import DIMENSIONS, scored_by, tiny_bert, token_inputs
from torch import Tensor

import saliency_bench as sb
from saliency_bench.attribution.methods import KINDS, METHODS, ONLY
from saliency_bench.attribution.quadrature import RULES
from saliency_bench.attribution.settings import single_settings
from saliency_bench.core import conf as conf_files
from saliency_bench.core.maps import AttributionMap
from saliency_bench.core.text import Encoded
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encoded_ids
from saliency_bench.studies.block import open_block

#: Tokens of the texts whose scores have a weight for each place.
T = 5

#: Values of hyperparameters that make every method cheap.
CHEAP = {
    "baseline": "mean",
    "removal": "mean",
    "references": "vocabulary",
    "n_steps": 3,
    "n_samples": 4,
    "sampler": "iid",
    "n_rankings": 2,
    "tolerance": 0.1,
    "max_steps": 32,
    "noise_std": 0.5,
}

#: Rules whose weights sum to 1.
UNBIASED = sorted(set(RULES) - {"captum_riemann_trapezoid"})

#: Every method that is computed here, and those that take gradients. What a file says is nobody's computation, others'
#: systems are reproduced with their faults, of which one is to break these laws, and SHAP needs an extra.
NATIVE = [
    name
    for name in METHODS.names()
    if ONLY.get(name, "native") == "native"
    and name not in ("file", "partition_shap")
    and not name.startswith("allennlp_")
]
GRADIENT = [name for name in NATIVE if KINDS[name] != "token"]


def cheap(method: str, **options: Any) -> dict[str, Any]:
    """The shipped hyperparameters of a method, except that it costs little."""
    entry = {
        key: value for key, value in conf_files.method_defaults(method).items() if key != "method"
    }
    return entry | {key: CHEAP[key] for key in CHEAP if key in entry} | options


def maps(model: Model, inputs: Any, method: str, **options: Any) -> list[AttributionMap]:
    """The maps of the first class, in passes of a thousand tokens."""
    return sb.attribute(model, inputs, method, **({"target": 0, "token_budget": 1024} | options))


def scores(model: Model, inputs: Any, method: str, **options: Any) -> list[np.ndarray]:
    """Their scores."""
    return [one.scores for one in maps(model, inputs, method, **options)]


def encoded(model: Model, inputs: Iterable[Any]) -> list[Encoded]:
    """Tokenised inputs as blocks hold them."""
    return [encoded_ids(model, one, str(place), None, "") for place, one in enumerate(inputs)]


def each(
    model: Model, inputs: list[Any], methods: Iterable[str], **changes: Any
) -> dict[str, list[AttributionMap]]:
    """The maps of several methods at once, of texts of one length: what `attribute` does for one method.

    Each method takes those of the changed hyperparameters that it has.
    """
    settings = {}
    for method in methods:
        options = cheap(method)
        options |= {key: value for key, value in changes.items() if key in options}
        settings |= single_settings({method: {"method": method, **options}}, target=0)
    with model.frozen():
        block = open_block(References(model), encoded(model, inputs), 0, 1024)
        found = block.explain(list(settings.values()))
    return {method: found[setting.id] for method, setting in settings.items()}


def text(seed: int = 0) -> dict[str, list[int]]:
    """A text of T tokens."""
    return token_inputs(T, seed=seed)[0]


@cache
def bert(dtype: torch.dtype) -> Model:
    """A random BERT, the same in all dtypes up to rounding."""
    return sb.wrap_model(tiny_bert(dtype))


def constants(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that float32 holds exactly, in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def vectors(model: Model, item: dict[str, list[int]]) -> Tensor:
    """The embeddings [T D] of a text, in float64."""
    return model.embed(torch.tensor([item["input_ids"]]))[0].double()


def mean_vector(model: Model) -> Tensor:
    """The mean of the embedding matrix [D] as the model's dtype has it, in float64."""
    return model.embedding.weight.detach().mean(0).double()


def reduced(values: Tensor, how: str, inputs: Tensor | None = None) -> np.ndarray:
    """From a vector per token [T D] to a number, as the word says."""
    if how == "l2":
        return np.linalg.norm(values.numpy(), axis=1)
    if how == "l1":
        return np.abs(values.numpy()).sum(1)
    if how == "dot":
        return (values.numpy() * inputs.numpy()).sum(1)
    return values.numpy().sum(1)


def linear(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """F(x) = w·x + 0.5 for w [T D]."""
    return lambda e: (e * weights.to(e)).sum((1, 2)) + 0.5


def gelu(z: Tensor) -> Tensor:
    """z Φ(z)."""
    return z * (1 + torch.erf(z / 2**0.5)) / 2


def _gelu_slope(z: Tensor) -> Tensor:
    return (1 + torch.erf(z / 2**0.5)) / 2 + z * torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5


#: g and its derivative.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu": (lambda z: torch.relu(z), lambda z: (z > 0).double()),
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
    "gelu": (gelu, _gelu_slope),
    "sigmoid": (torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z)),
    "atan": (torch.atan, lambda z: 1 / (1 + z**2)),
}


@dataclass(frozen=True)
class Net:
    """F(x) = Σ_k a_k g(w_k·x + b_k) of all embeddings x of a text: one hidden layer."""

    activation: str
    weights: Tensor  # [K T D]
    bias: Tensor  # [K]
    out: Tensor  # [K]

    def __call__(self, e: Tensor) -> Tensor:
        hidden = torch.einsum("ktd,btd->bk", self.weights.to(e), e) + self.bias.to(e)
        return ACTIVATIONS[self.activation][0](hidden) @ self.out.to(e)

    def before(self, x: Tensor) -> Tensor:
        """What the activations get: [K]."""
        return torch.einsum("ktd,td->k", self.weights, x) + self.bias

    def value(self, x: Tensor) -> float:
        """F(x)."""
        return float(self(x[None]))

    def integrated_gradients(self, x: Tensor, baseline: Tensor) -> Tensor:
        """Σ_k a_k w_k (x - x') (g(z_k) - g(z'_k)) / (z_k - z'_k), with g'(z_k) where z_k = z'_k up to rounding."""
        g, slope = ACTIVATIONS[self.activation]
        here, there = self.before(x), self.before(baseline)
        moved = here - there
        mean = torch.where(moved.abs() < 1e-12, slope(here), (g(here) - g(there)) / moved)
        return torch.einsum("k,ktd,td->td", self.out * mean, self.weights, x - baseline)


def net(activation: str, width: int, seed: int = 0, bias: float = 1.0, scale: float = 0.3) -> Net:
    """A random net, whose hidden values move by about five times the scale along a path."""
    weights = scale * constants(width, T, DIMENSIONS, seed=seed)
    return Net(
        activation,
        _exact(weights),
        _exact(bias * constants(width, seed=seed + 1)),
        constants(width, seed=seed + 2),
    )


@dataclass(frozen=True)
class Quadratic:
    """F(x) = x'Ax of all embeddings x of a text; S = A + A'."""

    matrix: Tensor  # [TD TD]

    @property
    def hessian(self) -> Tensor:
        """S."""
        return self.matrix + self.matrix.T

    def __call__(self, e: Tensor) -> Tensor:
        flat = e.flatten(1)
        return ((flat @ self.matrix.to(e)) * flat).sum(1)

    def gradient(self, x: Tensor) -> Tensor:
        """Sx."""
        return (self.hessian @ x.flatten()).view(x.shape)

    def squared_hessian(self, shape: tuple[int, ...]) -> Tensor:
        """The row sums of S² element by element: Var ∇F(x + σ ε) = σ² times that."""
        return self.hessian.square().sum(1).view(shape)

    def integrated_gradients(self, x: Tensor, baseline: Tensor) -> Tensor:
        """(x - x') S (x + x') / 2."""
        return (x - baseline) * self.gradient(x + baseline) / 2


def quadratic(tokens: int = T, dimensions: int = DIMENSIONS, seed: int = 0) -> Quadratic:
    """A random one, whose matrix has no symmetry."""
    return Quadratic(_exact(constants(tokens * dimensions, tokens * dimensions, seed=seed) / 8))


def _exact(values: Tensor) -> Tensor:
    """The nearest numbers that float32 holds."""
    return values.float().double()


class Recorder:
    """A score that remembers at which points its gradient was asked for."""

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        self.score = score
        self.seen: list[Tensor] = []
        self.input: Tensor | None = None

    def __call__(self, e: Tensor) -> Tensor:
        if e.requires_grad:
            self.seen += list(e.detach().double())
            self.input = self.seen[0] if self.input is None else self.input
        return self.score(e)

    def points(self) -> list[Tensor]:
        """Those that belong to a map: not the input, at which the model is probed first."""
        return [point for point in self.seen if not torch.equal(point, self.input)]


def gradient_at(score: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """∇F at one point [T D] in float64."""
    point = point.clone().requires_grad_()
    (found,) = torch.autograd.grad(score(point[None]).sum(), point)
    return found


class Counter:
    """Counts what a model is asked for: rows with a gradient, rows without, and calls."""

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        self.score = score
        self.gradients = self.forwards = self.calls = 0

    def __call__(self, e: Tensor) -> Tensor:
        self.calls += 1
        if e.requires_grad:
            self.gradients += len(e)
        else:
            self.forwards += len(e)
        return self.score(e)


def gradients_paid(score: Callable[[Tensor], Tensor], inputs: Iterable[Any], **options: Any) -> int:
    """Rows with a gradient that one call of `attribute` takes, but for the one that probes the model."""
    counter = Counter(score)
    maps(scored_by(counter), list(inputs), **options)
    return counter.gradients - 1
