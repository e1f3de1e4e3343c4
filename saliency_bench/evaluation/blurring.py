"""What the model says of a text whose embeddings have numbers set to 0 at random."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saliency_bench.core.random import generator_for
from saliency_bench.core.tensors import Batch, sent
from saliency_bench.models.references import References, embed_batch
from saliency_bench.models.tasks.scores import logits_fn


class BlurringProbe:
    """Logits of one example with numbers of its embeddings set to 0 at random; special tokens stay whole.

    The draws belong to the text: whatever the probabilities, the same uniform numbers are compared with them.
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
        """Logits in float64 of `n_draws` draws; `stays` has a probability for each of the example's own tokens."""
        own = self.embeddings[example]
        probability = torch.ones(len(own), dtype=torch.float64)
        probability[: len(stays)] = torch.from_numpy(stays)
        answers = []
        at_once = self.budget.rows(len(own))
        for start in range(0, n_draws, at_once):
            draws = range(start, min(start + at_once, n_draws))
            masks = [self._mask(len(stays), draw, name) for draw in draws]
            uniform = torch.zeros(len(masks), *own.shape, dtype=torch.float64)
            uniform[:, : len(stays)] = torch.stack(masks)
            kept = sent(uniform < probability[:, None], own.device)
            rows = torch.full((len(masks),), example, device=own.device)
            answers.append(self.whole(own * kept, rows).double())
        return np.asarray(torch.cat(answers).cpu())

    def _mask(self, n_tokens: int, draw: int, name: str) -> Float[Tensor, "T D"]:
        stream = generator_for("cpu", "blur", name, draw)
        width = self.embeddings.shape[-1]
        found: Tensor = torch.rand(n_tokens, width, generator=stream, dtype=torch.float64)
        return found
