"""Where gradients are taken: the input itself, paths to it, clouds of noise around it.

A family of points has one point per example and node. Two families with equal `key` have the same points at equal
nodes, and settings that use them share gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.attribution import philox
from saliency_bench.core.random import generator_for
from saliency_bench.core.seeding import seed_of
from saliency_bench.core.tensors import numbers, on_device


class Points(ABC):
    """A family of points in embedding space."""

    key: Hashable  # names the family within a batch

    @abstractmethod
    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]) -> Float[Tensor, "R T D"]:
        """The points of rows (example, node); `nodes` has one entry per row."""

    def is_input(self, node: Any) -> bool:
        """Whether this node is the unperturbed input, whose gradient the clean pass has already paid for."""
        return False

    def applies(self, example: int, node: Any) -> bool:
        """Whether the example has this node at all."""
        return True

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]
    ) -> Float[Tensor, "R T D"]:
        """From the start to the end of the path that each row's point lies on."""
        raise NotImplementedError(f"{type(self).__name__} has no paths")


@dataclass(frozen=True)
class Input(Points):
    """The input alone; any node is the input."""

    embeddings: Float[Tensor, "B T D"]
    key: Hashable = "input"

    def is_input(self, node: Any) -> bool:
        """Always."""
        return True

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]) -> Float[Tensor, "R T D"]:
        """The embeddings of the rows' examples."""
        return self.embeddings[row_example]


@dataclass(frozen=True)
class OfOtherModel(Points):
    """The points of a family for another model than that of the clean pass, which has paid for none of them."""

    points: Points

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """That of the family."""
        return "of another model", self.points.key

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]) -> Float[Tensor, "R T D"]:
        """As in the family."""
        return self.points.at(row_example, nodes)


@dataclass(frozen=True)
class StraightPath(Points):
    """x' + α (x - x'): nodes are positions α in [0, 1] (Sundararajan et al. 2017, section 3)."""

    key: Hashable
    embeddings: Float[Tensor, "B T D"]
    reference: Float[Tensor, "B T D"]

    def is_input(self, node: float) -> bool:
        """Whether α is 1."""
        return node == 1.0

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[float]) -> Float[Tensor, "R T D"]:
        """Interpolated in the embeddings' type; α is exact in float64 before it is rounded to it."""
        return torch.lerp(
            self.reference[row_example],
            self.embeddings[row_example],
            _column(nodes, self.reference),
        )

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[float]
    ) -> Float[Tensor, "R T D"]:
        """From the baseline to the input."""
        return (self.embeddings - self.reference)[row_example]


@dataclass(frozen=True)
class Anywhere(Points):
    """One point of its own for each example, whatever the node."""

    points: Float[Tensor, "B T D"]
    key: Hashable = "anywhere"

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]) -> Float[Tensor, "R T D"]:
        """The points of the rows' examples."""
        return self.points[row_example]


@dataclass(frozen=True)
class WordPaths(Points):
    """A path of its own for each word: nodes are pieces of it, numbered from the baseline (Sanyal & Ren 2021)."""

    key: Hashable
    paths: Float[Tensor, "W S D"]
    which: Int[Tensor, "B T"]  # path of each token

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[int]) -> Float[Tensor, "R T D"]:
        """Where the pieces start."""
        places = on_device(list(nodes), self.which.device, torch.long)
        return self.paths[self.which[row_example], places[:, None]]

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[int]
    ) -> Float[Tensor, "R T D"]:
        """From the start to the end of each piece."""
        return self.at(row_example, [node + 1 for node in nodes]) - self.at(row_example, nodes)


@dataclass(frozen=True)
class SingleTokenPaths(Points):
    """One straight path per token, on which only that token moves: nodes are (token, α) (Enguehard 2023, eq. 3)."""

    path: StraightPath
    moves: Bool[Tensor, "B T"]  # the tokens that have a path; on the host

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """That of the path of which it takes one token at a time."""
        return "single", self.path.key

    def is_input(self, node: tuple[int, float]) -> bool:
        """Whether α is 1."""
        return node[1] == 1.0

    def applies(self, example: int, node: tuple[int, float]) -> bool:
        """Whether the token moves."""
        return bool(self.moves[example, node[0]])

    def at(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[int, float]]
    ) -> Float[Tensor, "R T D"]:
        """The input with one token somewhere on its way from the baseline."""
        return torch.where(
            self._moving(nodes),
            self.path.at(row_example, [alpha for _, alpha in nodes]),
            self.path.embeddings[row_example],
        )

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[int, float]]
    ) -> Float[Tensor, "R T D"]:
        """Of the moving token x - x', of the others 0."""
        return self._moving(nodes) * (self.path.embeddings - self.path.reference)[row_example]

    def _moving(self, nodes: Sequence[tuple[int, float]]) -> Bool[Tensor, "R T 1"]:
        tokens = on_device([token for token, _ in nodes], self.path.embeddings.device)
        places = torch.arange(self.path.embeddings.shape[1], device=tokens.device)
        return (places[None, :] == tokens[:, None])[:, :, None]


class Draw(NamedTuple):
    """One noisy copy: σ is `level` in `unit`s, ε is draw `number` times `sign`.

    With a `block` G above 1, ε is centred: sqrt(G/(G-1)) (η - mean η over the block of G draws that it is one of).
    """

    number: int
    sign: int
    unit: str
    level: float
    block: int = 1


@dataclass(frozen=True)
class NoiseCloud(Points):
    """x + σ ε, ε ~ N(0, I): nodes are `Draw`s.

    ε belongs to the seed, the token ids, the draw's number, the token and the dimension (see `philox`). It does not
    depend on batch, padding, order, σ, the device, or how many draws follow.
    """

    embeddings: Float[Tensor, "B T D"]
    noisy: Bool[Tensor, "B T"]  # the tokens that get noise
    hashes: tuple[str, ...]  # of the token ids
    units: Callable[[str], Float[Tensor, " B"]]  # how large one unit of σ is for each example
    seed: int
    noise_special_tokens: bool

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """Clouds of one seed are the same whatever σ and the number of samples."""
        return "noise", self.seed, self.noise_special_tokens

    def is_input(self, node: Draw) -> bool:
        """Whether σ is 0."""
        return node.level == 0.0

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]) -> Float[Tensor, "R T D"]:
        """The noisy embeddings of the rows."""
        return self.embeddings[row_example] + self.shift(row_example, nodes)

    def shift(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]
    ) -> Float[Tensor, "R T D"]:
        """Of each row, σ ε."""
        drawn = self.epsilon(numbers(row_example), nodes)
        return drawn.mul_(self._sigma(row_example, nodes)[:, None, None])

    def epsilon(self, examples: Sequence[int], nodes: Sequence[Draw]) -> Float[Tensor, "R T D"]:
        """Of each row, ε as its block has it, without the sign. What several rows share is drawn once."""
        pairs = list(zip(examples, nodes, strict=True))
        drawn: list[Tensor] = []
        starts: dict[tuple[int, int, int], int] = {}  # of each block, its place in what is drawn
        for size in sorted({node.block for node in nodes}):
            blocks = dict.fromkeys((e, n.number // size, size) for e, n in pairs if n.block == size)
            before = sum(map(len, drawn))
            starts |= {key: before + place * size for place, key in enumerate(blocks)}
            drawn.append(self.blocks([key[0] for key in blocks], [key[1] for key in blocks], size))
        places = [
            starts[example, node.number // node.block, node.block] + node.number % node.block
            for example, node in pairs
        ]
        return torch.cat(drawn)[on_device(places, drawn[0].device)]

    def _sigma(self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]) -> Float[Tensor, " R"]:
        """Of each row, σ with the sign of its draw."""
        names = sorted({node.unit for node in nodes})
        units = torch.stack([self.units(name) for name in names])
        own = on_device([names.index(node.unit) for node in nodes], units.device, torch.long)
        levels = on_device([node.sign * node.level for node in nodes], units.device, units.dtype)
        return (levels * units[own, row_example]).to(self.embeddings.dtype)

    def blocks(
        self, examples: Sequence[int], indices: Sequence[int], size: int
    ) -> Float[Tensor, "N T D"]:
        """The ε of all draws of some blocks: each is N(0, I), and where there are several in a block they sum to 0."""
        drawn = self.noise(
            [example for example in examples for _ in range(size)],
            [index * size + place for index in indices for place in range(size)],
        )
        if size > 1:
            whole = drawn.reshape(-1, size, *drawn.shape[1:])
            centred = (whole - whole.mean(1, keepdim=True)) * (size / (size - 1)) ** 0.5
            drawn = centred.flatten(0, 1)
        return drawn.to(self.embeddings.dtype)

    def noise(self, examples: Sequence[int], draw_numbers: Sequence[int]) -> Float[Tensor, "N T D"]:
        """Of each example and draw, ε before it is centred; 0 where a token gets no noise. In at least float32."""
        width, depth = self.embeddings.shape[1:]
        device = self.embeddings.device
        keys = [seed_of("noise", self.seed, self.hashes[example]) for example in examples]
        drawn = philox.normal(keys, draw_numbers, (width, depth), device)
        noisy = self.noisy[on_device(examples, device), :, None]
        return drawn.to(torch.promote_types(self.embeddings.dtype, torch.float32)) * noisy


@dataclass(frozen=True)
class UnevenCloud(NoiseCloud):
    """x + σ ε ⊙ room: noise with a size of its own for each number of the embeddings."""

    room: Float[Tensor, "B T D"]

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """That of the noise, whose size the embeddings decide."""
        return "uneven", super().key

    def shift(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]
    ) -> Float[Tensor, "R T D"]:
        """Of each row, σ ε ⊙ room."""
        return super().shift(row_example, nodes).mul_(self.room[row_example])


@dataclass(frozen=True)
class NoisyPaths(Points):
    """Straight paths from a baseline to noisy copies of the input: nodes are (draw, α)."""

    path: StraightPath
    cloud: NoiseCloud

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """That of the path and of the noise."""
        return "noisy", self.path.key, self.cloud.key

    def is_input(self, node: tuple[Draw, float]) -> bool:
        """Whether there is neither noise nor way to go."""
        return self.cloud.is_input(node[0]) and self.path.is_input(node[1])

    def at(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[Draw, float]]
    ) -> Float[Tensor, "R T D"]:
        """Points x' + α (x + σ ε - x')."""
        noisy = self.cloud.at(row_example, [draw for draw, _ in nodes])
        alpha = _column([alpha for _, alpha in nodes], noisy)
        return torch.lerp(self.path.reference[row_example], noisy, alpha)

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[Draw, float]]
    ) -> Float[Tensor, "R T D"]:
        """From x' to x + σ ε."""
        noisy = self.cloud.at(row_example, [draw for draw, _ in nodes])
        return noisy - self.path.reference[row_example]


@dataclass(frozen=True)
class RandomStarts:
    """Random references: of an example and a draw's number, or of many of these in one call."""

    rows: Callable[[Sequence[int], Sequence[int]], Float[Tensor, "R T D"]]

    def __call__(self, example: int, number: int) -> Float[Tensor, "T D"]:
        """One reference."""
        return self.rows([example], [number])[0]


@dataclass(frozen=True)
class RandomPaths(Points):
    """Random places on paths from random references to (noisy copies of) the input: nodes are `Draw`s.

    A draw has its own reference, position α ~ U(0, 1) and noise. Its antithetic partner has the same reference,
    1 - α and the opposite noise; the draws of a centred block have positions spaced 1/G apart, round a circle (Erion et al. 2021, eq. 2; Lundberg & Lee 2017 with noise).
    """

    cloud: NoiseCloud
    references: str
    reference: Callable[[int, int], Float[Tensor, "T D"]]  # of an example and a draw's number

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """That of the references and of the noise."""
        return "random", self.references, self.cloud.key

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]) -> Float[Tensor, "R T D"]:
        """Points x' + α (x + σ ε - x')."""
        starts = self._starts(row_example, nodes)
        alpha = _column(self.positions(row_example, nodes), starts)
        return torch.lerp(starts, self.cloud.at(row_example, nodes), alpha)

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]
    ) -> Float[Tensor, "R T D"]:
        """From x' to x + σ ε."""
        return self.cloud.at(row_example, nodes) - self._starts(row_example, nodes)

    def positions(self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]) -> list[float]:
        """Of each row, α."""
        return [
            self._position(example, node)
            for example, node in zip(numbers(row_example), nodes, strict=True)
        ]

    def _position(self, example: int, node: Draw) -> float:
        first = node.number - node.number % node.block
        stream = generator_for(
            "cpu", "position", self.cloud.seed, self.cloud.hashes[example], first
        )
        alpha = float(torch.rand((), generator=stream, dtype=torch.float64))
        alpha = (alpha + (node.number - first) / node.block) % 1.0
        return alpha if node.sign > 0 else 1 - alpha

    def _starts(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]
    ) -> Float[Tensor, "R T D"]:
        examples, draws = numbers(row_example), [node.number for node in nodes]
        if isinstance(self.reference, RandomStarts):
            return self.reference.rows(examples, draws)
        return torch.stack([self.reference(*pair) for pair in zip(examples, draws, strict=True)])


def _column(values: Sequence[float], like: Tensor) -> Float[Tensor, "R 1 1"]:
    """One number per row, to be broadcast over tokens and dimensions."""
    return on_device(values, like.device, like.dtype)[:, None, None]
