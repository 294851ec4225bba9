"""What an experiment's dataclass says of its options: their names, types and lines, for help and for messages."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Described:
    """One option as it is said: its name (outer.inner for a nested one), its type, and its line in help."""

    name: str
    type: Any
    help: str


def described(shape: type, prefix: str = "") -> Iterator[Described]:
    """Yield the options of a dataclass in order; those of a nested one after it, as outer.inner."""
    hints = get_type_hints(shape)
    for entry in fields(shape):
        yield Described(f"{prefix}{entry.name}", hints[entry.name], entry.metadata.get("help", ""))
        if is_dataclass(hints[entry.name]):
            yield from described(hints[entry.name], f"{prefix}{entry.name}.")


def option_of(shape: type, name: str) -> Described | None:
    """Return the option of that name, None where a dataclass has none."""
    return next((entry for entry in described(shape) if entry.name == name), None)


_NOUNS = {bool: ("true or false", ""), int: ("a whole number", "whole numbers"), float: ("a number", "numbers")}
_NOUNS |= {str: ("a text", "texts"), dict: ("a mapping such as {a: b}", ""), type(None): ("null", "")}


def expected(hint: Any, plural: bool = False) -> str:
    """Return what a type is called in a message.

    >>> expected(list[int] | None)
    'a list of whole numbers, or null'
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        *first, last = [expected(argument, plural) for argument in arguments]
        return f"{' or '.join(first)}{', or ' if type(None) in arguments else ' or '}{last}"
    if origin in (list, tuple):
        return f"a list of {expected(arguments[0], plural=True)}"
    one, several = _NOUNS.get(origin or hint, _NOUNS[dict])
    return several if plural else one


def shown(value: Any) -> str:
    """Return a value as it is given on the command line.

    >>> shown([3, None, {"a": True}])
    '[3,null,{a: true}]'
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {shown(item)}' for key, item in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
