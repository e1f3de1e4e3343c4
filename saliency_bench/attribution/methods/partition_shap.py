"""SHAP's explainer for text, through the package `shap`, asking the model as everybody here does."""

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
from saliency_bench.models.tasks.scores import output_of
from saliency_bench.models.threads import PROCESS

#: Questions that shap puts at once, its default: another number would spend `max_evaluations` in another order.
AT_ONCE = 10

#: F of one text for rows of who is there.
Game = Callable[[Bool[np.ndarray, "R N"]], Float[np.ndarray, " R"]]


@method(
    "token", label="SHAP (Partition)", signed=True, sums_to="F(x) - F(no token), always exactly"
)
def partition_shap(ctx: Context, *, removal: str, max_evaluations: int) -> Attribution:
    """Owen values of the tokens over a tree of phrases: shap.explainers.Partition, its explainer for text.

    Groups of tokens play as one and share what they are worth among their halves, down a tree that shap builds from the
    tokens (Owen 1977, for groups in groups Winter 1989; Lundberg & Lee 2017 for SHAP). Pieces of a word share equally. Of
    a text with U tokens that takes about U² questions where the tree is balanced, and at most `max_evaluations` and one more, the most telling groups first; what is left is
    shared equally in a group. The model is asked through `removal`, as for any metric; special tokens always stay.
    Σ = F(x) - F(no token) exactly, at any number of questions.

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
        play = _game(ctx, row, players, removal)
        nobody, everybody = play(np.array([[False], [True]]) & np.ones(len(players), dtype=bool))
        difference[row] = everybody - nobody
        scores[row, players] = torch.from_numpy(
            _owen_values(shap, play, item, players, max_evaluations, seed_of(name, ctx.seed))
            if len(players) > 1
            else np.array([everybody - nobody])
        )
    return Attribution(scores, 0, scores.sum(1), difference)


def _owen_values(
    shap: ModuleType,
    play: Game,
    item: Encoded,
    players: Int[np.ndarray, " N"],
    max_evaluations: int,
    seed: int,
) -> Float[np.ndarray, " N"]:
    from shap.maskers._text import partition_tree

    masker = Presence(len(players), partition_tree(_spelled(item, players), []))
    explainer = shap.explainers.Partition(play, masker)
    with _seeded(seed):
        found = explainer(
            np.ones((1, len(players)), dtype=bool),
            max_evals=max_evaluations,
            batch_size=AT_ONCE,
            silent=True,
        )
    return np.asarray(found.values[0], dtype=float)


class Presence:
    """What shap asks of a masker: a row of presence is its own masked input, and a tree says who plays together."""

    immutable_outputs = False

    def __init__(self, n: int, clustering: Float[np.ndarray, "M 4"]) -> None:
        self.n = n
        self.clustering = clustering

    def shape(self, row: Bool[np.ndarray, " N"]) -> tuple[int, int]:
        """One masked input of as many players."""
        return 1, self.n

    def __call__(
        self, mask: Bool[np.ndarray, " N"], row: Bool[np.ndarray, " N"]
    ) -> Bool[np.ndarray, "1 N"]:
        """Who is there."""
        return np.asarray(mask, dtype=bool)[None]


def _game(ctx: Context, row: int, players: Int[np.ndarray, " N"], removal: str) -> Game:
    read = output_of(ctx.references.model, ctx.output)
    length = ctx.batch.lengths[row]

    def play(there: Bool[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
        keep = np.ones((len(there), length), dtype=bool)
        keep[:, players] = there
        examples = np.full(len(keep), row)
        logits = torch.as_tensor(ctx.probe(removal)(examples, list(keep)))
        return np.asarray(read(logits, ctx.target.cpu()[examples]).double())

    return play


def _spelled(item: Encoded, players: Sequence[int] | Int[np.ndarray, " N"]) -> list[str]:
    """The tokens as shap's tree reads them: later pieces of a word start with ##."""
    found: list[str] = []
    before = None
    for place in players:
        word, (start, end) = item.words[place], item.offsets[place]
        of = item.text_pair if item.segments[place] == 1 and item.text_pair else item.text
        piece = of[start:end].strip() if 0 <= start < end <= len(of) else item.tokens[place]
        later = item.words_known and word >= 0 and word == before
        found.append(f"##{piece.removeprefix('##')}" if later else piece)
        before = word
    return found


def _shap() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports
            import shap
    except ImportError as error:
        raise InputError(
            "partition_shap needs shap, which is not installed. Run: pip install 'saliency-bench[shap]'"
        ) from error
    module: ModuleType = shap
    return module


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Of equal groups shap takes one by numpy's global generator: seeded for the time, and put back where it was."""
    with PROCESS:
        before = np.random.get_state()  # noqa: NPY002 - it is the global one that shap draws from
        try:
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
