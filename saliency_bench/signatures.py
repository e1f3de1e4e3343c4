"""Values from a configuration against the types that a function declares for its parameters."""

import inspect
import math
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from saliency_bench.errors import InputError

NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


def typed(function: Callable[..., Any], parameter: str, value: Any, where: str) -> Any:
    """`value` in the type that `function` declares for `parameter`; a whole number becomes a float where one is meant.

    So that 1 and 1.0 are the same setting. Types that are not plain data are taken as they are.

    Raises:
        InputError: the value is of another type; `where` names its key.
    """
    options = _options(inspect.signature(function).parameters[parameter].annotation)
    plain = [option for option in options if option in NAMES]
    if type(value) in plain and not (isinstance(value, float) and not math.isfinite(value)):
        return value
    if type(value) is int and float in plain:
        return float(value)
    if any(_fits(option, value) for option in options if option not in NAMES):
        return value
    expected = " or ".join(map(_name, options))
    raise InputError(f"{where}={value!r}: expected {expected}")


def _options(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, None included; or the annotation alone."""
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _fits(option: Any, value: Any) -> bool:
    origin = get_origin(option)
    if origin is Literal:
        return value in get_args(option)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list | tuple)
    return True


def _name(option: Any) -> str:
    if get_origin(option) is Literal:
        return ", ".join(map(str, get_args(option)))
    return NAMES.get(option, "a list" if get_origin(option) else str(option))
