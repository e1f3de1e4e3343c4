"""SHAP's explainer for text, through the package `shap`, with the removal operators of this package."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saliency_bench.attribution.context import Context
from saliency_bench.attribution.methods.base import method
from saliency_bench.core.errors import InputError
from saliency_bench.core.seeding import seed_of
from saliency_bench.core.tensors import Attribution
from saliency_bench.core.text import Encoded
from saliency_bench.models.threads import PROCESS

#: The batch size of shap, its default. With another one the evaluations would be spent in another order.
AT_ONCE = 10

#: F of one text for rows of presence: the tokens that stay.
Game = Callable[[Bool[np.ndarray, "R N"]], Float[np.ndarray, " R"]]


@method(
    "token", label="SHAP (Partition)", signed=True, sums_to="F(x) - F(no token), always exactly"
)
def partition_shap(ctx: Context, *, removal: str, max_evaluations: int) -> Attribution:
    """Owen values of the tokens over a tree of phrases, by shap.explainers.Partition, the explainer of shap for text.

    shap builds a binary tree of groups from the tokens. The value of a group is divided among its halves, down the tree
    (Owen 1977; Winter 1989 for groups within groups; Lundberg & Lee 2017 for SHAP). Pieces of a word get equal shares. A
    text with U tokens takes about U² evaluations of the model if the tree is balanced, and at most `max_evaluations` + 1.
    Groups with the largest values are divided first; the value of a group that is not divided is shared equally. Tokens
    are removed by `removal`; special tokens always stay. Σ = F(x) - F(no token) exactly, for any number of evaluations.

    Raises:
        InputError: the package is not installed.
    """
    shap = _shap()
    attributable = ctx.batch.attributable.cpu().numpy()
    scores = torch.zeros(attributable.shape, dtype=torch.float64)
    difference = torch.zeros(len(attributable), dtype=torch.float64)
    for row, (item, name) in enumerate(zip(ctx.batch.encoded, ctx.hashes, strict=True)):
        players = np.flatnonzero(attributable[row])
        if not len(players):
            continue
        game = _game(ctx, row, players, removal)
        empty, full = game(np.array([[False], [True]]) & np.ones(len(players), dtype=bool))
        difference[row] = full - empty
        scores[row, players] = torch.from_numpy(
            _owen_values(shap, game, item, players, max_evaluations, seed_of(name, ctx.seed))
            if len(players) > 1
            else np.array([full - empty])
        )
    return Attribution(scores, 0, scores.sum(1), difference)


def _owen_values(
    shap: ModuleType,
    game: Game,
    item: Encoded,
    players: Int[np.ndarray, " N"],
    max_evaluations: int,
    seed: int,
) -> Float[np.ndarray, " N"]:
    from shap.maskers._text import partition_tree

    masker = Presence(len(players), partition_tree(_spelled(item, players), []))
    explainer = shap.explainers.Partition(game, masker)
    with _seeded(seed):
        explanation = explainer(
            np.ones((1, len(players)), dtype=bool),
            max_evals=max_evaluations,
            batch_size=AT_ONCE,
            silent=True,
        )
    return np.asarray(explanation.values[0], dtype=float)


class Presence:
    """A masker for shap whose masked input is the row of presence itself; `clustering` is the tree of groups."""

    immutable_outputs = False

    def __init__(self, n: int, clustering: Float[np.ndarray, "M 4"]) -> None:
        self.n = n
        self.clustering = clustering

    def shape(self, row: Bool[np.ndarray, " N"]) -> tuple[int, int]:
        """The shape of a masked input."""
        return 1, self.n

    def __call__(
        self, mask: Bool[np.ndarray, " N"], row: Bool[np.ndarray, " N"]
    ) -> Bool[np.ndarray, "1 N"]:
        """The masked input."""
        return np.asarray(mask, dtype=bool)[None]


def _game(ctx: Context, row: int, players: Int[np.ndarray, " N"], removal: str) -> Game:
    length = ctx.batch.lengths[row]

    def game(present: Bool[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
        keep = np.ones((len(present), length), dtype=bool)
        keep[:, players] = present
        return np.asarray(ctx.answers(removal, np.full(len(keep), row), list(keep)))

    return game


def _spelled(item: Encoded, players: Sequence[int] | Int[np.ndarray, " N"]) -> list[str]:
    """The tokens in the form that shap expects for its tree: all pieces of a word but the first start with ##."""
    pieces: list[str] = []
    before = None
    for place in players:
        word, (start, end) = item.words[place], item.offsets[place]
        text = item.text_pair if item.segments[place] == 1 and item.text_pair else item.text
        piece = text[start:end].strip() if 0 <= start < end <= len(text) else item.tokens[place]
        continues = item.words_known and word >= 0 and word == before
        pieces.append(f"##{piece.removeprefix('##')}" if continues else piece)
        before = word
    return pieces


def _shap() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of the modules that it imports
            import shap
    except ImportError as error:
        raise InputError(
            "partition_shap needs shap, which is not installed. Run: pip install 'saliency-bench[shap]'"
        ) from error
    module: ModuleType = shap
    return module


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator, by which shap breaks ties, and restores its state afterwards."""
    with PROCESS:
        before = np.random.get_state()  # noqa: NPY002 - it is the global one that shap draws from
        try:
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
