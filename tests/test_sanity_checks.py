"""experiments/sanity_checks.py, run small through the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deconv.command.cli import main
from tests.samples import photographs

SETTINGS = {"experiment": "sanity_checks", "model": "alexnet", "model.weights": "random", "model.size": "[64,64]"}
SETTINGS |= {"model.resize": "72", "layers": "[conv1,conv2,conv3]", "n_units": "3", "rules": "[deconvnet,gradient]"}


def command(folder: Path, **changes: str) -> list[str]:
    """The arguments of a small run over the photographs beside its folder, some of them changed."""
    given = SETTINGS | {"source": "folder", "source.root": str(folder.parent / "photographs")} | changes
    return [f"{key}={value}" for key, value in (given | {"folder": str(folder)}).items()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    photographs(folder.parent / "photographs", 6)
    assert main(command(folder)) == 0
    return folder


def test_curves_go_from_the_layer_down_and_block_by_block(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    cells = summary["layers"]["conv3"]["deconvnet"]
    blocks = [f"cascade/{name}" for name in ("conv3", "conv2", "conv1")] + [
        f"alone/{name}" for name in ("conv2", "conv1")
    ]
    assert set(cells) == {f"{kind}/{name}" for kind in ("rank", "ssim", "pearson") for name in [*blocks, "other_unit"]}
    assert set(summary["layers"]["conv1"]) == {"deconvnet", "gradient"}
    assert {name for name in summary["layers"]["conv1"]["gradient"] if name.startswith("rank")} == {
        "rank/cascade/conv1",
        "rank/other_unit",
    }
    assert all(cell["units"] <= 3 and (cell["mean"] is None or -1 <= cell["mean"] <= 1) for cell in cells.values())
    assert (finished / "sanity_checks.png").stat().st_size > 10_000 and (finished / "sanity_checks.pdf").is_file()


def test_a_shuffled_filter_is_another_filter(finished: Path) -> None:
    """A reconstruction from the first layer is its filter: shuffled, little of it is left."""
    cells = json.loads((finished / "summary.json").read_text())["layers"]["conv1"]["gradient"]
    assert cells["pearson/cascade/conv1"]["units"] == 0 or abs(cells["pearson/cascade/conv1"]["mean"]) < 0.6


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(finished: Path) -> None:
    left = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != "run.log"}
    kept = finished / "records" / "conv1.gradient.parquet"
    before = kept.stat().st_mtime_ns
    for name in ("records/conv2.deconvnet.parquet", "summary.json", "sanity_checks.png"):
        (finished / name).unlink()
    assert main(command(finished)) == 0
    assert {path: path.read_bytes() for path in left} == left and kept.stat().st_mtime_ns == before


def test_records_of_something_else_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(finished, n_units="2")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "was made with units" in said[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rules": "[guidd]"}, "unknown rule 'guidd'; expected one of deconvnet, guided, gradient"),
        ({"layers": "[conv1,conv1]"}, "expected each once, in forward order"),
        ({"units": "[99999]"}, "unit 99999: layer conv1 has units 0 to 63"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    changes: dict[str, str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "photographs", 1)
    assert main(command(tmp_path / "run", **changes)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and expected in said[0]
    assert not (tmp_path / "run" / "peaks.parquet").exists()
