"""Where gradients are taken: the input itself, a straight path to it, a cloud of noise around it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.seeding import generator_for, token_hash


@runtime_checkable  # the tests check annotations while they run
class Points(Protocol):
    """A family of points in embedding space, one per example and node.

    Two families with equal `key` are the same points at equal nodes: settings that use them share gradients.
    """

    @property
    def key(self) -> Hashable:
        """Names the family within a batch."""

    def is_input(self, node: Any) -> bool:
        """Whether this node is the unperturbed input, whose gradient the clean pass has already paid for."""

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[Any]) -> Float[Tensor, "R T D"]:
        """The points of rows (example, node); nodes has one entry per row."""


@dataclass(frozen=True)
class Input:
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
class StraightPath:
    """x' + α (x - x'): nodes are positions α in [0, 1] (Sundararajan et al. 2017, section 3)."""

    key: Hashable
    embeddings: Float[Tensor, "B T D"]
    reference: Float[Tensor, "B T D"]

    def is_input(self, node: float) -> bool:
        """Whether α is 1."""
        return node == 1.0

    def at(self, row_example: Int[Tensor, " R"], nodes: Sequence[float]) -> Float[Tensor, "R T D"]:
        """Interpolated in the embeddings' type; α is exact in float64 before it is rounded to it."""
        alpha = torch.tensor(nodes, dtype=self.embeddings.dtype, device=self.embeddings.device)
        return torch.lerp(
            self.reference[row_example], self.embeddings[row_example], alpha[:, None, None]
        )


@dataclass(frozen=True)
class NoiseCloud:
    """x + σ ε, ε ~ N(0, I): nodes are (σ, sample) with σ absolute, in units of the embeddings.

    One stream per (seed, token ids, sample), drawn at the example's own length: ε does not depend on batch,
    padding, order, σ, or how many samples follow. Values do depend on the kind of device.
    """

    embeddings: Float[Tensor, "B T D"]
    noisy: Bool[Tensor, "B T"]  # the tokens that get noise
    token_ids: tuple[tuple[int, ...], ...]
    seed: int
    noise_special_tokens: bool

    @property
    def key(self) -> Hashable:
        """Clouds of one seed are the same whatever σ and the number of samples."""
        return "noise", self.seed, self.noise_special_tokens

    def is_input(self, node: tuple[float, int]) -> bool:
        """Whether σ is 0."""
        return node[0] == 0.0

    def at(
        self, row_example: Int[Tensor, " R"], nodes: Sequence[tuple[float, int]]
    ) -> Float[Tensor, "R T D"]:
        """The noisy embeddings of the rows."""
        points = self.embeddings[row_example]
        for row, (example, (std, sample)) in enumerate(
            zip(row_example.tolist(), nodes, strict=True)
        ):
            points[row] += std * self.noise(example, sample)
        return points

    def noise(self, example: int, sample: int) -> Float[Tensor, "T D"]:
        """ε of one example and sample; 0 on padding, and on special tokens unless they get noise too."""
        ids = self.token_ids[example]
        width, depth = self.embeddings.shape[1:]
        stream = generator_for(self.embeddings.device, "noise", self.seed, token_hash(ids), sample)
        drawn = torch.randn(
            len(ids), depth, generator=stream, dtype=torch.float32, device=self.embeddings.device
        )
        noise = torch.zeros(
            width, depth, dtype=self.embeddings.dtype, device=self.embeddings.device
        )
        noise[: len(ids)] = drawn
        return noise * self.noisy[example, :, None]
