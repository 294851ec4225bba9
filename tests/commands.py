"""What tests of experiments say to the command, and the line with which it answers a mistake."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from deconv.command.cli import main


def words(*said: Iterable[str]) -> list[str]:
    """All that is said, key=value; of two values for one key the later."""
    return list({word.partition("=")[0]: word for some in said for word in some}.values())


def refusal(said: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a run into a new folder there ends with, status 2; nothing is left of that folder."""
    before = set(folder.rglob("*"))
    assert main([*said, f"folder={folder / 'refused'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert set(folder.rglob("*")) == before
    return line
