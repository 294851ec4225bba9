"""Virtual units: a unit that two kinds of image excite is split into exactly these; what splits gain, beside chance."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import hypergeom

import deconv
from deconv.analyses.virtual_units import recipes_of, split_peaks
from deconv.command.cli import main
from deconv.compare.grouping import alikeness, thumbnails
from deconv.compare.splits import correlations, gain_of_split, same_class, with_mean_outside
from deconv.errors import BadInput
from deconv.figures.virtual_units import splits_figure
from tests import small
from tests.commands import refusal, words
from tests.drawn import assert_drawn, axes_of
from tests.samples import network

# Low units answer to red and to green; the high unit 0 to a red bar across or a green bar down, the high unit 1 to red.
NETWORK = """
import torch
from torch import nn

def network():
    low, high = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 2, 5, bias=False)
    low.weight.data = torch.eye(3)[:, :, None, None]
    high.weight.data.zero_()
    high.weight.data[0, 0, 2, :], high.weight.data[0, 1, :, 2], high.weight.data[1, 0, 2, :] = 1, 1, 1
    return nn.Sequential(low, nn.ReLU(), high, nn.ReLU())
"""


def two_kinds(folder: Path, each: int) -> list[str]:
    """What is said for a network with a unit of two meanings, over images of each of these."""
    (folder / "net.py").write_text(NETWORK)
    generator = np.random.default_rng(0)
    for (name, channel), n in itertools.product((("across", 0), ("down", 1)), range(each)):
        pixels = np.zeros((12, 12, 3), np.uint8)
        line, brightness = int(generator.integers(3, 9)), 120 + 5 * n + channel
        pixels[(line, slice(None)) if channel == 0 else (slice(None), line)] = brightness * np.eye(3)[channel]
        (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "photos" / name / f"{n}.png")
    model = ["model=python", f"model.target={folder / 'net.py'}:network", "model.size=[12,12]"]
    model += [
        "model.mean=[0.0,0.0,0.0]",
        "model.std=[1.0,1.0,1.0]",
        "+model.aliases.low='1'",
        "+model.aliases.high='3'",
    ]
    return ["experiment=virtual_units", *model, "source=folder", f"source.root={folder / 'photos'}", f"k={2 * each}"]


def test_a_unit_of_two_meanings_is_split_into_exactly_these(tmp_path: Path) -> None:
    said = two_kinds(tmp_path, 6)
    assert main([*said, "layer=high", f"folder={tmp_path / 'run'}"]) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["layer"], summary["through"]) == ("high", "low")
    peaks = deconv.Peaks.load(tmp_path / "run/peaks.safetensors")
    two, one = summary["units"]
    kinds = [peaks.image_keys[int(image)].split("/")[0] for image in peaks["high"].image[0]]
    first, second = two["virtual_units"]  # the strongest peak is a green one
    assert first["peaks"] == [n for n, kind in enumerate(kinds) if kind == "down"]
    assert second["peaks"] == [n for n, kind in enumerate(kinds) if kind == "across"]
    assert (first["classes"], second["classes"]) == ("down 6 of 6", "across 6 of 6")
    assert first["made_of"] == [{"unit": 1, "share": pytest.approx(1), "elsewhere": 0}]
    assert second["made_of"] == [{"unit": 0, "share": pytest.approx(1), "elsewhere": 0}]
    gain = two["gain"]
    assert (gain["classes"]["within"], gain["classes"]["between"]) == (1, 0) and gain["classes"]["chance"] < 0.01
    assert gain["patches"]["within"] > 0.99 and gain["patches"]["high"] < 0.9 and gain["pictures"]["within"] > 0.99
    assert gain["patches"]["between"] < 0.2

    assert [each["peaks"] for each in one["virtual_units"]] == [list(range(6))]  # all made of red alone: not split
    assert one["virtual_units"][0]["made_of"] == [{"unit": 0, "share": pytest.approx(1), "elsewhere": None}]
    assert one["gain"]["patches"]["within"] is None
    assert summary["all"]["patches"]["beyond_chance"] == [0] and summary["all"]["patches"]["units"] == 1
    assert_drawn(tmp_path / "run", "unit0", "unit1", "splits")


# --- the clusters -----------------------------------------------------------------------------------------------------


def test_recipes_are_shares_whatever_the_strength() -> None:
    net, images = network(), torch.rand(4, 3, 20, 20)
    peaks = deconv.mine(net, images, ["two"], k=4)
    recon = deconv.project_peaks(net, images, "two", peaks["two"], [1], through=["one"])
    recipes = recipes_of(recon, "one")
    assert np.allclose((recipes**2).sum(axis=1), 1)
    share = recon.parts["one"].numpy()
    assert np.allclose(recipes * np.linalg.norm(share, axis=1, keepdims=True), share, atol=1e-6)


def noisy(centres: list[int], spread: float = 0.05) -> np.ndarray:
    """Recipes, each about the unit of that number."""
    return np.eye(8)[centres] + np.random.default_rng(0).normal(0, spread, (len(centres), 8))


@pytest.mark.parametrize("centres", [[0, 0, 3, 0, 3, 3], [5, 2, 2, 7, 5, 7, 2, 5, 7], [1, 2, 3, 4, 1, 2, 3, 4]])
def test_the_clearest_number_of_clusters_is_taken(centres: list[int]) -> None:
    first = list(dict.fromkeys(centres))
    assert split_peaks(noisy(centres), None, seed=0).tolist() == [first.index(centre) for centre in centres]


def test_peaks_that_are_made_alike_are_one_cluster() -> None:
    for clusters in (2, None):
        assert split_peaks(np.ones((5, 3)), clusters, seed=0).tolist() == [0] * 5
        assert split_peaks(np.ones((1, 3)), clusters, seed=0).tolist() == [0]
    assert split_peaks(np.eye(3)[[0, 1, 1]], 3, seed=0).tolist() == [0, 1, 1]
    with pytest.raises(BadInput, match="clusters: given 1; expected a whole number, 2 or more"):
        split_peaks(np.ones((5, 3)), 1, seed=0)


# --- what a split gains -----------------------------------------------------------------------------------------------


def test_chance_is_what_counting_says() -> None:
    """Of 6 images, 3 of each class, split 3 and 3: a split by chance is pure in 2 of 20 cases."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    gain = gain_of_split(same_class(labels), labels, seed=0, splits=4000)
    assert gain["unit"] == pytest.approx(6 / 15) and (gain["within"], gain["between"]) == (1, 0)
    pure = 2 * float(hypergeom(6, 3, 3).pmf(3))
    assert gain["chance"] == pytest.approx(pure, abs=0.02) and gain["high"] == 1 and gain["low"] == pytest.approx(2 / 6)


def test_a_split_by_chance_gains_nothing() -> None:
    generator, beyond = np.random.default_rng(0), 0
    pictures = generator.normal(size=(12, 3, 6, 6)) + generator.normal(size=(1, 3, 6, 6))
    for seed in range(60):
        gain = gain_of_split(correlations(thumbnails(pictures)), generator.integers(0, 2, 12), seed, splits=200)
        beyond += gain["within"] > gain["high"]  # type: ignore[operator]
    assert beyond <= 6


def test_within_is_that_of_the_grouping_where_clusters_are_of_one_size() -> None:
    small_pictures = thumbnails(np.random.default_rng(0).normal(size=(9, 3, 6, 6)))
    cluster = np.array([0, 1, 2] * 3)
    _, within, between = alikeness(small_pictures, cluster)
    gain = gain_of_split(correlations(small_pictures), cluster, seed=0)
    assert gain["within"] == pytest.approx(within.mean()) and gain["between"] == pytest.approx(between.mean())


def test_constant_pictures_are_left_out() -> None:
    pictures = np.random.default_rng(0).normal(size=(6, 3, 6, 6))
    pictures[2] = 0.5
    cluster, kept = np.array([0, 1, 0, 1, 0, 1]), [0, 1, 3, 4, 5]
    gains = [
        gain_of_split(correlations(thumbnails(shown)), members, seed=0)
        for shown, members in ((pictures, cluster), (pictures[kept], cluster[kept]))
    ]
    assert gains[0] == gains[1]


def test_patches_at_one_border_are_not_alike_for_that() -> None:
    pixels = np.random.default_rng(0).uniform(0.4, 0.6, (40, 3, 8, 8))
    inside = np.ones((40, 8, 8), dtype=bool)
    inside[:20, :4], inside[20:, :, :4] = False, False
    cluster, black = np.repeat([0, 1], 20), pixels * inside[:, None]
    filled = with_mean_outside(black, inside)
    assert np.array_equal(filled * inside[:, None], black)
    gains = [gain_of_split(correlations(thumbnails(pictures)), cluster, 0, 200) for pictures in (black, filled)]
    assert gains[0]["within"] > 0.9 and abs(gains[1]["within"]) < 0.05  # type: ignore[operator, arg-type]


@pytest.mark.parametrize("cluster", [[0, 0, 0], [0, 1, 2]])
def test_a_split_without_pairs_has_no_numbers(cluster: list[int]) -> None:
    assert set(gain_of_split(np.ones((3, 3)), np.array(cluster), seed=0).values()) == {None}


def test_the_chart_marks_what_is_beyond_chance() -> None:
    beyond = {"unit": 0.2, "within": 0.6, "between": 0.1, "low": 0.1, "high": 0.3, "chance": 0.001}
    none: dict[str, Any] = dict.fromkeys(beyond)
    gains = {4: {"patches": beyond | {"within": 0.25}}, 9: {"patches": beyond}, 2: {"patches": none}}
    gains = {unit: of_unit | {"pictures": of_unit["patches"]} for unit, of_unit in gains.items()}
    panels = axes_of(splits_figure(gains, "a chart"))
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["unit 9", "unit 4", "unit 2"]
    assert len(panels) == 2 and len(panels[0].lines) == 6
    dots = [(line.get_xdata()[0], line.get_color()) for line in panels[0].lines if line.get_marker() == "o"]
    assert dots == [(0.6, "tab:red"), (0.25, "0.35")]


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["clusters=1"], "clusters=1: expected 2 or more"),
        (["clusters=3"], "clusters: given 3; expected less than the k=3 peaks of a unit"),
        (["k=1"], "k=1: expected 2 or more"),
        (["lower=0"], "lower=0: expected 1 or more"),
        (["through=conv3"], "through: given conv3; expected layers that 'deconvnet' passes on its way back from conv2"),
        (["layer=conv1"], "layer: given conv1; expected one with layers below it"),
        (["units=[9999]"], "units: given 9999; expected a whole number, 0 to"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], expected: str, tmp_path: Path, capsys: Any) -> None:
    assert expected in refusal(words(small.said("virtual_units", tmp_path), arguments), tmp_path, capsys)
