"""deconv/analyses/invariance.py: zero distance where a network cannot notice a move, and those it should see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torch import Tensor, nn

from deconv.analyses import invariance
from deconv.analyses.reframing import Move, reframing
from deconv.errors import BadInput
from deconv.figures.invariance import Chart, ChartRow, colour_of, invariance_figure
from deconv.images.preprocessing import Preprocessing
from deconv.network import Network
from tests.drawn import axes_of

SIZE = 48
LOOK = Preprocessing((SIZE, SIZE), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def shift_invariant() -> Network:
    """Stride one, no padding, then the sum over all places: moving a thing on a plain ground changes no sum."""
    torch.manual_seed(0)
    trunk = [nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), nn.ReLU()]
    return Network(nn.Sequential(*trunk, nn.Linear(6, 3)).double(), (3, SIZE, SIZE))  # so that zero is not a rounding


def thing_on_plain_ground(seed: int) -> np.ndarray:
    image = np.full((2 * SIZE, 2 * SIZE, 3), 90, dtype=np.uint8)
    image[43:53, 44:52] = np.random.default_rng(seed).integers(0, 256, (10, 8, 3), dtype=np.uint8)
    return image


def frames(moves: list[Move], seed: int = 0) -> Tensor:
    cut = reframing(thing_on_plain_ground(seed), LOOK, moves)
    return LOOK.normalize(torch.stack([cut.input_image(move)[0] for move in [Move(), *moves]]))


def test_a_shift_invariant_network_has_no_distance_under_translation() -> None:
    moves = invariance.moves("translation", invariance.amounts("translation", [-12, 12, 3]))
    pictures = frames(moves)
    response = invariance.respond(shift_invariant(), pictures[0], pictures[1:], ["1", "5"], batch_size=4)
    unit = invariance.spread(shift_invariant(), torch.stack([pictures[0], frames([], seed=1)[0]]), ["1", "5"])
    assert len(moves) == 9
    assert float(response.distance["5"].max()) <= 1e-9 * unit["5"]
    low = response.distance["1"] / unit["1"]
    assert float(low[4]) == 0 and bool((low[[0, 1, 2, 3, 5, 6, 7, 8]] > 0.5).all())  # its maps do move
    assert float((response.probability - response.probability[4]).abs().max()) <= 1e-5


def test_it_does_notice_a_rotation() -> None:
    pictures = frames(invariance.moves("rotation", [0, 90, 180]))
    response = invariance.respond(shift_invariant(), pictures[0], pictures[1:], ["5"])
    unit = invariance.spread(shift_invariant(), torch.stack([pictures[0], frames([], seed=1)[0]]), ["5"])["5"]
    assert float(response.distance["5"][0]) == 0 and bool((response.distance["5"][1:] > 0.01 * unit).all())


def test_distances_are_euclidean_whatever_the_batches() -> None:
    network, pictures = shift_invariant(), torch.randn(5, 3, SIZE, SIZE)
    response = invariance.respond(network, pictures[0], pictures, ["1"], batch_size=2)
    maps = network.forward(pictures, ["1"])["1"]
    assert torch.allclose(response.distance["1"].double(), (maps - maps[0]).square().sum((1, 2, 3)).sqrt(), rtol=1e-5)
    assert response.probability.shape == (5, 3)


def test_the_spread_is_the_mean_over_pairs() -> None:
    network, pictures = shift_invariant(), torch.randn(3, 3, SIZE, SIZE)
    maps = network.forward(pictures, ["1"])["1"]
    pairs = [(maps[a] - maps[b]).norm() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert invariance.spread(network, pictures, ["1"])["1"] == pytest.approx(float(sum(pairs)) / 3, rel=1e-5)


def test_one_picture_or_equal_ones_have_no_spread() -> None:
    picture = torch.randn(1, 3, SIZE, SIZE)
    with pytest.raises(BadInput, match="expected two or more"):
        invariance.spread(shift_invariant(), picture, ["1"])
    with pytest.raises(BadInput, match="layer 1 is the same for all 2 images"):
        invariance.spread(shift_invariant(), picture.repeat(2, 1, 1, 1), ["1"])


def test_amounts() -> None:
    assert invariance.amounts("scale", [1, 1.8, 0.1]) == [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8]
    assert invariance.amounts("translation", [-60, 60, 50]) == [-60, -10, 40]
    assert invariance.amounts("rotation", [7, 7, 1]) == [7]
    for kind, wrong in (("rotation", [0, 10]), ("rotation", [0, 10, 0]), ("scale", [0, 1, 0.1]), ("scale", [2, 1, 1])):
        with pytest.raises(BadInput, match=f"{kind}: given .*expected \\[first, last, step\\]"):
            invariance.amounts(kind, wrong)


def test_the_smallest_moves_go_both_ways() -> None:
    assert invariance.smallest("translation", [-10, -5, 0, 5, 10]) == [1, 3]
    assert invariance.smallest("rotation", [0, 10, 180, 350]) == [1, 3]
    assert invariance.smallest("scale", [1, 1.05, 1.1]) == [1]
    assert invariance.smallest("rotation", [0]) == []


def test_the_figure_has_a_line_and_an_edge_in_one_colour_for_each_image() -> None:
    values = [np.array([[0.0, 0.5], [0.25, 1.0]]), np.array([[0.9, 0.1], [0.8, 0.2]])]
    charts = [Chart("distance", values[0], 1.05), Chart("probability", values[1], 1.02)]
    samples = torch.full((2, 2, 3, 30, 40), 77, dtype=torch.uint8)
    row = ChartRow("(a) translation", [0.0, 8.0], "pixels down", samples, ["0", "8"], charts)
    figure = invariance_figure([row], ["tench", "kite"], "heading", "caption")
    pictures, *lined = axes_of(figure)
    for axes, chart in zip(lined, charts, strict=True):
        assert [np.asarray(line.get_ydata()).tolist() for line in axes.lines] == chart.values.tolist()
        assert [line.get_color() for line in axes.lines] == [colour_of(0), colour_of(1)]
        assert axes.get_title() == chart.title and axes.get_ylim() == (0, chart.top)
        assert axes.get_xlabel() == "pixels down" and np.asarray(axes.lines[0].get_xdata()).tolist() == [0, 8]
    page = np.asarray(pictures.get_images()[0].get_array())
    half = page.shape[0] // 2
    for image, part in enumerate((page[: half - 1], page[half + 1 :])):
        assert np.isclose(part, to_rgb(colour_of(image))).all(axis=2).sum() > 2 * 4 * 2 * (30 + 40)
        assert np.isclose(part, 77 / 255).all(axis=2).sum() == 2 * 30 * 40
    assert [label.get_text() for label in pictures.get_xticklabels()] == ["0", "8"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tench", "kite"]
    assert figure.legends[0].get_title().get_text() == "heading" and figure.get_supxlabel() == "caption"
