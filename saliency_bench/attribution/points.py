"""Families of points at which gradients are taken: the input, paths to the input, and noise around it.

A family has one point per example and node. Two families with equal `key` have the same points at equal nodes, so that
settings that use them share gradients.
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

#: Random references [R T D] of rows, from the example of each row and the number of its draw.
RandomReference = Callable[[Sequence[int], Sequence[int]], Float[Tensor, "R T D"]]


class Points(ABC):
    """A family of points in embedding space."""

    key: Hashable  # names the family within a batch

    @abstractmethod
    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]) -> Float[Tensor, "R T D"]:
        """The points of the rows; row r is example `row_example[r]` at `nodes[r]`."""

    def is_input(self, node: Any) -> bool:
        """Whether this node is the unperturbed input, whose gradient is known from the clean pass."""
        return False

    def applies(self, example: int, node: Any) -> bool:
        """Whether the example has this node at all."""
        return True

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]
    ) -> Float[Tensor, "R T D"]:
        """The vector from the start to the end of the path that each row's point lies on."""
        raise NotImplementedError(f"{type(self).__name__} has no paths")


@dataclass(frozen=True)
class Input(Points):
    """The unperturbed input, whatever the node."""

    embeddings: Float[Tensor, "B T D"]
    key: Hashable = "input"

    def is_input(self, node: Any) -> bool:
        """Always True."""
        return True

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]) -> Float[Tensor, "R T D"]:
        """The embeddings of the rows' examples."""
        return self.embeddings[row_example]


@dataclass(frozen=True)
class OfOtherModel(Points):
    """The points of a family for a model with other weights, so that no gradient is known from the clean pass."""

    points: Points

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """The family's key, marked."""
        return "of another model", self.points.key

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]) -> Float[Tensor, "R T D"]:
        """The points of the family."""
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
        """Points x' + α (x - x'). α is a float64 number that is rounded to the embeddings' type."""
        return torch.lerp(
            self.reference[row_example],
            self.embeddings[row_example],
            _column(nodes, self.reference),
        )

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[float]
    ) -> Float[Tensor, "R T D"]:
        """The difference x - x' of each row."""
        return (self.embeddings - self.reference)[row_example]


@dataclass(frozen=True)
class Anywhere(Points):
    """One arbitrary point for each example, whatever the node."""

    points: Float[Tensor, "B T D"]
    key: Hashable = "anywhere"

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]) -> Float[Tensor, "R T D"]:
        """The points of the rows' examples."""
        return self.points[row_example]


@dataclass(frozen=True)
class WordPaths(Points):
    """A path for each word of the vocabulary: nodes are its segments, numbered from the baseline (Sanyal & Ren 2021)."""

    key: Hashable
    paths: Float[Tensor, "W S D"]
    path_of: Int[Tensor, "B T"]  # the index of each token's path

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[int]) -> Float[Tensor, "R T D"]:
        """The starts of the segments."""
        segments = on_device(list(nodes), self.path_of.device, torch.long)
        return self.paths[self.path_of[row_example], segments[:, None]]

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[int]
    ) -> Float[Tensor, "R T D"]:
        """The end of each segment minus its start."""
        return self.at(row_example, [node + 1 for node in nodes]) - self.at(row_example, nodes)


@dataclass(frozen=True)
class SingleTokenPaths(Points):
    """One straight path per token, on which only that token moves: nodes are (token, α) (Enguehard 2023, eq. 3)."""

    path: StraightPath
    moves: Bool[Tensor, "B T"]  # the tokens that have a path; on the host

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """The key of the straight path, marked."""
        return "single", self.path.key

    def is_input(self, node: tuple[int, float]) -> bool:
        """Whether α is 1."""
        return node[1] == 1.0

    def applies(self, example: int, node: tuple[int, float]) -> bool:
        """Whether the token has a path."""
        return bool(self.moves[example, node[0]])

    def at(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[int, float]]
    ) -> Float[Tensor, "R T D"]:
        """The input, with one token at x' + α (x - x')."""
        return torch.where(
            self._moving(nodes),
            self.path.at(row_example, [alpha for _, alpha in nodes]),
            self.path.embeddings[row_example],
        )

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[int, float]]
    ) -> Float[Tensor, "R T D"]:
        """The difference x - x' at the token that moves, 0 at the others."""
        return self._moving(nodes) * (self.path.embeddings - self.path.reference)[row_example]

    def _moving(self, nodes: Sequence[tuple[int, float]]) -> Bool[Tensor, "R T 1"]:
        tokens = on_device([token for token, _ in nodes], self.path.embeddings.device)
        places = torch.arange(self.path.embeddings.shape[1], device=tokens.device)
        return (places[None, :] == tokens[:, None])[:, :, None]


class Draw(NamedTuple):
    """One noisy copy of the input: σ is `level` in `unit`s, and ε is the noise of draw `number` times `sign`.

    With a `block` G above 1, ε is centred: sqrt(G/(G-1)) (η - mean η), the mean taken over the block of G draws that
    contains it.
    """

    number: int
    sign: int
    unit: str
    level: float
    block: int = 1


@dataclass(frozen=True)
class NoiseCloud(Points):
    """x + σ ε, ε ~ N(0, I): nodes are `Draw`s.

    ε depends on the seed, the token ids, the draw's number, the token and the dimension (see `philox`). It does not
    depend on batch, padding, order, σ, the device, or how many draws follow.
    """

    embeddings: Float[Tensor, "B T D"]
    noisy: Bool[Tensor, "B T"]  # the tokens that get noise
    hashes: tuple[str, ...]  # of the token ids
    units: Callable[[str], Float[Tensor, " B"]]  # of a unit's name: its size for each example
    seed: int
    noise_special_tokens: bool

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """Clouds with the same seed are one family, whatever σ and the number of samples."""
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
        """σ ε of each row."""
        drawn = self.epsilon(numbers(row_example), nodes)
        return drawn.mul_(self._sigma(row_example, nodes)[:, None, None])

    def epsilon(self, examples: Sequence[int], nodes: Sequence[Draw]) -> Float[Tensor, "R T D"]:
        """ε of each row, without the sign. A block that several rows share is drawn once."""
        pairs = list(zip(examples, nodes, strict=True))
        drawn: list[Tensor] = []
        starts: dict[tuple[int, int, int], int] = {}  # the first place of each block in `drawn`
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
        """σ of each row, with the sign of its draw."""
        names = sorted({node.unit for node in nodes})
        units = torch.stack([self.units(name) for name in names])
        unit_of = on_device([names.index(node.unit) for node in nodes], units.device, torch.long)
        levels = on_device([node.sign * node.level for node in nodes], units.device, units.dtype)
        return (levels * units[unit_of, row_example]).to(self.embeddings.dtype)

    def blocks(
        self, examples: Sequence[int], indices: Sequence[int], size: int
    ) -> Float[Tensor, "N T D"]:
        """ε of every draw of the given blocks. Each ε is N(0, I); those of a block with several draws sum to 0."""
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
        """η, the noise of each example and draw before it is centred, in at least float32; 0 where a token gets none."""
        width, depth = self.embeddings.shape[1:]
        device = self.embeddings.device
        keys = [seed_of("noise", self.seed, self.hashes[example]) for example in examples]
        drawn = philox.normal(keys, draw_numbers, (width, depth), device)
        noisy = self.noisy[on_device(examples, device), :, None]
        return drawn.to(torch.promote_types(self.embeddings.dtype, torch.float32)) * noisy


@dataclass(frozen=True)
class UnevenCloud(NoiseCloud):
    """x + σ ε ⊙ room: noise whose size differs between the numbers of the embeddings."""

    room: Float[Tensor, "B T D"]

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """The key of the noise, marked; the embeddings determine `room`."""
        return "uneven", super().key

    def shift(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]
    ) -> Float[Tensor, "R T D"]:
        """σ ε ⊙ room of each row."""
        return super().shift(row_example, nodes).mul_(self.room[row_example])


@dataclass(frozen=True)
class NoisyPaths(Points):
    """Straight paths from a baseline to noisy copies of the input: nodes are (draw, α)."""

    path: StraightPath
    cloud: NoiseCloud

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """The keys of the path and of the noise."""
        return "noisy", self.path.key, self.cloud.key

    def is_input(self, node: tuple[Draw, float]) -> bool:
        """Whether σ is 0 and α is 1."""
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
        """The difference x + σ ε - x' of each row."""
        noisy = self.cloud.at(row_example, [draw for draw, _ in nodes])
        return noisy - self.path.reference[row_example]


@dataclass(frozen=True)
class RandomPaths(Points):
    """Random places on paths from random references to (noisy copies of) the input: nodes are `Draw`s.

    A draw has its own reference, position α ~ U(0, 1) and noise. Its antithetic partner has the same reference, position
    1 - α and the opposite noise. The positions in a centred block of G draws are 1/G apart, modulo 1 (Erion et al. 2021,
    eq. 2; Lundberg & Lee 2017 with noise).
    """

    cloud: NoiseCloud
    references: str
    reference: RandomReference

    @property
    def key(self) -> Hashable:  # type: ignore[override]
        """The keys of the references and of the noise."""
        return "random", self.references, self.cloud.key

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]) -> Float[Tensor, "R T D"]:
        """Points x' + α (x + σ ε - x')."""
        starts = self._starts(row_example, nodes)
        alpha = _column(self.positions(row_example, nodes), starts)
        return torch.lerp(starts, self.cloud.at(row_example, nodes), alpha)

    def displacement(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]
    ) -> Float[Tensor, "R T D"]:
        """The difference x + σ ε - x' of each row."""
        return self.cloud.at(row_example, nodes) - self._starts(row_example, nodes)

    def positions(self, row_example: Int[Tensor, " R"], nodes: Sequence[Draw]) -> list[float]:
        """α of each row."""
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
        return self.reference(numbers(row_example), [node.number for node in nodes])


def _column(values: Sequence[float], like: Tensor) -> Float[Tensor, "R 1 1"]:
    """One number per row, in a shape that is broadcast over tokens and dimensions."""
    return on_device(values, like.device, like.dtype)[:, None, None]
