"""The code that stands in README.md and in the pages of docs/: blocks of Python, and commands."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The commands of a page's shell blocks that set options, each on one line."""
    lines = re.sub(r" *\\\n *", " ", "\n".join(blocks(text, "(?:sh|bash)")))
    return re.findall(r"^(?:\.venv/bin/)?((?:deconv|python -m deconv) .*=.*)$", lines, flags=re.MULTILINE)


def header_commands(text: str) -> list[str]:
    """The commands in the header of an experiment's file, each on one line."""
    text = re.sub(r"\n#   +(?!deconv)", " ", text)
    return re.findall(r"^(?:#   |# Command: )(deconv .*=.*)$", text, flags=re.MULTILINE)
