"""Paths through an embedding table: from a word to a baseline, by words that lie near (Sanyal & Ren 2021)."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.models.rounding import products

#: Of candidates [K D], of the word before them and of the baseline: what each costs.
Cost = Callable[[Tensor, Tensor, Tensor, int], Tensor]


#: Rows of the embedding table that are in float64 at once.
ROWS = 4096
#: Bytes that are kept of neighbours, and as many of paths, for words that come again; the oldest are forgotten first.
MOST_BYTES = 2**28


class Kept:
    """Tensors by key, of at most so many bytes together, the last one always."""

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self._tensors: dict[object, Tensor] = {}

    def get(self, key: object, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key, computed where it is not kept."""
        if key not in self._tensors:
            tensor = self._tensors[key] = compute()
            self.size += tensor.nbytes
            while self.size > self.most and len(self._tensors) > 1:
                self.size -= self._tensors.pop(next(iter(self._tensors))).nbytes
        return self._tensors[key]


class Anchors:
    """The vectors of a vocabulary, and the nearest neighbours of those words that were asked for."""

    def __init__(self, table: Float[Tensor, "V D"]) -> None:
        self.table = table
        self.squares = torch.cat(
            [rows.double().square().sum(1) for rows in torch.split(table, ROWS)]
        )
        self._nearest = Kept(MOST_BYTES)

    def nearest(self, word: int, k: int) -> Int[Tensor, " K"]:
        """The k words nearest to a word (Euclidean), without itself; of equal distances the smaller ids first."""
        k = min(k, len(self.table) - 1)

        def search() -> Int[Tensor, " K"]:
            with products(tf32=False):
                dots = (self.table @ self.table[word]).double()
            distances = self.squares - 2 * dots
            distances[word] = torch.inf
            return distances.sort(stable=True).indices[:k].clone()  # not a view of all V

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
    """The points from the baseline to a word, both included: n_steps · 2^factor + 1.

    Every dimension moves in one direction only.
    """
    taken = [word]
    for _ in range(n_steps - 1):
        following = _next(anchors, taken, baseline, max(n_steps - 1, 1), strategy, neighbours)
        if following is None:
            break
        taken.append(following)
    points = [anchors.table[word]]
    for anchor in taken[1:]:
        points.append(monotone(anchors.table[anchor], points[-1], baseline, max(n_steps - 1, 1)))
    # Where there is no word left, the rest of the way is at the baseline.
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
    """The vectors with each dimension that is not between `before` and the baseline put 1/m of that way on."""
    return torch.where(
        _between(vectors, before, baseline), vectors, before - (before - baseline) / m
    )


def _between(
    vectors: Float[Tensor, "*K D"], before: Float[Tensor, " D"], baseline: Float[Tensor, " D"]
) -> Bool[Tensor, "*K D"]:
    low, high = torch.minimum(before, baseline), torch.maximum(before, baseline)
    return (vectors >= low) & (vectors <= high)


def _change(vectors: Tensor, before: Tensor, baseline: Tensor, m: int) -> Tensor:
    """How far each vector moves when it is made monotone."""
    return (vectors - monotone(vectors, before, baseline, m)).double().square().sum(-1)


def _outside(vectors: Tensor, before: Tensor, baseline: Tensor, m: int) -> Tensor:
    """How many dimensions of each vector are not monotone."""
    return (~_between(vectors, before, baseline)).sum(-1).double()


#: How the next anchor is chosen: the candidate with the smallest cost, of equal ones the nearest.
STRATEGIES: Mapping[str, Cost] = {"greedy": _change, "maxcount": _outside}


def _next(
    anchors: Anchors,
    taken: list[int],
    baseline: Float[Tensor, " D"],
    m: int,
    strategy: str,
    neighbours: int,
) -> int | None:
    """The anchor after those that were taken; None where no candidate is left."""
    last = taken[-1]
    near = anchors.nearest(last, neighbours)
    vectors = anchors.table[near]
    costs = STRATEGIES[strategy](vectors, anchors.table[last], baseline, m)
    used = torch.isin(near, torch.tensor(taken, device=near.device))
    costs = costs.masked_fill(used | (vectors == baseline).all(-1), torch.inf)
    best = costs.min(0)
    return None if torch.isinf(best.values) else int(near[best.indices])


def _halved(path: Float[Tensor, "S D"]) -> Float[Tensor, "S2 D"]:
    """The path with the middle of every two points between them."""
    longer = path.new_empty(2 * len(path) - 1, path.shape[1])
    longer[::2] = path
    longer[1::2] = (path[:-1] + path[1:]) / 2
    return longer
