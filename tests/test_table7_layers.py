"""Table 7's experiment, run small on a folder whose subfolders are the classes; its mistakes are one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deconv.command.cli import main
from tests.commands import refusal, words
from tests.labelled import folder_of

SMALL = [
    "experiment=table7_layers", "model=squeezenet", "model.weights=random", "model.size=[64,64]", "source=folder",
    "layers=[conv1,fire5,flatten]", "softmax_layers=[flatten]", "splits=2", "train_per_class=4", "test_per_class=3",
    "grid=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    photographs = folder_of(tmp_path_factory.mktemp("photographs"), 8, side=64)
    (photographs / "dark" / "007.png").write_bytes(b"broken")
    return [*SMALL, f"source.root={photographs}"]


@pytest.fixture(scope="module")
def finished(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*said, f"folder={folder}"]) == 0
    return folder


def test_bright_and_dark_are_told_apart_at_every_layer(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert {name: list(layers) for name, layers in summary["accuracy"].items()} == {
        "svm": ["conv1", "fire5", "flatten"],
        "softmax": ["flatten"],
    }
    assert summary["accuracy"]["svm"]["conv1"]["splits"] == [1.0, 1.0]
    assert summary["features"] == {"conv1": 256, "fire5": 1024, "flatten": 1000} and summary["chance"] == 0.5
    assert (finished / "table7.png").stat().st_size > 10_000 and (finished / "table7.pdf").is_file()


def test_a_run_started_again_reads_its_features_and_gives_the_same_bytes(finished: Path, said: list[str]) -> None:
    features = {path: path.stat().st_mtime_ns for path in (finished / "features").iterdir()}
    before = {name: (finished / name).read_bytes() for name in ("summary.json", "table7.png", "table7.pdf")}
    assert main([*said, f"folder={finished}"]) == 0
    assert features == {path: path.stat().st_mtime_ns for path in (finished / "features").iterdir()}
    assert before == {name: (finished / name).read_bytes() for name in before}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["layers=[conv99]"], "unknown layer 'conv99'"),
        (["softmax_layers=[fire9]"], "softmax_layers names 'fire9'; expected some of the layers conv1, fire5, flatten"),
        (["train_per_class=8"], "class 0 has 8 readable images; expected more than train_per_class=8"),
        (["penalties=[]"], "penalties=[]: expected one or more numbers above 0"),
        (["grid=0"], "grid=0: expected 1 or more"),
    ],
)
def test_a_mistake_is_one_line_and_computes_nothing(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path / "run", capsys)


def test_images_without_labels_are_refused(said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_one_class = words(said, [f"{said[-1]}/bright"])
    line = refusal(of_one_class, tmp_path / "run", capsys)
    assert "the source folder has no labels; expected a class for each image" in line
