"""The study of conf/experiment/method_comparison.yaml as one writes it with Captum and a loop for each metric.

Of saliency_bench it takes the bundled model and sentences, and nothing else: attributions come from Captum, and
every metric of every method asks the model what it needs, in forward passes of its own over full-length texts in
which the embeddings of removed tokens are replaced. It is what the library's own speed is compared with
(benchmarks/study/run.py), so it is written with care: weights are frozen, no graph is kept in forward passes, all
texts and steps of a batch go through the model together, and nothing is computed that no number needs.

    python -m benchmarks.study.by_hand --n 50 --batches sorted      # similar lengths together, sizes tuned
    python -m benchmarks.study.by_hand --n 50 --batches random      # as they come, 32 at a time, padded
    ... --curves once       # each method's two curves asked once, all metrics read off them
"""

import argparse
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency

N_STEPS = 50  # of Integrated Gradients, Gauss-Legendre
N_SAMPLES = 24  # of SmoothGrad
NOISE = 0.1  # σ, in standard deviations of the embedding matrix
N_RANKINGS = 10  # random ones
ERASER = (0.01, 0.05, 0.1, 0.2, 0.5)  # share of tokens removed or kept
TOP = 0.2  # of log-odds
AUC_FLOOR = 0.1  # p(text) - p(empty) that an area may be divided by
GAP_FLOOR = 0.01  # |F(x) - F(x')| that a gap may be divided by

#: Sizes that are tried where `--batches sorted` is not told any: texts together, and rows in one pass.
TEXTS_TRIED = (4, 8, 16, 32)
ROWS_TRIED = (32, 64, 128)


@dataclass(frozen=True)
class Text:
    """A tokenised text; `ranked` are the positions of its tokens that are not special."""

    name: str
    ids: list[int]
    ranked: np.ndarray


@dataclass(frozen=True)
class Draws:
    """Random numbers drawn elsewhere, by place of the text: noise [S T D] and random scores [N T].

    With those of saliency_bench all results are its own; with one's own, SmoothGrad and the random rankings are
    other draws from the same distributions.
    """

    noise: Sequence[torch.Tensor]
    scores: Sequence[np.ndarray]


@dataclass(frozen=True)
class Options:
    """`sort`: similar lengths together; `texts`: in a batch; `rows`: in one pass; `once`: see --curves."""

    sort: bool
    texts: int
    rows: int
    once: bool = False
    seed: int = 0
    draws: Draws | None = None


class Classifier:
    """The model, and what removal and baselines put in a token's place: the embedding of [MASK]."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.table = model.get_input_embeddings().weight
        self.mask = self.table[tokenizer.mask_token_id]
        self.pad_id = tokenizer.pad_token_id

    def __call__(self, embeddings: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.model(inputs_embeds=embeddings, attention_mask=attention).logits


@dataclass
class Batch:
    """Texts, padded on the right to the longest; `places` are where they stand in the data."""

    classifier: Classifier
    texts: list[Text]
    places: list[int]
    target: torch.Tensor = field(init=False)  # the class predicted on the full text

    def __post_init__(self) -> None:
        width = max(len(text.ids) for text in self.texts)
        rows = [
            text.ids + [self.classifier.pad_id] * (width - len(text.ids)) for text in self.texts
        ]
        self.embeddings = self.classifier.table[torch.tensor(rows)]
        self.attention = torch.tensor(
            [[place < len(text.ids) for place in range(width)] for text in self.texts]
        ).long()
        self.baseline = self.embeddings.clone()
        for row, text in enumerate(self.texts):
            self.baseline[row, text.ranked] = self.classifier.mask
        with torch.no_grad():
            self.target = self.classifier(self.embeddings, self.attention).argmax(-1)


def batches(classifier: Classifier, texts: Sequence[Text], options: Options) -> Iterator[Batch]:
    """All texts: the shortest first, or in a random order."""
    order = list(range(len(texts)))
    if options.sort:
        order.sort(key=lambda place: len(texts[place].ids))
    else:
        random.Random(options.seed).shuffle(order)
    for start in range(0, len(order), options.texts):
        places = order[start : start + options.texts]
        yield Batch(classifier, [texts[place] for place in places], places)


# ---------------------------------------------------------------------------------------------------------------------
# Attribution. Each method gives one score per token for every text of a batch.


def vanilla(batch: Batch, options: Options) -> torch.Tensor:
    """The norm of the gradient of the predicted class's logit."""
    explainer = Saliency(batch.classifier)
    values = explainer.attribute(
        batch.embeddings.clone().requires_grad_(),
        target=batch.target,
        abs=False,
        additional_forward_args=(batch.attention,),
    )
    return values.norm(dim=-1)


def input_x_gradient(batch: Batch, options: Options) -> torch.Tensor:
    """The gradient times the input."""
    explainer = InputXGradient(batch.classifier)
    values = explainer.attribute(
        batch.embeddings.clone().requires_grad_(),
        target=batch.target,
        additional_forward_args=(batch.attention,),
    )
    return values.sum(-1)


def smoothgrad(batch: Batch, options: Options) -> torch.Tensor:
    """The norm of the mean gradient over noisy copies of the input."""
    sigma = NOISE * float(batch.classifier.table.std(correction=0))
    tunnel = NoiseTunnel if options.draws is None else given_noise(batch, options.draws)
    values = tunnel(Saliency(batch.classifier)).attribute(
        batch.embeddings.clone().requires_grad_(),
        nt_type="smoothgrad",
        nt_samples=N_SAMPLES,
        nt_samples_batch_size=max(1, options.rows // len(batch.texts)),
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


def integrated_gradients(batch: Batch, options: Options) -> torch.Tensor:
    """Integrated Gradients from [MASK] in every place; special tokens stay."""
    values = IntegratedGradients(batch.classifier).attribute(
        batch.embeddings.clone().requires_grad_(),
        baselines=batch.baseline,
        n_steps=N_STEPS,
        internal_batch_size=max(len(batch.texts), options.rows),
        target=batch.target,
        additional_forward_args=(batch.attention,),
    )
    return values.sum(-1)


def leave_one_out(batch: Batch, options: Options) -> torch.Tensor:
    """The drop of the logit when one token is masked."""
    alone = [(row, [place]) for row, text in enumerate(batch.texts) for place in text.ranked]
    full = [(row, []) for row in range(len(batch.texts))]
    logits = ask(batch, full + alone, options.rows)
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


def random_scores(place: int, length: int, options: Options) -> np.ndarray:
    """Scores of random rankings of one text."""
    if options.draws is not None:
        return options.draws.scores[place]
    return np.random.default_rng([options.seed, place]).random((N_RANKINGS, length))


# ---------------------------------------------------------------------------------------------------------------------
# Removal. A question is a row of the batch and the positions that are masked in it.


@torch.inference_mode()
def ask(batch: Batch, questions: Sequence[tuple[int, Any]], rows: int) -> torch.Tensor:
    """Logits of each question, `rows` of them in one forward pass."""
    answers = []
    for start in range(0, len(questions), rows):
        chunk = questions[start : start + rows]
        own = torch.tensor([row for row, _ in chunk])
        embeddings = batch.embeddings[own]
        for row, (_, gone) in enumerate(chunk):
            embeddings[row, gone] = batch.classifier.mask
        answers.append(batch.classifier(embeddings, batch.attention[own]))
    return torch.cat(answers).double()


class Removals:
    """What the model says of the texts of a batch when the top of one ranking is removed, or alone is kept."""

    def __init__(self, batch: Batch, rankings: list[np.ndarray], options: Options) -> None:
        self.batch = batch
        self.rankings = rankings
        self.options = options
        self.known: dict[bool, list[np.ndarray]] = {}

    def without_top(self, counts: Callable[[int], list[int]]) -> list[np.ndarray]:
        """For each text, logits [K C] without the top k, for all k in `counts(number of tokens)`."""
        return self._read(counts, keep=False)

    def only_top(self, counts: Callable[[int], list[int]]) -> list[np.ndarray]:
        """Likewise with only the top k."""
        return self._read(counts, keep=True)

    def _read(self, counts: Callable[[int], list[int]], *, keep: bool) -> list[np.ndarray]:
        if not self.options.once:
            return self._ask(counts, keep)
        if keep not in self.known:
            self.known[keep] = self._ask(every, keep)
        return [
            whole[counts(len(ranking))]
            for whole, ranking in zip(self.known[keep], self.rankings, strict=True)
        ]

    def _ask(self, counts: Callable[[int], list[int]], keep: bool) -> list[np.ndarray]:
        ks = [counts(len(ranking)) for ranking in self.rankings]
        asked: list[tuple[int, np.ndarray]] = []
        for step in range(max(map(len, ks))):  # one step of all texts, then the next
            for row, ranking in enumerate(self.rankings):
                if step < len(ks[row]):
                    k = ks[row][step]
                    asked.append((row, ranking[k:] if keep else ranking[:k]))
        found: list[list[np.ndarray]] = [[] for _ in ks]
        answers = ask(self.batch, asked, self.options.rows).numpy()
        for (row, _), logits in zip(asked, answers, strict=True):
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
    return [0, *(share(fraction, n) for fraction in ERASER)]


def all_and_eraser(n: int) -> list[int]:
    """All tokens, then ERASER's shares."""
    return [n, *(share(fraction, n) for fraction in ERASER)]


# ---------------------------------------------------------------------------------------------------------------------
# Metrics. Each gives one number per text, NaN where it says nothing of it.

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
    return (value - empty) / (full - empty) if full - empty > AUC_FLOOR else math.nan


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
    logits = removals.without_top(lambda n: [0, share(TOP, n)])
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
        yield gap, gap / abs(difference) if abs(difference) > GAP_FLOOR else math.nan


# ---------------------------------------------------------------------------------------------------------------------
# The study


@dataclass
class Results:
    """`values`: one row per method, text and metric; `scores` and `rankings` by (method, place of the text)."""

    values: pd.DataFrame
    scores: dict[tuple[str, int], np.ndarray]
    rankings: dict[tuple[str, int], list[np.ndarray]]

    def means(self) -> pd.DataFrame:
        """Of each metric, by method; texts of which it says nothing are left out."""
        return self.values.pivot_table("value", "method", "metric", sort=False)


def study(classifier: Classifier, texts: Sequence[Text], options: Options) -> Results:
    """Every method explains, and then every metric judges it, text batch by text batch."""
    scores: dict[tuple[str, int], np.ndarray] = {}
    for name, method in METHODS.items():
        for batch in batches(classifier, texts, options):
            values = method(batch, options).detach().double().numpy()
            for text, place, own in zip(batch.texts, batch.places, values, strict=True):
                scores[name, place] = own[: len(text.ids)]
    for place, text in enumerate(texts):
        scores[RANDOM, place] = random_scores(place, len(text.ids), options)
    rankings = {key: rank(texts[key[1]], found) for key, found in scores.items()}
    rows = []
    for name in [*METHODS, RANDOM]:
        for metric in (
            METRICS if not options.once else [None]
        ):  # None: all of them on the same curves
            for batch in batches(classifier, texts, options):
                rows += judge(name, metric, batch, rankings, options)
    for batch in batches(classifier, texts, options):
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


def judge(
    name: str,
    metric: str | None,
    batch: Batch,
    rankings: dict[tuple[str, int], list[np.ndarray]],
    options: Options,
) -> list[tuple[str, str, str, float]]:
    """A metric of one method on one batch (all metrics where None); the mean over random draws."""
    own = [rankings[name, place] for place in batch.places]
    wanted = METRICS if metric is None else {metric: METRICS[metric]}
    found: dict[str, list[list[float]]] = {one: [] for one in wanted}
    for draw in zip(*own, strict=True):
        removals = Removals(batch, list(draw), options)
        for one, function in wanted.items():
            found[one].append(function(removals))
    return [
        (name, text.name, one, value)
        for one, values in found.items()
        for text, value in zip(batch.texts, np.mean(values, axis=0).tolist(), strict=True)
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Where it all comes from, and which sizes suit the machine


def load(n: int) -> tuple[Classifier, list[Text]]:
    """The bundled model, and the first n of its test sentences; their order is that of a hash of the text."""
    from saliency_bench.data import movie_reviews
    from saliency_bench.models.loading import load_default

    model = load_default(device="cpu")
    texts = []
    for example in movie_reviews.load(split="test")[:n]:
        encoded = model.tokenizer(example.text, return_special_tokens_mask=True, truncation=True)
        special = np.array(encoded["special_tokens_mask"], dtype=bool)
        texts.append(Text(example.id, encoded["input_ids"], np.flatnonzero(~special)))
    return Classifier(model.module, model.tokenizer), texts


def tune(classifier: Classifier, texts: Sequence[Text]) -> Options:
    """The fastest of several sizes of batch and pass, on what costs most: deletion curves and gradients."""
    tried = []
    for n_texts, rows in itertools.product(TEXTS_TRIED, ROWS_TRIED):
        options = Options(sort=True, texts=n_texts, rows=max(rows, n_texts))
        started = time.perf_counter()
        for batch in batches(classifier, texts, options):
            smoothgrad(batch, options)
            deletion_auc(Removals(batch, [text.ranked for text in batch.texts], options))
        tried.append((time.perf_counter() - started, n_texts, rows, options))
    return min(tried, key=lambda one: one[0])[-1]


def main() -> None:
    """Runs the study and writes the means."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=50, help="sentences")
    parser.add_argument("--batches", choices=("sorted", "random"), default="sorted")
    parser.add_argument("--texts", type=int, help="in a batch; default: tuned, or 32 where random")
    parser.add_argument("--rows", type=int, help="in a pass; likewise")
    parser.add_argument("--curves", choices=("each", "once"), default="each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="method_comparison_by_hand.csv")
    given = parser.parse_args()
    classifier, texts = load(given.n)
    sizes = Options(sort=False, texts=32, rows=32)
    if given.batches == "sorted":
        known = given.texts is not None and given.rows is not None
        sizes = Options(True, given.texts, given.rows) if known else tune(classifier, texts)
    torch.manual_seed(given.seed)
    options = Options(
        sort=sizes.sort,
        texts=given.texts or sizes.texts,
        rows=given.rows or sizes.rows,
        once=given.curves == "once",
        seed=given.seed,
    )
    started = time.perf_counter()
    means = study(classifier, texts, options).means()
    print(
        f"{time.perf_counter() - started:.1f} s, {options.texts} texts and {options.rows} rows at once"
    )
    means.to_csv(given.out)
    print(means.round(4).to_string())


if __name__ == "__main__":
    main()
