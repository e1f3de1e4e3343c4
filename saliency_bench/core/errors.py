"""What goes wrong, by exit code. An error is one message: what was expected, what came, where, what to do."""

from collections.abc import Iterable

_SHOWN = 60  # characters of a value in a message


class SaliencyBenchError(Exception):
    """A failure the user can act on; the command line prints its message and ends with `exit_code`."""

    exit_code = 1


class InputError(SaliencyBenchError, ValueError):
    """Bad usage, configuration, data or model (exit code 2)."""

    exit_code = 2


class KeywordError(InputError, TypeError):
    """A component is given an unknown hyperparameter, or lacks one. It is a TypeError, as for any Python call."""


class ValidationError(SaliencyBenchError):
    """A check of the numbers failed (exit code 3)."""

    exit_code = 3


class StorageError(SaliencyBenchError, OSError):
    """Results could not be written or read back (exit code 4)."""

    exit_code = 4


#: Of the CPU's allocator, of CUDA itself, and of its libraries, whose workspaces are their own.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. PyTorch has an error class for its own GPU memory, and messages for all other memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint({"MemoryError", "OutOfMemoryError"}) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )


def shown(value: object) -> str:
    """Writes a value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def one_line(error: BaseException, most: int = 1000) -> str:
    """Writes the message of another library's error on one line: of a long one the start and the end, where remedies are."""
    text = " ".join(str(error).split())
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


def unknown(kind: str, name: object, known: list[str]) -> InputError:
    """The error for a name that is not in a list, with the nearest one suggested."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    listed = f"Known: {', '.join(sorted(known))}." if known else "There is none."
    return InputError(f"unknown {kind} {shown(name)}{hint} {listed}")


def one_of(kind: str, name: object, known: Iterable[str]) -> None:
    """Refuses a name that is not in a list; the name may be any value, also a list or a mapping."""
    names = list(known)
    if name not in names:
        raise unknown(kind, name, names)
