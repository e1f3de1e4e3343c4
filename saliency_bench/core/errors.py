"""The errors of the package, by exit code. A message says what was expected, what came, where, and what to do."""

from collections.abc import Iterable
from typing import SupportsIndex

_SHOWN = 60  # characters of a value in a message
_FEW = 12  # names that a message lists beside the one that was probably meant
_MISPRINT = 0.85  # the similarity (`difflib`) from which a name is a misprint of another


class SaliencyBenchError(Exception):
    """A failure that the user can act on; the command line prints its message and ends with `exit_code`."""

    exit_code = 1


class InputError(SaliencyBenchError, ValueError):
    """Bad usage, configuration, data or model (exit code 2)."""

    exit_code = 2


class KeywordError(InputError, TypeError):
    """An unknown or a missing hyperparameter; a TypeError too, as for any Python call."""


class ValidationError(SaliencyBenchError):
    """A check of the numbers failed (exit code 3)."""

    exit_code = 3


class StorageError(SaliencyBenchError, OSError):
    """Results could not be written or read back (exit code 4)."""

    exit_code = 4


#: Messages of the CPU's allocator, of CUDA, and of its libraries, which have workspaces of their own.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. PyTorch has an error class for its own GPU memory, and only messages for other memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint({"MemoryError", "OutOfMemoryError"}) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )


def shown(value: object) -> str:
    """Writes a value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def counted(n: SupportsIndex | str, noun: str, many: str = "") -> str:
    """Returns a number with its noun, whose plural is `many`, else has an s: "1 text", "2 texts"."""
    return f"{n} {noun if str(n) == '1' else many or f'{noun}s'}"


def one_line(error: BaseException, most: int = 1000) -> str:
    """Returns an error's message on one line; a long one is cut in the middle, since remedies stand at the end."""
    text = " ".join(str(error).split())
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


def unknown(kind: str, name: object, names: list[str]) -> InputError:
    """Returns the error for a name that is not in a list. It suggests one with these initials ("ig"), else the nearest one.

    It lists the names as well, unless they are many and the name is a plain misprint of one of them.
    """
    from difflib import get_close_matches

    short = [one for one in names if "".join(word[0] for word in one.split("_") if word) == name]
    near = short[:1] or get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    if len(names) > _FEW and get_close_matches(str(name), near, cutoff=_MISPRINT):
        listed = ""
    else:
        listed = f" Known: {', '.join(sorted(names))}." if names else " There is none."
    return InputError(f"unknown {kind} {shown(name)}{hint}{listed}")


def one_of(kind: str, name: object, names: Iterable[str]) -> None:
    """Raises an `InputError` for a name that is not in a list; it may be any value, also a list or a mapping."""
    if name not in (listed := list(names)):
        raise unknown(kind, name, listed)
