"""The names and types of a function's keyword-only parameters, as a configuration has them.

A parameter whose type is a dataclass stands for its fields: `draws: Draws` is `n_samples`, `sampler`, ... in a
configuration, one level deep. The function gets them as one value, which checks itself.
"""

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

from saliency_bench.core.errors import InputError

NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the types of a function's keyword-only parameters by name, those of dataclasses by field."""
    annotations: dict[str, Any] = {}
    for parameter in _keyword_only(function):
        if is_dataclass(parameter.annotation):
            annotations |= {field.name: field.type for field in fields(parameter.annotation)}
        else:
            annotations[parameter.name] = parameter.annotation
    return annotations


def grouped(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of `parameters` as the function takes them: fields of a dataclass as one value.

    Raises:
        InputError: a dataclass refuses its values.
    """
    arguments: dict[str, Any] = {}
    for parameter in _keyword_only(function):
        if is_dataclass(parameter.annotation):
            of_class = {field.name: values[field.name] for field in fields(parameter.annotation)}
            arguments[parameter.name] = parameter.annotation(**of_class)  # type: ignore[operator]
        else:
            arguments[parameter.name] = values[parameter.name]
    return arguments


@lru_cache(maxsize=1024)
def _keyword_only(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    every = inspect.signature(function).parameters.values()
    return tuple(parameter for parameter in every if parameter.kind is parameter.KEYWORD_ONLY)


def typed(function: Callable[..., Any], parameter: str, value: Any, where: str) -> Any:
    """Returns `value` in the type that `function` declares for `parameter`.

    A whole number becomes a float if the parameter is one, so that 1 and 1.0 are the same setting. Types that are not plain
    data are not checked.

    Raises:
        InputError: the value is of another type; `where` names its key.
    """
    options = _options(parameters(function)[parameter])
    plain = [option for option in options if option in NAMES]
    if type(value) in plain and not (isinstance(value, float) and not math.isfinite(value)):
        return value
    if type(value) is int and float in plain:
        return float(value)
    if any(_fits(option, value) for option in options if option not in NAMES):
        return value
    raise InputError(f"{where}={value!r}: expected {in_words(parameters(function)[parameter])}")


def in_words(annotation: Any) -> str:
    """Returns a type in words, for messages: "a whole number or null"."""
    return " or ".join(map(_name, _options(annotation)))


def _options(annotation: Any) -> tuple[Any, ...]:
    """Returns the alternatives of a union, None included; or the annotation alone."""
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
