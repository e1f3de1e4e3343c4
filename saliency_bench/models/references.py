"""What stands for "nothing here": baselines of attribution, replacements of removal, and random references.

A baseline is a name in `BASELINES`, or the user's own: `text:SOME WORDS`, or `vector:FILE.npy` with one number per
dimension. References are drawn from what `REFERENCES` names, or from a text file: `file:PATH`. A setting holds the
name only. What stands in a file is therefore named with the digest of its content as soon as the model is known
(`vector:FILE.npy@0123456789ab`), so that another content is another setting, and it is read again and compared
before it is used.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saliency_bench.core.errors import InputError, unknown
from saliency_bench.core.registry import Registry
from saliency_bench.core.tensors import Batch, TokenBudget
from saliency_bench.data import movie_reviews
from saliency_bench.data.records import half_character
from saliency_bench.data.scores import read_scores
from saliency_bench.models.model import Model

TOKENS = {"mask": "mask_token_id", "pad": "pad_token_id", "unk": "unk_token_id"}
VECTORS = ("zero", "mean")

#: One vector for all places: what removal can put there, and a baseline can be.
NAMES = (*TOKENS, *VECTORS)

#: Removals that put nothing in a token's place: it is not attended to, or taken out of the text.
ATTENTION, DELETE = "attention", "delete"

#: What is computed for baselines (see `attribution.baselines`) and asked for removals (see `evaluation.removal`).
BASELINES: Registry[Callable[..., Tensor]] = Registry(
    "baseline", "saliency_bench.baselines", "saliency_bench.attribution"
)
REMOVALS: Registry[Callable[..., Any]] = Registry(
    "removal", "saliency_bench.removals", "saliency_bench.evaluation"
)
TEXT, VECTOR = "text:", "vector:"

#: What random references are drawn from: single tokens, numbers, or windows of a text.
REFERENCES = ("vocabulary", "uniform", "movie_reviews")
FILE = "file:"

#: What is tried where the tokenizer lacks the token that was asked for.
FALLBACK = ("mask", "pad", "zero")

_DIGEST = re.compile(r"@([0-9a-f]{12})$")

#: The name of a vector that came as numbers.
_GIVEN = re.compile(rf"{VECTOR}[0-9a-f]{{12}}$")


@dataclass
class _Kept:
    """What belongs to a module but not to its settings."""

    vectors: dict[str, Float[np.ndarray, " D"]]  # that were given as arrays, by name
    reviews: tuple[Any, Int[Tensor, " N"]] | None = None  # the tokenizer, and what it made of them


#: For as long as the module lives.
_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def available(model: Model, name: str, key: str = "baseline") -> bool:
    """Whether the model can give this vector; `key` names the configuration key in the error."""
    if name not in NAMES:
        raise unknown(key, name, list(NAMES))
    if name in VECTORS:
        return True
    token = getattr(model.tokenizer, TOKENS[name], None)
    # One that was added to the tokenizer alone has no embedding.
    return token is not None and (model.vocabulary is None or token < model.vocabulary)


def resolve(model: Model, name: str, key: str = "baseline") -> str:
    """`name` where the model has it, else the first of mask, pad, zero that it has."""
    return next(choice for choice in (name, *FALLBACK) if available(model, choice, key))


def lacking(model: Model, asked: Any, used: str) -> str | None:
    """What the model lacks, and what stands in for it, where that is not what was asked for."""
    # A digest at its end is no other choice, and neither is the name of a vector that came as numbers.
    if not isinstance(asked, str) or used.startswith(asked):
        return None
    needed = "tokenizer" if asked == "movie_reviews" else f"{asked} token"
    return f"{model.name} has no {needed}: {used} is used instead"


def check_baseline(name: str, key: str) -> None:
    """Refuses what cannot be a baseline of any model: an unknown name, an empty text, a file that is none."""
    if _GIVEN.match(name):
        return  # the model knows it, or not
    if name.startswith(VECTOR):
        _read_vector(name, key)
    elif name.startswith(TEXT):
        if not name.removeprefix(TEXT).strip():
            raise InputError(f"{key}={name!r}: expected words, as in text:the film")
    elif name not in BASELINES:
        raise unknown(key, name, [*BASELINES.names(), f"{TEXT}WORDS", f"{VECTOR}FILE.npy"])


def check_references(name: str, key: str) -> None:
    """Refuses what references of no model can be drawn from: an unknown name, or a file that is no text."""
    if name.startswith(FILE):
        _read_texts(name, key)
    elif name not in REFERENCES:
        raise unknown(key, name, [*REFERENCES, f"{FILE}PATH"])


def resolve_removal(model: Model, name: str, key: str = "removal") -> str:
    """The same of a removal, which need not be a vector."""
    if name not in REMOVALS:
        raise unknown(key, name, REMOVALS.names())
    return resolve(model, name, key) if name in NAMES else name


def resolve_baseline(model: Model, baseline: Any, key: str = "baseline") -> str:
    """The name that a setting holds: one that the model has, and with a digest where a file holds the numbers.

    Args:
        model: to which it has to fit.
        baseline: a name, or the vector itself (a numpy array or a tensor [D]), called `vector:DIGEST` from then on.
        key: names the configuration key in errors.

    Raises:
        InputError: there is no such baseline, or it does not fit the model.
    """
    if isinstance(baseline, np.ndarray | Tensor):
        return _remember(model, baseline, key)
    if not isinstance(baseline, str):
        raise InputError(
            f"{key}={baseline!r}: expected the name of a baseline, or a vector as a numpy array or a tensor"
        )
    if _remembered(model, baseline) is not None:
        return baseline
    check_baseline(baseline, key)
    if baseline.startswith(VECTOR):
        path, _ = _parted(baseline)
        numbers = _fitting(model, _read_vector(baseline, key), f"{key}={baseline}")
        return f"{path}@{_digest_of(numbers)}"
    if baseline.startswith(TEXT):
        _words(model, baseline, key)
    return resolve(model, baseline, key) if baseline in NAMES else baseline


def resolve_references(model: Model, name: str, key: str = "references", longest: int = 1) -> str:
    """The name that a setting holds: vocabulary where movie_reviews lacks a tokenizer, a file's with its digest.

    `longest` is the number of tokens of the longest text, where it is known.

    Raises:
        InputError: there are no such references, or the file has too little text.
    """
    check_references(name, key)
    if name == "movie_reviews" and not callable(model.tokenizer):
        return "vocabulary"
    if not name.startswith(FILE):
        return name
    path, _ = _parted(name)
    texts = _read_texts(name, key)
    require_length(len(_stream(model, texts, f"{key}={name}")), longest, f"{key}={name}")
    return f"{path}@{_digest_of(texts)}"


def resolve_scores(model: Model, name: str, key: str = "path") -> str:
    """The name of a file of scores that a setting holds: its path and the digest of its content.

    Raises:
        InputError: there is no such file, a line is wrong, or it is no longer the file that was asked for.
    """
    path, digest = _parted(name)
    now = read_scores(path).digest
    if digest is not None and digest != now:
        raise InputError(
            f"{key}: {path} has changed: expected the content {digest}, got {now}. Put it back, or start again without "
            "@ and the digest."
        )
    return f"{path}@{now}"


#: By hyperparameter, how the name in a setting is found.
RESOLVE: dict[str, Callable[[Model, Any, str], str]] = {
    "path": resolve_scores,
    "baseline": resolve_baseline,
    "references": resolve_references,
    "removal": resolve_removal,
}


class References:
    """The references of one model, each computed once for as long as this object lives.

    `may_drop`: removed tokens may be left out of the computation where that is proved to change nothing.
    `found` is for what takes a search, by what was searched for; `told`, whether the user knows that one failed.
    """

    def __init__(self, model: Model, *, may_drop: bool = True) -> None:
        self.model = model
        self.may_drop = may_drop
        self.found: dict[Any, Any] = {}
        self.told = False
        self._vectors: dict[str, Float[Tensor, " D"]] = {}
        self._tokens: dict[str, Int[Tensor, " N"]] = {}
        self._budgets: dict[int, TokenBudget] = {}

    def vector(self, name: str) -> Float[Tensor, " D"]:
        """The embedding layer's output for the named token, zeros, the vocabulary's mean, or the user's own vector.

        Raises:
            InputError: the tokenizer has no such token, the layer has no one vector for it, or the vector is no longer
                the one that was asked for.
        """
        if name not in self._vectors:
            self._vectors[name] = self._compute(name)
        return self._vectors[name]

    def replacement(
        self,
        name: str,
        batch: Batch,
        embeddings: Float[Tensor, "B T D"],
        moved: Bool[Tensor, "B T"],
    ) -> Float[Tensor, " D"] | Float[Tensor, "B T D"]:
        """What stands for "nothing here" at each place of a batch's texts; meant for those that `moved` names alone.

        It is one vector wherever the embedding layer is a table. Where the layer adds positions and token types, a
        token is what the layer gives for the text with that token's id at every place of `moved`.

        Args:
            name: one of `NAMES`, or the user's own vector.
            batch: the texts.
            embeddings: the layer's output for them.
            moved: the places that the token is put at.

        Raises:
            InputError: there is no such token, or in this layer one token's vector depends on the others' ids, so that
                exchanging vectors is not exchanging tokens.
        """
        if name not in TOKENS or self.model.looks_up:
            return self.vector(name)
        token = self._token(name)
        found = embed_batch(self.model, batch, batch.input_ids.masked_fill(moved, token))
        key = "local", name
        if key not in self.found:
            self.found[key] = self._is_local(token, batch, embeddings, moved, found)
        if not self.found[key]:
            raise InputError(
                f"{name}: in the embedding layer of {self.model.name} a token's vector depends on which tokens stand "
                "beside it, so that it cannot be exchanged alone: use zero, or name the table of words in embeddings="
            )
        return found

    def _is_local(
        self,
        token: int,
        batch: Batch,
        embeddings: Float[Tensor, "B T D"],
        moved: Bool[Tensor, "B T"],
        found: Float[Tensor, "B T D"],
    ) -> bool:
        """Whether a text with the token at every other place has the vectors of both texts side by side."""
        some = moved & (torch.arange(moved.shape[1], device=moved.device) % 2 == 0)
        mixed = embed_batch(self.model, batch, batch.input_ids.masked_fill(some, token))
        expected = torch.where(some[:, :, None], found, embeddings)
        difference = (mixed - expected)[batch.mask].abs().max()
        tolerance = min(1e3 * torch.finfo(found.dtype).eps, 0.1)
        return bool(difference <= tolerance * expected[batch.mask].abs().max())

    def budget(self, tokens: int) -> TokenBudget:
        """The tokens per pass that began as this many: once memory has run out they are fewer for all that follows."""
        return self._budgets.setdefault(tokens, TokenBudget(tokens))

    @property
    def halvings(self) -> int:
        """How often memory ran out."""
        return sum(budget.halvings for budget in self._budgets.values())

    def words(self, baseline: str) -> Int[Tensor, " N"]:
        """The tokens of a `text:` baseline, on the host; no special tokens are added."""
        if baseline not in self._tokens:
            self._tokens[baseline] = _words(self.model, baseline, "baseline")
        return self._tokens[baseline]

    def corpus(self, references: str) -> Int[Tensor, " N"]:
        """The tokens that references are drawn from, on the host: ordinary ones, or a text from end to end.

        Raises:
            InputError: the file is no longer the one that was asked for.
        """
        if references == "vocabulary":
            return self.ordinary_tokens
        if references not in self._tokens:
            self._tokens[references] = self._read(references)
        return self._tokens[references]

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """A fingerprint of the weights as they are now: two sums of each, which no training step leaves alone."""
        with torch.no_grad():
            tensors = [one.double() for one in self.model.module.parameters()]
            sums = [torch.stack([one.sum(), one.square().sum()]) for one in tensors]
            return tuple(torch.cat(sums).tolist()) if sums else ()

    @cached_property
    def embedding_std(self) -> float:
        """The standard deviation of all numbers of the embedding matrix: the unit of `noise_std`.

        A token whose vector is not finite is left out: it would make NaN of every text. Of a layer that adds positions it is that of its outputs for the vocabulary, each token at one place.
        """
        return float(_finite_rows(self.model.each_token()).double().std(correction=0))

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
        """The embedding layer's output for every token of the vocabulary that has a finite one; not kept, since it may be large.

        Raises:
            InputError: a token has another vector at each place.
        """
        if not self.model.looks_up:
            raise InputError(
                "the embedding layer is no nn.Embedding but adds more to its words (positions, token types), so that a "
                "token has another vector at each place, and baselines and references mean, uniform and max_entropy "
                "have none: use mask, pad, unk, zero, a text or a vector of your own, or name the table of words in "
                "embeddings="
            )
        return _finite_rows(self.model.each_token())

    def _token(self, name: str) -> int:
        """The id of one of `TOKENS`."""
        if not available(self.model, name):
            raise InputError(
                f"the tokenizer of {self.model.name} has no {name} token. Use "
                f"{' or '.join(one for one in NAMES if available(self.model, one))}."
            )
        return int(getattr(self.model.tokenizer, TOKENS[name]))

    def _compute(self, name: str) -> Float[Tensor, " D"]:
        model = self.model
        if name.startswith(VECTOR):
            numbers = _remembered(model, name)
            if numbers is None:
                numbers = _read_vector(name, "baseline")
            return torch.from_numpy(_fitting(model, numbers, name)).to(model.device, model.dtype)
        if name in TOKENS:
            token = self._token(name)
            if not model.looks_up:
                raise InputError(
                    f"{name}: the embedding layer of {model.name} has another vector for a token at each place. Use "
                    "zero, or name the table of words in embeddings="
                )
            return model.embed(torch.tensor([[token]], device=model.device))[0, 0]
        if name == "mean":
            return self.matrix().mean(0)
        if name not in NAMES:
            raise unknown("baseline", name, list(NAMES))
        return torch.zeros_like(_any_vector(model))

    def _read(self, references: str) -> Int[Tensor, " N"]:
        if references == "movie_reviews":
            return _reviews(self.model)
        return _stream(self.model, _read_texts(references, "references"), references)


def _finite_rows(table: Float[Tensor, "V D"]) -> Float[Tensor, "W D"]:
    """The vectors that are finite; all of them where none is."""
    finite = table.isfinite().all(1)
    return table[finite] if 0 < int(finite.sum()) < len(table) else table


def embed_batch(
    model: Model, batch: Batch, ids: Int[Tensor, "R T"] | None = None, rows: Any = slice(None)
) -> Float[Tensor, "R T D"]:
    """The embedding layer's output for texts of a batch (`rows`), or for other `ids` with all else as in these."""
    ids = batch.input_ids[rows] if ids is None else ids
    if model.looks_up:
        return model.embed(ids)
    types = None if batch.token_type_ids is None else batch.token_type_ids[rows]
    mask = batch.mask[rows] if batch.padded else None
    return model.embed(ids, mask, types, extra=batch.extra_of(rows))


def identity(name: str) -> str:
    """What a name stands for whatever its file is called: the digest of the content, where there is one."""
    return _parted(name)[1] or name


def without_digest(name: str) -> str:
    """A name as the user gave it."""
    return _parted(name)[0]


def tokens(corpus: Int[Tensor, " N"], length: int, stream: torch.Generator) -> Int[Tensor, " n"]:
    """`length` tokens of a corpus, each as likely as any other."""
    return corpus[torch.randint(len(corpus), (length,), generator=stream)]


def window(corpus: Int[Tensor, " N"], length: int, stream: torch.Generator) -> Int[Tensor, " n"]:
    """`length` consecutive tokens of a corpus, each place where they fit as likely as any other."""
    start = int(torch.randint(len(corpus) - length + 1, (), generator=stream))
    return corpus[start : start + length]


def require_length(n_tokens: int, longest: int, where: str) -> None:
    """Refuses a corpus that is shorter than the longest text."""
    if n_tokens < longest:
        raise InputError(
            f"{where}: expected at least {longest} tokens, as many as the longest text has; got {n_tokens}. "
            "Give a longer file: references are windows of it."
        )


def _parted(name: str) -> tuple[str, str | None]:
    """A name without its digest, and the digest."""
    found = _DIGEST.search(name)
    return (name, None) if found is None else (name[: found.start()], found[1])


def _path_of(name: str, prefix: str, key: str) -> Path:
    path, _ = _parted(name)
    if not path.removeprefix(prefix).strip():
        raise InputError(f"{key}={name!r}: expected {prefix} and the path of a file")
    return Path(path.removeprefix(prefix)).expanduser()


def _read_vector(name: str, key: str) -> Float[np.ndarray, " D"]:
    """The numbers of `vector:FILE.npy`; never unpickled, and not loaded before their shape is known."""
    path = _path_of(name, VECTOR, key)
    if not path.is_file():
        raise InputError(f"{key}={name}: there is no file {path}")
    try:
        held = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{key}={name}: {path} is no .npy file of numbers ({error}). Write one: numpy.save(FILE, vector)"
        ) from error
    if not isinstance(held, np.ndarray):
        held.close()
        raise InputError(
            f"{key}={name}: {path} holds several arrays (.npz). Save the vector alone: numpy.save"
        )
    numbers = _numbers(held, f"{key}={name}")
    _require_unchanged(name, numbers)
    return numbers


def _numbers(values: np.ndarray, where: str) -> Float[np.ndarray, " D"]:
    """A vector in float64."""
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise InputError(
            f"{where}: expected a vector of real numbers, one per dimension of the embedding; got shape "
            f"{tuple(values.shape)} of {values.dtype}"
        )
    return np.array(values, dtype=np.float64)


def _fitting(model: Model, numbers: Float[np.ndarray, " _"], where: str) -> Float[np.ndarray, " D"]:
    """The same numbers, if the model's embeddings can be these."""
    like = _any_vector(model)
    if numbers.shape != tuple(like.shape):
        raise InputError(
            f"{where}: expected {len(like)} numbers, one per dimension of the embedding of {model.name}; "
            f"got {len(numbers)}"
        )
    if not (finite := torch.from_numpy(numbers).to(like.dtype).isfinite()).all():
        place = int(finite.int().argmin())
        raise InputError(
            f"{where}: the number of dimension {place} is {numbers[place]}; expected one that is finite in {like.dtype}"
        )
    return numbers


def _any_vector(model: Model) -> Float[Tensor, " D"]:
    return model.embed(torch.zeros(1, 1, dtype=torch.long, device=model.device))[0, 0]


def _remember(model: Model, values: np.ndarray | Tensor, key: str) -> str:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    numbers = _fitting(model, _numbers(values, key), key)
    name = f"{VECTOR}{_digest_of(numbers)}"
    _KEPT.setdefault(model.module, _Kept({})).vectors[name] = numbers
    return name


def _remembered(model: Model, name: str) -> Float[np.ndarray, " D"] | None:
    kept = _KEPT.get(model.module)
    return None if kept is None else kept.vectors.get(name)


def _words(model: Model, baseline: str, key: str) -> Int[Tensor, " N"]:
    text = baseline.removeprefix(TEXT)
    if fault := half_character(text):
        raise InputError(f"{key}={baseline!r}: expected a text, got {fault}")
    if not callable(model.tokenizer):
        raise InputError(
            f"{key}={baseline!r} needs a tokenizer, which this model has not: give it one, or the vector itself "
            f"({VECTOR}FILE.npy)"
        )
    tokens = _tokenized(model, [text], f"{key}={baseline!r}")
    if not len(tokens):
        raise InputError(f"{key}={baseline!r}: the tokenizer makes no token of this text")
    return tokens


def _read_texts(name: str, key: str) -> list[str]:
    """The lines of `file:PATH` that hold anything."""
    path = _path_of(name, FILE, key)
    where = f"{key}={name}"
    if not path.is_file():
        raise InputError(f"{where}: there is no file {path}")
    try:
        data = path.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{where}: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}:{row} is not UTF-8. Expected plain text, one text per line: save it as UTF-8."
        ) from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise InputError(f"{where}: {path} has no text. Give a file with one text per line.")
    _require_unchanged(name, texts)
    return texts


def _stream(model: Model, texts: list[str], where: str) -> Int[Tensor, " N"]:
    """The tokens of texts from end to end, without special tokens between them."""
    if not callable(model.tokenizer):
        raise InputError(
            f"{where} needs a tokenizer, which this model has not. Use vocabulary or uniform."
        )
    return _tokenized(model, texts, where)


def _tokenized(model: Model, texts: list[str], where: str) -> Int[Tensor, " N"]:
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    rows = model.tokenizer(texts, add_special_tokens=False, **options)["input_ids"]
    found = [token for row in rows for token in row]
    model.require_embedded(found, where)
    return torch.tensor(found, dtype=torch.long)


def _reviews(model: Model) -> Int[Tensor, " N"]:
    """The bundled training split from end to end; tokenized once per module, which takes half a second."""
    kept = _KEPT.setdefault(model.module, _Kept({}))
    if kept.reviews is None or kept.reviews[0] is not model.tokenizer:
        texts = [example.text for example in movie_reviews.load(split="train")]
        kept.reviews = model.tokenizer, _stream(model, texts, "references=movie_reviews")
    return kept.reviews[1]


def _require_unchanged(name: str, content: Float[np.ndarray, " D"] | list[str]) -> None:
    """Refuses a file that no longer holds what its name says, where the name says so."""
    path, digest = _parted(name)
    if digest is not None and digest != (now := _digest_of(content)):
        raise InputError(
            f"{path} has changed: expected the content {digest}, got {now}. Put it back, or start again without "
            "@ and the digest."
        )


def _digest_of(content: Float[np.ndarray, " D"] | Iterable[str]) -> str:
    """Of the numbers in float64, or of the lines: not of how a file writes them down."""
    if isinstance(content, np.ndarray):
        data = np.ascontiguousarray(content, dtype="<f8").tobytes()
    else:
        data = "\n".join(content).encode()
    return hashlib.sha256(data).hexdigest()[:12]
