"""Table 7's experiment, run small on a folder whose subfolders are the classes; its mistakes are one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deconv.cli import main
from tests.labelled import folder_of

SMALL = {"experiment": "table7_layers", "model": "squeezenet", "model.weights": "random", "model.size": "[64,64]"}
SMALL |= {"layers": "[conv1,fire5,flatten]", "softmax_layers": "[flatten]", "splits": "2", "train_per_class": "4"}
SMALL |= {"test_per_class": "3", "grid": "2", "source": "folder"}


def options(photographs: Path, folder: Path, *others: str) -> list[str]:
    chosen = SMALL | {"source.root": str(photographs), "folder": str(folder)}
    chosen |= dict(other.split("=", 1) for other in others)
    return [f"{key}={value}" for key, value in chosen.items()]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = folder_of(tmp_path_factory.mktemp("photographs"), 8, side=64)
    (root / "dark" / "007.png").write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def finished(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main(options(photographs, folder)) == 0
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


def test_a_run_started_again_reads_its_features_and_gives_the_same_bytes(finished: Path, photographs: Path) -> None:
    features = {path: path.stat().st_mtime_ns for path in (finished / "features").iterdir()}
    before = {name: (finished / name).read_bytes() for name in ("summary.json", "table7.png", "table7.pdf")}
    assert main(options(photographs, finished)) == 0
    assert features == {path: path.stat().st_mtime_ns for path in (finished / "features").iterdir()}
    assert before == {name: (finished / name).read_bytes() for name in before}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["layers=[conv99]"], "'conv99' is no layer"),
        (["softmax_layers=[fire9]"], "softmax_layers names 'fire9'; expected some of the layers conv1, fire5, flatten"),
        (["train_per_class=8"], "class 0 has 8 readable images; expected more than train_per_class=8"),
        (["penalties=[]"], "penalties=[]: expected one or more numbers above 0"),
        (["grid=0"], "grid=0: expected 1 or more"),
    ],
)
def test_a_mistake_is_one_line_and_computes_nothing(
    arguments: list[str], expected: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(photographs, tmp_path / "run", *arguments)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and expected in said[0]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "run.log"}


def test_images_without_labels_are_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(photographs / "bright", tmp_path / "run")) == 2
    assert "the source folder has no labels; expected a class for each image" in capsys.readouterr().err
