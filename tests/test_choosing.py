"""deconv/analyses/choosing.py: which images, which classes, and what is said of a mistake."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from deconv.analyses import choosing
from deconv.errors import BadInput, DeconvError, RecordMismatch, UnknownName
from deconv.mining import mine
from deconv.network import Network, classes
from deconv.records import LayerPeaks, Peaks
from tests import samples

NAMES = ["tench", "crane", "car wheel", "crane"]


def classifier(*last: nn.Module) -> Network:
    trunk = [nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Network(nn.Sequential(*trunk, nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4), *last), (3, 20, 20), {"c2": "3"})


def test_images_by_key_and_number(tmp_path: Path) -> None:
    source = samples.photographs(tmp_path)
    assert choosing.pick_images(source, ["3.png", 0], 2) == [3, 0]
    assert choosing.pick_images(source, None, 3) == [0, 1, 2]
    assert choosing.pick_images(source, None, 99) == [0, 1, 2, 3, 4]


def fired(*images: int) -> LayerPeaks:
    """Peaks of units that fire on so many images each, three at most."""
    image = torch.tensor([[n if n < count else -1 for n in range(3)] for count in images])
    return LayerPeaks(image.float(), image, image, image, torch.zeros((len(images), 3, 4), dtype=torch.int64))


def test_units_that_fire_on_most_images_are_drawn_first() -> None:
    peaks = fired(1, 0, 3, 2, 3, 3)
    drawn = [choosing.choose_units(peaks, None, 2, seed) for seed in range(20)]
    assert all(len(units) == 2 and units == sorted(units) for units in drawn)
    assert {unit for units in drawn for unit in units} == {2, 4, 5} and len(set(map(tuple, drawn))) == 3
    assert choosing.choose_units(peaks, None, 2, seed=7) == drawn[7]
    assert choosing.choose_units(peaks, None, 4, seed=0) == [2, 3, 4, 5]
    assert choosing.choose_units(peaks, None, 9, seed=0) == [0, 2, 3, 4, 5]  # never one that fires on none


def test_units_that_are_asked_for_are_taken_as_they_are_or_those_that_fire(caplog: pytest.LogCaptureFixture) -> None:
    peaks = fired(1, 0, 3, 2, 3)
    assert choosing.choose_units(peaks, [4, 1, 3], 2, seed=0) == [4, 1, 3]
    assert choosing.firing_units("a", peaks, [4, 1, 3, 2], 2, seed=0) == [2, 3, 4]
    assert caplog.messages == ["a: left out, as they never fire on these images: units 1"]
    assert choosing.firing_units("a", peaks, None, 2, seed=0) == choosing.choose_units(peaks, None, 2, seed=0)
    with pytest.raises(BadInput, match="layer a: none of the units asked for fires"):
        choosing.firing_units("a", peaks, [1], 2, seed=0)


def scored(*scores: list[float]) -> LayerPeaks:
    """Peaks with these scores, a list for each unit; nan is no peak."""
    score = torch.tensor(scores)
    image = torch.arange(score.shape[1]).expand_as(score).masked_fill(score.isnan(), -1)
    return LayerPeaks(score, image, image, image, torch.zeros((*score.shape, 4), dtype=torch.int64))


NAN = math.nan


def test_a_score_is_told_as_a_share_of_the_strongest_of_the_reference() -> None:
    peaks = scored([2, 1], [3, NAN], [NAN, NAN], [1, 1], [1, 1], [4, 4])
    reference = scored([4], [2.5], [2], [NAN], [0], [-2])
    shares = choosing.share_of_strongest(peaks, reference)
    assert shares[:2].tolist() == pytest.approx([0.5, 1.2]) and shares[2:].isnan().all()
    assert choosing.listed_shares(peaks, reference) == [0.5, 1.2, None, None, None, None]


def test_units_nearest_to_their_strongest_come_first_and_those_that_cannot_be_compared_last() -> None:
    one_strong, all_good, weaker_in_numbers = [10.0, 0.1, 0.1], [6.0, 6.0, 6.0], [0.7, 0.7, 0.7]
    fires_once, dead, dead_in_reference = [9.0, NAN, NAN], [NAN, NAN, NAN], [9.0, 9.0, 9.0]
    peaks = scored(dead_in_reference, one_strong, dead, all_good, fires_once, weaker_in_numbers, all_good)
    reference = scored([NAN], [10.0], [5.0], [10.0], [10.0], [1.0], [10.0])
    assert choosing.strongest_units(peaks, reference, 9) == [1, 4, 5, 3, 6, 0]
    assert choosing.strongest_units(peaks, reference, 2) == [1, 4]
    assert choosing.strongest_units(scored(dead), scored([1.0]), 2) == []


def test_a_reference_is_this_networks_by_whichever_name() -> None:
    network, by_node = samples.network(), Network(samples.network().module, (3, 28, 28))
    reference = mine(by_node, torch.randn(9, 3, 28, 28), ["3", "1"], k=1)
    taken = choosing.as_reference(network, ["two", "1"], reference)
    assert list(taken) == ["two", "1"] and torch.equal(taken["two"].score, reference["3"].score)
    assert choosing.images_of(taken) == 9
    assert choosing.describe_share(1.2, taken) == "1.20 of its strongest over 9 images"


def test_a_reference_of_anything_else_is_refused() -> None:
    network, images = samples.with_preprocessing(), samples.images(4)
    reference = mine(network, images, ["one"], k=1)
    fewer = {"one": scored(*[[1.0]] * 5)}
    lighter = reference.provenance["preprocessing"] | {"mean": [0.1, 0.1, 0.1]}
    wrong: list[tuple[Peaks, type[DeconvError], str]] = [
        (mine(samples.network(seed=1), images, ["one"], k=1), RecordMismatch, "^the reference was made with weights"),
        (mine(samples.network(), images, ["one"], k=1), RecordMismatch, "made with mean None"),
        (Peaks({}, {}), RecordMismatch, "with weights None"),
        (dataclasses.replace(reference, layers=fewer), RecordMismatch, "has 5 units in one; expected 6"),
        (
            dataclasses.replace(reference, provenance=reference.provenance | {"preprocessing": lighter}),
            RecordMismatch,
            r"with mean \[0\.1, 0\.1, 0\.1\]; this run has \[0\.5",
        ),
        (mine(network, images, ["two"], k=1), UnknownName, "layer of the reference 'one'; expected one of two"),
    ]
    for peaks, kind, message in wrong:
        with pytest.raises(kind, match=message):
            choosing.as_reference(network, ["one"], peaks)


def test_a_path_is_no_reference(unchecked: None) -> None:
    with pytest.raises(BadInput, match=r"^reference: given peaks\.safetensors; expected Peaks: Peaks\.load"):
        choosing.as_reference(samples.network(), ["one"], "peaks.safetensors")  # type: ignore[arg-type]


def test_images_that_are_not_there(tmp_path: Path) -> None:
    source = samples.photographs(tmp_path)
    with pytest.raises(UnknownName, match="image '33.png' is not in the source folder.*did you mean '3.png'"):
        choosing.pick_images(source, ["33.png"], 2)
    mistakes: list[tuple[list[str | int], str]]
    mistakes = [
        ([5], "images: given 5; .* 0 to 4"),
        ([], "expected keys"),
        ([1, "1.png"], "named twice"),
    ]
    for wanted, expected in mistakes:
        with pytest.raises(BadInput, match=expected):
            choosing.pick_images(source, wanted, 2)


def test_labels_by_name_and_number() -> None:
    assert choosing.number_labels(["Car_Wheel", 3, "tench"], 3, NAMES) == [2, 3, 0]
    assert choosing.number_labels(None, 3, NAMES) is None
    assert choosing.number_labels(["n01440764"], 1, NAMES) == [0]  # tench
    assert choosing.number_labels(["n01440764"], 1, ["n00000000", "n01440764"]) == [1]
    assert choosing.number_labels(["Tench"], 1, ["n00000000", "n01440764"]) == [1]


def test_labels_that_the_network_does_not_have() -> None:
    with pytest.raises(UnknownName, match="'car weel' is none of this network's 4 classes; did you mean 'car wheel'"):
        choosing.number_labels(["car weel"], 1, NAMES)
    mistakes: list[tuple[list[str | int], str]]
    mistakes = [
        (["tench"], "one for each of 2"),
        ([0, 4], "given 4; .* 0 to 3"),
        ([0, "crane"], "1 and 3"),
    ]
    for labels, expected in mistakes:
        with pytest.raises(BadInput, match=expected):
            choosing.number_labels(labels, 2, NAMES)


def test_the_layers_that_matter() -> None:
    network = classifier()
    assert classes.class_layer(network) == "8"
    assert classes.top_layer(network) == "7"
    assert classes.top_layer(network, maps_only=True) == "c2"
    assert classes.name_classes(network, NAMES) == NAMES
    assert classes.name_classes(network, ["a"]) == ["class 0", "class 1", "class 2", "class 3"]


def test_a_network_of_maps_has_no_classes() -> None:
    with pytest.raises(BadInput, match="no class outputs: its last layer, 3, has 5 maps of 10 x 10"):
        classes.class_layer(samples.network())


def test_a_classifier_of_one_layer_has_no_layer_before_it() -> None:
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 2)), (3, 4, 4))
    with pytest.raises(BadInput, match="no such layer before its class scores"):
        classes.top_layer(network)


def test_probabilities_are_those_of_a_softmax_taken_once() -> None:
    torch.manual_seed(0)
    network = classifier()
    ends_in_softmax = Network(nn.Sequential(network.module, nn.Softmax(1)), (3, 20, 20))
    images = torch.randn(2, 3, 20, 20)
    found = []
    for one in (network, ends_in_softmax):
        layer = classes.class_layer(one)
        found.append(classes.probabilities(one, one.forward(images, [layer])[layer]))
    assert torch.allclose(found[0], found[1]) and torch.allclose(found[0].sum(1), torch.ones(2))
