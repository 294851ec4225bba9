"""Table 4's experiment, run small on a folder whose subfolders are the classes; its mistakes are one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deconv.command.cli import main
from tests.commands import refusal, words
from tests.labelled import folder_of

SMALL = [
    "experiment=table4_transfer", "model=squeezenet", "model.weights=random", "model.size=[64,64]", "source=folder",
    "splits=2", "train_per_class=4", "test_per_class=3", "grid=2",
    "finetune_epochs=1", "training.epochs=2", "training.warmup_epochs=0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    photographs = folder_of(tmp_path_factory.mktemp("photographs"), 8, side=64)
    return [*SMALL, f"source.root={photographs}"]


@pytest.fixture(scope="module")
def finished(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*said, f"folder={folder}"]) == 0
    return folder


def test_every_way_is_taken_and_leaves_its_numbers(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert {way: len(numbers["splits"]) for way, numbers in summary["accuracy"].items()} == {
        "frozen": 2,
        "finetuned": 1,
        "scratch": 1,
    }
    assert summary["accuracy"]["frozen"]["mean"] == 1.0 and summary["layer"] == "fire9" and summary["chance"] == 0.5
    assert summary["training"]["finetuned"]["epochs"] == 1 and summary["training"]["scratch"]["batch_size"] == 8
    assert (finished / "scratch-0" / "metrics.csv").is_file() and (finished / "finetuned-0" / "curves.png").is_file()
    assert (finished / "table4.png").stat().st_size > 10_000 and (finished / "table4.pdf").is_file()


def test_a_run_started_again_trains_nothing_and_gives_the_same_bytes(finished: Path, said: list[str]) -> None:
    trained = (finished / "scratch-0" / "weights.safetensors").stat().st_mtime_ns
    before = {name: (finished / name).read_bytes() for name in ("summary.json", "table4.png", "table4.pdf")}
    assert main([*said, f"folder={finished}"]) == 0
    assert (finished / "scratch-0" / "weights.safetensors").stat().st_mtime_ns == trained
    assert before == {name: (finished / name).read_bytes() for name in before}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ways=[frozn]"], "unknown way 'frozn'; expected some of frozen, finetuned, scratch; did you mean 'frozen'?"),
        (["ways=[]"], "ways=[]: expected some of frozen, finetuned, scratch"),
        (["trained_splits=3"], "trained_splits=3: expected 1 to splits=2"),
        (["penalties=[-1.0]"], "penalties=[-1.0]: expected one or more numbers above 0"),
        (["training.epochs=0"], "training.epochs is 0; expected 1 or more"),
        (["layer=fire99"], "unknown layer 'fire99'"),
        (["train_per_class=8"], "class 0 has 8 readable images"),
    ],
)
def test_a_mistake_is_one_line_and_trains_nothing(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path / "run", capsys)
