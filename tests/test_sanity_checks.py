"""experiments/sanity_checks.py, run small through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deconv.command.cli import main
from deconv.compare.peak_set import PeakSet
from deconv.compare.similarity import entropy_rise
from deconv.figures.compare_rules import style
from deconv.figures.sanity_checks import SIMILARITY_TITLES, cascades
from tests import samples
from tests.drawn import assert_drawn
from tests.samples import photographs

SETTINGS = {"experiment": "sanity_checks", "model": "zfnet64", "model.weights": "random", "model.maps": "[8,8,8,8,8]"}
SETTINGS |= {"model.widths": "[8,8]"}
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
    assert set(cells) == {f"{kind}/{name}" for kind in SIMILARITY_TITLES for name in [*blocks, "other_unit"]}
    assert set(summary["layers"]["conv1"]) == {"deconvnet", "gradient"}
    assert {name for name in summary["layers"]["conv1"]["gradient"] if name.startswith("rank")} == {
        "rank/cascade/conv1",
        "rank/other_unit",
    }
    alike = [cell for name, cell in cells.items() if not name.startswith("entropy_rise")]
    assert all(cell["units"] <= 3 and (cell["mean"] is None or -1 <= cell["mean"] <= 1) for cell in alike)
    assert_drawn(finished, "sanity_checks")


def test_a_shuffled_filter_is_another_filter(finished: Path) -> None:
    """A reconstruction from the first layer is its filter: shuffled, little of it is left."""
    cells = json.loads((finished / "summary.json").read_text())["layers"]["conv1"]["gradient"]
    assert cells["pearson/cascade/conv1"]["units"] == 0 or abs(cells["pearson/cascade/conv1"]["mean"]) < 0.6


def test_noisy_copies_leave_the_pictures_of_filters_as_they_are(finished: Path, tmp_path: Path) -> None:
    """In the first layer a picture is a filter times an activation, and so is the mean of several."""
    photographs(tmp_path / "photographs", 6)
    assert main(command(tmp_path / "run", layers="[conv1]", rules="[gradient]", smooth="3")) == 0
    cells = json.loads((tmp_path / "run" / "summary.json").read_text())["layers"]["conv1"]["gradient"]
    for name, cell in json.loads((finished / "summary.json").read_text())["layers"]["conv1"]["gradient"].items():
        if "other_unit" in name or cell["units"] == cells[name]["units"]:
            assert cells[name]["mean"] == pytest.approx(cell["mean"], abs=2e-3), name


def test_noise_is_decided_by_image_and_copy_and_of_a_tenth_of_the_range() -> None:
    grey = torch.full((2, 3, 40, 40), 128, dtype=torch.uint8)
    peaks = PeakSet(samples.network(), "one", grey, torch.tensor([3, 8]), torch.tensor([[3, 0, 1, 1], [8, 1, 2, 2]]))
    noisy, copy, again = peaks.noisy(0).input_images, peaks.noisy(1).input_images, peaks.noisy(0).input_images
    assert torch.equal(noisy, again) and not torch.equal(noisy, copy) and not torch.equal(noisy[0], noisy[1])
    assert float(noisy.double().std()) == pytest.approx(25.5, rel=0.05)
    alone = PeakSet(samples.network(), "one", grey[1:], torch.tensor([8]), torch.tensor([[8, 1, 2, 2]])).noisy(0)
    assert torch.equal(alone.input_images[0], noisy[1])


def test_entropy_rises_by_what_two_histograms_say() -> None:
    """One pixel of four, then two of four, then all four unlike: 0.56, 0.69 and 1.39 nats."""
    rows = ([0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 2, 3])
    one, two, four = (np.tile(np.reshape(row, (2, 2)), (3, 1, 1)).astype(np.float64) for row in rows)
    inside = np.ones((2, 2), dtype=bool)
    quarter = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert entropy_rise(one, two, inside) == pytest.approx(np.log(2) / quarter - 1)
    assert entropy_rise(two, four, inside) == pytest.approx(1) and entropy_rise(two, -3.0 * two, inside) == 0
    assert np.isnan(entropy_rise(two, np.zeros_like(two), inside)) and np.isnan(entropy_rise(0 * two, two, inside))


@pytest.mark.filterwarnings("ignore")  # Ray's own, of what it finds on the machine
def test_a_killed_run_goes_on_by_ray_and_ends_with_the_same_bytes(finished: Path, cluster: None) -> None:
    said = ("run.log", "config.yaml")  # that it is Ray, too
    left = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name not in said}
    kept = finished / "records" / "conv1.gradient.safetensors"
    before = kept.stat().st_mtime_ns
    for name in ("records/conv2.deconvnet.safetensors", "summary.json", "sanity_checks.png"):
        (finished / name).unlink()
    assert main(command(finished, engine="ray", **{"engine.num_workers": "2"})) == 0
    assert {path: path.read_bytes() for path in left} == left and kept.stat().st_mtime_ns == before


def test_records_of_something_else_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(finished, n_units="2")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "was made with units" in said[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rules": "[guidd]"}, "unknown explanation 'guidd'; expected one of deconvnet, guided, gradient"),
        ({"layers": "[conv1,conv1]"}, "expected each once, in forward order"),
        ({"units": "[99999]"}, "units: given 99999; expected a whole number, 0 to 7"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    changes: dict[str, str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "photographs", 1)
    assert main(command(tmp_path / "run", **changes)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and expected in said[0]
    assert not (tmp_path / "run" / "peaks.safetensors").exists()


def test_a_function_is_asked_about_every_shuffled_network(finished: Path, tmp_path: Path) -> None:
    """The gradient by a function is as alike as the rule's own, whatever is shuffled."""
    (tmp_path / "mine.py").write_text(
        "from deconv.explanations.fields import Fields\n\n"
        "def slope(network, inputs, *unit):\n"
        "    fields = Fields(network, inputs, *unit)\n"
        "    return fields.paste(fields.gradients(fields.windows))\n"
    )
    photographs(tmp_path / "photographs", 6)
    changes = {"rules": "[activation_map,gradient]", "explanations.slope": f"{tmp_path}/mine.py:slope"}
    assert main(command(tmp_path / "run", **changes)) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["rules"]) == {"activation_map", "gradient", "slope"}
    for cells in summary["layers"].values():
        for name, cell in cells["gradient"].items():
            found = cells["slope"][name]
            assert found["units"] == cell["units"] and found["mean"] == pytest.approx(cell["mean"], abs=1e-3), name
    assert summary["layers"]["conv3"]["activation_map"]["rank/cascade/conv3"]["units"] > 0


def test_curves_start_at_one_and_go_down_the_blocks_with_the_other_unit_as_a_line_across() -> None:
    def cell(mean: float, units: int) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "units": units}

    columns = {
        rule: {
            f"{kind}/{column}": cell(value + 0.01 * r + 0.001 * s, 5 - r if "alone" in column else 6)
            for s, kind in enumerate(SIMILARITY_TITLES)
            for column, value in (
                ("cascade/conv2", 0.5), ("cascade/conv1", 0.2), ("alone/conv1", 0.4), ("other_unit", 0.3)
            )
        }
        for r, rule in enumerate(("deconvnet", "gradient"))
    }  # fmt: skip
    single = {
        rule: {name: value for name, value in cells.items() if "conv2" not in name} for rule, cells in columns.items()
    }
    figure = cascades({"conv1": single, "conv2": columns}, ["deconvnet", "gradient"])
    assert len(figure.axes) == len(SIMILARITY_TITLES)  # a layer with one block has nothing to cascade down
    for s, axes in enumerate(figure.axes):
        for r, rule in enumerate(("deconvnet", "gradient")):
            shift = 0.01 * r + 0.001 * s
            own = [line for line in axes.lines if line.get_color() == style(rule)["color"]]
            cascade, alone, other = (np.asarray(line.get_ydata(), dtype=float) for line in own)
            assert np.allclose(cascade, [0 if s == 3 else 1, 0.5 + shift, 0.2 + shift])  # the last row is of entropy
            assert np.allclose(alone, [np.nan, 0.4 + shift], equal_nan=True) and np.allclose(other, 0.3 + shift)
    steps = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert steps == ["none (another unit 6)", "conv2 (6)", "conv1 (6, alone 4-5)"]  # a unit died by one of the rules
    assert figure.axes[0].get_title() == "units of conv2"
    said = figure.get_supxlabel().replace("\n", " ")
    assert "Not shown: conv1, below which no block is left to shuffle" in said and "conv2" not in said
    assert "Not shown" not in cascades({"conv1": single}, ["deconvnet", "gradient"]).get_supxlabel()
