"""The study of conf/experiment/method_comparison.yaml as a careful engineer writes it with Captum and torch.

Texts are sorted by length and explained in batches of a size that is tuned on the machine. One pass gives class, logits
and gradient. Of each text, each distinct set of remaining tokens is computed once, in passes without
padding; leave-one-out, both curves of every ranking and all metrics follow from these outputs.

    python -m benchmarks.study.careful 24      # the number of sentences
"""

import itertools
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients
from scipy import special, stats

from benchmarks.study import inputs
from benchmarks.study.inputs import Classifier, Draws, Results, Text

#: Sizes that are tried: texts explained together, and tokens in one pass.
TEXTS_TRIED, TOKENS_TRIED = (1, 4, 8), (1024, 2048, 4096)
#: Sentences on which the sizes are tuned.
N_TUNED = 8
HEAVY_TAILED = ("gap", "normalized")  # in a metric's name: its middle is the median


@dataclass(frozen=True)
class Sizes:
    """Texts explained together, and tokens in one pass."""

    texts: int
    tokens: int


def study(
    classifier: Classifier, texts: Sequence[Text], sizes: Sizes, draws: Draws | None = None
) -> Results:
    """Explains and evaluates all texts, the shortest first."""
    rows, scores, rankings = [], {}, {}
    order = sorted(range(len(texts)), key=lambda place: len(texts[place].ids))
    for start in range(0, len(order), sizes.texts):
        places = order[start : start + sizes.texts]
        maps, logits = explain(classifier, texts, places, sizes, draws)
        for row, place in enumerate(places):
            text = texts[place]
            random = (
                np.random.default_rng(place).random((inputs.N_RANKINGS, len(text.ids)))
                if draws is None
                else draws.scores[place]
            )
            own = {name: values[row, None, : len(text.ids)] for name, values in maps.items()}
            query = Queries(classifier, text, logits[row], sizes.tokens)
            own |= {"leave_one_out": leave_one_out(query), "random": random}
            ranked = {name: rank(text, values) for name, values in own.items()}
            scores |= {(name, place): values for name, values in own.items()}
            rankings |= {(name, place): text.ranked[ranks] for name, ranks in ranked.items()}
            found = evaluate(query, ranked, own["integrated_gradients"].sum())
            rows += [(method, text.name, metric, value) for method, metric, value in found]
    return Results(
        pd.DataFrame(rows, columns=["method", "text", "metric", "value"]), scores, rankings
    )


def explain(
    classifier: Classifier,
    texts: Sequence[Text],
    places: Sequence[int],
    sizes: Sizes,
    draws: Draws | None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores [B T] of a batch by method, and the logits [B C]."""
    embeddings, attention, baseline = classifier.padded([texts[place] for place in places])
    size, width = attention.shape
    rows = max(size, sizes.tokens // width)
    logits, target, gradient = gradients(classifier, embeddings, attention)
    noise = inputs.NOISE * classifier.table.std(correction=0)
    smooth = torch.zeros_like(gradient)
    for start in range(0, inputs.N_SAMPLES, rows // size):
        samples = slice(start, min(start + rows // size, inputs.N_SAMPLES))
        n = samples.stop - start
        noisy = embeddings.repeat(n, 1, 1, 1)
        for row, place in enumerate(places):
            length = len(texts[place].ids)
            noisy[:, row, :length] += (
                noise * torch.randn(noisy[:, row, :length].shape)
                if draws is None
                else draws.noise[place][samples]
            )
        repeated = attention.repeat(n, 1), target.repeat(n)
        smooth += gradients(classifier, noisy.flatten(0, 1), *repeated)[2].view(noisy.shape).sum(0)
    path = IntegratedGradients(classifier).attribute(
        embeddings,
        baselines=baseline,
        n_steps=inputs.N_STEPS,
        internal_batch_size=rows,
        target=target,
        additional_forward_args=(attention,),
    )
    maps = {
        "vanilla": gradient.norm(dim=-1),
        "input_x_gradient": (gradient * embeddings).sum(-1),
        "smoothgrad": (smooth / inputs.N_SAMPLES).norm(dim=-1),
        "integrated_gradients": path.sum(-1),
    }
    return {name: values.double().numpy() for name, values in maps.items()}, logits.double().numpy()


def gradients(
    classifier: Classifier,
    embeddings: torch.Tensor,
    attention: torch.Tensor,
    target: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, the class, and the gradient of its logit; the predicted class where none is given."""
    leaf = embeddings.clone().requires_grad_()
    logits = classifier(leaf, attention)
    target = logits.argmax(-1) if target is None else target
    (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), leaf)
    return logits.detach(), target, gradient


@dataclass
class Queries:
    """The outputs of a model for one text when only some of its tokens stay; each distinct set is computed once."""

    classifier: Classifier
    text: Text
    full: np.ndarray  # logits [C] of the whole text
    tokens: int
    known: dict[bytes, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.n, self.target = len(self.text.ranked), int(self.full.argmax())
        self.known[np.packbits(np.ones(self.n, bool)).tobytes()] = self.full
        self.embeddings = self.classifier.table[self.text.ids]

    @torch.inference_mode()
    def __call__(self, keep: np.ndarray) -> np.ndarray:
        """Logits [Q C] of queries [Q U]: which of the ranked tokens stay."""
        keys = [row.tobytes() for row in np.packbits(keep, axis=1)]
        new = {key: row for row, key in enumerate(keys) if key not in self.known}
        length = len(self.embeddings)
        size = max(1, self.tokens // length)
        for start in range(0, len(new), size):
            rows = list(new.values())[start : start + size]
            gone = np.zeros((len(rows), length, 1), bool)
            gone[:, self.text.ranked, 0] = ~keep[rows]
            masked = torch.where(torch.from_numpy(gone), self.classifier.mask, self.embeddings)
            answers = self.classifier(masked).double().numpy()
            self.known |= {keys[row]: answer for row, answer in zip(rows, answers, strict=True)}
        return np.stack([self.known[key] for key in keys])


def leave_one_out(query: Queries) -> np.ndarray:
    """The drop [1 T] of the logit when one token is masked."""
    scores = np.zeros((1, len(query.text.ids)))
    without = query(~np.eye(query.n, dtype=bool))
    scores[0, query.text.ranked] = query.full[query.target] - without[:, query.target]
    return scores


def rank(text: Text, scores: np.ndarray) -> np.ndarray:
    """Ranked tokens [M U] from the most to the least relevant, by each row of scores [M T]."""
    return np.argsort(-scores[:, text.ranked], axis=1, kind="stable")


def evaluate(
    query: Queries, ranked: dict[str, np.ndarray], total: float
) -> list[tuple[str, str, float]]:
    """Every metric of every method; the mean over random rankings."""
    places = np.argsort(np.concatenate([*ranked.values()]), axis=1)
    keep = places[:, None] >= np.arange(query.n + 1)[:, None]  # [M K U] without the top k
    both = np.concatenate([keep, ~keep]).reshape(-1, query.n)
    deletion, insertion = query(both).reshape(2, len(places), query.n + 1, -1)
    values = {
        metric: np.split(each, np.cumsum([len(ranks) for ranks in ranked.values()])[:-1])
        for metric, each in metrics(deletion, insertion, query.target).items()
    }
    rows = [
        (method, metric, float(own.mean()))
        for metric, each in values.items()
        for method, own in zip(ranked, each, strict=True)
    ]
    difference = float((deletion[0, 0] - deletion[0, -1])[query.target])
    gap = abs(total - difference)
    relative = gap / abs(difference) if abs(difference) > inputs.GAP_FLOOR else math.nan
    path = "integrated_gradients"
    return [*rows, (path, "completeness_gap", gap), (path, "completeness_gap_relative", relative)]


def metrics(deletion: np.ndarray, insertion: np.ndarray, target: int) -> dict[str, np.ndarray]:
    """Every metric [M] of curves [M K C] of logits: without the top k tokens, and with nothing else."""
    p, q = (special.softmax(logits, axis=-1)[..., target] for logits in (deletion, insertion))
    n = p.shape[1] - 1
    counts = [max(1, math.ceil(round(share * n, 9))) for share in (*inputs.ERASER, inputs.TOP)]
    removed = (p[:, :1] - p[:, 1:]).mean(1)
    kept = (q[:, -1:] - q[:, :-1]).mean(1)
    areas = {"deletion": np.trapezoid(p, dx=1 / n), "insertion": np.trapezoid(q, dx=1 / n)}
    span = np.where(p[:, 0] - p[:, -1] > inputs.AUC_FLOOR, p[:, 0] - p[:, -1], np.nan)
    odds = deletion[..., target] - special.logsumexp(np.delete(deletion, target, axis=-1), axis=-1)
    flipped = deletion[:, 1:].argmax(-1) != target
    return {
        "srg": removed - kept,
        "comprehensiveness": (p[:, :1] - p[:, counts[:-1]]).mean(1),
        "sufficiency": (q[:, -1:] - q[:, counts[:-1]]).mean(1),
        "aopc_comprehensiveness_full": removed,
        "aopc_sufficiency_full": kept,
        **{f"{name}_auc": area for name, area in areas.items()},
        **{f"{name}_auc_normalized": (area - p[:, -1]) / span for name, area in areas.items()},
        "log_odds": odds[:, counts[-1]] - odds[:, 0],
        "decision_flip_fraction": np.where(flipped.any(1), flipped.argmax(1) + 1, n) / n,
    }


def summary(values: pd.DataFrame) -> pd.DataFrame:
    """The middle of each metric over texts with its 95 % interval, by method."""
    rows = [
        (method, metric, *interval(own.value.dropna().to_numpy(), metric))
        for (method, metric), own in values.sort_values("text").groupby(
            ["method", "metric"], sort=False
        )
    ]
    return pd.DataFrame(rows, columns=["method", "metric", "middle", "low", "high"])


def interval(values: np.ndarray, metric: str) -> tuple[float, float, float]:
    """The mean, and on each side the farther end of Student's t and of the BCa bootstrap with t's level."""
    n = len(values)
    if n < 2:
        return float(values.mean()) if n else math.nan, math.nan, math.nan
    if any(word in metric for word in HEAVY_TAILED):
        ordered, out = np.sort(values), max(int(stats.binom.ppf(0.025, n, 0.5)) - 1, 0)
        return float(np.median(values)), ordered[out], ordered[-1 - out]
    mean, error, quantile = values.mean(), stats.sem(values), stats.t.ppf(0.975, n - 1)
    if np.ptp(values) <= 1e-12 * abs(values).max():
        return mean, values.max(), values.max()
    # No farther out than the resamples reach.
    level = min(1 - 2 * stats.norm.cdf(-quantile * math.sqrt(n / (n - 1))), 1 - 2e-4)
    drawn = stats.bootstrap(
        (values,), np.mean, confidence_level=level, batch=1000, rng=np.random.default_rng(0)
    ).confidence_interval
    half = quantile * error
    return mean, min(drawn.low, mean - half), max(drawn.high, mean + half)


def of_middle_lengths(texts: Sequence[Text], n: int) -> list[Text]:
    """The n texts in the middle of the order of lengths: as little padded as the batches of the study are."""
    ordered = sorted(texts, key=lambda text: len(text.ids))
    start = (len(ordered) - n) // 2
    return ordered[max(0, start) : max(0, start) + n]


def tune(
    classifier: Classifier, texts: Sequence[Text], clock: Callable[[], float] = time.perf_counter
) -> Sizes:
    """The sizes with which the study is fastest here, on `N_TUNED` of the texts."""
    sample = of_middle_lengths(texts, N_TUNED)

    def seconds(sizes: Sizes) -> float:
        started = clock()
        study(classifier, sample, sizes)
        return clock() - started

    return min(itertools.starmap(Sizes, itertools.product(TEXTS_TRIED, TOKENS_TRIED)), key=seconds)


if __name__ == "__main__":
    loaded = inputs.load(int(sys.argv[1]))
    print(summary(study(*loaded, tune(*loaded)).values).round(4).to_string())
