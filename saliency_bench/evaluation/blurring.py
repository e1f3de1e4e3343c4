"""The outputs of the model for texts whose embeddings have random numbers set to 0."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.core.random import generator_for
from saliency_bench.core.tensors import Batch, sent
from saliency_bench.models.references import References, embed_batch
from saliency_bench.models.tasks.scores import logits_fn


class BlurringProbe:
    """Logits of one example with random numbers of its embeddings set to 0; special tokens keep all numbers.

    The draws depend only on the text: the same uniform numbers are compared with any probabilities.

    Args:
        references: those of the model.
        batch: the texts.
        token_budget: the largest number of tokens in a pass.
    """

    def __init__(self, references: References, batch: Batch, token_budget: int) -> None:
        self.batch = batch
        self.budget = references.budget(token_budget)
        self.embeddings = embed_batch(references.model, batch)
        self.whole = logits_fn(references.model, batch, short=True)

    @torch.inference_mode()
    def __call__(
        self, example: int, stays: Float[np.ndarray, " _"], n_draws: int, name: str
    ) -> Float[np.ndarray, "n C"]:
        """Logits in float64 of `n_draws` draws.

        Args:
            example: the row of the batch.
            stays: for each token of the text, the probability with which each of its numbers stays.
            n_draws: the number of draws.
            name: the name of the text, on which the draws depend.
        """
        embeddings = self.embeddings[example]
        probability = torch.ones(len(embeddings), dtype=torch.float64)
        probability[: len(stays)] = torch.from_numpy(stays)
        answers = []
        at_once = self.budget.rows(len(embeddings))
        for start in range(0, n_draws, at_once):
            draws = range(start, min(start + at_once, n_draws))
            uniform = torch.zeros(len(draws), *embeddings.shape, dtype=torch.float64)
            for row, draw in enumerate(draws):
                uniform[row, : len(stays)] = self._uniform(len(stays), draw, name)
            kept = sent(uniform < probability[:, None], embeddings.device)
            rows = torch.full((len(draws),), example, device=embeddings.device)
            answers.append(self.whole(embeddings * kept, rows).double())
        return np.asarray(torch.cat(answers).cpu())

    def _uniform(self, n_tokens: int, draw: int, name: str) -> Float[Tensor, "T D"]:
        stream = generator_for("cpu", "blur", name, draw)
        width = self.embeddings.shape[-1]
        return torch.rand(n_tokens, width, generator=stream, dtype=torch.float64)
