"""Docstrings as Markdown for the API reference, without a mark of Markdown having to stand in them.

They are whole sentences, with a line `name: what it is` for each argument, and an example as a doctest.
"""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe

ARGUMENT = re.compile(r"^(?:- )?(?P<names>\w+(?:, \w+)*): (?P<text>.*)$")
SENTENCES = ("Source", "Returns", "Raises")
"""Words that begin a line as the name of an argument would."""


class Docstrings(griffe.Extension):
    """Every docstring of the package, made ready to be shown."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change all docstrings below the package; called when it has been read."""
        pending: list[griffe.Object] = [pkg]
        while pending:
            each = pending.pop()
            if each.docstring:
                each.docstring.value = as_markdown(each.docstring.value)
            pending += [member for member in each.members.values() if isinstance(member, griffe.Object)]


def as_markdown(docstring: str) -> str:
    """Return a docstring with its arguments as a list and its examples as blocks of code.

    >>> print(as_markdown("Add.\\n\\na, b: numbers,\\n    whole.\\nReturns a + b."))
    Add.
    <BLANKLINE>
    - `a`, `b`: numbers,
      whole.
    <BLANKLINE>
    Returns a + b.
    """
    blocks = re.split(r"\n\s*\n", dedent(docstring).strip())
    shown: list[str] = []
    for block in blocks:
        is_example = block.startswith(">>>")
        shown.append(f"```pycon\n{block}\n```" if is_example else _prose(block.splitlines()))
    return "\n\n".join(shown)


def _prose(lines: list[str]) -> str:
    shown: list[str] = []
    in_list, ended = False, True
    for line in lines:
        argument = ARGUMENT.match(line) if ended or line.startswith("- ") else None
        if argument and argument["names"] not in SENTENCES:
            names = ", ".join(f"`{name}`" for name in argument["names"].split(", "))
            shown += [*([] if in_list or not shown else [""]), f"- {names}: {_plain(argument['text'])}"]
            in_list = True
        elif in_list and line.startswith(" "):
            shown.append(f"  {_plain(line.strip())}")
        else:
            shown += [*([""] if in_list else []), _plain(line)]
            in_list = False
        ended = line.endswith((".", ":"))  # else a word before a colon only goes on with the sentence
    return "\n".join(shown)


def _plain(text: str) -> str:
    """Text in which an asterisk or an underscore is itself, and what stands in angle brackets no tag."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[])", r"\\\1", part) for part in parts)
