"""experiment=predict and deconv.predict: a unit whose answers are known, by who knows it and who does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import deconv
from deconv.command.cli import main
from deconv.compare.guesses import BASELINES, QUESTIONS, mean_energy, shares
from deconv.compare.predicting import answers_path
from deconv.compare.trials import ACTIVATIONS, Covering, Squares, cover_images, extremes
from deconv.compare.trust import open_run
from deconv.errors import BadInput, RecordMismatch, UnknownName
from deconv.figures import predict as charts
from deconv.network import Network
from deconv.network.squares import places
from deconv.projection.rules import Rule
from deconv.records.formats import read_columns
from tests.commands import refusal, words
from tests.drawn import axes_of
from tests.samples import SIZE, photographs, with_preprocessing

SIDE, CELL, BAR = 32, 8, 6
"""Pixels a side of an image, of the part of it that holds one bar, and of the bar."""
SQUARES = (0.3, 0.4, 0.5)


def one_bar(network: Network, inputs: Tensor, layer: str, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """What each unit is made of: the perfect explanation of those units."""
    weight = next(network.module.parameters()).detach().view(-1, 3, SIDE, SIDE)
    picture: Tensor = weight[channel].to(inputs)
    return picture


def nothing(network: Network, inputs: Tensor, layer: str, *unit: Tensor) -> Tensor:
    return torch.zeros_like(inputs)


def bars(count: int) -> Tensor:
    """(count, SIDE, SIDE): an oriented filter each, at a place of its own and zero elsewhere."""
    generator = np.random.default_rng(3)
    made = torch.zeros(count, SIDE, SIDE)
    bar = torch.ones(BAR, BAR)
    bar[:, : BAR // 2] = -1
    for unit in range(count):
        row, col = CELL * np.array(divmod(unit, SIDE // CELL)) + generator.integers(0, CELL - BAR + 1, 2)
        made[unit, row : row + BAR, col : col + BAR] = bar if unit % 2 else bar.T
    return made


def bars_at_places(count: int) -> Network:
    """Units that see the whole image, each by one oriented filter at one place of it."""
    linear = nn.Linear(3 * SIDE * SIDE, count)
    with torch.no_grad():
        linear.weight.copy_(bars(count)[:, None].expand(-1, 3, -1, -1).flatten(1))
        linear.bias.zero_()
    preprocessing = deconv.Preprocessing((SIDE, SIDE), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    module = nn.Sequential(nn.Flatten(), linear, nn.ReLU())
    return deconv.Network(module, (3, SIDE, SIDE), {"bars": "2"}, preprocessing)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> deconv.Source:
    """Noise, on which each bar stands at its place, stronger or weaker: no part of it is missing."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    shapes = bars(16).numpy()
    for n in range(20):
        strength = generator.uniform(40, 120, len(shapes))
        pixels = np.where(shapes.any(axis=0), 128 + np.einsum("u,uhw->hw", strength, shapes), 0)[..., None]
        made = np.where(pixels > 0, pixels, generator.integers(0, 256, (SIDE, SIDE, 3)))
        Image.fromarray(made.astype(np.uint8)).save(folder / f"{n:02d}.png")
    return deconv.folder(folder)


@pytest.fixture(scope="module")
def known(images: deconv.Source) -> deconv.Prediction:
    network = bars_at_places(16)
    peaks = deconv.mine(network, images, ["bars"], k=10)
    explanations: dict[str, Any] = {"perfect": one_bar, "gradient": "gradient", "random_mask": "random_mask"}
    return deconv.predict(network, images, peaks, explanations | {"nothing": nothing}, references=4, stride=4)


def test_the_perfect_explanation_is_always_right_and_a_random_one_half_of_the_time(known: deconv.Prediction) -> None:
    cells = known.summary["all_layers"]
    for activation in ACTIVATIONS:
        if activation == "near":  # for units that see the whole image, its middle
            continue
        for name in ("perfect", "gradient"):
            assert cells[name][f"energy_{activation}"]["mean"] == cells[name][f"place_{activation}"]["mean"] == 1
        chance = cells["random_mask"][f"energy_{activation}"]
        assert chance["low"] <= 0.5 <= chance["high"] and chance["high"] - chance["low"] < 0.3
        assert {cells["nothing"][f"{question}_{activation}"]["mean"] for question in QUESTIONS} == {0.5}
    ahead = known.difference("perfect", "random_mask", "energy_max")
    assert ahead["low"] > 0.2 and ahead == {**ahead, "units": 16}
    assert known.summary["trials"]["bars"]["max"] == 16 * 6 * 3


def test_near_the_peak_it_is_not_enough_to_know_where_it_is(tmp_path: Path) -> None:
    """A unit that looks at one corner of its field: its picture knows which squares cover that corner."""
    convolution = nn.Conv2d(3, 1, 15)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[:, :, 1:5, 1:5] = 1
        convolution.bias.zero_()  # type: ignore[union-attr]
    generator = np.random.default_rng(0)
    for n in range(10):
        pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        row, col = generator.integers(2, SIDE - 16, 2)
        pixels[row : row + 4, col : col + 4] = 150 + 5 * n
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    preprocessing = deconv.Preprocessing((SIDE, SIDE), None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    network = deconv.Network(nn.Sequential(convolution, nn.ReLU()), (3, SIDE, SIDE), {"corner": "1"}, preprocessing)
    images = deconv.folder(tmp_path)
    peaks = deconv.mine(network, images, ["corner"], k=10)
    predicted = deconv.predict(
        network, images, peaks, ["gradient", "centre"], references=2, squares=[0.4, 0.5], stride=2
    )
    cells = predicted.summary["all_layers"]
    assert cells["gradient"]["energy_max"]["mean"] == cells["gradient"]["energy_near"]["mean"] == 1
    assert cells["centre"]["energy_near"]["mean"] < cells["centre"]["energy_max"]["mean"] < 1


def test_the_two_squares_are_those_of_the_whole_network(images: deconv.Source) -> None:
    """Of every position, the image whole with the square on it; in both fills and both activations."""
    network = with_preprocessing()
    preprocessing = network.needed_preprocessing()
    image = preprocessing.normalize(images.input_image(2, preprocessing)[None])
    queries = {"one": torch.tensor([[2, 1, 1, 2], [2, 4, 1, 2]]), "two": torch.tensor([[2, 3, 1, 2]])}
    for fill in ("grey", "covered"):
        squares = Squares((0.3, 0.5), 3, fill)
        (covered,) = cover_images(Covering(network, images, queries, squares, 0, 7), (0, [2]))
        kinds, of_each = np.unique(covered.columns["activation"], return_counts=True)
        assert kinds.tolist() == [0, 1, 2] and (of_each[:2] == 3 * 2).all()  # few squares are near; all may be equal
        for n in range(len(covered.columns["unit"])):
            row = {name: values[n] for name, values in covered.columns.items()}
            layer, square = list(queries)[row["layer"]], squares.pixels((SIZE, SIZE))[row["square"]]

            def answer(top: int, left: int, square: int = square, fill: str = fill) -> Tensor:
                changed = image.clone()
                cut = changed[0, :, top : top + square, left : left + square]
                cut[:] = cut.mean(dim=(1, 2), keepdim=True).clone() if fill == "covered" else 0.0
                return changed

            starts = torch.cartesian_prod(*[places(SIZE, square, 3)] * 2).tolist()
            maps = network.forward(torch.cat([answer(*start) for start in starts]), [layer])[layer][:, row["unit"]]
            activation = ACTIVATIONS[row["activation"]]
            asked = maps.mean(dim=(1, 2)) if activation == "mean" else maps.amax(dim=(1, 2))
            if activation == "near":  # position (1, 2) of layer one sees rows 1 to 3, columns 3 to 5; of two 5 wider
                row_middle, col_middle = (2, 4)
                over = [t <= row_middle < t + square and c <= col_middle < c + square for t, c in starts]
                starts, asked = [start for start, is_over in zip(starts, over, strict=True) if is_over], asked[over]
            for end, extreme in (("least", asked.min()), ("most", asked.max())):
                place = starts.index([row[f"{end}_row"], row[f"{end}_col"]])
                assert row[end] == pytest.approx(float(extreme), rel=1e-4)
                assert float(asked[place]) == pytest.approx(float(extreme), rel=1e-4)


def test_of_equal_positions_one_is_drawn_and_where_all_are_equal_there_is_no_trial() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.5])
    drawn = {extremes(values, np.random.default_rng(seed)) for seed in range(40)}
    assert drawn == {(1, 0), (1, 2), (1, 3)}
    assert extremes(np.full(5, 2.0), np.random.default_rng(0)) is None
    assert extremes(np.zeros(5), np.random.default_rng(0)) is None


def test_shares_are_over_trials_and_a_unit_without_any_has_none() -> None:
    trials = {"activation": np.array([0, 0, 0]), "square": np.array([0, 0, 1])}
    of_unit = shares(trials, Squares((0.3, 0.5)), {"energy": np.array([1.0, 0.5, 0.0])})
    assert of_unit["energy_max"] == 0.5 and of_unit["energy_max_30"] == 0.75 and of_unit["energy_max_50"] == 0
    assert np.isnan(of_unit["energy_mean"]) and of_unit["trials_mean"] == 0


def test_the_mean_energy_weighs_every_picture_alike() -> None:
    pictures = np.zeros((3, 3, 1, 2))
    pictures[0, :, 0, 0], pictures[1, :, 0, 1] = 100, 0.1
    assert np.allclose(mean_energy(pictures), [[0.5, 0.5]])
    assert mean_energy(pictures[2:]).tolist() == [[0, 0]]


def test_who_sees_the_photograph_alone(images: deconv.Source) -> None:
    """Patches answer by where the photograph varies, and by nothing of the network."""
    network = bars_at_places(6)
    peaks = deconv.mine(network, images, ["bars"], k=6)
    one, other = (
        deconv.predict(network, images, peaks, [name], units=[0, 3], references=2, stride=8).measured["bars"]
        for name in ("gradient", "deconvnet")
    )
    for name in BASELINES:
        for column, values in one[name].items():
            assert np.array_equal(values, other[name][column], equal_nan=True), (name, column)
    assert np.isnan(one[BASELINES[1]]["place_max"]).all() and np.isfinite(one[BASELINES[1]]["energy_max"]).all()
    assert one[BASELINES[0]]["place_max"].tolist() == [0.5, 0.5]  # every reference is seen whole


def test_it_prints_and_saves_itself(known: deconv.Prediction, tmp_path: Path) -> None:
    title, head, *rows, note = str(known).splitlines()
    assert (
        title.startswith("16 units of bars; trials: 288 (max), 288 (mean)")
        and "energy, max" in head
        and "chance is 50" in note
    )
    assert (
        [row.split()[0] for row in rows]
        == [*known.names]
        == ["perfect", "gradient", "random_mask", "nothing", *BASELINES]
    )
    cell = known.summary["all_layers"]["random_mask"]["energy_max"]
    shown = rows[2][head.index("energy, max") :].split("]")
    assert shown[0] == f"{100 * cell['mean']:.0f} [{100 * cell['low']:.0f}, {100 * cell['high']:.0f}"
    assert shown[1].startswith("*")
    for suffix in ("json", "txt", "png", "parquet"):
        assert known.save(tmp_path / f"table.{suffix}").stat().st_size > 100
    columns = known.rows()
    chosen = (columns["explanation"] == "perfect") & (columns["column"] == "energy_max_40")
    assert columns["value"][chosen].tolist() == known.measured["bars"]["perfect"]["energy_max_40"].tolist()
    with pytest.raises(UnknownName, match="unknown column 'energy'"):
        known.difference("perfect", "gradient", "energy")
    with pytest.raises(UnknownName, match="unknown layer 'two'"):
        known.table("two")


def test_each_panel_has_every_accuracy_by_layer_and_the_line_of_chance() -> None:
    names = ["deconvnet", "centre", *BASELINES]
    values = {name: 0.1 * n + 0.2 for n, name in enumerate(names)}
    columns = [f"{question}_{activation}" for activation in ACTIVATIONS for question in QUESTIONS]
    layers = {
        layer: {
            name: {c: {"mean": value + 0.01 * m + 0.1 * k, "low": value, "high": 0.9} for m, c in enumerate(columns)}
            for name, value in values.items()
        }
        for k, layer in enumerate(("conv1", "conv2"))
    }
    figure = charts.by_layer(layers, names)
    assert len(axes_of(figure)) == len(columns)
    for m, axes in enumerate(axes_of(figure)):
        *lines, chance = axes.lines
        assert list(np.asarray(chance.get_ydata())) == [0.5, 0.5]
        for name, line in zip(names, lines, strict=True):
            assert np.allclose(np.asarray(line.get_ydata()), [values[name] + 0.01 * m, values[name] + 0.01 * m + 0.1])
        assert len(axes.collections) == len(names) - 1  # a control has no interval
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


# --- the experiment ---------------------------------------------------------------------------------------------------

SETTINGS = {"experiment": "predict", "model": "zfnet64", "model.weights": "random", "model.maps": "[8,8,8,8,8]"}
SETTINGS |= {"model.widths": "[8,8]"}
SETTINGS |= {"model.resize": "null", "layers": "[conv2,conv1]", "n_units": "2", "references": "2", "queries": "2"}
SETTINGS |= {"against": "[random_weights,centre]", "stride": "16", "source": "folder"}


def command(folder: Path, **changes: str) -> list[str]:
    """The arguments of a small run over the photographs beside its folder, some of them changed."""
    said = SETTINGS | {"source.root": str(folder.parent / "photographs")} | changes | {"folder": str(folder)}
    return [f"{key}={value}" for key, value in said.items()]


def contents(folder: Path) -> dict[str, bytes]:
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.log"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    photographs(folder.parent / "photographs", 20)
    assert main(command(folder)) == 0
    return folder


def test_it_leaves_records_numbers_and_a_picture(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    names = ["deconvnet", "random_weights", "centre", *BASELINES]
    assert list(summary["units"]) == ["conv1", "conv2"] and summary["tested"] == "deconvnet"
    assert all(set(of) == set(names) for of in summary["layers"].values())
    assert all((finished / "records" / f"conv2.{name}.safetensors").is_file() for name in names)
    assert (finished / "records" / "trials" / "0000.safetensors").is_file() and (finished / "predict.png").is_file()
    assert "2 units of conv1" in (finished / "table.txt").read_text()
    assert "4 units of conv1, conv2; trials: " in (finished / "run.log").read_text()
    assert summary["settings"] == {
        "squares": list(SQUARES), "stride": 16, "fill": "grey", "references": 2, "seed": 0
    }  # fmt: skip
    assert len(summary["provenance"]["weights"]) == 64


def test_answers_to_single_trials_are_kept(finished: Path) -> None:
    """Their means are the shares; explanations answered the same trials, and say how far to trust a unit."""
    columns, provenance = read_columns(finished / "records" / "conv1.deconvnet.safetensors")
    answers, same = read_columns(answers_path(finished / "records", "conv1", "deconvnet"))
    assert same == provenance and set(answers) == {"unit", "image", "activation", "square", *QUESTIONS}
    for n, unit in enumerate(columns["unit"]):
        for a, activation in enumerate(ACTIVATIONS):
            chosen = (answers["unit"] == unit) & (answers["activation"] == a)
            assert chosen.sum() == columns[f"trials_{activation}"][n]
            if chosen.any():
                assert answers["likeness"][chosen].mean() == columns[f"likeness_{activation}"][n]
    run = open_run(finished, ["conv1"], "deconvnet")
    assert run.controls == ["centre", "random_weights"]  # a summary orders them by name
    trust = run.trust("conv1", [Rule()], {"weights": provenance["peaks"]["weights"]})
    near = columns["trials_near"] > 0
    assert trust.by_rule["deconvnet"]["unit"].tolist() == sorted(columns["unit"][near].tolist())
    assert trust.control in ("random_weights", "centre", *BASELINES)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(finished: Path) -> None:
    left = contents(finished)
    kept = finished / "records" / "conv1.deconvnet.safetensors"
    before = kept.stat().st_mtime_ns
    for name in ("records/conv1.centre.safetensors", "records/trials/0000.safetensors", "summary.json", "predict.png"):
        (finished / name).unlink()
    assert main(command(finished)) == 0
    assert contents(finished) == left and kept.stat().st_mtime_ns == before


def test_ray_gives_the_same_bytes(finished: Path, tmp_path: Path, cluster: None) -> None:
    photographs(tmp_path / "photographs", 20)
    assert main(command(tmp_path / "ray", engine="ray", **{"engine.num_workers": "1"})) == 0
    one, other = contents(finished), contents(tmp_path / "ray")
    same = [name for name in one if name.startswith(("records/", "table", "predict"))]
    assert len(same) > 10 and all(one[name] == other[name] for name in same)


def test_records_of_something_else_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(finished, fill="covered")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "was made with fill grey; this run has covered" in said[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"squares": "[0.3,1.2]"}, "squares: given [0.3, 1.2]; expected fractions of the image's side"),
        ({"fill": "gray"}, "unknown fill 'gray'; expected one of grey, covered"),
        ({"stride": "0"}, "stride=0: expected 1 or more"),
        ({"against": "[guidd]"}, "unknown explanation 'guidd'; expected one of deconvnet, guided"),
        ({"explanations.patches": "deconv.explanations.gradients:smoothgrad"}, "names other than patches and"),
        ({"k": "4"}, "experiment=predict has no k"),
    ],
)
def test_a_mistake_is_one_line(
    changes: dict[str, str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "photographs", 2)
    said = words([word for word in command(tmp_path / "run", **changes) if not word.startswith("folder=")])
    assert expected in refusal(said, tmp_path, capsys)


def test_too_few_peaks_are_named(images: deconv.Source) -> None:
    network = bars_at_places(3)
    peaks = deconv.mine(network, images, ["bars"], k=4)
    with pytest.raises(BadInput, match=r"given 4 peaks a unit, 1 an image; expected one an image and more than the 9"):
        deconv.predict(network, images, peaks, ["gradient"])
    few = deconv.mine(network, images.part([0]), ["bars"], k=3)
    with pytest.raises(BadInput, match="no unit fires on more images than its 1 references"):
        deconv.predict(network, images.part([0]), few, ["gradient"], references=1)


def test_peaks_of_another_network_are_refused(images: deconv.Source) -> None:
    peaks = deconv.mine(bars_at_places(3), images, ["bars"], k=2)
    with pytest.raises(RecordMismatch, match="the record of these peaks was made with weights"):
        deconv.predict(bars_at_places(4), images, peaks, ["gradient"], references=1)
