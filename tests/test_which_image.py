"""experiment=which_image and deconv.which_image: units of one colour, by observers who were shown it or noise."""

from __future__ import annotations

import json
from colorsys import hsv_to_rgb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import deconv
from deconv.command.cli import main
from deconv.compare.observers import VIEW, OtherNetwork, view_likeness
from deconv.compare.which_image import BASELINES, FEATURES, VIEWS, Candidates
from deconv.errors import BadInput, RecordMismatch, UnknownName
from deconv.figures import which_image as charts
from deconv.network import Network
from tests.commands import refusal, words
from tests.drawn import axes_of
from tests.samples import photographs

SIDE, FIELD, COLOURS, EACH = 32, 8, 10, 12
"""Pixels a side of an image and of a unit's field; units, each of a colour of its own; images of each colour."""


def colours() -> Tensor:
    """(COLOURS, 3): around the wheel, each second the opposite of the one before; less their mean: grey is none."""
    wheel = torch.tensor([hsv_to_rgb(n // 2 / COLOURS + n % 2 / 2, 1, 1) for n in range(COLOURS)])
    return wheel - wheel.mean(dim=1, keepdim=True)


def colour_units(seed: int | None = None) -> Network:
    """Units that see a square of FIELD pixels, each by the mean of one colour in it; by random weights with a seed."""
    convolution = nn.Conv2d(3, COLOURS, FIELD)
    with torch.no_grad():
        weight = colours()[:, :, None, None] / FIELD**2
        if seed is not None:
            weight = torch.randn(COLOURS, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
        convolution.weight.copy_(weight.expand(-1, -1, FIELD, FIELD))
        convolution.bias.zero_()  # type: ignore[union-attr]
    preprocessing = deconv.Preprocessing((SIDE, SIDE), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return deconv.Network(nn.Sequential(convolution, nn.ReLU()), (3, SIDE, SIDE), {"colours": "1"}, preprocessing)


def nothing(network: Network, inputs: Tensor, layer: str, *unit: Tensor) -> Tensor:
    return torch.zeros_like(inputs)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> deconv.Source:
    """Grey noise with a square of one colour somewhere in it."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for n in range(COLOURS * EACH):
        pixels = np.broadcast_to(generator.normal(128, 20, (SIDE, SIDE, 1)), (SIDE, SIDE, 3)).copy()
        row, col = generator.integers(0, SIDE - FIELD + 1, 2)
        pixels[row : row + FIELD, col : col + FIELD] += 100 * colours()[n % COLOURS].numpy()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{n:03d}.png")
    return deconv.folder(folder)


@pytest.fixture(scope="module")
def peaks(images: deconv.Source) -> deconv.Peaks:
    return deconv.mine(colour_units(), images, ["colours"], k=10)


@pytest.fixture(scope="module")
def known(images: deconv.Source, peaks: deconv.Peaks) -> deconv.ImageChoice:
    explanations: dict[str, Any] = {"gradient": "gradient", "random_mask": "random_mask", "nothing": nothing}
    other = colour_units(seed=1)
    return deconv.which_image(
        colour_units(), images, peaks, explanations, references=5, observer=other, observer_layer="colours"
    )


def test_who_was_shown_the_colour_is_always_right_and_who_saw_noise_half_of_the_time(known: deconv.ImageChoice) -> None:
    cells = known.summary["all_layers"]
    for name in ("gradient", "patches", "masked_patches"):
        assert cells[name]["views"]["mean"] == cells[name]["views_one"]["mean"] == 1
    noise = cells["random_mask"]["views"]
    assert noise["low"] <= 0.5 <= noise["high"] and noise["high"] - noise["low"] < 0.4
    assert {cells["nothing"][column]["mean"] for column in (*VIEWS, *FEATURES)} == {0.5}
    assert cells["other_patches"]["views"]["mean"] < 0.5  # of opposite colours
    ahead = known.difference("patches", "random_mask", "views")
    assert ahead["low"] > 0.3 and ahead["units"] == COLOURS
    assert known.summary["trials"]["colours"] == {"pairs": COLOURS * 5}


def test_another_network_s_features_tell_colours_too(known: deconv.ImageChoice) -> None:
    cells = known.summary["all_layers"]
    assert cells["patches"]["features"]["mean"] > 0.95 and cells["gradient"]["features"]["mean"] > 0.95
    noise = cells["random_mask"]["features"]
    assert noise["low"] <= 0.5 <= noise["high"]


def test_references_and_queries_take_turns_and_no_weak_image_is_a_peak(
    images: deconv.Source, peaks: deconv.Peaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deconv.compare import which_image

    seen = []
    shown = which_image.pictures_of

    def watched(shared: Any, name: str, references: Any) -> Tensor:
        unit = int(references.channel[0])
        strong, weak = which_image.query_images(shared, unit)
        seen.append((unit, references.peaks[:, 0].tolist(), strong, weak))
        return shown(shared, name, references)

    monkeypatch.setattr(which_image, "pictures_of", watched)
    network = colour_units()
    deconv.which_image(network, images, peaks, ["gradient"], units=[0, 7], references=3)
    preprocessing = network.needed_preprocessing()
    for unit, shown_ids, strong, weak in seen:
        ids = peaks["colours"].image[unit, :6].tolist()
        assert shown_ids == ids[::2]
        expected = torch.stack([images.input_image(each, preprocessing) for each in ids[1::2]]) / 255 - 0.5
        assert torch.equal(strong, expected)
        assert network.forward(weak / 0.25, ["1"])["1"][:, unit].amax() < 0.1  # that colour is in none of them
    assert {unit for unit, *_ in seen} == {0, 7}


def test_weak_images_are_those_that_fire_the_unit_least_and_drawn_among_equals() -> None:
    activations = np.array([[3.0], [0.0], [1.0], [0.0], [0.0]])
    candidates = Candidates(np.array([2, 4, 5, 7, 9]), torch.zeros(5, 3, 1, 1), {"one": activations})
    first = {tuple(candidates.weakest("one", 0, np.array([4]), 2, seed)) for seed in range(20)}
    assert first == {(3, 4), (4, 3)}
    assert candidates.weakest("one", 0, np.array([4]), 9, 0)[2:] == [2, 0]


def test_likeness_is_the_correlation_with_the_most_alike_window() -> None:
    """Of a picture at the views' own scale, beside numpy's correlation of every window."""
    generator = torch.Generator().manual_seed(0)
    images, pictures = (torch.randn(2, 3, 14, 11, generator=generator) for _ in range(2))
    boxes = torch.tensor([[3, 2, 3 + VIEW, 2 + VIEW], [0, 1, VIEW, 1 + VIEW]])
    expected = torch.zeros(2, 2)
    for q, image in enumerate(images):
        for n, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
            view = pictures[n, :, y0:y1, x0:x1].flatten().numpy()
            windows = functional.unfold(image[None], VIEW)[0].T.numpy()
            expected[q, n] = max(np.corrcoef(view, window)[0, 1] for window in windows)
    assert torch.allclose(view_likeness(images, pictures, boxes), expected, atol=1e-5)
    assert torch.allclose(view_likeness(images * 1e-2 + 0.3, pictures * 1e-6, boxes), expected, atol=1e-2)
    assert view_likeness(torch.full_like(images, 0.3), pictures, boxes).abs().max() == 0


def test_grey_ground_adds_nothing_to_features() -> None:
    """A network of means: what is neutral counts for as little as if it were not there."""
    observer = OtherNetwork(colour_units(), "1")
    picture = torch.zeros(1, 3, SIDE, SIDE)
    assert observer.features(picture).abs().max() == 0
    picture[0, :, 8:18, 8:18] = 0.3 * colours()[2][:, None, None]
    here, moved = observer.features(picture), observer.features(picture.roll((4, 6), (2, 3)))
    assert torch.allclose(here, moved, atol=1e-6) and int(here.argmax()) == 2
    with pytest.raises(UnknownName, match="unknown observer's layer 'conv9'"):
        OtherNetwork(colour_units(), "conv9")


def test_it_prints_and_saves_itself(known: deconv.ImageChoice, tmp_path: Path) -> None:
    title, head, *rows, note = str(known).splitlines()
    assert title == f"{COLOURS} units of colours; trials: {COLOURS * 5} (pairs)"
    assert head.split() == ["explanation", "views", "views,", "one", "features", "features,", "one"]
    assert [row.split()[0] for row in rows] == [*known.names] and known.names[-4:] == BASELINES
    assert rows[-1].split()[2:] == ["none"] * 3 or "none" in rows[-1]
    assert "chance is 50" in note and "differs from gradient" in note
    for suffix in ("json", "txt", "png", "parquet"):
        assert known.save(tmp_path / f"table.{suffix}").stat().st_size > 100
    with pytest.raises(UnknownName, match="unknown column 'energy_max'"):
        known.difference("gradient", "nothing", "energy_max")


def test_each_panel_has_every_accuracy_by_layer_and_the_line_of_chance() -> None:
    names = ["deconvnet", "random_mask", *BASELINES]
    cells = {name: {"views": {"mean": 0.1 * n, "low": 0.0, "high": 0.9}} for n, name in enumerate(names)}
    figure = charts.by_layer({"conv1": cells, "conv2": cells}, names, {"views": "by views"})
    (axes,) = axes_of(figure)
    *lines, chance = axes.lines
    assert list(np.asarray(chance.get_ydata())) == [0.5, 0.5]
    assert [np.asarray(line.get_ydata()).tolist() for line in lines] == [[0.1 * n] * 2 for n in range(len(names))]


def test_what_cannot_be_asked_is_named(images: deconv.Source, peaks: deconv.Peaks) -> None:
    network = colour_units()
    with pytest.raises(BadInput, match=r"given 10 peaks a unit, 1 an image; expected one an image and two for each"):
        deconv.which_image(network, images, peaks, ["gradient"])
    with pytest.raises(BadInput, match="observer_layer: given None; expected both a network and its layer"):
        deconv.which_image(network, images, peaks, ["gradient"], references=2, observer=colour_units(1))
    with pytest.raises(BadInput, match="observer: given the network that is examined; expected another network"):
        deconv.which_image(
            network, images, peaks, ["gradient"], references=2, observer=network, observer_layer="colours"
        )
    with pytest.raises(RecordMismatch, match="the record of these peaks was made with weights"):
        deconv.which_image(colour_units(1), images, peaks, ["gradient"], references=2)
    few = deconv.mine(network, images.part([0]), ["colours"], k=2)
    with pytest.raises(BadInput, match="no unit has a pair of images"):
        deconv.which_image(network, images.part([0]), few, ["gradient"], references=1)


# --- the experiment ---------------------------------------------------------------------------------------------------

SETTINGS = {"experiment": "which_image", "model": "zfnet64", "model.weights": "random", "model.maps": "[8,8,8,8,8]"}
SETTINGS |= {"model.widths": "[8,8]"}
SETTINGS |= {"model.resize": "null", "layers": "[conv2,conv1]", "n_units": "2", "references": "2"}
SETTINGS |= {"against": "[random_weights,centre]", "source": "folder", "observer.model": "zfnet64"}
SETTINGS |= {"observer.layer": "conv2"}


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
    assert (finished / "which_image.png").is_file() and "2 units of conv1" in (finished / "table.txt").read_text()
    assert summary["settings"]["observer"]["layer"] == "conv2" and summary["trials"]["conv1"] == {"pairs": 4}
    assert summary["columns"] == [*VIEWS, *FEATURES]


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(finished: Path) -> None:
    left = contents(finished)
    for name in ("records/conv1.centre.safetensors", "summary.json", "which_image.png"):
        (finished / name).unlink()
    assert main(command(finished)) == 0
    assert contents(finished) == left


def test_ray_gives_the_same_bytes(finished: Path, tmp_path: Path, cluster: None) -> None:
    photographs(tmp_path / "photographs", 20)
    assert main(command(tmp_path / "ray", engine="ray", **{"engine.num_workers": "1"})) == 0
    one, other = contents(finished), contents(tmp_path / "ray")
    same = [name for name in one if name.startswith(("records/", "table", "which"))]
    assert len(same) > 10 and all(one[name] == other[name] for name in same)


def test_records_of_something_else_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(finished, **{"observer.layer": "conv3"})) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "was made with observer" in said[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"observer.model": "zfnet65"}, "zfnet65"),
        ({"observer.layer": "conv9"}, "unknown observer's layer 'conv9'"),
        ({"observer.layer": "null"}, "observer_layer: given None; expected both a network and its layer"),
        ({"against": "[guidd]"}, "unknown explanation 'guidd'; expected one of deconvnet, guided"),
        ({"explanations.patches": "deconv.explanations.gradients:smoothgrad"}, "names other than patches and"),
        ({"queries": "4"}, "experiment=which_image has no queries"),
    ],
)
def test_a_mistake_is_one_line(
    changes: dict[str, str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "photographs", 2)
    said = words([word for word in command(tmp_path / "run", **changes) if not word.startswith("folder=")])
    assert expected in refusal(said, tmp_path, capsys)
