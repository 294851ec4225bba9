"""deconv/analyses/match_networks.py and its experiment: a permuted copy is found exactly, and mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deconv import models
from deconv.analyses import match_networks as analysis
from deconv.analyses.match_networks import Matches, match_units, spread_pairs
from deconv.command.cli import main
from deconv.figures.match_networks import STYLES, correlations_figure
from deconv.mining import correlating, moments
from deconv.mining.moments import Moments, against_chance
from deconv.models.presets import load
from deconv.records import Peaks, Reconstructions
from tests.commands import refusal, words
from tests.drawn import assert_drawn, axes_of
from tests.samples import noise

MAPS = [5, 7, 4, 4, 4]
OPTIONS = [
    *("experiment=match_networks", "model=zfnet64", "model.maps=[5,7,4,4,4]", "model.trunk=true"),
    *("layers=[conv1,conv2]", "k=2", "n_pairs=3", "source=folder"),
]
ORDER = {"conv1": [3, 0, 4, 1, 2], "conv2": [6, 2, 0, 5, 1, 3, 4]}
"""Where the permuted copy has each unit from."""


def place_of(layer: str) -> list[int]:
    """Where each unit is in the permuted copy."""
    return np.argsort(ORDER[layer]).tolist()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven photographs, weights of a network with a dead unit 3 in conv2, and those with units in another order."""
    folder = tmp_path_factory.mktemp("networks")
    noise(folder / "photos", 7, (64, 64), 4)
    state = models.build("zfnet64", "random", seed=1, maps=MAPS, trunk=True).state_dict()
    first, second, third = (f"features.{n}" for n in (0, 3, 6))
    state[f"{second}.weight"] = 30 * state[f"{second}.weight"]
    state[f"{second}.bias"][3] = -1e6
    save_file(state, folder / "weights.safetensors")
    one, two = torch.tensor(ORDER["conv1"]), torch.tensor(ORDER["conv2"])
    state[f"{first}.weight"], state[f"{first}.bias"] = state[f"{first}.weight"][one], state[f"{first}.bias"][one]
    state[f"{second}.weight"] = state[f"{second}.weight"][two][:, one]
    state[f"{second}.bias"] = state[f"{second}.bias"][two]
    state[f"{third}.weight"] = state[f"{third}.weight"][:, two]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "permuted.safetensors")
    return folder


def options(home: Path, *more: str) -> list[str]:
    network = [f"model.weights={home / 'weights.safetensors'}", f"other.weights={home / 'permuted.safetensors'}"]
    return words(OPTIONS, [f"source.root={home / 'photos'}", *network], more)


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    assert main([*options(home), f"folder={home / 'run'}"]) == 0
    return home / "run"


def summary(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return loaded


# --- the experiment ---------------------------------------------------------------------------------------------------


def test_a_permuted_copy_is_found_exactly(run: Path) -> None:
    for layer in ("conv1", "conv2"):
        record = load_file(run / f"{layer}.matches.safetensors")
        living = [unit for unit in range(len(ORDER[layer])) if (layer, unit) != ("conv2", 3)]
        assert [record["match"].tolist()[unit] for unit in living] == [place_of(layer)[unit] for unit in living]
        numbers = summary(run)["layers"][layer]
        assert numbers["matched"] == len(living) and numbers["mutual"] == 1
        assert numbers["mean_correlation"] == pytest.approx(1, abs=1e-5) == numbers["median_best_correlation"]
        own = np.mean([place_of(layer)[unit] == unit for unit in living])
        assert numbers["itself"] == pytest.approx(own, abs=1e-6)


def test_constant_units_are_left_out_and_counted(run: Path) -> None:
    record, numbers = load_file(run / "conv2.matches.safetensors"), summary(run)["layers"]["conv2"]
    assert record["match"][3] == -1 and record["correlation"][3].isnan().all()
    assert record["correlation"][:, place_of("conv2")[3]].isnan().all()
    assert (numbers["units"], numbers["constant"], numbers["other_constant"]) == (7, 1, 1)
    assert summary(run)["layers"]["conv1"]["constant"] == 0


def test_pairs_are_shown_side_by_side(run: Path) -> None:
    for layer in ("conv1", "conv2"):
        shown = summary(run)["layers"][layer]["shown"]
        assert len(shown) == 3 and all(other == place_of(layer)[unit] for unit, other in shown)
        ours, theirs = (
            Reconstructions.load(run / f"{layer}.{whose}reconstructions.safetensors") for whose in ("", "other.")
        )
        assert list(dict.fromkeys(ours.channel.tolist())) == [unit for unit, _ in shown]
        assert list(dict.fromkeys(theirs.channel.tolist())) == [other for _, other in shown]
        torch.testing.assert_close(ours.pixels, theirs.pixels, rtol=1e-4, atol=1e-6)
    assert_drawn(run, "conv1", "conv2", "match_networks")


def test_the_table_has_a_row_for_each_unit(run: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(run / "matches.parquet").to_pydict()
    assert table["layer"] == ["conv1"] * 5 + ["conv2"] * 7 and table["unit"] == [*range(5), *range(7)]
    assert table["match"][:5] == place_of("conv1") and table["mutual"][8] is False


@pytest.mark.filterwarnings("ignore")  # Ray's own, of what it finds on the machine
def test_the_same_bytes_for_any_batch_size_and_by_ray(home: Path, run: Path, cluster: None) -> None:
    again = home / "batches"
    by_ray = ["engine=ray", "engine.shard_size=3", "engine.num_workers=2"]
    assert main([*options(home, "batch_size=3", *by_ray), f"folder={again}"]) == 0
    for name in ("summary.json", "matches.parquet", "conv2.matches.safetensors", "conv2.png", "match_networks.png"):
        assert (again / name).read_bytes() == (run / name).read_bytes(), name


def test_what_is_there_is_taken_up_and_what_differs_refused(
    home: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(correlating, "_inputs", None)  # nothing is looked at again
    before = (run / "summary.json").read_bytes()
    assert main([*options(home), f"folder={run}"]) == 0 and (run / "summary.json").read_bytes() == before
    capsys.readouterr()
    assert main([*options(home, "seed=3"), f"folder={run}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "conv1.matches.safetensors was made with seed 0; this run has 3" in line


def test_layers_of_two_networks_of_different_sizes(home: Path, tmp_path: Path) -> None:
    asked = ["other.model=alexnet", "other.weights=random", "layers=[conv2,conv3]", "other_layers=[conv1,conv1]"]
    said = [word for word in options(home, *asked) if not word.startswith("other.weights=/")]
    assert main([*said, "other.size=[72,80]", "other.resize=80", f"folder={tmp_path}"]) == 0
    numbers = summary(tmp_path)["layers"]
    assert list(numbers) == ["conv2-conv1", "conv3-conv1"] and "itself" not in numbers["conv2-conv1"]
    assert (numbers["conv2-conv1"]["units"], numbers["conv2-conv1"]["other_units"]) == (7, 64)
    assert list(Peaks.load(tmp_path / "other.peaks.safetensors")) == ["conv1"]
    assert (tmp_path / "conv3-conv1.png").is_file()


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (["other.weights=null"], "other: given nothing; expected the other network: other.weights=FILE takes another"),
        (["other.weight=x"], "other.weight: model zfnet64 has no such setting; did you mean"),
        (["other.model=zfnet6"], "other.model=zfnet6: there are "),
        (["other_layers=[conv1]"], "other_layers: given ['conv1']; expected 2 layers, one for each of conv1, conv2"),
        (["other_layers=[conv1,conv9]"], "other_layers: unknown layer 'conv9'; expected one of "),
        (["other.weights=/nowhere.safetensors"], "there is no weights file /nowhere.safetensors"),
    ],
)
def test_mistakes(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str], line: str) -> None:
    assert line in refusal(options(home, *asked), tmp_path, capsys)


def test_one_image_shows_no_correlation(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photographs = noise(tmp_path / "photos", 1, (64, 64))
    assert main([*options(home, f"source.root={photographs}"), f"folder={tmp_path / 'run'}"]) == 2
    assert "layers conv1 and conv1: given 1 images, on which no unit of one of them changes" in capsys.readouterr().err


# --- its parts --------------------------------------------------------------------------------------------------------


def test_correlations_are_those_of_numpy_however_images_come(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    x = draw.gamma(1, 900, size=(301, 4)).astype(np.float32)
    y = (x[:, [1, 2]] + draw.normal(size=(301, 2), scale=300)).astype(np.float32)
    x[:, 3] = 7.1
    whole = Moments(4, 2)
    whole.see(x, y)
    correlation = whole.correlation()
    expected = np.corrcoef(x[:, :3].T.astype(float), y.T.astype(float))[:3, 3:]
    np.testing.assert_allclose(correlation[:3], expected, atol=1e-6)
    assert np.isnan(correlation[3]).all()
    pieces = Moments(4, 2)
    for start, end in zip([0, 1, 63, 64, 130], [1, 63, 64, 130, 301], strict=True):
        pieces.see(x[start:end], y[start:end])
    pieces.correlation()
    assert np.array_equal(pieces.products, whole.products) and pieces.images == whole.images == 301
    assert moments.CHUNK < 301


def test_matching_is_one_to_one_and_the_best_need_not_be() -> None:
    correlation = np.array([[0.9, 0.8, 0.1], [0.8, 0.1, 0.0], [0.7, 0.2, 0.3], [0.6, 0.0, np.nan]])
    correlation[:, 2] = [0.1, 0.0, 0.3, 0.0]
    match = match_units(correlation)
    assert match.tolist() == [1, 0, 2, -1]
    matches = Matches(("a", "b"), correlation, match, np.array([0.8, 0.8, 0.3, np.nan]), np.full(4, 0.5), False)
    assert matches.best.tolist() == [0, 0, 0, 0] and not matches.mutual.any() and matches.name == "a-b"
    assert matches.above_chance.tolist() == [True, True, False, False]
    numbers = matches.summarise()
    assert numbers["mean_correlation"] == pytest.approx(1.9 / 3, abs=1e-6) and numbers["median_correlation"] == 0.8
    assert numbers["median_best_correlation"] == 0.75 and "itself" not in numbers
    assert numbers["mean_pair_correlation"] == pytest.approx(correlation.mean(), abs=1e-6)
    assert spread_pairs(matches, 9) == [(0, 1), (1, 0), (2, 2)] and spread_pairs(matches, 1) == [(0, 1)]


def test_chance_is_what_unrelated_units_reach() -> None:
    draw = np.random.default_rng(0)
    x, unrelated = draw.exponential(size=(2, 400, 30))
    y = np.concatenate([x[:, :10] + 0.5 * unrelated[:, :10], unrelated[:, 10:]], axis=1)
    match = np.arange(30)
    sampled, chance = against_chance(x, y, match, seed=0)
    np.testing.assert_allclose(sampled, [np.corrcoef(x[:, n], y[:, n])[0, 1] for n in range(30)], atol=1e-6)
    assert (sampled[:10] > chance[:10]).all() and (sampled[10:] <= chance[10:]).all()
    assert not np.array_equal(chance, against_chance(x, y, match, seed=1)[1])


def test_two_sets_of_weights_of_one_network_are_told_apart_from_two_networks() -> None:
    first, second, other = (
        load("zfnet64", weights="random", maps=maps, trunk=True, seed=seed)
        for seed, maps in ((0, MAPS), (1, MAPS), (0, [5, 7, 4, 4, 5]))
    )
    assert analysis.is_same_network(first, second) and not analysis.is_same_network(first, other)


def test_the_chart_has_a_panel_for_each_layer() -> None:
    values = np.array([0.5, np.nan, 0.9])
    figure = correlations_figure({f"layer${n}": dict.fromkeys(STYLES, values) for n in range(5)}, "two networks")
    axes = axes_of(figure)
    assert [panel.get_title() for panel in axes[:5]] == [f"layer${n}" for n in range(5)]
    assert axes[0].lines[0].get_ydata().tolist() == [0.9, 0.5] and len(axes[0].lines) == len(STYLES)
