"""What a method may use: one batch, its clean pass, the gradient primitive, baselines and noise."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saliency_bench.attribution.gradient import GradientEngine
from saliency_bench.attribution.points import NoiseCloud, StraightPath
from saliency_bench.errors import unknown
from saliency_bench.models.references import References
from saliency_bench.tasks import sequence_classification as task
from saliency_bench.types import Batch, Probe, ScoreFn


@dataclass
class Context:
    """One batch with one target class per example, and what the methods share on it.

    `clean_score` and `clean_gradient` are F(x) and ∇F(x); the class was fixed from the same logits and is never
    chosen again on perturbed inputs. `probe(removal)` answers what the model says of the tokens that stay.
    """

    references: References
    batch: Batch
    target: Int[Tensor, " B"]
    output: str
    seed: int
    token_budget: int
    probe: Callable[[str], Probe]

    def __post_init__(self) -> None:
        self.engine = GradientEngine(self.score, self.token_budget)
        self._reference_scores: dict[Hashable, Float[Tensor, " B"]] = {}

    @cached_property
    def embeddings(self) -> Float[Tensor, "B T D"]:
        """The embedding layer's output for the batch."""
        return self.references.model.embed(self.batch.input_ids)

    @cached_property
    def score(self) -> ScoreFn:
        """The score of each example's target class."""
        return task.score_fn(self.references.model, self.batch, self.target, self.output)

    @cached_property
    def _clean(self) -> tuple[Float[Tensor, " B"], Float[Tensor, "B T D"]]:
        return self.engine.at_input(self.embeddings)

    @property
    def clean_score(self) -> Float[Tensor, " B"]:
        """F(x)."""
        return self._clean[0]

    @property
    def clean_gradient(self) -> Float[Tensor, "B T D"]:
        """∇F(x)."""
        return self._clean[1]

    def path(self, baseline: str, special_tokens: str) -> StraightPath:
        """The straight path from a baseline to the input.

        Args:
            baseline: mask, pad, unk, zero or mean.
            special_tokens: "keep" leaves special tokens as they are, so that they get exactly 0; "replace"
                moves them too. Padding never moves.
        """
        if special_tokens not in ("keep", "replace"):
            raise unknown("baseline_special_tokens", special_tokens, ["keep", "replace"])
        moved = self.batch.attributable if special_tokens == "keep" else self.batch.mask
        vector = self.references.vector(baseline)
        reference = torch.where(moved[:, :, None], vector, self.embeddings)
        return StraightPath(("path", baseline, special_tokens), self.embeddings, reference)

    @torch.no_grad()
    def path_difference(self, path: StraightPath) -> Float[Tensor, " B"]:
        """F(x) - F(x'), with F(x') computed once per path."""
        if path.key not in self._reference_scores:
            rows = torch.arange(len(self.batch), device=self.embeddings.device)
            self._reference_scores[path.key] = self.score(path.reference, rows)
        return self.clean_score - self._reference_scores[path.key]

    def noise_cloud(self, noise_special_tokens: bool) -> NoiseCloud:
        """The noise of this batch's texts under the context's seed; never on padding."""
        noisy = self.batch.mask if noise_special_tokens else self.batch.attributable
        ids = tuple(item.input_ids for item in self.batch.encoded)
        return NoiseCloud(self.embeddings, noisy, ids, self.seed, noise_special_tokens)

    @property
    def embedding_std(self) -> float:
        """The unit of `noise_std`: the standard deviation of the embedding matrix."""
        return self.references.embedding_std
