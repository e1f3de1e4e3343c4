"""Types and shapes are checked in every test, and what that takes is kept small.

A function inside another is defined anew each time that the other runs. Each time jaxtyping would make its annotations
anew, and beartype would write and compile two functions that check them: these are kept. Where no annotation is an
array's, the two calls of checking functions and the binding of arguments that jaxtyping adds to each call are left out.
"""

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from inspect import isclass, isgeneratorfunction
from types import FunctionType
from typing import Any, get_args

import jaxtyping
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import AbstractArray, _array_types, _decorator

_jaxtyped = jaxtyping.jaxtyped


def check_at_less_cost() -> None:
    """Makes jaxtyping keep annotations by their text and checks by signature, and leave functions without arrays alone."""
    _array_types._make_array = lru_cache(maxsize=None)(_array_types._make_array)
    _decorator._make_fn_with_signature = _kept(_decorator._make_fn_with_signature)
    _decorator._apply_typechecker = _kept(_decorator._apply_typechecker)
    jaxtyping.jaxtyped = _checked


def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its results kept, but for arguments without a hash: some defaults of parameters have none."""
    kept = lru_cache(maxsize=None)(function)

    def call(*args: Any, **options: Any) -> Any:
        try:
            return kept(*args, **options)
        except TypeError:
            return function(*args, **options)

    return call


def _checked(function: Any = None, *, typechecker: Any) -> Any:
    """The type checker alone for a function without arrays that is defined once; else what jaxtyping makes of it."""
    if function is None:
        return partial(_checked, typechecker=typechecker)
    plain = isinstance(function, FunctionType) and not isgeneratorfunction(function)
    once = plain and "<locals>" not in function.__qualname__
    if not once or any(map(_may_be_of_arrays, function.__annotations__.values())):
        return _jaxtyped(function, typechecker=typechecker)
    checked = typechecker(function)

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **options)
        try:
            return checked(*args, **options)
        except BeartypeCallHintViolation as error:
            raise jaxtyping.TypeCheckError(str(error)) from error

    return call


def _may_be_of_arrays(hint: Any) -> bool:
    if isinstance(hint, list):  # the arguments of a `Callable`
        return any(map(_may_be_of_arrays, hint))
    if isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return type(hint).__name__ in ("str", "ForwardRef") or any(
        map(_may_be_of_arrays, get_args(hint))
    )
