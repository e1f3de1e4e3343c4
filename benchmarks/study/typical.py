"""The study of conf/experiment/method_comparison.yaml as it is typically written, with Captum and a loop for each metric.

Attributions come from Captum, and every metric of every method computes the outputs that it needs, in its own forward
passes over padded texts in which the embeddings of removed tokens are replaced: nine curves of a ranking where two are
enough. Otherwise it is written with care: weights are frozen, no graph is kept in forward passes, and all texts and steps
of a batch go through the model together. `careful.py` is the fair opponent of the library.

    python -m benchmarks.study.typical 24      # the number of sentences
"""

import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency

from benchmarks.study import inputs
from benchmarks.study.inputs import Classifier, Draws, Results, Text

SIZE = 32  # texts in a batch, and rows in a pass


@dataclass
class Batch:
    """Texts, padded on the right to the longest; `places` are where they stand in the data."""

    classifier: Classifier
    texts: list[Text]
    places: list[int]
    target: torch.Tensor = field(init=False)  # the class predicted on the full text

    def __post_init__(self) -> None:
        self.embeddings, self.attention, self.baseline = self.classifier.padded(self.texts)
        with torch.no_grad():
            self.target = self.classifier(self.embeddings, self.attention).argmax(-1)


def batches(classifier: Classifier, texts: Sequence[Text]) -> Iterator[Batch]:
    """All texts in a random order."""
    order = list(range(len(texts)))
    random.Random(0).shuffle(order)
    for start in range(0, len(order), SIZE):
        places = order[start : start + SIZE]
        yield Batch(classifier, [texts[place] for place in places], places)


# ---------------------------------------------------------------------------------------------------------------------
# Attribution. Each method gives one score per token for every text of a batch.


def vanilla(batch: Batch, draws: Draws | None) -> torch.Tensor:
    """The norm of the gradient of the predicted class's logit."""
    explainer = Saliency(batch.classifier)
    values = explainer.attribute(
        batch.embeddings.clone().requires_grad_(),
        target=batch.target,
        abs=False,
        additional_forward_args=(batch.attention,),
    )
    return values.norm(dim=-1)


def input_x_gradient(batch: Batch, draws: Draws | None) -> torch.Tensor:
    """The gradient times the input."""
    explainer = InputXGradient(batch.classifier)
    values = explainer.attribute(
        batch.embeddings.clone().requires_grad_(),
        target=batch.target,
        additional_forward_args=(batch.attention,),
    )
    return values.sum(-1)


def smoothgrad(batch: Batch, draws: Draws | None) -> torch.Tensor:
    """The norm of the mean gradient over noisy copies of the input."""
    sigma = inputs.NOISE * float(batch.classifier.table.std(correction=0))
    tunnel = NoiseTunnel if draws is None else given_noise(batch, draws)
    values = tunnel(Saliency(batch.classifier)).attribute(
        batch.embeddings.clone().requires_grad_(),
        nt_type="smoothgrad",
        nt_samples=inputs.N_SAMPLES,
        nt_samples_batch_size=max(1, SIZE // len(batch.texts)),
        stdevs=sigma,
        target=batch.target,
        abs=False,
        additional_forward_args=(batch.attention,),
    )
    return values.norm(dim=-1)


def given_noise(batch: Batch, draws: Draws) -> type[NoiseTunnel]:
    """A noise tunnel that adds given noise, sample after sample, in place of its own draws."""

    class GivenNoise(NoiseTunnel):
        used = 0

        def _add_noise_to_input(
            self, input: torch.Tensor, stdev: float, nt_samples_partition: int
        ) -> torch.Tensor:
            rows = input.detach().repeat_interleave(nt_samples_partition, dim=0)  # text by text
            own = range(self.used, self.used + nt_samples_partition)
            self.used += nt_samples_partition
            for row, (place, sample) in enumerate(itertools.product(batch.places, own)):
                noise = draws.noise[place][sample]
                rows[row, : len(noise)] += noise
            return rows

    return GivenNoise


def integrated_gradients(batch: Batch, draws: Draws | None) -> torch.Tensor:
    """Integrated Gradients from [MASK] in every place; special tokens stay."""
    values = IntegratedGradients(batch.classifier).attribute(
        batch.embeddings.clone().requires_grad_(),
        baselines=batch.baseline,
        n_steps=inputs.N_STEPS,
        internal_batch_size=SIZE,
        target=batch.target,
        additional_forward_args=(batch.attention,),
    )
    return values.sum(-1)


def leave_one_out(batch: Batch, draws: Draws | None) -> torch.Tensor:
    """The drop of the logit when one token is masked."""
    alone = [(row, [place]) for row, text in enumerate(batch.texts) for place in text.ranked]
    full = [(row, []) for row in range(len(batch.texts))]
    logits = outputs(batch, full + alone)
    scores = torch.zeros(batch.attention.shape, dtype=torch.float64)
    for (row, (place,)), without in zip(alone, logits[len(full) :], strict=True):
        target = batch.target[row]
        scores[row, place] = logits[row, target] - without[target]
    return scores


METHODS = {
    "vanilla": vanilla,
    "input_x_gradient": input_x_gradient,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "leave_one_out": leave_one_out,
}
RANDOM = "random"


def random_scores(place: int, length: int, draws: Draws | None) -> np.ndarray:
    """Scores of random rankings of one text."""
    if draws is not None:
        return draws.scores[place]
    return np.random.default_rng(place).random((inputs.N_RANKINGS, length))


# ---------------------------------------------------------------------------------------------------------------------
# Removal. A query is a row of the batch and the positions that are masked in it.


@torch.inference_mode()
def outputs(batch: Batch, queries: Sequence[tuple[int, Any]]) -> torch.Tensor:
    """Logits of each query, `SIZE` of them in one forward pass."""
    answers = []
    for start in range(0, len(queries), SIZE):
        chunk = queries[start : start + SIZE]
        own = torch.tensor([row for row, _ in chunk])
        embeddings = batch.embeddings[own]
        for row, (_, gone) in enumerate(chunk):
            embeddings[row, gone] = batch.classifier.mask
        answers.append(batch.classifier(embeddings, batch.attention[own]))
    return torch.cat(answers).double()


class Removals:
    """What the model says of the texts of a batch when the top of one ranking is removed, or alone is kept."""

    def __init__(self, batch: Batch, rankings: list[np.ndarray]) -> None:
        self.batch = batch
        self.rankings = rankings

    def without_top(self, counts: Callable[[int], list[int]]) -> list[np.ndarray]:
        """For each text, logits [K C] without the top k, for all k in `counts(number of tokens)`."""
        return self._ask(counts, keep=False)

    def only_top(self, counts: Callable[[int], list[int]]) -> list[np.ndarray]:
        """Likewise with only the top k."""
        return self._ask(counts, keep=True)

    def _ask(self, counts: Callable[[int], list[int]], *, keep: bool) -> list[np.ndarray]:
        ks = [counts(len(ranking)) for ranking in self.rankings]
        queries: list[tuple[int, np.ndarray]] = []
        for step in range(max(map(len, ks))):  # one step of all texts, then the next
            for row, ranking in enumerate(self.rankings):
                if step < len(ks[row]):
                    k = ks[row][step]
                    queries.append((row, ranking[k:] if keep else ranking[:k]))
        found: list[list[np.ndarray]] = [[] for _ in ks]
        for (row, _), logits in zip(queries, outputs(self.batch, queries).numpy(), strict=True):
            found[row].append(logits)
        return [np.stack(logits) for logits in found]

    def probabilities(self, logits: list[np.ndarray]) -> list[np.ndarray]:
        """Of the explained class."""
        return [
            np.exp(one - np.logaddexp.reduce(one, axis=1, keepdims=True))[:, target]
            for one, target in zip(logits, self.batch.target.tolist(), strict=True)
        ]


def every(n: int) -> list[int]:
    """No token, one, ... all."""
    return list(range(n + 1))


def share(fraction: float, n: int) -> int:
    """A share of n tokens, rounded up, at least one; 0.05 of 20 is 1 and not the 2 that floats could give."""
    return max(1, math.ceil(round(fraction * n, 9)))


def none_and_eraser(n: int) -> list[int]:
    """No token, then ERASER's shares."""
    return [0, *(share(fraction, n) for fraction in inputs.ERASER)]


def all_and_eraser(n: int) -> list[int]:
    """All tokens, then ERASER's shares."""
    return [n, *(share(fraction, n) for fraction in inputs.ERASER)]


# ---------------------------------------------------------------------------------------------------------------------
# Metrics. Each gives one number per text, NaN where it does not apply.

Metric = Callable[[Removals], list[float]]


def drop(probabilities: list[np.ndarray]) -> list[float]:
    """The mean of p(text) - p, the full text standing first."""
    return [float(np.mean(p[0] - p[1:])) for p in probabilities]


def comprehensiveness(removals: Removals) -> list[float]:
    """The drop in probability without the top tokens, over ERASER's shares."""
    return drop(removals.probabilities(removals.without_top(none_and_eraser)))


def sufficiency(removals: Removals) -> list[float]:
    """The drop in probability with only the top tokens, over ERASER's shares."""
    return drop(removals.probabilities(removals.only_top(all_and_eraser)))


def aopc_comprehensiveness_full(removals: Removals) -> list[float]:
    """Comprehensiveness over every number of tokens removed."""
    return drop(removals.probabilities(removals.without_top(every)))


def aopc_sufficiency_full(removals: Removals) -> list[float]:
    """The drop without the least relevant tokens, over every number of them."""
    return drop([p[::-1] for p in removals.probabilities(removals.only_top(every))])


def srg(removals: Removals) -> list[float]:
    """Symmetric relevance gain: the former minus the latter."""
    high, low = aopc_comprehensiveness_full(removals), aopc_sufficiency_full(removals)
    return [a - b for a, b in zip(high, low, strict=True)]


def area(p: np.ndarray) -> float:
    """Under a whole curve, over the share of tokens."""
    return float(np.trapezoid(p, dx=1 / (len(p) - 1)))


def deletion_auc(removals: Removals) -> list[float]:
    """The area under the deletion curve."""
    return [area(p) for p in removals.probabilities(removals.without_top(every))]


def insertion_auc(removals: Removals) -> list[float]:
    """The area under the insertion curve."""
    return [area(p) for p in removals.probabilities(removals.only_top(every))]


def normalized(value: float, full: float, empty: float) -> float:
    """An area with 0 at the empty and 1 at the full text."""
    return (value - empty) / (full - empty) if full - empty > inputs.AUC_FLOOR else math.nan


def deletion_auc_normalized(removals: Removals) -> list[float]:
    """The same, normalised."""
    curves = removals.probabilities(removals.without_top(every))
    return [normalized(area(p), p[0], p[-1]) for p in curves]


def insertion_auc_normalized(removals: Removals) -> list[float]:
    """The same, normalised."""
    curves = removals.probabilities(removals.only_top(every))
    return [normalized(area(p), p[-1], p[0]) for p in curves]


def log_odds(removals: Removals) -> list[float]:
    """The change of log p/(1-p) without the top fifth of the tokens."""
    found = []
    logits = removals.without_top(lambda n: [0, share(inputs.TOP, n)])
    for one, target in zip(logits, removals.batch.target.tolist(), strict=True):
        odds = one[:, target] - np.logaddexp.reduce(np.delete(one, target, axis=1), axis=1)
        found.append(float(odds[1] - odds[0]))
    return found


def decision_flip_fraction(removals: Removals) -> list[float]:
    """The share of tokens removed, one by one, when the predicted class changes."""
    found = []
    curves = removals.without_top(every)
    for one, target in zip(curves, removals.batch.target.tolist(), strict=True):
        flips = np.flatnonzero(one[1:].argmax(1) != target)
        found.append(float(flips[0] + 1) / (len(one) - 1) if len(flips) else 1.0)
    return found


METRICS: dict[str, Metric] = {
    "srg": srg,
    "comprehensiveness": comprehensiveness,
    "sufficiency": sufficiency,
    "aopc_comprehensiveness_full": aopc_comprehensiveness_full,
    "aopc_sufficiency_full": aopc_sufficiency_full,
    "deletion_auc": deletion_auc,
    "deletion_auc_normalized": deletion_auc_normalized,
    "insertion_auc": insertion_auc,
    "insertion_auc_normalized": insertion_auc_normalized,
    "log_odds": log_odds,
    "decision_flip_fraction": decision_flip_fraction,
}


@torch.inference_mode()
def gaps(batch: Batch, scores: list[np.ndarray]) -> Iterator[tuple[float, float]]:
    """For each text, Σ scores - (F(x) - F(x')) in absolute value, and relative to F(x) - F(x')."""
    rows = torch.arange(len(batch.texts))
    full = batch.classifier(batch.embeddings, batch.attention)[rows, batch.target]
    empty = batch.classifier(batch.baseline, batch.attention)[rows, batch.target]
    for own, difference in zip(scores, (full - empty).double().tolist(), strict=True):
        gap = abs(float(own.sum()) - difference)
        yield gap, gap / abs(difference) if abs(difference) > inputs.GAP_FLOOR else math.nan


# ---------------------------------------------------------------------------------------------------------------------
# The study


def study(classifier: Classifier, texts: Sequence[Text], draws: Draws | None = None) -> Results:
    """Every method explains, and then every metric evaluates it, text batch by text batch."""
    scores: dict[tuple[str, int], np.ndarray] = {}
    for name, method in METHODS.items():
        for batch in batches(classifier, texts):
            values = method(batch, draws).detach().double().numpy()
            for text, place, own in zip(batch.texts, batch.places, values, strict=True):
                scores[name, place] = own[: len(text.ids)]
    for place, text in enumerate(texts):
        scores[RANDOM, place] = random_scores(place, len(text.ids), draws)
    rankings = {key: rank(texts[key[1]], found) for key, found in scores.items()}
    rows = []
    for name in [*METHODS, RANDOM]:
        for metric in METRICS:
            for batch in batches(classifier, texts):
                rows += evaluate(name, metric, batch, rankings)
    for batch in batches(classifier, texts):
        own = [scores["integrated_gradients", place] for place in batch.places]
        for text, (gap, relative) in zip(batch.texts, gaps(batch, own), strict=True):
            rows.append(("integrated_gradients", text.name, "completeness_gap", gap))
            rows.append(("integrated_gradients", text.name, "completeness_gap_relative", relative))
    table = pd.DataFrame(rows, columns=["method", "text", "metric", "value"])
    return Results(table, scores, rankings)


def rank(text: Text, scores: np.ndarray) -> list[np.ndarray]:
    """Positions from the most to the least relevant token: of one map, or of each random draw."""
    draws = np.atleast_2d(scores)[:, text.ranked]
    return [text.ranked[np.argsort(-own, kind="stable")] for own in draws]


def evaluate(
    name: str, metric: str, batch: Batch, rankings: dict[tuple[str, int], list[np.ndarray]]
) -> list[tuple[str, str, str, float]]:
    """A metric of one method on one batch; the mean over random draws."""
    own = [rankings[name, place] for place in batch.places]
    found = [METRICS[metric](Removals(batch, list(draw))) for draw in zip(*own, strict=True)]
    return [
        (name, text.name, metric, value)
        for text, value in zip(batch.texts, np.mean(found, axis=0).tolist(), strict=True)
    ]


if __name__ == "__main__":
    torch.manual_seed(0)
    means = study(*inputs.load(int(sys.argv[1]))).values.pivot_table("value", "method", "metric")
    print(means.round(4).to_string())
