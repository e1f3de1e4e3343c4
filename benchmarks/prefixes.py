"""What questions cost that share their beginnings: processor time and tokens, over those of whole rows.

    python -m benchmarks.prefixes [FOLDER]

A Llama with the sizes of SmolLM2-135M (576 dimensions, 9 heads of which 3 for keys and values) but 5 layers, random weights,
float32, one thread, 2048 tokens in a pass. The questions are those of leave-one-out, and of the deletion curve of a random
ranking. Whole rows have their last token's logits computed alone, too. A round takes whole rows and each form of sharing
once. A ratio is that of the least times of all rounds. The time is that of the process, so that waiting for other processes
does not count; they still slow memory and caches down, by which some rounds are slower.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from benchmarks.decoder_cost import decoder
from benchmarks.record import ONE_THREAD, Record
from saliency_bench import wrap_model
from saliency_bench.api.inputs import encode_all
from saliency_bench.core.tensors import Batch
from saliency_bench.evaluation.removal import ReplacingProbe
from saliency_bench.models import prefixes
from saliency_bench.models.model import Model
from saliency_bench.models.references import References
from saliency_bench.models.tasks.encoding import collate
from saliency_bench.models.tasks.registry import questions

TOKEN_BUDGET = 2048
WHOLE, N_LAYERS = "whole rows", 5
#: By the number of tokens of a text: the number of texts in a block, and of rounds.
CASES = {24: (1, 8), 128: (1, 2)}
#: The largest difference of a logit, over the largest logit.
SAME = 2e-5


def like_smollm2() -> Model:
    """The model."""
    return wrap_model(decoder(N_LAYERS), task="text-generation")


def block_of(model: Model, n_texts: int, n_tokens: int) -> Batch:
    """Texts of random ids, each asked for its next token."""
    ids = np.random.default_rng(0).integers(10, 40_000, (n_texts, n_tokens))
    texts = encode_all(model, [{"input_ids": row.tolist()} for row in ids], None)
    return collate(model, [question for _, question in questions(model, texts)])


def questions_about(n_tokens: int) -> dict[str, Bool[np.ndarray, "N T"]]:
    """The tokens that stay: in leave-one-out, and in a deletion curve."""
    place = np.random.default_rng(0).permutation(n_tokens)
    return {
        "leave-one-out": ~np.eye(n_tokens, dtype=bool),
        "deletion curve": place >= np.arange(n_tokens + 1)[:, None],
    }


def probe_of(model: Model, batch: Batch, form: str) -> ReplacingProbe:
    """A probe that replaces removed tokens by zero, in one form of sharing."""
    references = References(model, may_share=form != WHOLE)
    probe = ReplacingProbe(references, batch, TOKEN_BUDGET, references.vector("zero"))
    probe.form = None if form == WHOLE else form
    if form == WHOLE:
        probe.whole = lambda embeddings, rows: model.output(
            batch.input_ids[rows], embeddings=embeddings, extra=prefixes.kept_at(model, [-1])
        )[:, -1]
    return probe


def measured(
    model: Model, n_tokens: int, name: str, stays: Bool[np.ndarray, "N T"]
) -> list[dict[str, object]]:
    """The time and tokens of each form, with their ratios to those of whole rows."""
    n_texts, n_rounds = CASES[n_tokens]
    batch = block_of(model, n_texts, n_tokens)
    examples = np.repeat(np.arange(n_texts), len(stays))
    forms = (WHOLE, *prefixes.FORMS)
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    tokens: dict[str, float] = {}
    answers: dict[str, Float[np.ndarray, "N C"]] = {}
    for _ in range(n_rounds):
        for form in forms:
            probe = probe_of(model, batch, form)
            before = model.ledger.copy()
            started = time.process_time()
            answers[form] = probe(examples, [*stays] * n_texts)
            seconds[form].append(time.process_time() - started)
            tokens[form] = model.ledger.since(before).total.forward_tokens
    largest = np.abs(answers[WHOLE]).max()
    rows = []
    for form in forms:
        difference = np.abs(answers[form] - answers[WHOLE]).max() / largest
        assert difference <= SAME, f"{form}: {difference}"
        rows.append(
            {
                "n_tokens": n_tokens,
                "questions": name,
                "form": form,
                "n_rounds": n_rounds,
                "seconds": round(min(seconds[form]), 4),
                "seconds_ratio": round(min(seconds[form]) / min(seconds[WHOLE]), 3),
                "median_ratio": round(
                    float(np.median(seconds[form]) / np.median(seconds[WHOLE])), 3
                ),
                "tokens_ratio": round(tokens[form] / tokens[WHOLE], 3),
            }
        )
    return rows


def main() -> None:
    """Writes the ratios and a manifest."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results/prefixes")
    folder.mkdir(parents=True, exist_ok=True)
    record = Record("-m", "benchmarks.prefixes")
    torch.set_num_threads(1)
    model = like_smollm2()
    rows: list[dict[str, object]] = []
    with model.frozen():
        for n_tokens in CASES:
            for name, stays in questions_about(n_tokens).items():
                rows += measured(model, n_tokens, name, stays)
                print(pd.DataFrame(rows[-3:]).to_string(), flush=True)
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    about = {
        "name": "prefixes",
        "time": "processor time of the process; ratios of the least times and of the medians of interleaved rounds",
    }
    record.write(folder, about, **ONE_THREAD)


if __name__ == "__main__":
    main()
