"""Words of a command line, each `key=value`, and the plain YAML that they change; for verbs without Hydra."""

from collections.abc import Iterator, Mapping
from typing import Any

from saliency_bench.core.errors import InputError, unknown

#: Keys whose values are text, whatever YAML would make of them.
TEXTS = ("out", "model", "texts")
#: Keys whose values are numbers or words; whoever reads them says which.
NUMBER_OR_WORD = ("runtime.token_budget",)


def pair(verb: str, word: str) -> tuple[str, Any]:
    """The key and the value of a word, in YAML.

    Raises:
        InputError: the word is no such pair.
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
    """Copies a configuration with some values changed, also in nested mappings."""
    found = {
        key: merged(value, {}) if isinstance(value, Mapping) else value
        for key, value in config.items()
    }
    for key, value in changed.items():
        found[key] = merged(found[key], value) if isinstance(value, Mapping) else value
    return found


def put(config: dict[str, Any], key: str, value: Any, verb: str) -> None:
    """Sets the value of a dotted key, as `sweep.n_examples`.

    Raises:
        InputError: there is no such key, or the value is of another kind than the one that is there.
    """
    known = dict(leaves(config))
    if key not in known:
        raise unknown(f"option of {verb}", key, ["out", *known])
    before = known[key]
    if isinstance(before, list):
        value = value if isinstance(value, list) else [value]
        expected, wrong = before[0], [one for one in value if not alike(one, before[0])]
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
    """Every value that is no mapping, by its key."""
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
