"""Paths through an embedding table: from a word to a baseline, by words that lie near (Sanyal & Ren 2021)."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.models.rounding import products

#: The cost of each candidate, from the candidates [K D], the word before them [D], the baseline [D] and m (`monotone`).
Cost = Callable[[Tensor, Tensor, Tensor, int], Tensor]

#: The rows of the embedding table that are converted to float64 at once.
ROWS = 4096
#: The size of the cache of neighbours, and of that of paths, in bytes.
MOST_BYTES = 2**28


class Kept:
    """A cache of tensors of at most `most_bytes`; the oldest are dropped first, the newest is always kept."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.size = most_bytes, 0
        self._tensors: dict[object, Tensor] = {}

    def get(self, key: object, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key, computed if it is not in the cache."""
        if key not in self._tensors:
            tensor = self._tensors[key] = compute()
            self.size += tensor.nbytes
            while self.size > self.most_bytes and len(self._tensors) > 1:
                self.size -= self._tensors.pop(next(iter(self._tensors))).nbytes
        return self._tensors[key]


class Anchors:
    """The vectors of a vocabulary [V D], with a cache of nearest neighbours."""

    def __init__(self, table: Float[Tensor, "V D"]) -> None:
        self.table = table
        self.squares = torch.cat(
            [rows.double().square().sum(1) for rows in torch.split(table, ROWS)]
        )
        self._nearest = Kept(MOST_BYTES)

    def nearest(self, word: int, k: int) -> Int[Tensor, " K"]:
        """The k words nearest to a word (Euclidean), without itself; ties are ordered by id."""
        k = min(k, len(self.table) - 1)

        def search() -> Int[Tensor, " K"]:
            with products(tf32=False):
                dots = (self.table @ self.table[word]).double()
            distances = self.squares - 2 * dots
            distances[word] = torch.inf
            return distances.sort(stable=True).indices[:k].clone()  # a view would keep all V

        return self._nearest.get((word, k), search)


def word_path(
    anchors: Anchors,
    word: int,
    baseline: Float[Tensor, " D"],
    n_steps: int,
    strategy: str,
    neighbours: int,
    factor: int,
) -> Float[Tensor, "S D"]:
    """The points of a path from the baseline to a word, both included (Sanyal & Ren 2021).

    Every dimension moves in one direction only. The path has n_steps · 2^factor + 1 points.

    Args:
        anchors: the vocabulary.
        word: the id of the word.
        baseline: the first point.
        n_steps: the number of anchors between the word and the baseline, plus 1.
        strategy: the name of a cost in `STRATEGIES`, by which the next anchor is chosen.
        neighbours: the number of nearest words among which it is chosen.
        factor: the number of times that every segment is halved.
    """
    m = max(n_steps - 1, 1)
    words = [word]
    for _ in range(n_steps - 1):
        next_word = _next(anchors, words, baseline, m, strategy, neighbours)
        if next_word is None:
            break
        words.append(next_word)
    points = [anchors.table[word]]
    for anchor in words[1:]:
        points.append(monotone(anchors.table[anchor], points[-1], baseline, m))
    # If there are too few words, the remaining points are the baseline.
    points += [baseline] * (n_steps + 1 - len(points))
    path = torch.stack(points[::-1])
    for _ in range(factor):
        path = _halved(path)
    return path


def monotone(
    vectors: Float[Tensor, "*K D"],
    before: Float[Tensor, " D"],
    baseline: Float[Tensor, " D"],
    m: int,
) -> Float[Tensor, "*K D"]:
    """The vectors, with each dimension that is not between `before` and the baseline put at 1/m of the way to the latter."""
    return torch.where(
        _between(vectors, before, baseline), vectors, before - (before - baseline) / m
    )


def _between(
    vectors: Float[Tensor, "*K D"], before: Float[Tensor, " D"], baseline: Float[Tensor, " D"]
) -> Bool[Tensor, "*K D"]:
    low, high = torch.minimum(before, baseline), torch.maximum(before, baseline)
    return (vectors >= low) & (vectors <= high)


def _change(vectors: Tensor, before: Tensor, baseline: Tensor, m: int) -> Tensor:
    """The squared distance that each vector moves when it is made monotone."""
    return (vectors - monotone(vectors, before, baseline, m)).double().square().sum(-1)


def _outside(vectors: Tensor, before: Tensor, baseline: Tensor, m: int) -> Tensor:
    """The number of dimensions of each vector that are not monotone."""
    return (~_between(vectors, before, baseline)).sum(-1).double()


#: The costs by which the next anchor is chosen: the candidate of the smallest cost, and of equal costs the nearest.
STRATEGIES: Mapping[str, Cost] = {"greedy": _change, "maxcount": _outside}


def _next(
    anchors: Anchors,
    words: list[int],
    baseline: Float[Tensor, " D"],
    m: int,
    strategy: str,
    neighbours: int,
) -> int | None:
    """The anchor after `words`; None if there is no candidate."""
    last = words[-1]
    nearest = anchors.nearest(last, neighbours)
    vectors = anchors.table[nearest]
    costs = STRATEGIES[strategy](vectors, anchors.table[last], baseline, m)
    used = torch.isin(nearest, torch.tensor(words, device=nearest.device))
    costs = costs.masked_fill(used | (vectors == baseline).all(-1), torch.inf)
    best = costs.min(0)
    return None if torch.isinf(best.values) else int(nearest[best.indices])


def _halved(path: Float[Tensor, "S D"]) -> Float[Tensor, "S2 D"]:
    """The path with the middle of every segment as a further point."""
    longer = path.new_empty(2 * len(path) - 1, path.shape[1])
    longer[::2] = path
    longer[1::2] = (path[:-1] + path[1:]) / 2
    return longer
