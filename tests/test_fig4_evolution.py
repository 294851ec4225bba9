"""Figure 4 on three made-up snapshots of zfnet64 and a handful of noise pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from deconv import models
from deconv.analyses.evolution import settling_epochs, winners
from deconv.command.cli import main
from deconv.figures import evolution as charts
from deconv.figures.page import TILE
from deconv.records import Patches, Peaks, Reconstructions
from tests.commands import refusal, words
from tests.drawn import assert_drawn
from tests.samples import noise

EPOCHS = (1, 2, 5)
DEAD = 7
LAYERS = ("conv1", "conv4")


def write_snapshots(folder: Path, model: str = "zfnet64") -> Path:
    """Three steps of a random walk; unit DEAD of layer 1 is silent at the last."""
    module = models.build(model, "random", classes=2)
    generator = torch.Generator().manual_seed(0)
    (folder / "snapshots").mkdir(parents=True)
    for epoch in EPOCHS:
        state = {name: weights.clone() for name, weights in module.state_dict().items()}
        for weights in state.values():
            weights.add_(weights.std().nan_to_num() * 0.3 * epoch * torch.randn(weights.shape, generator=generator))
        if epoch == EPOCHS[-1]:
            state["features.0.bias"][DEAD] = -1e6
        save_file(state, folder / "snapshots" / f"epoch-{epoch:03d}.safetensors")
    return folder


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the runs here have in common."""
    root = tmp_path_factory.mktemp("fig4")
    trained, photographs = write_snapshots(root / "trained"), noise(root / "photographs", 5, (64, 64))
    look = [f"trained={trained}", "model.classes=2", "source=folder", f"source.root={photographs}"]
    return ["experiment=fig4_evolution", *look, f"layers=[{','.join(LAYERS)}]", "n_units=2"]


@pytest.fixture(scope="module")
def finished(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*said, f"folder={folder}"]) == 0
    return folder


def test_the_summary_has_the_numbers_of_the_peaks(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    peaks = {epoch: Peaks.load(finished / "peaks" / f"epoch-{epoch:03d}.safetensors") for epoch in EPOCHS}
    assert list(summary["layers"]) == list(LAYERS)
    for layer, numbers in summary["layers"].items():
        settled = settling_epochs(winners(peaks, layer), EPOCHS)
        assert numbers["not_settled"] == int(settled.isinf().sum())
        assert numbers["dead_units"] == int(settled.isnan().sum())
        living = int((~settled.isnan()).sum())
        assert numbers["settled_share"]["2"] == pytest.approx(int((settled <= 2).sum()) / living)
    assert summary["layers"]["conv1"]["dead_units"] >= 1
    assert len(set(summary["provenance"]["weights"].values())) == 3 and summary["provenance"]["source"]["images"] == 5


def test_each_reconstruction_is_of_its_epochs_winner(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    for layer in LAYERS:
        units = summary["layers"][layer]["shown"]
        assert len(units) == 2
        for epoch in EPOCHS:
            peaks = Peaks.load(finished / "peaks" / f"epoch-{epoch:03d}.safetensors")[layer]
            recon = Reconstructions.load(finished / layer / f"epoch-{epoch:03d}.reconstructions.safetensors")
            assert torch.allclose(recon.score, peaks.scores_of(units), rtol=1e-5)
        patches = Patches.load(finished / layer / "patches.safetensors")
        assert torch.equal(patches.image, recon.image)
        assert patches.pixels.shape[2] == (7 if layer == "conv1" else 64)  # layer 4 sees more than the image
    assert_drawn(finished, "fig4")


def test_the_same_configuration_gives_the_same_bytes_and_keeps_its_peaks(finished: Path, said: list[str]) -> None:
    files = sorted(path for path in finished.rglob("*") if path.is_file() and path.name != "run.log")
    before = {path: path.read_bytes() for path in files}
    mined = {path: path.stat().st_mtime_ns for path in (finished / "peaks").iterdir()}
    assert main([*said, f"folder={finished}"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in mined} == mined


def test_a_dead_unit_is_drawn_crossed_out(said: list[str], tmp_path: Path) -> None:
    assert main([*words(said, ["layers=[conv1]", f"units=[{DEAD}]"]), f"folder={tmp_path}"]) == 0
    first = Reconstructions.load(tmp_path / "conv1" / "epoch-001.reconstructions.safetensors")
    last = Reconstructions.load(tmp_path / "conv1" / "epoch-005.reconstructions.safetensors")
    assert len(first) == 1 and len(last) == 0
    with Image.open(tmp_path / "fig4.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    crossed = int(np.isin(pixels, (charts.CROSS, charts.CROSS_GROUND)).sum())
    assert 2 * TILE**2 <= crossed < 3 * TILE**2  # the last epoch and its patch; texts have a few such greys too


def test_cells_stand_in_their_columns_and_bars_join_the_same_image() -> None:
    grey = np.full((TILE, TILE, 3), 64, np.uint8)
    row = charts.EvolutionRow("unit 0", (grey, grey, None), (True, False), None)
    shares = {"conv1": {1: 0.5, 2: 0.75}}
    figure = charts.evolution_figure([charts.EvolutionBlock("conv1", "note", (row,))], EPOCHS, shares, "heading")
    (page,) = (axes for axes in figure.axes if axes.get_label() == "page")
    pixels = np.asarray(page.get_images()[0].get_array())
    assert int((pixels == 64).all(axis=2).sum()) == 2 * TILE**2
    assert int((pixels == charts.SAME_IMAGE).all(axis=2).sum()) == charts.CELL_GAP * (TILE // 3)
    crossed = int(np.isin(pixels[..., 0], (charts.CROSS, charts.CROSS_GROUND)).sum())
    assert crossed == 2 * TILE**2  # the silent epoch and the patch
    (line,) = (line for axes in figure.axes for line in axes.get_lines())
    assert line.get_label() == "conv1" and np.array_equal(line.get_ydata(), [0.5, 0.75])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trained=/nowhere"], "there are no snapshots epoch-001.safetensors, ... in /nowhere/snapshots"),
        (["epochs=[1,3]"], "epochs: given [3]; expected some of 1, 2, 5"),
        (["epochs=[2]"], "one snapshot shows no change"),
        (["layers=[conv9]"], "unknown layer 'conv9'"),
        (["units=[96]"], "units: given 96; expected a whole number, 0 to 95"),
        (["rule=guidd"], "unknown rule 'guidd'"),
        (["model=krizhevsky64"], "epoch-001.safetensors do not fit"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_mined(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path / "run", capsys)
