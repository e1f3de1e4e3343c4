"""The object that a method receives: a batch, its clean pass, gradients, baselines and noise."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.attribution.backward import PLAIN, RULES
from saliency_bench.attribution.backward.score import score_fn as score_fn_by_rule
from saliency_bench.attribution.gradient import Clean, GradientEngine
from saliency_bench.attribution.points import NoiseCloud, Points, StraightPath
from saliency_bench.core.errors import unknown
from saliency_bench.core.registry import BASELINES
from saliency_bench.core.seeding import token_hash
from saliency_bench.core.tensors import Batch, Probe, ScoreFn
from saliency_bench.models.contents import TEXT, VECTOR
from saliency_bench.models.references import References, embed_batch
from saliency_bench.models.tasks.scores import output_of, score_fn

SPECIAL_TOKENS = ("keep", "replace")


@dataclass
class Context:
    """One batch of texts with the classes to explain, and the results that methods share on it.

    The target is one class for each example, or one class against another. It was fixed from `logits` and is never
    chosen again on perturbed inputs. `clean_score` and `clean_gradient` are F(x) and ∇F(x). `clean_gradients` holds
    ∇F(x) by output if it was computed together with the logits; otherwise it is computed when it is first used.
    `probe(removal)` returns a function that gives the logits of texts with tokens removed.
    """

    references: References
    batch: Batch
    target: Int[Tensor, "B ..."]
    logits: Float[Tensor, "B C"]
    output: str
    seed: int
    token_budget: int
    probe: Callable[[str], Probe]
    clean_gradients: Mapping[str, Float[Tensor, "B T D"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = self.references.model
        short = score_fn(model, self.batch, self.target, self.output, short=True)
        budget = self.references.budget(self.token_budget)
        self.engine = GradientEngine(short, budget, self.batch.widths)
        self._reference_scores: dict[Hashable, Float[Tensor, " B"]] = {}
        self._paths: dict[Hashable, StraightPath] = {}
        self._units: dict[str, Float[Tensor, " B"]] = {}
        self._plain: Context | None = None
        self._under: dict[str, Context] = {}

    def under(self, rule: str) -> "Context":
        """The same batch with gradients by a backward rule. F, baselines, paths and noise are shared."""
        if rule == PLAIN:
            return self
        if rule not in self._under:
            budget, _ = self.engine.budget, self.embeddings
            score = score_fn_by_rule(
                self.references.model, self.batch, self.target, self.output, RULES[rule]
            )
            other = self._under[rule] = copy(self)
            vars(other).pop("clean", None)
            other.clean_gradients = {}  # of the plain rule
            other.engine, other._plain = GradientEngine(score, budget, self.batch.widths), self
        return self._under[rule]

    @cached_property
    def embeddings(self) -> Float[Tensor, "B T D"]:
        """The embedding layer's output for the batch."""
        return embed_batch(self.references.model, self.batch)

    @cached_property
    def score(self) -> ScoreFn:
        """The score of each example's target class, by the whole model: the function that other libraries explain."""
        return score_fn(self.references.model, self.batch, self.target, self.output)

    @cached_property
    def clean(self) -> Clean:
        """F(x), from the logits by which the class was chosen, and ∇F(x), computed at first use."""
        scores = output_of(self.references.model, self.output)(self.logits, self.target)
        clean = self.engine.clean(self.embeddings, scores)
        if (gradients := self.clean_gradients.get(self.output)) is not None:
            clean.take = lambda: gradients
        return clean

    @property
    def clean_score(self) -> Float[Tensor, " B"]:
        """F(x)."""
        return self.clean.scores

    @property
    def clean_gradient(self) -> Float[Tensor, "B T D"]:
        """∇F(x)."""
        return self.clean.gradients

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """A hash of each text's token ids, which seeds its random draws."""
        return tuple(token_hash(item.input_ids) for item in self.batch.encoded)

    def path(self, baseline: str, special_tokens: str) -> StraightPath:
        """The straight path from a baseline to the input.

        Args:
            baseline: a name in `BASELINES`, text:WORDS or vector:FILE (see `baselines`).
            special_tokens: see `moved`.
        """
        if self._plain is not None:  # the start of a path does not depend on the rule
            return self._plain.path(baseline, special_tokens)
        key = "path", baseline, special_tokens
        if key not in self._paths:
            moved = self.moved(special_tokens)
            vectors = self.baseline_vectors(baseline, moved)
            reference = torch.where(moved[:, :, None], vectors, self.embeddings)
            self._paths[key] = StraightPath(key, self.embeddings, reference)
        return self._paths[key]

    def moved(self, special_tokens: str) -> Bool[Tensor, "B T"]:
        """The tokens that a baseline replaces.

        Args:
            special_tokens: "keep" leaves special tokens as they are, so that path methods give them exactly 0;
                "replace" moves them too. Padding never moves.

        Raises:
            InputError: `special_tokens` is neither.
        """
        if special_tokens not in SPECIAL_TOKENS:
            raise unknown("baseline_special_tokens", special_tokens, list(SPECIAL_TOKENS))
        return self.batch.attributable if special_tokens == "keep" else self.batch.mask

    def baseline_vectors(self, baseline: str, moved: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The vector of the named baseline at every token; only those at `moved` tokens are meaningful."""
        if baseline.startswith(VECTOR):
            vectors: Tensor = self.references.vector(baseline)
        elif baseline.startswith(TEXT):
            vectors = self._words(baseline)
        else:
            vectors = BASELINES[baseline](self, moved)
        return vectors.expand_as(self.embeddings)

    def _words(self, baseline: str) -> Float[Tensor, "B T D"]:
        """The words of a text: baseline at the attributable tokens, over and over or cut.

        A special token that moves gets the word before it.
        """
        words = self.references.words(baseline).to(self.embeddings.device)
        order = (self.batch.attributable.cumsum(1) - 1).clamp_min(0)
        return embed_batch(self.references.model, self.batch, words[order % len(words)])

    def answers(
        self,
        removal: str,
        examples: Int[np.ndarray, " N"],
        keep: Sequence[Bool[np.ndarray, " _"]],
        output: str | None = None,
    ) -> Float[Tensor, " N"]:
        """The output for the target class of texts of which only some tokens stay, in float64 on the host.

        Args:
            removal: the removal operator.
            examples: the text of each row.
            keep: for each row the tokens that stay, at the text's own length.
            output: the context's if None.
        """
        logits = torch.as_tensor(self.probe(removal)(examples, keep))
        read = output_of(self.references.model, output or self.output)
        return read(logits, self.target.cpu()[examples]).double()

    def scores_at(self, points: Points, node: Any) -> Float[Tensor, " B"]:
        """F at one node of every example, by a forward pass."""
        return self.engine.scores_at(points, node, self.clean)

    def path_difference(self, path: StraightPath) -> Float[Tensor, " B"]:
        """F(x) - F(x'), with F(x') computed once per path."""
        return self.clean_score - self.reference_score(path)

    def reference_score(self, path: StraightPath) -> Float[Tensor, " B"]:
        """F(x'), computed once per path."""
        if path.key not in self._reference_scores:
            self._reference_scores[path.key] = self.scores_at(path, 0.0)
        return self._reference_scores[path.key]

    def noise_cloud(self, noise_special_tokens: bool) -> NoiseCloud:
        """The noise of this batch's texts under the context's seed; never on padding."""
        return NoiseCloud(
            embeddings=self.embeddings,
            noisy=self.batch.mask if noise_special_tokens else self.batch.attributable,
            hashes=self.hashes,
            units=self.noise_unit,
            seed=self.seed,
            noise_special_tokens=noise_special_tokens,
        )

    def noise_unit(self, unit: str) -> Float[Tensor, " B"]:
        """The size of one unit of σ for each example: std, range or absolute (see `noise.Noise`)."""
        if unit not in self._units:
            self._units[unit] = self._unit(unit)
        return self._units[unit]

    def _unit(self, unit: str) -> Float[Tensor, " B"]:
        ones = torch.ones(len(self.batch), dtype=torch.float64, device=self.embeddings.device)
        if unit == "absolute":
            return ones
        if unit == "std":
            return ones * self.references.embedding_std
        real = self.batch.mask[:, :, None]
        infinity = torch.tensor(torch.inf, dtype=self.embeddings.dtype, device=ones.device)
        largest = torch.where(real, self.embeddings, -infinity).amax((1, 2))
        return ones * (largest - torch.where(real, self.embeddings, infinity).amin((1, 2)))
