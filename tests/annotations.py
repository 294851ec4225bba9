"""How annotations are checked while the tests run, and how that is left for a moment, as users have it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, get_args

import jaxtyping

_with_shapes = jaxtyping.jaxtyped


def check_quickly() -> None:
    """Let jaxtyping's import hook check functions without shapes in their annotations by its type checker alone.

    What is checked is the same. jaxtyping binds the arguments of each call, for the letters that shapes share, and has
    its type checker look at them twice: that was two fifths of the processor time of all tests.
    """
    jaxtyping.jaxtyped = _jaxtyped  # type: ignore[assignment]


def _jaxtyped(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The decorator that the hook puts on each function and class in place of jaxtyping's."""

    def decorate(thing: Any) -> Any:
        if not inspect.isfunction(thing):
            return _with_shapes(thing, typechecker=typechecker)
        texts, types = thing.__annotations__, {name: _type(thing, text) for name, text in thing.__annotations__.items()}
        if any(map(_has_shape, types.values())):
            return _with_shapes(thing, typechecker=typechecker)
        thing.__annotations__ = types
        checked = typechecker(thing)
        thing.__annotations__ = texts

        @wraps(thing)
        def either(*args: Any, **kwargs: Any) -> Any:
            return thing(*args, **kwargs) if jaxtyping.config.jaxtyping_disable else checked(*args, **kwargs)

        return either if checked is not thing else thing

    return decorate


def _type(function: Callable[..., Any], annotation: Any) -> Any:
    """What an annotation names where the function stands; anything, as jaxtyping has it, if that is not there yet."""
    try:
        return eval(annotation, function.__globals__) if isinstance(annotation, str) else annotation
    except NameError:
        return Any


def _has_shape(hint: Any) -> bool:
    return getattr(hint, "__module__", "").startswith("jaxtyping") or any(map(_has_shape, get_args(hint)))


@contextmanager
def jaxtyping_off() -> Iterator[None]:
    """Leave annotations unchecked while the block runs: users have no import hook."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
