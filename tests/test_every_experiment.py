"""What holds for all experiments: the same bytes twice, and nothing left but settings and log after a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from deconv.command.cli import main
from deconv.command.options import EXPERIMENTS
from tests import small
from tests.commands import refusal, words

UNLIKE = {"run.log", "times.json", "state.pt", "atlas.json"}
"""Files with the time of day, or how long something took."""
MISTAKES = {
    "an option of no experiment": (["+kk=3"], "unknown option 'kk'"),
    "a value of another type": (["seed=a"], "seed=a: expected a whole number"),
    "a value out of its range": (["seed=-1"], "seed=-1: expected 0 or more"),
    "a device that is not there": (["device=cuda:99"], "device: given cuda:99; expected cpu"),
    "images that are not there": (["source=folder", "source.root=/nowhere"], "there is no folder /nowhere"),
}


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in UNLIKE]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_same_options_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    said = words(small.said(name, tmp_path))
    for run in ("first", "again"):
        assert main([*said, f"folder={tmp_path / run}"]) == 0
    first = files(tmp_path / "first")
    assert {"config.yaml", "summary.json"} <= first.keys() and first == files(tmp_path / "again")
    assert any(Path(file).suffix in (".png", ".jpg", ".html") for file in first)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_mistake_is_one_line_and_leaves_nothing(
    name: str, mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = MISTAKES[mistake]
    said = words(small.said(name, tmp_path), arguments)
    assert expected in refusal(said, tmp_path / "run", capsys)
