"""What a row of hostile input is, and what several rows use."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.making import at_most

Given = Callable[[Path], Any]
Done = Callable[[Any], Any]
Rows = dict[str, tuple[Given, Done, Any]]
"""Name: (makes it in an empty folder, what is done with it, the result; of a refusal the line, as a compiled regex)."""


def line(regex: str) -> re.Pattern[str]:
    """What the line of a refusal has in it."""
    return re.compile(regex)


def file(name: str, content: bytes | Callable[[], bytes]) -> Given:
    """Makes a file and gives its path."""

    def make(home: Path) -> Path:
        (home / name).write_bytes(content if isinstance(content, bytes) else content())
        return home / name

    return make


def within(mib: int, done: Done) -> Done:
    """The same with no more memory than this."""

    def limited(what: Any) -> Any:
        with at_most(mib):
            return done(what)

    return limited
