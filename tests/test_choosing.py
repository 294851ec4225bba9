"""deconv/analyses/choosing.py: which images, which classes, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from deconv.analyses import choosing
from deconv.errors import BadInput, UnknownName
from deconv.network import Network, classes
from deconv.records import LayerPeaks
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


def test_units_that_are_asked_for_are_taken_as_they_are_or_those_that_fire() -> None:
    peaks = fired(1, 0, 3, 2, 3)
    assert choosing.choose_units(peaks, [4, 1, 3], 2, seed=0) == [4, 1, 3]
    assert choosing.firing_units("a", peaks, [4, 1, 3, 2], 2, seed=0) == [2, 3, 4]
    assert choosing.firing_units("a", peaks, None, 2, seed=0) == choosing.choose_units(peaks, None, 2, seed=0)
    with pytest.raises(BadInput, match="layer a: none of the units asked for fires"):
        choosing.firing_units("a", peaks, [1], 2, seed=0)


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
