"""Changes plain YAML by the words of a command line, each `key=value`; for verbs without Hydra."""

from collections.abc import Iterator, Mapping
from typing import Any

from saliency_bench.core.errors import InputError, unknown

#: Keys whose values are text, even if YAML reads them otherwise.
TEXTS = ("out", "model", "texts")
#: Keys whose values are numbers or words; the code that reads them checks these.
NUMBER_OR_WORD = ("runtime.token_budget",)


def pair(verb: str, word: str) -> tuple[str, Any]:
    """Returns the key and the value of a word, which is read as YAML.

    Raises:
        InputError: the word is not `key=value`, or the value is not YAML.
    """
    import yaml

    key, equals, value = word.partition("=")
    if not equals or not value:
        raise InputError(f"{verb}: {word!r}: expected key=value, as n_examples=24 or out=DIR")
    try:
        return key, value if key in TEXTS else yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"{key}={value}: expected YAML, as 5, mask or [ours,bare_loop]") from error


def merged(config: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a configuration with some values changed, also in nested mappings."""
    copied = {
        key: merged(value, {}) if isinstance(value, Mapping) else value
        for key, value in config.items()
    }
    for key, value in changed.items():
        copied[key] = merged(copied[key], value) if isinstance(value, Mapping) else value
    return copied


def put(config: dict[str, Any], key: str, value: Any, verb: str) -> None:
    """Sets the value of a dotted key, as `sweep.n_examples`.

    Raises:
        InputError: there is no such key, or the new value is of another kind than the old one.
    """
    values = dict(leaves(config))
    if key not in values:
        raise unknown(f"option of {verb}", key, ["out", *values])
    before = values[key]
    if isinstance(before, list):
        value = value if isinstance(value, list) else [value]
        expected, wrong = before[0], [item for item in value if not alike(item, before[0])]
    else:
        expected, wrong = before, [] if alike(value, before) else [value]
        if before is None and isinstance(value, str):  # of numbers that may be left out
            wrong = [value]
        if key in NUMBER_OR_WORD and isinstance(value, int | str) and not isinstance(value, bool):
            wrong = []
    if wrong or value == []:
        raise InputError(f"{key}={value}: expected {_kind(expected)}, as {before}")
    *path, last = key.split(".")
    for name in path:
        config = config[name]
    config[last] = float(value) if isinstance(before, float) else value


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every value that is not a mapping, with its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def alike(value: Any, before: Any) -> bool:
    """Whether a value is of the same kind as another; any number or text is of the kind of null."""
    if before is None:
        return value is None or isinstance(value, int | str)
    if isinstance(before, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(before)


def _kind(value: Any) -> str:
    kinds = {int: "a whole number", float: "a number", str: "a name"}
    return kinds.get(type(value), "a whole number or null")
