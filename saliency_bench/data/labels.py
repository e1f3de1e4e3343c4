"""Gold labels: reads them from a dataset, and finds the classes of the model that they name."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from saliency_bench.core.errors import InputError

#: "1.0" too, which pandas writes for whole numbers in a column with gaps.
WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,9})(\.0+)?")
BOOLEANS = {"false": 0, "true": 1}
UNNAMED = re.compile(r"LABEL_[0-9]+")
SHOWN = 20  # classes listed in a message


def as_label(value: Any, source: str) -> int | str:
    """Returns a label from a file: a class index, or a text without the space around it.

    Integral floats and booleans are indices. A text stays a text: only the model's classes say whether "3" is an index or
    the name of a class.

    Raises:
        InputError: the label is missing, NaN, or neither a whole number nor a text.
    """
    value = value.item() if hasattr(value, "item") else value  # a scalar of numpy or torch
    if isinstance(value, str) and value.strip().lower() not in ("", "nan"):
        return _printable(value.strip(), source)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if value is None or isinstance(value, str) or value != value:
        raise InputError(f"{source}: the label is missing. Add it, or remove the row.")
    raise InputError(f"{source}: a label is a class number or a class name, not {value!r}")


def resolve_label(label: Any, labels: Sequence[str], source: str) -> int:
    """Returns the index of a label among the model's classes.

    A number is an index. A text is a class name in the same case, or in any case if only one class fits. Otherwise digits
    are an index, and true and false are 1 and 0.

    Args:
        label: a number, a boolean or a text.
        labels: the names of the model's classes, by index.
        source: the place from which the label was read ("reviews.csv:12"), for the message.

    Raises:
        InputError: the label is none of the classes, or more than one.
    """
    value = as_label(label, source)
    index = value if isinstance(value, int) else _index_of_text(value, labels, source)
    if index is None or not 0 <= index < len(labels):
        classes = _listed(value, labels)
        raise InputError(
            f"{source}: label {value!r} is none of the model's classes: {classes}{_how_to_name(labels)}"
        )
    return index


def _index_of_text(text: str, labels: Sequence[str], source: str) -> int | None:
    folded = [name.casefold() for name in labels]
    same = _positions(text, labels) or _positions(text.casefold(), folded)
    if len(same) > 1:
        classes = " and ".join(map(str, same))
        raise InputError(f"{source}: label {text!r} fits classes {classes}: give the number")
    if same:
        return same[0]
    number = WHOLE_NUMBER.fullmatch(text)
    return int(number[1]) if number else BOOLEANS.get(text.lower())


def _positions(text: str, names: Sequence[str]) -> list[int]:
    return [index for index, name in enumerate(names) if name == text]


def _listed(value: int | str, labels: Sequence[str]) -> str:
    listed = ", ".join(f"{index} = {name!r}" for index, name in enumerate(labels[:SHOWN]))
    more = f", ... ({len(labels)} in all)" if len(labels) > SHOWN else ""
    near = get_close_matches(str(value), labels, n=1)
    return listed + more + (f". Did you mean {near[0]!r}?" if near else "")


def _how_to_name(labels: Sequence[str]) -> str:
    """Returns the advice to name classes that have only the default names of transformers; "" for others."""
    if not labels or not all(UNNAMED.fullmatch(name) for name in labels):
        return ""
    return ". They have no names of their own: give them, in this order, as model.labels=[...], or labels= in Python"


def _printable(label: str, source: str) -> str:
    try:
        label.encode()
    except UnicodeEncodeError:
        raise InputError(f"{source}: the label has a lone surrogate: {label!r}") from None
    return label
