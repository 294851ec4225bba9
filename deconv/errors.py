"""What can go wrong, in one family: catch `DeconvError` to catch them all.

Every message is one line that says what was given, what was expected and what to do. The functions that make such
errors and check plain values stand here too, so that all messages speak with one voice:

    k: given 0; expected a whole number, 1 or more
    unknown layer 'conv9'; expected one of conv1, conv2; did you mean 'conv2'?

The library speaks of arguments; how a thing is said on the command line is added by `deconv.command`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

MOST_NAMES = 24
"""Names that a message lists; of more it lists the first and says how many there are."""
LONGEST_VALUE = 60
"""Characters of a value that a message quotes."""
LEAST_BEGUN = 3
"""Characters of a mistaken name that begin another, by which that is near: fig2 for fig2_features."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class DeconvError(Exception):
    """Base of every error that deconv raises on purpose; its message is one line, whatever names of files it holds.

    argument: the name of the argument that cannot be used, where the message begins with it.

    >>> import deconv
    >>> try:
    ...     deconv.folder("/nowhere")
    ... except deconv.DeconvError as error:
    ...     print(error)
    there is no folder /nowhere; expected a folder of images...
    """

    argument: str | None = None

    def __init__(self, message: str):
        super().__init__(one_line(message))


class UnknownName(DeconvError):
    """A layer, unit, model, rule or experiment that does not exist."""


class BadInput(DeconvError):
    """A value, shape or file that cannot be used as given."""


class UnreadableImage(BadInput):
    """One image file that cannot be decoded; mining skips it and says so."""


class UnsupportedOperation(DeconvError):
    """An operation of the network that the asked rule cannot send backwards, or that cannot be traced.

    >>> import deconv, torch
    >>> smooth = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.SiLU())
    >>> network = deconv.Network(smooth, (3, 8, 8))
    >>> deconv.project(network, torch.rand(1, 3, 8, 8), "1", [0], [2], [0], [0], rule="deconvnet")
    Traceback (most recent call last):
    deconv.errors.UnsupportedOperation: 'deconvnet' has no way back through 'silu' in 1: ...
    """


class RecordMismatch(DeconvError):
    """A saved record that belongs to other weights, images or settings."""


def bad_value(name: str, value: Any, expected: str, remedy: str = "") -> BadInput:
    """Return the error of a value that cannot be used.

    >>> print(bad_value("per_image", 0, "a whole number, 1 or more", "leave it out for 1"))
    per_image: given 0; expected a whole number, 1 or more: leave it out for 1
    """
    error = BadInput(f"{name}: given {shown(value)}; expected {expected}{_remedied(expected, remedy)}")
    error.argument = name
    return error


def unknown(kind: str, name: Any, known: Iterable[str], remedy: str = "") -> UnknownName:
    """Return the error of a name that does not exist, with those that do and the nearest of them.

    >>> print(unknown("rule", "guide", ["deconvnet", "guided", "gradient"]))
    unknown rule 'guide'; expected one of deconvnet, guided, gradient; did you mean 'guided'?
    """
    names = list(known)
    listed = names if len(names) <= MOST_NAMES else [*names[:MOST_NAMES], f"... {len(names) - MOST_NAMES} more"]
    hint = nearest(str(name), names) if isinstance(name, str) else ""
    more = _remedied(hint, remedy)
    return UnknownName(f"unknown {kind} {shown(name, quoted=True)}; expected one of {', '.join(listed)}{hint}{more}")


def _remedied(before: str, remedy: str) -> str:
    """What a message ends in: what to do, after a colon, or after the mark that a question ends in."""
    return f"{'' if before.endswith('?') else ':'} {remedy}" if remedy else ""


def check_count(name: str, value: Any, least: int = 1, most: int | None = None, of: str = "") -> int:
    """Return `value` as an int. Raises BadInput unless it is a whole number from `least` to `most`.

    of: what it counts, if the message is to say so.

    >>> check_count("k", 9)
    9
    """
    upper = "or more" if most is None else f"to {most}"
    expected = f"a whole number, {least} {upper}{f', of the {of}' if of else ''}"
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):  # of a mask, where numbers are due
        raise bad_value(name, value, expected)
    try:
        number = operator.index(value)
    except TypeError:
        raise bad_value(name, value, expected) from None
    if number < least or (most is not None and number > most):
        raise bad_value(name, value, expected)
    return number


def check_choice(kind: str, value: Any, known: Iterable[str]) -> str:
    """Return `value`. Raises UnknownName unless it is one of the names that are known."""
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise unknown(kind, value, names)
    return value


def check_list(name: str, value: Any, of: str) -> list[Any]:
    """Return the items of a list, tuple, tensor, array or other iterable. Raises BadInput for a string or a scalar.

    of: what the items are, for the message: "layer names".

    >>> check_list("layers", ("conv1", "conv2"), "layer names")
    ['conv1', 'conv2']
    """
    if isinstance(value, str | bytes):
        raise bad_value(name, value, f"a list of {of}", f"[{value!r}] for one")
    try:
        return list(value)
    except TypeError:
        raise bad_value(name, value, f"a list of {of}", f"[{shown(value)}] for one") from None


def check_indices(name: str, value: Any, size: int, of: str) -> list[int]:
    """Return indices as a list of ints. Raises BadInput for what is no list of whole numbers from 0 to size - 1.

    of: what the indices count, for the message: "units".

    >>> check_indices("units", [0, 3], 8, "units of conv1")
    [0, 3]
    """
    items = check_list(name, value, f"{of}, 0 to {size - 1}")
    return [check_count(name, item, 0, size - 1, of=of) for item in items]


@contextmanager
def needed(what: str, library: str, extra: str) -> Iterator[None]:
    """Turn the failed import of a library that only an extra brings into BadInput, which names the extra.

    >>> with needed("Table 9", "a-library", extra="probing"):
    ...     import a_library
    Traceback (most recent call last):
    deconv.errors.BadInput: Table 9 needs a-library, which is not installed: pip install 'deconvnet[probing]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise BadInput(f"{what} needs {library}, which is not installed: pip install 'deconvnet[{extra}]'") from error


def shown(value: Any, quoted: bool = False) -> str:
    """Return a value as a message quotes it: short, on one line, a tensor or an array by its type and shape."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(tuple(shape)):
        return f"{type(value).__name__} of shape {tuple(shape)} and {getattr(value, 'dtype', '?')}"
    text = repr(value) if quoted or not isinstance(value, str) else value
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def nearest(name: str, possible: Iterable[str]) -> str:
    """Return "; did you mean 'a' or 'b'?" for the names closest to a mistaken one, or "" if none is close."""
    names = list(possible)
    begun = [known for known in names if len(name) >= LEAST_BEGUN and known.startswith(name)]
    close = (begun or get_close_matches(name, names, n=2, cutoff=0.5))[:2]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def counted(count: int, what: str) -> str:
    """Return "1 layer" or "3 layers"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """Return what an error says, on one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(text: str) -> str:
    """Return the text with what breaks lines or steers a terminal spelled out: a newline becomes \\n."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
