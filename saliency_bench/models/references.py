"""The vectors that stand for the absence of a token: baselines, replacements of removal, and random references.

A baseline is a name in `BASELINES`, or the user's own: `text:SOME WORDS`, or `vector:FILE.npy` with one number per
dimension. References are drawn from a source in `REFERENCES`, or from a text file: `file:PATH`. A setting holds only the
name. The name of a file therefore gets the digest of its content when it is resolved for a model
(`vector:FILE.npy@0123456789ab`), so that a changed file is another setting. The file is read again and compared before it
is used.
"""

import re
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saliency_bench.core.errors import InputError, one_of
from saliency_bench.core.registry import BASELINES, REMOVALS
from saliency_bench.core.tensors import Batch, TokenBudget
from saliency_bench.data.scores import read_scores
from saliency_bench.models import contents
from saliency_bench.models.contents import FILE, TEXT, VECTOR, without_digest
from saliency_bench.models.model import Model
from saliency_bench.models.rounding import coarse_share
from saliency_bench.models.weights import sums_of_weights

T = TypeVar("T")

TOKENS = {"mask": "mask_token_id", "pad": "pad_token_id", "unk": "unk_token_id"}
VECTORS = ("zero", "mean")

#: The vectors that are the same at all places; they can replace a removed token, and be a baseline.
NAMES = (*TOKENS, *VECTORS)

#: Removals without a replacement: the token is not attended to, or is taken out of the text.
ATTENTION, DELETE = "attention", "delete"

#: The sources of random references: single tokens, numbers, or windows of a text.
REFERENCES = ("vocabulary", "uniform", "movie_reviews")

#: The replacements, in order, where the tokenizer lacks a token.
FALLBACK = ("mask", "pad", "zero")

#: The name of a vector that was given as an array.
_AS_ARRAY = re.compile(rf"{VECTOR}[0-9a-f]{{12}}$")


def available(model: Model, name: str, key: str = "baseline") -> bool:
    """Whether the model has this vector; `key` names the configuration key in the error."""
    one_of(key, name, NAMES)
    return name in VECTORS or token_id(model, name) is not None


def token_id(model: Model, name: str) -> int | None:
    """The token of this name (a key of `TOKENS`); None where the tokenizer or the embedding has none."""
    token: int | None = getattr(model.tokenizer, TOKENS[name], None)
    # A token that was added to the tokenizer alone has no embedding.
    lacks = token is None or (model.vocabulary is not None and token >= model.vocabulary)
    return None if lacks else token


def resolve(model: Model, name: str, key: str = "baseline") -> str:
    """`name` where the model has it, else the first of mask, pad, zero that it has."""
    return next(choice for choice in (name, *FALLBACK) if available(model, choice, key))


def lacking(model: Model, requested: Any, used: str) -> str | None:
    """A note on the token or tokenizer that the model lacks, and on its replacement; None where nothing is replaced."""
    # A digest at its end makes no other choice, and neither does the name of a vector that was given as an array.
    if not isinstance(requested, str) or used.startswith(requested):
        return None
    needed = "tokenizer" if requested == "movie_reviews" else f"{requested} token"
    return f"{model.name} has no {needed}: {used} is used instead"


def check_baseline(name: str, key: str) -> None:
    """Refuses what cannot be a baseline of any model: an unknown name, an empty text, a file without a vector.

    Raises:
        InputError: names the baseline, and what was expected.
    """
    if _AS_ARRAY.match(name):
        return  # depends on the model
    if name.startswith(VECTOR):
        contents.read_vector(name, key)
    elif name.startswith(TEXT):
        if not name.removeprefix(TEXT).strip():
            raise InputError(f"{key}={name!r}: expected words, as in text:the film")
    else:
        one_of(key, name, [*BASELINES.names(), f"{TEXT}WORDS", f"{VECTOR}FILE.npy"])


def check_references(name: str, key: str) -> None:
    """Refuses what cannot be a source of references for any model: an unknown name, or a file without text.

    Raises:
        InputError: names the source, and what was expected.
    """
    if name.startswith(FILE):
        contents.read_texts(name, key)
    else:
        one_of(key, name, [*REFERENCES, f"{FILE}PATH"])


def resolve_removal(model: Model, name: str, key: str = "removal") -> str:
    """`name` where the model has it, otherwise the first of mask, pad, zero; removals that are no vector stay as they are."""
    one_of(key, name, REMOVALS.names())
    return resolve(model, name, key) if name in NAMES else name


def resolve_baseline(model: Model, baseline: Any, key: str = "baseline") -> str:
    """The name of a baseline in settings: one that the model has, with a digest where the numbers are in a file.

    Args:
        model: the baseline must fit its embeddings.
        baseline: a name, or the vector itself (a numpy array or a tensor [D]), which gets the name `vector:DIGEST`.
        key: names the configuration key in errors.

    Raises:
        InputError: there is no such baseline, or it does not fit the model.
    """
    if isinstance(baseline, np.ndarray | Tensor):
        return contents.remember(model, baseline, key)
    if not isinstance(baseline, str):
        raise InputError(
            f"{key}={baseline!r}: expected the name of a baseline, or a vector as a numpy array or a tensor"
        )
    if contents.remembered(model, baseline) is not None:
        return baseline
    check_baseline(baseline, key)
    if baseline.startswith(VECTOR):
        numbers = contents.fitting(model, contents.read_vector(baseline, key), f"{key}={baseline}")
        return f"{without_digest(baseline)}@{contents.digest_of(numbers)}"
    if baseline.startswith(TEXT):
        contents.words_of(model, baseline, key)
    return resolve(model, baseline, key) if baseline in NAMES else baseline


def resolve_references(model: Model, name: str, key: str = "references", longest: int = 1) -> str:
    """The name of references in settings: a file with its digest; vocabulary for movie_reviews without a tokenizer.

    `longest` is the number of tokens of the longest text, or 1 where that is not decided yet.

    Raises:
        InputError: there are no such references, or the file has too little text.
    """
    check_references(name, key)
    if name == "movie_reviews" and not callable(model.tokenizer):
        return "vocabulary"
    if not name.startswith(FILE):
        return name
    texts = contents.read_texts(name, key)
    contents.require_length(
        len(contents.stream(model, texts, f"{key}={name}")), longest, f"{key}={name}"
    )
    return f"{without_digest(name)}@{contents.digest_of(texts)}"


def resolve_scores(model: Model, name: str, key: str = "path") -> str:
    """The name of a file of scores in settings: its path and the digest of its content.

    Raises:
        InputError: there is no such file, a line is wrong, or the file has another content than its name says.
    """
    path = without_digest(name)
    digest = read_scores(path).digest
    contents.require_unchanged(name, digest)
    return f"{path}@{digest}"


#: By hyperparameter, the function that resolves its value to the name in settings.
RESOLVE: dict[str, Callable[[Model, Any, str], str]] = {
    "path": resolve_scores,
    "baseline": resolve_baseline,
    "references": resolve_references,
    "removal": resolve_removal,
}


class References:
    """The references of one model, each computed once for as long as this object lives.

    Attributes:
        model: the model.
        may_drop: removed tokens may be left out of the computation where that is proved to change nothing.
        may_share: texts that begin alike may share the computation of their beginning, where that is proved (`prefixes`).
        cache: results of expensive computations, by what was computed.
        has_warned: the user was warned that no uninformed baseline was found.
    """

    def __init__(self, model: Model, *, may_drop: bool = True, may_share: bool = True) -> None:
        self.model = model
        self.may_drop, self.may_share = may_drop, may_share
        self.cache: dict[Any, Any] = {}
        self.has_warned = False
        self._budgets: dict[int, TokenBudget] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The result for this key, which is computed at the first call."""
        if key not in self.cache:
            self.cache[key] = compute()
        value: T = self.cache[key]
        return value

    def vector(self, name: str) -> Float[Tensor, " D"]:
        """The embedding layer's output for the named token, zeros, the vocabulary's mean, or the user's own vector.

        Raises:
            InputError: the tokenizer has no such token, the layer has no one vector for it, or the vector's file has
                changed.
        """
        return self.once(("vector", name), lambda: self._vector(name))

    def replacement(
        self,
        name: str,
        batch: Batch,
        embeddings: Float[Tensor, "B T D"],
        moved: Bool[Tensor, "B T"],
    ) -> Float[Tensor, " D"] | Float[Tensor, "B T D"]:
        """The vectors that replace tokens of a batch; only those at the places of `moved` have a meaning.

        It is one vector wherever the embedding layer is a table. Where the layer adds positions and token types, the
        vectors are its output for the texts with the replacing token's id at every place of `moved`.

        Args:
            name: one of `NAMES`, or the user's own vector.
            batch: the texts.
            embeddings: the layer's output for them.
            moved: the places of the replaced tokens.

        Raises:
            InputError: there is no such token, or in this layer a token's vector depends on the other tokens' ids, so
                that replacing vectors is not the same as replacing tokens.
        """
        if name not in TOKENS or self.model.looks_up:
            return self.vector(name)
        token = self._token(name)
        exchanged = embed_batch(self.model, batch, batch.input_ids.masked_fill(moved, token))
        if not self.once(
            ("local", name), lambda: self._is_local(token, batch, embeddings, moved, exchanged)
        ):
            raise InputError(
                f"{name}: in the embedding layer of {self.model.name} a token's vector depends on which tokens stand "
                "beside it, so that it cannot be exchanged alone: use zero, or name the table of words in embeddings="
            )
        return exchanged

    def _is_local(
        self,
        token: int,
        batch: Batch,
        embeddings: Float[Tensor, "B T D"],
        moved: Bool[Tensor, "B T"],
        exchanged: Float[Tensor, "B T D"],
    ) -> bool:
        """Whether a text with the token at every other place has the vectors of both texts side by side."""
        every_other = moved & (torch.arange(moved.shape[1], device=moved.device) % 2 == 0)
        mixed = embed_batch(self.model, batch, batch.input_ids.masked_fill(every_other, token))
        expected = torch.where(every_other[:, :, None], exchanged, embeddings)
        difference = (mixed - expected)[batch.mask].abs().max()
        return bool(difference <= coarse_share(exchanged.dtype) * expected[batch.mask].abs().max())

    def budget(self, tokens: int) -> TokenBudget:
        """The budget that started with this many tokens per pass; it is halved whenever memory runs out, and stays so."""
        return self._budgets.setdefault(tokens, TokenBudget(tokens))

    @property
    def halvings(self) -> int:
        """The number of times that memory ran out."""
        return sum(budget.halvings for budget in self._budgets.values())

    def words(self, baseline: str) -> Int[Tensor, " N"]:
        """The tokens of a `text:` baseline, on the host; no special tokens are added."""
        return self.once(baseline, lambda: contents.words_of(self.model, baseline, "baseline"))

    def corpus(self, references: str) -> Int[Tensor, " N"]:
        """The tokens that references are drawn from, on the host: ordinary ones, or a text from end to end.

        Raises:
            InputError: the file has changed.
        """
        if references == "vocabulary":
            return self.ordinary_tokens
        if references == "movie_reviews":
            return contents.reviews(self.model)

        def read() -> Int[Tensor, " N"]:
            texts = contents.read_texts(references, "references")
            return contents.stream(self.model, texts, references)

        return self.once(references, read)

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """A fingerprint of the present weights: two sums of each, which any training step changes."""
        return sums_of_weights(self.model)

    @cached_property
    def embedding_std(self) -> float:
        """The standard deviation of all numbers of the embedding matrix: the unit of `noise_std`.

        A token whose vector is not finite is left out, since it would make every result NaN. For a layer that adds
        positions the outputs for the vocabulary are taken, each token at one place.
        """
        return float(finite_rows(self.model.each_token()).double().std(correction=0))

    @cached_property
    def spread(self) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
        """The mean and the standard deviation of each dimension of the embedding matrix, in float64."""
        std, mean = torch.std_mean(self.matrix().double(), 0, correction=0)
        return mean, std

    @cached_property
    def ordinary_tokens(self) -> Int[Tensor, " V"]:
        """The ids of the vocabulary that are no special tokens, on the host."""
        special = set(getattr(self.model.tokenizer, "all_special_ids", ()))
        size = self.model.vocabulary
        if size is None:
            raise InputError(
                "the embedding layer looks no token ids up, so that there is no vocabulary to draw references from: "
                "use movie_reviews or file:PATH"
            )
        return torch.tensor([token for token in range(size) if token not in special])

    def matrix(self) -> Float[Tensor, "V D"]:
        """The layer's finite outputs for the tokens of the vocabulary; not kept, since they may be large.

        Raises:
            InputError: a token has another vector at each place.
        """
        if not self.model.looks_up:
            raise InputError(
                "the embedding layer adds more to its words (positions, token types), so that a token has another vector at "
                "each place, and baselines and references mean, uniform and max_entropy have none: use mask, pad, unk, "
                "zero, a text or a vector of your own, or name the table of words in embeddings="
            )
        return finite_rows(self.model.each_token())

    def _token(self, name: str) -> int:
        """The id of one of `TOKENS`."""
        if not available(self.model, name):
            raise InputError(
                f"the tokenizer of {self.model.name} has no {name} token. Use "
                f"{' or '.join(other for other in NAMES if available(self.model, other))}."
            )
        return int(getattr(self.model.tokenizer, TOKENS[name]))

    def _vector(self, name: str) -> Float[Tensor, " D"]:
        model = self.model
        if name.startswith(VECTOR):
            numbers = contents.remembered(model, name)
            if numbers is None:
                numbers = contents.read_vector(name, "baseline")
            numbers = contents.fitting(model, numbers, name)
            return torch.from_numpy(numbers).to(model.device, model.dtype)
        if name == "mean":
            return self.matrix().mean(0)
        if name == "zero":
            return torch.zeros_like(contents.any_vector(model))
        token = self._token(name)
        if not model.looks_up:
            raise InputError(
                f"{name}: the embedding layer of {model.name} has another vector for a token at each place. Use "
                "zero, or name the table of words in embeddings="
            )
        return model.embed(torch.tensor([[token]], device=model.device))[0, 0]


def finite_rows(table: Float[Tensor, "V D"]) -> Float[Tensor, "W D"]:
    """The vectors that are finite; all of them where none is."""
    finite = table.isfinite().all(1)
    return table[finite] if 0 < int(finite.sum()) < len(table) else table


def embed_batch(
    model: Model, batch: Batch, ids: Int[Tensor, "R T"] | None = None, rows: Any = slice(None)
) -> Float[Tensor, "R T D"]:
    """The embedding layer's output for texts of a batch (`rows`), or for other `ids` with all else as in these."""
    ids = batch.input_ids[rows] if ids is None else ids
    mask = batch.mask[rows] if batch.padded else None
    return model.embed(ids, mask, extra=batch.extra_of(rows))
