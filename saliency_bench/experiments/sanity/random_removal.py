"""The change of the model when tokens are removed at random: the out-of-distribution cost of each removal operator.

A metric that removes tokens reads the loss of evidence and the strangeness of what is left as one number. Here no
token was chosen for a reason, so that an operator under which accuracy falls to chance early says little of a ranking.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

from saliency_bench.core.seeding import seed_of, token_hash
from saliency_bench.core.text import Encoded
from saliency_bench.evaluation.grid import count
from saliency_bench.experiments.sanity.subjects import Row, Subject
from saliency_bench.models.references import References
from saliency_bench.studies.block import OpenBlock, opened_blocks

ACCURACY, KEPT, CONFIDENCE = "accuracy", "kept_class", "max_probability"


def rows(subject: Subject, progress: Callable[[int, int], None]) -> Iterator[Row]:
    """Means over draws, for each text: is the label right, is it that of the whole text, and how sure is the model."""
    model, config = subject.model, subject.config["removal"]
    done, references = 0, References(model)
    with model.frozen():
        for _, block in opened_blocks(references, subject.encoded, "predicted", subject.budget):
            items = block.batch.encoded
            progress(done, len(subject.encoded))
            done += len(items)
            for operator, fraction, (place, item) in product(
                config["operators"], (0.0, *config["fractions"]), enumerate(items)
            ):
                stays = kept_at_random(item, fraction, subject.config)
                for measure, value in _measures(block, place, operator, stays).items():
                    yield {
                        "model": model.name,
                        "method": None,
                        "case": operator,
                        "level": f"{fraction:g}",
                        "measure": measure,
                        "example_id": item.example_id,
                        "value": value,
                        "reason": None,
                    }


def _measures(
    block: OpenBlock, place: int, operator: str, stays: Bool[np.ndarray, "N T"]
) -> dict[str, float]:
    """Means over what stays of one text; whether the label is right, where it is known."""
    logits = block.probe(operator)(np.full(len(stays), place), list(stays))
    decided, gold = logits.argmax(1), block.batch.encoded[place].gold
    measures = {} if gold is None else {ACCURACY: float(np.mean(decided == gold))}
    return measures | {
        KEPT: float(np.mean(decided == int(block.predicted[place]))),
        CONFIDENCE: _sureness(logits, alone=block.model.multi_label),
    }


def kept_at_random(
    item: Encoded, fraction: float, config: Mapping[str, Any]
) -> Bool[np.ndarray, "N T"]:
    """The tokens that stay of a text when this share of them goes, special ones apart; each draw is a ranking of its own.

    Every operator and every fraction takes tokens in the same orders, so that their differences are paired.
    """
    special = np.array(item.special)
    ranked = np.flatnonzero(~special)
    n_draws = config["removal"]["n_draws"]
    stays = np.ones((n_draws if fraction else 1, len(special)), dtype=bool)
    k = count(fraction, len(ranked)) if fraction else 0
    for draw, row in enumerate(stays):
        stream = np.random.default_rng(
            seed_of("removal", config["seed"], draw, token_hash(item.input_ids))
        )
        row[stream.permutation(ranked)[:k]] = False
    return stays


def _sureness(logits: Float[np.ndarray, "N C"], *, alone: bool) -> float:
    """The mean probability of the class with the largest logit: one of all or, of a multi-label model, its own."""
    largest = logits.max(1)
    if alone:
        return float(expit(largest).mean())
    shifted = np.exp(logits - largest[:, None])
    return float((shifted.max(1) / shifted.sum(1)).mean())
