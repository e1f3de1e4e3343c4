"""What the model says when only some tokens stay: removal operators that replace embeddings.

The real token ids are passed all the while and the embeddings of removed tokens are replaced under the hook, so
that positions and pooling stay as they are. Special tokens are never removed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saliency_bench.errors import unknown
from saliency_bench.models.references import References
from saliency_bench.tasks import sequence_classification as task
from saliency_bench.types import Batch

OPERATORS = ("mask", "pad", "unk", "zero", "mean")


class ReplacingProbe:
    """Logits of a batch's examples when the tokens that do not stay get the operator's vector instead.

    Each distinct question (example, what stays) is asked of the model once, whoever asks it: `n_posed` questions
    have cost `n_asked` forward rows.
    """

    def __init__(
        self, references: References, batch: Batch, removal: str, token_budget: int
    ) -> None:
        if removal not in OPERATORS:
            raise unknown("removal operator", removal, list(OPERATORS))
        model = references.model
        self.replacement = references.vector(removal)
        self.embeddings = model.embed(batch.input_ids)
        self.logits = task.logits_fn(model, batch)
        self.attributable = batch.attributable.cpu().numpy()
        self.rows_at_once = max(1, token_budget // batch.input_ids.shape[1])
        self.answers: dict[tuple[int, bytes], Float[np.ndarray, " C"]] = {}
        self.n_posed = 0

    @property
    def n_asked(self) -> int:
        """Distinct questions so far."""
        return len(self.answers)

    def __call__(
        self, examples: Int[np.ndarray, " N"], keep: Sequence[Bool[np.ndarray, " _"]]
    ) -> Float[np.ndarray, "N C"]:
        """Logits in float64 of each example with only `keep` (over its own tokens) left."""
        self.n_posed += len(keep)
        places = examples.tolist()
        removed = [self._removed(place, kept) for place, kept in zip(places, keep, strict=True)]
        keys = [
            (place, np.packbits(gone).tobytes())
            for place, gone in zip(places, removed, strict=True)
        ]
        new = {
            key: gone for key, gone in zip(keys, removed, strict=True) if key not in self.answers
        }
        items = list(new.items())
        for start in range(0, len(items), self.rows_at_once):
            self._ask(items[start : start + self.rows_at_once])
        return np.stack([self.answers[key] for key in keys])

    def _removed(self, example: int, kept: Bool[np.ndarray, " T"]) -> Bool[np.ndarray, " W"]:
        """The tokens to replace, at the batch's width."""
        removed: Bool[np.ndarray, " W"] = self.attributable[example].copy()
        removed[: len(kept)] &= ~kept
        return removed

    @torch.inference_mode()
    def _ask(self, items: list[tuple[tuple[int, bytes], Bool[np.ndarray, " W"]]]) -> None:
        device = self.embeddings.device
        rows = torch.tensor([example for (example, _), _ in items], device=device)
        removed = torch.from_numpy(np.stack([gone for _, gone in items])).to(device)
        embeddings = torch.where(removed[:, :, None], self.replacement, self.embeddings[rows])
        answers = self.logits(embeddings, rows).double().cpu().numpy()
        self.answers.update(zip([key for key, _ in items], answers, strict=True))
