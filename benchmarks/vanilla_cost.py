"""What vanilla gradients of many texts cost beside a careful loop by hand: python -m benchmarks.vanilla_cost [FOLDER].

The default model and bundled test sentences of mixed lengths, one thread, float32. All contestants begin with the texts and
end with one l2 norm per token on the host, for the logit of the predicted class.

- By hand: texts sorted by length, padded to the longest of their batch; of several batch sizes the fastest is compared. One
  pass with gradients gives class and gradient: each text's largest logit is differentiated.
- Captum: `Saliency` on the same batches. It asks for the class before, so that it makes a forward pass more.
- The engine: from texts to maps.
- The public call: `sb.attribute(model, texts, "vanilla")`.

Each round takes every contestant once, beginning with another than the round before, and a ratio is that of one round. The
time is that of the process, so that other processes do not count. Before, the scores of all are compared.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from captum.attr import Saliency

import saliency_bench as sb
from benchmarks import rounds
from saliency_bench.core.rows import Setting
from saliency_bench.data import movie_reviews
from saliency_bench.data.example import Example
from saliency_bench.models.loading import load_default
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import encode
from saliency_bench.studies.block import explain_texts

N_TEXTS, N_ROUNDS, TOKEN_BUDGET = (12, 128), 25, 2048
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 16, 32)
HAND, CAPTUM, ENGINE, PUBLIC = "by hand", "Captum", "engine", "sb.attribute"
SETTING = Setting("vanilla", "vanilla", "native", "l2", "predicted", "logit", 0)
#: Both are float32 arithmetic in another order; relative to the largest score of the text.
SAME = 2e-5

Scores = list[list[float]]


def by_hand(model: Model, texts: list[str], size: int) -> Scores:
    """The loop: sorted batches, one pass each."""

    def gradient(batch: dict[str, torch.Tensor], embeddings: torch.Tensor) -> torch.Tensor:
        embeddings.requires_grad_()
        logits = model.module(inputs_embeds=embeddings, **batch).logits
        (found,) = torch.autograd.grad(logits.amax(-1).sum(), embeddings)
        return found

    return _in_sorted_batches(model, texts, size, gradient)


def by_captum(model: Model, texts: list[str], size: int) -> Scores:
    """The same batches through Captum."""

    def gradient(batch: dict[str, torch.Tensor], embeddings: torch.Tensor) -> torch.Tensor:
        def logits(points: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = model.module(inputs_embeds=points, **batch).logits
            return found

        with torch.no_grad():
            target = logits(embeddings).argmax(-1)
        found: torch.Tensor = Saliency(logits).attribute(
            embeddings.requires_grad_(), target, abs=False
        )
        return found

    return _in_sorted_batches(model, texts, size, gradient)


def _in_sorted_batches(
    model: Model,
    texts: list[str],
    size: int,
    gradient: Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor],
) -> Scores:
    encoded = model.tokenizer(texts)["input_ids"]
    order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
    module: Any = model.module
    table = module.get_input_embeddings()
    scores: Scores = [[] for _ in texts]
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        batch = dict(
            model.tokenizer.pad(
                {"input_ids": [encoded[index] for index in chosen]}, return_tensors="pt"
            )
        )
        with torch.no_grad():
            embeddings = table(batch.pop("input_ids"))
        norms = gradient(batch, embeddings).norm(dim=-1).tolist()
        for index, row in zip(chosen, norms, strict=True):
            scores[index] = row[: len(encoded[index])]
    return scores


def by_engine(model: Model, examples: list[Example], references: References) -> Scores:
    """The maps of a study."""
    encoded = encode(model, examples)
    (maps,) = explain_texts(references, encoded, [SETTING], "predicted", TOKEN_BUDGET)
    return [list(map_.scores) for map_ in maps]


def by_public_call(model: Model, texts: list[str]) -> Scores:
    """What a user types."""
    return [list(map_.scores) for map_ in sb.attribute(model, texts, "vanilla")]


def largest_difference(ours: Scores, theirs: Scores) -> float:
    """Relative to the largest score of each text."""
    pairs = [(np.array(a), np.array(b)) for a, b in zip(ours, theirs, strict=True)]
    return max(float(np.abs(a - b).max() / b.max()) for a, b in pairs)


def contestants(model: Model, texts: list[str], size: int) -> dict[str, Callable[[], Scores]]:
    """The calls to time, by name."""
    examples = [Example(str(index), text) for index, text in enumerate(texts)]
    return {
        HAND: partial(by_hand, model, texts, size),
        CAPTUM: partial(by_captum, model, texts, size),
        ENGINE: partial(by_engine, model, examples, References(model)),
        PUBLIC: partial(by_public_call, model, texts),
    }


def fastest_size(model: Model, texts: list[str]) -> int:
    """The batch size of the loop by hand that takes least time, of two tries each."""
    return min(
        BATCH_SIZES,
        key=lambda size: min(
            rounds.process_seconds(partial(by_hand, model, texts, size)) for _ in "12"
        ),
    )


def ratios(model: Model, texts: list[str], n_rounds: int = N_ROUNDS) -> tuple[int, pd.DataFrame]:
    """The batch size by hand, and the times over that of the loop by hand: a row for each round.

    Raises:
        RuntimeError: two contestants' scores differ.
    """
    with model.frozen():
        size = fastest_size(model, texts)
        calls = contestants(model, texts, size)
        expected = calls[HAND]()
        for name, call in calls.items():
            if not (found := largest_difference(call(), expected)) <= SAME:
                raise RuntimeError(f"{name}: scores differ by {found:.1e}")
        timers = {name: partial(rounds.process_seconds, call) for name, call in calls.items()}
        return size, rounds.ratios(timers, n_rounds)


def main() -> None:
    """Writes the ratios of all rounds, their medians and a manifest."""
    costs = rounds.Costs("vanilla_cost")
    torch.set_num_threads(1)
    model = load_default(device="cpu")
    texts = [example.text for example in movie_reviews.load(split="test")]
    sizes = {}
    for n_texts in N_TEXTS:
        sizes[n_texts], table = ratios(model, texts[:n_texts])
        costs.add(table, n_texts=n_texts)
    costs.write({"batch_sizes_by_hand": sizes}, token_budget=TOKEN_BUDGET)


if __name__ == "__main__":
    main()
