"""Table 4's experiment, run small on a folder whose subfolders are the classes; its mistakes are one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deconv.command.cli import main
from tests.commands import refusal, words
from tests.drawn import assert_drawn
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


def test_every_regime_is_run_and_leaves_its_numbers(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert {way: len(numbers["splits"]) for way, numbers in summary["accuracy"].items()} == {
        "frozen": 2,
        "finetuned": 1,
        "scratch": 1,
    }
    assert summary["accuracy"]["frozen"]["mean"] == 1.0 and summary["layer"] == "fire9" and summary["chance"] == 0.5
    assert summary["training"]["finetuned"]["epochs"] == 1 and summary["training"]["scratch"]["batch_size"] == 8
    assert (finished / "scratch-0" / "metrics.csv").is_file() and (finished / "finetuned-0" / "curves.png").is_file()
    assert_drawn(finished, "table4")


def test_a_run_started_again_trains_nothing_and_gives_the_same_bytes(finished: Path, said: list[str]) -> None:
    trained = (finished / "scratch-0" / "weights.safetensors").stat().st_mtime_ns
    before = {name: (finished / name).read_bytes() for name in ("summary.json", "table4.png", "table4.pdf")}
    assert main([*said, f"folder={finished}"]) == 0
    assert (finished / "scratch-0" / "weights.safetensors").stat().st_mtime_ns == trained
    assert before == {name: (finished / name).read_bytes() for name in before}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["regimes=[frozn]"],
            "unknown regime 'frozn'; expected one of frozen, finetuned, scratch; did you mean 'frozen'?",
        ),
        (["regimes=[]"], "regimes=[]: expected some of frozen, finetuned, scratch"),
        (["trained_splits=3"], "trained_splits=3: expected 1 to splits=2"),
        (["penalties=[-1.0]"], "penalties: given [-1.0]; expected one or more numbers above 0"),
        (["layer=fire99"], "unknown layer 'fire99'"),
        (["training.epochs=0"], "training.epochs: given 0; expected 1 or more"),
        (["train_per_class=8"], "class 0 has 8 readable images"),
    ],
)
def test_a_mistake_is_one_line_and_trains_nothing(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path / "run", capsys)
