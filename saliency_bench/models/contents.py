"""The values of named references: numbers and texts in files, vectors that were given as arrays, and their digests."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saliency_bench.core.errors import InputError, counted
from saliency_bench.data import movie_reviews
from saliency_bench.data.records import half_character
from saliency_bench.models.model import Model

TEXT, VECTOR, FILE = "text:", "vector:", "file:"

_DIGEST = re.compile(r"@([0-9a-f]{12})$")

#: Vectors that were given as arrays, by module and name.
_VECTORS: WeakKeyDictionary[nn.Module, dict[str, Float[np.ndarray, " D"]]] = WeakKeyDictionary()

#: The bundled reviews, by module: the tokenizer, and their tokens.
_REVIEWS: WeakKeyDictionary[nn.Module, tuple[Any, Int[Tensor, " N"]]] = WeakKeyDictionary()


def parted(name: str) -> tuple[str, str | None]:
    """Splits a name into the name without its digest, and the digest or None."""
    match = _DIGEST.search(name)
    return (name, None) if match is None else (name[: match.start()], match[1])


def identity(name: str) -> str:
    """The digest in a name, where it has one, else the name: equal for two files of the same content."""
    return parted(name)[1] or name


def without_digest(name: str) -> str:
    """A name as the user gave it."""
    return parted(name)[0]


def require_unchanged(name: str, now: str) -> None:
    """Refuses a file whose content does not have the digest in its name.

    Raises:
        InputError: names the file and both digests.
    """
    path, digest = parted(name)
    if digest not in (None, now):
        raise InputError(
            f"{path} has changed: expected the content {digest}, got {now}. Put it back, or leave out @ and the digest."
        )


def digest_of(content: Float[np.ndarray, " D"] | Iterable[str]) -> str:
    """The digest of a vector in float64, or of lines of text; it does not depend on the format of the file."""
    if isinstance(content, np.ndarray):
        data = np.ascontiguousarray(content, dtype="<f8").tobytes()
    else:
        data = "\n".join(content).encode()
    return hashlib.sha256(data).hexdigest()[:12]


def read_vector(name: str, key: str) -> Float[np.ndarray, " D"]:
    """Reads the numbers of `vector:FILE.npy`; nothing is unpickled, and the shape is checked before loading."""
    path = _path_of(name, VECTOR, key)
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
    require_unchanged(name, digest_of(numbers))
    return numbers


def fitting(model: Model, numbers: Float[np.ndarray, " _"], where: str) -> Float[np.ndarray, " D"]:
    """The same numbers, after a check that they fit the model's embeddings."""
    like = any_vector(model)
    if numbers.shape != tuple(like.shape):
        raise InputError(
            f"{where}: expected {counted(len(like), 'number')}, one per dimension of {model.name}'s embeddings; got {len(numbers)}"
        )
    if not (finite := torch.from_numpy(numbers).to(like.dtype).isfinite()).all():
        place = int(finite.int().argmin())
        raise InputError(
            f"{where}: the number of dimension {place} is {numbers[place]}; expected one that is finite in {like.dtype}"
        )
    return numbers


def any_vector(model: Model) -> Float[Tensor, " D"]:
    """The embedding of the token with id 0."""
    return model.embed(torch.zeros(1, 1, dtype=torch.long, device=model.device))[0, 0]


def remember(model: Model, values: np.ndarray | Tensor, key: str) -> str:
    """Keeps a vector for as long as the module lives, and returns its name."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    numbers = fitting(model, _numbers(values, key), key)
    name = f"{VECTOR}{digest_of(numbers)}"
    _VECTORS.setdefault(model.module, {})[name] = numbers
    return name


def remembered(model: Model, name: str) -> Float[np.ndarray, " D"] | None:
    """The vector of this name that was given as an array, or None."""
    return _VECTORS.get(model.module, {}).get(name)


def words_of(model: Model, baseline: str, key: str) -> Int[Tensor, " N"]:
    """The tokens of a `text:` baseline, without special tokens."""
    text, where = baseline.removeprefix(TEXT), f"{key}={baseline!r}"
    if fault := half_character(text):
        raise InputError(f"{where}: expected a text, got {fault}")
    tokens = stream(model, [text], where, f"give it one, or the vector itself ({VECTOR}FILE.npy)")
    if not len(tokens):
        raise InputError(f"{where}: the tokenizer makes no token of this text")
    return tokens


def read_texts(name: str, key: str) -> list[str]:
    """Reads the lines of `file:PATH` that are not empty."""
    path = _path_of(name, FILE, key)
    try:
        data = path.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{key}={name}: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}:{row} is not UTF-8. Expected plain text, one text per line: save it as UTF-8."
        ) from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise InputError(f"{key}={name}: {path} has no text. Give a file with one text per line.")
    require_unchanged(name, digest_of(texts))
    return texts


def stream(
    model: Model, texts: list[str], where: str, advice: str = "use vocabulary or uniform"
) -> Int[Tensor, " N"]:
    """The tokens of texts joined end to end, without special tokens.

    Raises:
        InputError: the model has no tokenizer, for which `advice` is given, or no embedding for a token.
    """
    if not callable(model.tokenizer):
        raise InputError(f"{where} needs a tokenizer, which this model does not have: {advice}")
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    rows = model.tokenizer(texts, add_special_tokens=False, **options)["input_ids"]
    tokens = [token for row in rows for token in row]
    model.require_embedded(tokens, where)
    return torch.tensor(tokens, dtype=torch.long)


def reviews(model: Model) -> Int[Tensor, " N"]:
    """The tokens of the bundled training reviews, end to end; tokenized once per module (half a second)."""
    tokenizer, tokens = _REVIEWS.get(model.module, (None, None))
    if tokens is None or tokenizer is not model.tokenizer:
        texts = [example.text for example in movie_reviews.load(split="train")]
        tokens = stream(model, texts, "references=movie_reviews")
        _REVIEWS[model.module] = model.tokenizer, tokens
    return tokens


def draw_tokens(
    corpus: Int[Tensor, " N"], length: int, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """`length` tokens of a corpus, each as likely as any other."""
    return corpus[torch.randint(len(corpus), (length,), generator=generator)]


def draw_window(
    corpus: Int[Tensor, " N"], length: int, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """`length` consecutive tokens of a corpus, each place where they fit as likely as any other."""
    start = int(torch.randint(len(corpus) - length + 1, (), generator=generator))
    return corpus[start : start + length]


def require_length(n_tokens: int, longest: int, where: str) -> None:
    """Refuses a corpus that is shorter than the longest text.

    Raises:
        InputError: names the corpus and both lengths.
    """
    if n_tokens < longest:
        raise InputError(
            f"{where}: expected at least {counted(longest, 'token')}, as many as the longest text has; got {n_tokens}. "
            "Give a longer file: references are windows of it."
        )


def _path_of(name: str, prefix: str, key: str) -> Path:
    written = parted(name)[0].removeprefix(prefix)
    if not written.strip():
        raise InputError(f"{key}={name!r}: expected {prefix} and the path of a file")
    path = Path(written).expanduser()
    if not path.is_file():
        raise InputError(f"{key}={name}: there is no file {path}")
    return path


def _numbers(values: np.ndarray, where: str) -> Float[np.ndarray, " D"]:
    """A vector in float64."""
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise InputError(
            f"{where}: expected a vector of real numbers, one per dimension of the embedding; got shape "
            f"{tuple(values.shape)} of {values.dtype}"
        )
    return np.array(values, dtype=np.float64)
