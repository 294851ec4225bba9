"""What can go wrong, in one family: catch `DeconvError` to catch them all.

Every message says what was given, what was expected and what to do.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, possible: Iterable[str]) -> str:
    """ "; did you mean 'a' or 'b'?" for the names closest to a mistaken one, or "" if none is close: for messages."""
    close = get_close_matches(name, list(possible), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def first_line(error: Exception) -> str:
    """What an error says, on one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: str) -> str:
    """The text with what breaks lines, steers a terminal or cannot be encoded spelled out: a newline becomes \\n."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class DeconvError(Exception):
    """Base of every error that deconv raises on purpose; its message is one line, whatever names of files it holds."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class UnknownName(DeconvError):
    """A layer, unit, model, rule or experiment that does not exist."""


class BadInput(DeconvError):
    """A value, shape or file that cannot be used as given."""


class UnreadableImage(BadInput):
    """One image file that cannot be decoded; mining skips it and says so."""


class UnsupportedOperation(DeconvError):
    """An operation of the network that the asked rule cannot send backwards."""


class RecordMismatch(DeconvError):
    """A saved record that belongs to other weights, images or settings."""
