"""The article's case on a model of one's own: many classes, a pair of texts, and what the article could not see.

    python examples/article.py [OUT]          the same step by step, with pictures: examples/article.ipynb

A classifier with a `bert` attribute that averages over its last layer, as in the article, learns to tell seven ratings of
a film from the two halves of a sentence. Its data were private (titles and subtitles, 93 classes); the bundled rated
sentences replace them. SmoothGrad and Integrated Gradients explain test pairs in batches, as coloured text; then:
does the sum come out, is it better than chance, and how sure is that?
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

import saliency_bench as sb
from saliency_bench.core.display import page
from saliency_bench.data import movie_reviews
from saliency_bench.models.encoder import encoder_folder
from saliency_bench.models.model import Model
from saliency_bench.report.stats import Resampling, intervals

RATINGS = ("-3", "-2", "-1", "0", "1", "2", "3")
METHODS = {
    "smoothgrad": {"n_samples": 24},
    "integrated_gradients": {"baseline": "mask", "n_steps": 50},
}


class PooledClassifier(nn.Module):
    """The article's model: an encoder called `bert`, the mean of its last layer, dropout and one linear layer."""

    def __init__(self, encoder: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.bert = encoder
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(encoder.config.hidden_size, n_classes)

    def pooled(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The mean over all positions, padded ones too, as in the article."""
        return self.bert(input_ids=input_ids, attention_mask=attention_mask)[0].mean(1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B C], a plain tensor."""
        return self.classifier(self.dropout(self.pooled(input_ids, attention_mask)))


def pairs(split: str, n: int | None = None) -> tuple[list[tuple[str, str]], list[int]]:
    """Halves of the first n sentences, of all where n is None, and the class of their rating."""
    texts, classes = [], []
    for one in movie_reviews.load(split=split)[:n]:
        words = one.text.split()
        texts.append((" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])))
        classes.append(int(np.clip(round(one.extra["rating"]), -3, 3)) + 3)
    return texts, classes


def train(n: int | None = None, epochs: int = 300) -> tuple[PooledClassifier, object]:
    """The head trained on features of a frozen encoder: of all 8566 training pairs in one to two minutes on a core."""
    torch.manual_seed(0)
    folder = encoder_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = PooledClassifier(AutoModel.from_pretrained(folder), len(RATINGS)).eval()
    texts, classes = pairs("train", n)
    inputs, labels = features(model, tokenizer, texts), torch.tensor(classes)
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=0.01, weight_decay=0.05)
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.classifier(inputs), labels).backward()
        optimizer.step()
    return model, tokenizer


@torch.no_grad()
def features(
    model: PooledClassifier, tokenizer: object, texts: Sequence[tuple[str, str]]
) -> Tensor:
    """What the head gets of each pair, [N D]: pairs of equal length go through together, so nothing is padded."""
    ids = tokenizer([one for one, _ in texts], [other for _, other in texts])["input_ids"]
    found = torch.empty(len(texts), model.classifier.in_features)
    by_length: dict[int, list[int]] = {}
    for index, one in enumerate(ids):
        by_length.setdefault(len(one), []).append(index)
    for alike in by_length.values():
        for rows in torch.tensor(alike).split(64):
            found[rows] = model.pooled(torch.tensor([ids[row] for row in rows.tolist()]))
    return found


def mean(values: Sequence[float]) -> str:
    """A mean over texts with its 95 % interval (`stats.intervals`)."""
    column = np.asarray(values, dtype=float)[:, None]
    low, high = intervals(column, Resampling(0.95, 9999, 0))
    return f"{column.mean():.3f} [{low[0]:.3f}, {high[0]:.3f}]"


def wrapped(module: PooledClassifier, tokenizer: object) -> Model:
    """What took the article a class with hooks: the embedding layer by its path, and how the module is called."""
    return sb.wrap_model(
        module,
        tokenizer,
        embeddings="bert.embeddings.word_embeddings",
        forward=lambda module, inputs: module(inputs["input_ids"], inputs.get("attention_mask")),
        labels=RATINGS,
    )


@torch.no_grad()
def accuracy(module: PooledClassifier, tokenizer: object, n: int | None = None) -> str:
    """The share of the first n test pairs (None: all) that get their rating, beside that of the most frequent rating."""
    texts, ratings = pairs("test", n)
    said = module.classifier(features(module, tokenizer, texts)).argmax(-1)
    right = float(np.mean(np.equal(said.tolist(), ratings)))
    share = np.bincount(ratings).max() / len(ratings)
    return (
        f"{right:.3f} on {len(ratings)} test pairs; the most frequent class is {share:.3f} of them"
    )


def explained(model: Model, texts: Sequence[tuple[str, str]]) -> dict[str, list[sb.AttributionMap]]:
    """The maps of each method and of a random order, texts in batches."""
    methods = METHODS | {"random": {}}
    return {name: sb.attribute(model, texts, name, **given) for name, given in methods.items()}


def gap(maps: Sequence[sb.AttributionMap]) -> float:
    """What the article could not see, first: by how much the sum misses F(x) - F(x'), the median."""
    return float(
        np.median([abs(m.completeness_gap) / max(abs(m.output_difference), 0.01) for m in maps])
    )


def faithfulness(model: Model, maps: Sequence[sb.AttributionMap]) -> str:
    """Second: SRG, which is 0 for a random order, with its interval."""
    return mean(sb.evaluate(model, maps, ["srg"], removal="mask")["value"])


def special_share(maps: Sequence[sb.AttributionMap]) -> str:
    """Third: how much of a map goes to [CLS] and [SEP], on which the article remarks."""
    special = [[not content for content in one.attributable] for one in maps]
    return mean(
        [
            np.abs(m.scores[s]).sum() / np.abs(m.scores).sum()
            for m, s in zip(maps, special, strict=True)
        ]
    )


def main(
    out: Path, n_train: int | None = None, n_test: int = 24, n_right: int | None = None
) -> None:
    """Trains on n_train pairs, is right on some of n_right, explains and evaluates n_test, and writes a page of texts."""
    module, tokenizer = train(n_train)
    print(f"{len(RATINGS)} classes, accuracy {accuracy(module, tokenizer, n_right)}")
    model = wrapped(module, tokenizer)
    maps = explained(model, pairs("test", n_test)[0])
    print(
        f"completeness: the median gap is {gap(maps['integrated_gradients']):.2%} of F(x) - F(x')"
    )
    for name, own in maps.items():
        print(f"{name:22} SRG {faithfulness(model, own)}")
    print(f"share of SmoothGrad on [CLS] and [SEP]: {special_share(maps['smoothgrad'])}")
    shown = [one for name in METHODS for one in maps[name][:4]]
    out.mkdir(parents=True, exist_ok=True)
    (out / "article.html").write_text(page(shown, top=None, special_tokens=True), "utf-8")
    print(f"coloured texts: {out / 'article.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("results") / "runs" / "article")
